"""The report of a run: ``report.json``, the HTML page, the model card and the table in the terminal."""
