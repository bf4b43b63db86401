"""Models on disk: saving, loading, and the code that is saved beside the weights."""
