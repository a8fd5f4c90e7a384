"""What every benchmark's result says of itself: date, machine, versions and the command that made it."""

from __future__ import annotations

import json
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch

from compiler.device.info import cpu_name

RESULTS = Path(__file__).parent / "results"


def provenance() -> dict[str, Any]:
    """Where and when this process measures."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", Path(sys.argv[0]).as_posix(), *sys.argv[1:]]),
        "cpu": cpu_name(),
        "n_cores": psutil.cpu_count(),
        "load": round(psutil.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def save(name: str, document: dict[str, Any], table: str) -> None:
    """Write ``benchmarks/results/<date>-<name>.json`` and ``.md``."""
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"{document['date'][:10]}-{name}"
    stem.with_suffix(".json").write_text(json.dumps(document, indent=2) + "\n")
    head = "\n".join(f"{key}: {value}  " for key, value in document.items() if not isinstance(value, list))
    stem.with_suffix(".md").write_text(f"{head}\n\n{table}\n")
    print(f"written: {stem.name}.json and .md", file=sys.stderr)
