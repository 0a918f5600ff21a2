"""Feed-forward networks (channel mixers), one file per kind. The table of kinds is in `nas/compile.py`."""
