"""A run, from the recipe to the report. ``run`` is the only file that knows the order."""
