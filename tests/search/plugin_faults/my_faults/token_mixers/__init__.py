"""Mixers that go wrong."""
