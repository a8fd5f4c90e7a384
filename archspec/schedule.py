"""FIT's layer string: how many local and global layers each block of it has."""

from __future__ import annotations

import re

from archspec.components import spec_problem


def parse_schedule(schedule: str) -> tuple[tuple[int, int], ...]:
    """``"(2)4(2)"`` -> ((2, 4), (2, 0)): local and global layers of each block; the last may lack globals."""
    text = schedule.replace(" ", "")
    if not re.fullmatch(r"(\(\d{1,6}\)\d{1,6})*\(\d{1,6}\)\d{0,6}", text):
        raise spec_problem(f"schedule '{schedule}' is not of the form '(2)4(2)' or '(1)2(1)2'")
    pairs = tuple((int(a), int(b or 0)) for a, b in re.findall(r"\((\d+)\)(\d*)", text))
    if sum(n_local + n_global for n_local, n_global in pairs) > 1_000:
        raise spec_problem(f"schedule '{schedule}' has more than 1,000 layers")
    if any(n_global == 0 for _, n_global in pairs[:-1]):
        raise spec_problem(f"schedule '{schedule}': only the last block may have no global layers")
    return pairs
