"""Transfers: one per file, from one stream into another."""
