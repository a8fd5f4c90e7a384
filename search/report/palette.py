"""One colour per mixer kind, the same all over a report; told apart by colour-blind readers (Okabe-Ito)."""

from __future__ import annotations

from collections.abc import Iterable

from search.front import SearchResult

_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#5e4fa2")
_NONE = "#c8c8c8"
_MORE = "#777777"
GREY = "#9a9a9a"


def mixer_colours(kinds: Iterable[str]) -> dict[str, str]:
    """Kinds get the colours in alphabetical order; ``none`` is light grey, those past the palette dark."""
    named = sorted(set(kinds) - {"none"})
    colours = dict(zip(named, _COLOURS)) | {kind: _MORE for kind in named[len(_COLOURS) :]}
    return colours | {"none": _NONE}


def token_mixers(result: SearchResult) -> dict[str, str]:
    """The colour of every token mixer that occurs in the result."""
    return mixer_colours(token for row in result.rows for token, _ in row.strip)
