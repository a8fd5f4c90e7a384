"""SearchResult -> the files of the result folder: specs, tables and provenance, each whole or not at all."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from archspec.quantities import show
from search.folder import write_whole
from search.front import Row, SearchResult

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for a formula


def write_result(result: SearchResult, out: Path, *, dump: Callable[[int, str], str]) -> SearchResult:
    """Write everything; ``dump(trial, comment)`` is a spec's text. Returns the result with files named."""
    result = filed_result(result)
    keep = set()
    for row in (*result.front, *result.baselines):
        if row.spec_file is not None:
            write_whole(out / row.spec_file, dump(row.trial, _comment(row, result)))
            keep.add(out / row.spec_file)
    for stale in {*out.glob("front/*.yaml"), *out.glob("baselines/*.yaml")} - keep:
        stale.unlink(missing_ok=True)
    write_whole(out / "front.json", _json(front_json(result)))
    write_whole(out / "front.csv", front_csv(result))
    write_whole(out / "trials.csv", trials_csv(result))
    write_whole(out / "provenance.json", _json(dict(result.provenance)))
    return result


def front_json(result: SearchResult) -> list[dict[str, Any]]:
    """The stable keys of ``front --json``, best first objective first."""
    return [
        {
            "spec": row.spec_file,
            "hash": row.hash,
            "objectives": dict(row.objectives),
            "measured": {name: asdict(figure) for name, figure in row.measured.items()},
            "trial": row.trial,
            "baseline": row.baseline,
            "layers": [list(pair) for pair in row.strip],
            "costs": dict(row.costs),
            "scores": dict(row.scores),
            "test_scores": dict(row.test_scores),
            "test_metrics": {label: dict(metrics) for label, metrics in row.test_metrics.items()},
            "causality": row.causality,
        }
        for row in (filed(row) for row in result.front)
    ]


def front_csv(result: SearchResult) -> str:
    """One line per member of the front."""
    return _csv(result, result.front)


def trials_csv(result: SearchResult) -> str:
    """One line per trial, refused and failed ones with their reason."""
    return _csv(result, result.rows)


def _csv(result: SearchResult, rows: tuple[Row, ...]) -> str:
    labels = [task.label for task in result.tasks]
    is_timed = not result.provenance.get("deterministic", False)  # no clock in tables that are to repeat
    costs = sorted({name for row in rows for name in row.costs})
    objectives = [objective.quantity for objective in result.objectives]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["trial", "hash", "name", "status", "reason", "baseline", "on_front", "layers", "spec"]
        + objectives
        + [f"validation.{label}" for label in labels]
        + [f"test.{label}" for label in labels]
        + [name for name in costs if name not in objectives]
        + ["training_s"] * is_timed
    )
    for row in map(filed, rows):
        layers = " | ".join("/".join(pair) for pair in row.strip)
        words = [row.short, row.name, row.status, row.reason, row.baseline or "", str(row.on_front).lower()]
        writer.writerow(
            [row.trial, *map(_safe, [*words, layers, row.spec_file or ""])]
            + [row.objectives.get(name, "") for name in objectives]
            + [row.scores.get(label, "") for label in labels]
            + [row.test_scores.get(label, "") for label in labels]
            + [row.costs.get(name, "") for name in costs if name not in objectives]
            + [round(row.seconds, 3)] * is_timed
        )
    return text.getvalue()


def filed_result(result: SearchResult) -> SearchResult:
    """The result with the files named that its specs are written to."""
    return replace(result, rows=tuple(filed(row) for row in result.rows))


def filed(row: Row) -> Row:
    """The row with the file that its spec is written to."""
    if row.status != "done" or not (row.on_front or row.baseline is not None):
        return row
    return replace(row, spec_file=f"{'front' if row.on_front else 'baselines'}/{row.name}.yaml")


def _comment(row: Row, result: SearchResult) -> str:
    figures = ", ".join(f"{name} {show(name, value)}" for name, value in row.objectives.items())
    role = "On the front" if row.on_front else f"Baseline {row.baseline}"
    return f"{role} of study {result.study}, trial {row.trial}: {figures}."


def _safe(word: str) -> str:
    return f"'{word}" if word.startswith(_FORMULA) else word


def _json(document: Any) -> str:
    return json.dumps(document, indent=2, allow_nan=False) + "\n"
