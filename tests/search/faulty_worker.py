"""A worker that starts at once and misbehaves as it is told: ``python faulty_worker.py LOG SLEEP FAULTS``.

``FAULTS`` is JSON: a width -> what a training of that width does. Every training is put down as it begins.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from search.worker import serve


def train(payload: Mapping[str, Any], *, log: str, sleep: float, faults: Mapping[str, str]) -> dict[str, Any]:
    """Width helps; what ``faults`` names comes first."""
    genes, task = payload["genes"], payload["task"]
    with Path(log).open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {spelling(task, genes)}\n")
    score = genes["width"] / 10
    result = {"status": "ok", "score": score, "loss": 1 - score, "metrics": {"accuracy": score}}
    result |= {"seconds": 0.5, "reason": ""}
    fault = faults.get(str(genes["width"]))
    if fault is not None:
        result |= FAULTS[fault]()
    time.sleep(sleep)
    return result


def spelling(task: str, genes: Mapping[str, Any]) -> str:
    """A training as the log names it."""
    return f"{task} {genes['first']} {genes['second']} {genes['width']}"


def measure(payload: Mapping[str, Any]) -> dict[str, Any]:
    ms = float(payload["genes"]["width"])
    return {"median_ms": ms, "low_ms": 0.9 * ms, "high_ms": 1.1 * ms, "n": 30, "tier": "eager"}


def final(payload: Mapping[str, Any]) -> dict[str, Any]:
    return {"score": 0.5, "metrics": {"accuracy": 0.5}, "causality": "passed", "reason": ""}


def _nan() -> dict[str, Any]:
    return {"score": float("nan")}


def _diverge() -> dict[str, Any]:
    return {"status": "diverged", "reason": "the loss is not finite at step 7"}


def _hog() -> dict[str, Any]:
    held = b"x" * (1 << 29)  # resident
    time.sleep(300)
    return {"reason": str(len(held))}


def _hang() -> dict[str, Any]:
    time.sleep(300)
    return {}


def _segfault() -> dict[str, Any]:
    ctypes.string_at(0)
    return {}


def _raise() -> dict[str, Any]:
    raise RuntimeError("shapes (3,) and (4,) do not match")


FAULTS: dict[str, Callable[[], dict[str, Any]]] = {
    "nan": _nan,
    "diverge": _diverge,
    "hog": _hog,
    "hang": _hang,
    "segfault": _segfault,
    "raise": _raise,
}


if __name__ == "__main__":
    log, sleep, faults = sys.argv[1:]
    trained = partial(train, log=log, sleep=float(sleep), faults=json.loads(faults))
    serve({"train": trained, "measure": measure, "final": final})
