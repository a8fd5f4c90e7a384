"""Shared numerics, each with its invariants."""
