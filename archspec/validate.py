"""Source -> a checked model of the grammar, or one SpecError with every problem and the place of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from archspec.components import Components
from archspec.errors import Problem, SpecError, did_you_mean, shown
from archspec.holes import HOLE_KEYS
from archspec.nodes import Node, Path
from archspec.source import Source

M = TypeVar("M", bound=BaseModel)


def validate(model: type[M], source: Source, context: Components | Any = None) -> M:
    """The tree of ``source`` as a ``model``; ``context`` is the table of known components."""
    try:
        return model.model_validate(source.tree, context=context)
    except ValidationError as error:
        raise SpecError(problems=_problems(error, source)) from None


def _problems(error: ValidationError, source: Source) -> list[Problem]:
    lines = error.errors(include_url=False)
    found: dict[tuple[Path, str], Problem] = {}
    for line in lines:
        if not _is_aftermath(line):
            path = _written_path(source.root, line)
            message, hint, path = _told(line, path)
            of_key = line["type"] == "unknown_field" or line["loc"][-1:] == ("[key]",)
            problem = source.problem(path, message, hint, of_key=of_key)
            found.setdefault((path, message), problem)
    return sorted(found.values(), key=lambda p: (p.file != source.file, p.file, p.line, p.column))


def _is_aftermath(line: ErrorDetails) -> bool:
    """A list called too short only because its items failed; they have their own errors."""
    return (
        line["type"] == "too_short"
        and hasattr(line["input"], "__len__")
        and len(line["input"]) >= line.get("ctx", {}).get("min_length", 0)
    )


def _written_path(root: Node, line: ErrorDetails) -> Path:
    """The error's location without what pydantic adds and nobody wrote: the tags of unions."""
    loc = line["loc"][:-1] if line["loc"][-1:] == ("[key]",) else line["loc"]
    if line["type"] == "missing_field":
        return (*max(_readings(root, loc[:-1]), key=lambda reading: reading[0])[1], loc[-1])
    return max(_readings(root, loc), key=lambda reading: reading[0])[1]


def _readings(node: Node, loc: tuple[str | int, ...]) -> Iterator[tuple[float, Path]]:
    """Ways to read ``loc`` from ``node`` on, each with how many of its parts stand in the text."""
    if not loc:
        yield 0.0, ()
        return
    part, rest = loc[0], loc[1:]
    if isinstance(part, str) and part.startswith("<"):  # a tag of the grammar
        yield from _readings(node, rest)
        return
    if (child := node.child(part)) is not None:
        for score, path in _readings(child, rest):
            yield score + 1, (part, *path)
    elif not rest and isinstance(node.value, dict) and isinstance(part, str):
        yield 0.5, (part,)  # a default that does not hold
    if isinstance(part, str):
        yield from _readings(node, rest)  # a tag of a union
    else:
        yield 0.0, ()


def _told(line: ErrorDetails, path: Path) -> tuple[str, str | None, Path]:
    """The message and hint of one error, and the path it belongs to."""
    kind, value, context = line["type"], line["input"], line.get("ctx", {})
    if "message" in context:
        return str(context["message"]), _hole_hint(value) or context.get("hint"), path
    hint = _hole_hint(value)
    if kind == "union_tag_invalid":
        known = [word.strip("' ") for word in str(context["expected_tags"]).split(",")]
        word, key = str(context["tag"]), str(context["discriminator"]).strip("'")
        return f"unknown {key} {shown(word)}", did_you_mean(word, known), (*path, key)
    if kind == "union_tag_not_found":
        key = str(context["discriminator"]).strip("'")
        return f"missing field '{key}'", hint, (*path, key)
    if kind in {"literal_error", "enum"}:
        expected = str(context["expected"]).replace(" or ", ", ")
        words = [word.strip().strip("'") for word in expected.split(",")]
        one_of = f"one of {', '.join(words)}" if len(words) > 1 else words[0]
        close = did_you_mean(value, words) if isinstance(value, str) else None
        close = close if close and close.startswith("did") else hint
        return f"must be {one_of}, got {shown(value)}", close, path
    if kind == "greater_than" and type(context["gt"]) is int:
        kind, context = "greater_than_equal", {"ge": context["gt"] + 1}
    if kind in {"too_short", "string_too_short"} and context["min_length"] == 1:
        return "must not be empty", hint, path
    if kind in _MESSAGES:
        limits = {name: _number(limit) for name, limit in context.items()}
        wanted = _MESSAGES[kind].format(**limits)
        return f"{wanted}, got {_measure(kind, value, context)}", hint or _HINTS.get(kind), path
    if kind in {"value_error", "assertion_error"}:
        return str(context.get("error", line["msg"])), hint, path
    message = line["msg"]
    return message[:1].lower() + message[1:], hint, path


_MESSAGES = {
    "int_type": "must be an integer", "int_parsing": "must be an integer",
    "int_from_float": "must be an integer",
    "float_type": "must be a number", "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false", "bool_parsing": "must be true or false",
    "string_type": "must be a text", "path_type": "must be a path",
    "greater_than_equal": "must be at least {ge}", "greater_than": "must be greater than {gt}",
    "less_than_equal": "must be at most {le}", "less_than": "must be less than {lt}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "too_short": "needs at least {min_length} items", "too_long": "takes at most {max_length} items",
    "string_too_short": "needs at least {min_length} characters",
    "string_too_long": "takes at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "model_type": "must be a mapping", "model_attributes_type": "must be a mapping",
    "dict_type": "must be a mapping", "mapping_type": "must be a mapping",
    "tuple_type": "must be a list", "list_type": "must be a list", "set_type": "must be a list",
    "iterable_type": "must be a list",
}  # fmt: skip
_HINTS = {
    "string_type": "put it in quotes if a text is meant",
    "bool_type": "YAML 1.2 knows only true and false",
}


def _measure(kind: str, value: Any, context: dict[str, Any]) -> str:
    if kind in {"too_short", "too_long"}:
        return str(len(value))
    if kind in {"string_too_short", "string_too_long"}:
        return str(len(value))
    return shown(value)


def _number(limit: Any) -> Any:
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit


def _hole_hint(value: Any) -> str | None:
    if isinstance(value, dict) and value.keys() & HOLE_KEYS:
        return "a hole makes this a search space; a spec has none"
    return None
