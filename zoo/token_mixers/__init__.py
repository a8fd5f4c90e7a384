"""Token mixers: one per file, mixing positions."""
