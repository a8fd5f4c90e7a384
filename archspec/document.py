"""What every document of the language begins with, its version, and where it was read from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from archspec.components import spec_problem
from archspec.errors import shown

if TYPE_CHECKING:
    from archspec.source import Source


def _is_version_1(value: Any) -> Any:
    if type(value) is not int or value != 1:
        raise spec_problem(f"this archspec reads version 1 of the language, got {shown(value)}")
    return value


Version = Annotated[
    Literal[1], BeforeValidator(_is_version_1), Field(description="version of the language: 1")
]


class Written:
    """Where a spec was read from, if anywhere; two specs are equal wherever they stand."""

    def __init__(self, source: Source | None = None):
        self.source = source

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Written)

    __hash__ = None  # type: ignore[assignment]
