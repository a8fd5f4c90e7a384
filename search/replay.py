"""The front once more, from the ledger alone, and what the files of the folder say otherwise.

Nothing runs and nothing is written. The front is solved again from what is stored; every spec that was
trained is compiled again for its hash and its closed-form costs, which catches a changed component, a changed
cost formula and a changed file alike.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archspec.errors import SpecError
from archspec.identity import spec_hash
from archspec.source import load_source, parse_source
from compiler import resolve
from search.costing import Costing, costing_of
from search.front import Row, SearchResult
from search.output import filed, front_csv, front_json, trials_csv
from search.solve import load_result


@dataclass(frozen=True)
class Difference:
    """One thing that is not what the ledger says: where, what is there, and what it should be."""

    where: str  # a file of the folder, with a key; or "trial 7"
    what: str  # "objectives.score", "missing", "hash", ...
    found: Any
    derived: Any

    def __str__(self) -> str:
        if self.found is None:
            return f"{self.where}: {self.what}"
        return f"{self.where}: {self.what} is {self.found}, the ledger gives {self.derived}"


@dataclass(frozen=True)
class Replay:
    """What was derived again, and how it differs from what is there."""

    result: SearchResult
    n_compiled: int  # specs whose hash and costs were computed again
    differences: tuple[Difference, ...]


def replay(folder: Path) -> Replay:
    """Derive the result of ``folder`` again and compare."""
    result = load_result(folder)
    costing = costing_of(result)
    trained = [row for row in result.trained if row.spec]
    found = [*_files(result, folder, costing), *(d for row in trained for d in _compiled(row, costing))]
    return Replay(result, len(trained), tuple(found))


def _compiled(row: Row, costing: Costing) -> Iterator[Difference]:
    """A trial's stored spec, resolved and costed by the code that is here now."""
    where = f"trial {row.trial}"
    try:
        spec = resolve(parse_source(row.spec, file=where), costing.zoo)
        costs = costing.costs(spec)
    except SpecError as error:
        yield Difference(where, "does not compile", error.message, "a spec")
        return
    if (derived := spec_hash(spec)) != row.hash:
        yield Difference(where, "hash", row.hash[:12], derived[:12])
    for name in sorted(row.costs.keys() & costs.keys()):
        if not _same(row.costs[name], costs[name]):
            yield Difference(where, name, row.costs[name], costs[name])


def _files(result: SearchResult, folder: Path, costing: Costing) -> Iterator[Difference]:
    yield from _front_json(result, folder)
    for name, derived in (("front.csv", front_csv(result)), ("trials.csv", trials_csv(result))):
        yield from _table(folder, name, derived)
    named = {row.spec_file: row for row in map(filed, (*result.front, *result.baselines)) if row.spec_file}
    for file, row in named.items():
        yield from _spec(folder, file, row, costing)
    there = {
        f"{path.parent.name}/{path.name}"
        for at in ("front", "baselines")
        for path in (folder / at).glob("*.yaml")
    }
    for extra in sorted(there - named.keys()):
        yield Difference(
            extra, "does not belong there: it is neither on the front nor a baseline", None, None
        )


def _front_json(result: SearchResult, folder: Path) -> Iterator[Difference]:
    name = "front.json"
    try:
        found = json.loads((folder / name).read_text(encoding="utf-8"))
    except FileNotFoundError:
        yield Difference(name, "is missing", None, None)
        return
    except (OSError, ValueError) as error:
        yield Difference(name, f"cannot be read: {error}", None, None)
        return
    derived = {row["trial"]: row for row in json.loads(json.dumps(front_json(result)))}
    rows = {row["trial"]: row for row in found if isinstance(row, dict) and "trial" in row}
    for trial in sorted(derived.keys() | rows.keys()):
        where = f"{name}, trial {trial}"
        if trial not in rows:
            yield Difference(where, "is missing, yet on the front", None, None)
        elif trial not in derived:
            yield Difference(where, "is there, yet not on the front", None, None)
        else:
            yield from _unequal(where, "", rows[trial], derived[trial])


def _unequal(where: str, path: str, found: Any, derived: Any) -> Iterator[Difference]:
    """Leaves that differ, by their paths."""
    if isinstance(found, dict) and isinstance(derived, dict):
        for key in sorted(found.keys() | derived.keys()):
            yield from _unequal(where, f"{path}.{key}" if path else key, found.get(key), derived.get(key))
    elif not _same(found, derived):
        yield Difference(where, path, "missing" if found is None else found, derived)


def _table(folder: Path, name: str, derived: str) -> Iterator[Difference]:
    """The first few lines of a CSV that differ."""
    try:
        found = (folder / name).read_text(encoding="utf-8")
    except (OSError, ValueError):
        yield Difference(name, "is missing or cannot be read", None, None)
        return
    if found == derived:
        return
    ours, theirs = (list(csv.reader(text.splitlines())) for text in (derived, found))
    if len(ours) != len(theirs):
        yield Difference(name, "number of lines", len(theirs), len(ours))
    for number, (a, b) in enumerate(zip(ours, theirs), start=1):
        if a != b:
            yield Difference(f"{name}, line {number}", "the line", ", ".join(b), ", ".join(a))
            return


def _spec(folder: Path, file: str, row: Row, costing: Costing) -> Iterator[Difference]:
    if not (folder / file).is_file():
        yield Difference(file, "is missing", None, None)
        return
    if not row.spec:
        return
    try:
        derived = spec_hash(resolve(load_source(folder / file), costing.zoo))
    except SpecError as error:
        yield Difference(file, f"is no valid spec: {error.message}", None, None)
        return
    if derived != row.hash:
        yield Difference(file, "hash", derived[:12], row.hash[:12])


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-12)
    return bool(a == b)
