"""A small space that is known whole: its table, searches that are replayed on it, and how good what they found is."""
