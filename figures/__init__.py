"""One script a figure: `python -m figures` draws them all from stored runs, and makes the runs that are missing."""
