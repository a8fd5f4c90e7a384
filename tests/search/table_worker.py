"""What the workers of table_study do. It imports little, since tests start many of them.

``python table_worker.py worker LOG SLEEP`` writes every training that it begins into LOG.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from search.worker import serve


def train(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Attention copies, mamba2 keeps parity, width helps both a little."""
    genes, task = payload["genes"], payload["task"]
    mixers = {genes["first"], genes["second"]}
    able = {"copy": "attention", "parity": "mamba2"}[task] in mixers
    score = round((0.8 if able else 0.1) + 0.02 * genes["width"], 6)
    metrics = {"accuracy": score}
    return {
        "status": "ok",
        "score": score,
        "loss": 1 - score,
        "metrics": metrics,
        "seconds": 0.5,
        "reason": "",
    }


def measure(payload: Mapping[str, Any]) -> dict[str, Any]:
    ms = float(payload["genes"]["width"])
    return {"median_ms": ms, "low_ms": 0.9 * ms, "high_ms": 1.1 * ms, "n": 30, "tier": "eager"}


def final(payload: Mapping[str, Any]) -> dict[str, Any]:
    score = train(payload)["score"] - 0.01
    return {"score": score, "metrics": {"accuracy": score}, "causality": "passed", "reason": ""}


HANDLERS: dict[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]] = {
    "train": train,
    "measure": measure,
    "final": final,
}


def _work(log: str, sleep: str) -> None:
    def slow_train(payload: Mapping[str, Any]) -> Mapping[str, Any]:
        genes = payload["genes"]
        with Path(log).open("a", encoding="utf-8") as file:
            file.write(
                f"{os.getpid()} {payload['task']} {genes['first']} {genes['second']} {genes['width']}\n"
            )
        time.sleep(float(sleep))
        return train(payload)

    serve({**HANDLERS, "train": slow_train})


if __name__ == "__main__":
    assert sys.argv[1] == "worker"
    _work(*sys.argv[2:])
