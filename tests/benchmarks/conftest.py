"""Benchmarks are scripts in a folder of their own, which is on the path here as it is when one is run."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
