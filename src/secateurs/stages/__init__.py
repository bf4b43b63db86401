"""One verb a file. Stages know no model family, no task by name, and not each other; the pipeline knows their order."""
