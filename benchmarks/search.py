"""``python benchmarks/search.py``: our default proposer beside others on complete public tables.

See ``search_tables.py`` beside it. The scripts of this folder have the folder on their path, where this file
hides the package ``search``: imported by that name, it puts the package in its own place.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_ROOT = Path(__file__).parents[1]


def _the_package() -> None:
    folder = _ROOT / "search"
    spec = importlib.util.spec_from_file_location(
        "search", folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["search"] = package
    spec.loader.exec_module(package)


if __name__ == "__main__":
    from search_tables import main

    main()
else:
    _the_package()
