"""Heads: one per file, from the last stream to the task."""
