"""Entry points besides search.py, and what they share: the command line, settings, the wiring of a search."""
