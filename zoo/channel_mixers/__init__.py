"""Channel mixers: one per file, the same map at every position."""
