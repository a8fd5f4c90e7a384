"""The machine a model runs on: what it is, and how long things take there."""
