"""Token mixers, one file per kind. A mixer parameterises a kernel; the table of kinds is in `nas/compile.py`."""
