"""Packages named with --plugin: they are code, and may lie in the folder where the command is run."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def importable(plugins: Sequence[str]) -> tuple[str, ...]:
    """The names as a tuple; where there are any, the current folder is looked in as well."""
    if plugins and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    return tuple(plugins)
