"""Stems: one per file, from raw input to the first stream."""
