"""The events of a search for other programs: one JSON document per line, with stable keys.

Every line has ``event``, ``text``, ``n_trained`` and ``n_wanted``. ``event`` is one of ``surveyed``,
``resumed``, ``round``, ``job``, ``trial``, ``finals`` and ``closed``. A ``trial`` line has ``trial`` too:
``{"trial", "hash", "status", "reason", "baseline", "proposer", "layers", "figures", "seconds"}``, where
``figures`` holds every quantity that is known of it, by name. ``closed`` has ``front``: the rows of
``front --json``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from search.driver import Event, Listener


@contextmanager
def event_lines(target: str | None) -> Iterator[Listener]:
    """What writes events to the file ``target``, after what is there; ``-`` is stdout, None is nowhere."""
    if target is None:
        yield lambda event: None
    elif target == "-":
        yield _writer(sys.stdout)
    else:
        with open(target, "a", encoding="utf-8") as file:
            yield _writer(file)


def _writer(file: TextIO) -> Listener:
    def write(event: Event) -> None:
        print(json.dumps(line(event), allow_nan=False), file=file, flush=True)

    return write


def line(event: Event) -> dict[str, Any]:
    """One event as JSON."""
    document: dict[str, Any] = {
        "event": event.kind,
        "text": event.text,
        "n_trained": event.n_trained,
        "n_wanted": event.n_wanted,
    }
    if (trial := event.trial) is not None:
        d = trial.document
        document["trial"] = {
            "trial": trial.number,
            "hash": trial.spec,
            "status": trial.status,
            "reason": d.get("reason", ""),
            "baseline": d.get("baseline"),
            "proposer": d.get("proposer", ""),
            "layers": d.get("strip", []),
            "figures": dict(event.figures),
            "seconds": d.get("seconds", 0.0),
        }
    if event.kind == "closed" and event.result is not None:
        from search.output import front_json

        document["front"] = front_json(event.result())
    return document
