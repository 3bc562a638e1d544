"""The command line: exit status, signals, messages."""
