"""Reading of data sets and making of batches, for all tasks."""
