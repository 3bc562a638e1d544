"""Runs on disk: files, checkpoints, summaries, many of them side by side."""
