"""How our commands end, beside 0 for success and 1 for a result that is bad."""

USAGE_ERROR = 2
"""What was asked for cannot be done; one sentence on standard error says why."""
UNFINISHED = 3
"""The time that the command was given is up; the same command goes on."""
INTERRUPTED = 130
"""Ctrl-C."""
