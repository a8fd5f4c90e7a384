"""The searches under a folder, as their ledgers and locks tell of them; nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from archspec.errors import SpecError
from search.ledger import FILE_NAME
from search.lock import is_held
from search.solve import load_result


@dataclass(frozen=True)
class Entry:
    """One search. ``best`` is the first objective's best value on the front; ``changed`` is a Unix time."""

    folder: str
    study: str
    state: str  # "running", "complete", "interrupted", or why it cannot be read
    trained: int = 0
    front: int = 0
    objective: str = ""
    best: float | None = None
    changed: float = 0.0


def list_searches(root: Path) -> list[Entry]:
    """Every folder at or under ``root`` that holds a ledger, the latest change first."""
    if not root.is_dir():
        raise SpecError(f"no such folder: {root}", hint="name the folder that holds the searches")
    return sorted((_entry(path) for path in root.rglob(FILE_NAME)), key=lambda e: (-e.changed, e.folder))


def _entry(ledger: Path) -> Entry:
    folder = ledger.parent
    changed = max(
        path.stat().st_mtime for path in (ledger, ledger.with_name(f"{FILE_NAME}-wal")) if path.exists()
    )
    running = is_held(folder)
    try:
        result = load_result(folder)
    except SpecError as error:
        return Entry(str(folder), "", "running" if running else error.message, changed=changed)
    state = "running" if running else "complete" if result.complete else "interrupted"
    objective = result.objectives[0].quantity
    best = result.front[0].objectives[objective] if result.front else None
    n = len(result.trained)
    return Entry(str(folder), result.study, state, n, len(result.front), objective, best, changed)
