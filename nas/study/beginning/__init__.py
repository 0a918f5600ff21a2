"""What a study begins with: its earlier version, other studies, and designs from files."""
