"""A configuration as plain data; fields that have their default go without saying."""

from __future__ import annotations

from typing import Any

from pydantic_core import to_jsonable_python

from archspec.closed import Closed
from archspec.config import ComponentConfig


def changed(config: Closed, *, versions: bool = False) -> dict[str, Any]:
    """The fields that differ from their defaults, under the names that a user writes; ``kind`` always.

    ``versions`` adds each component's version, for the hash.
    """
    found: dict[str, Any] = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if name == "kind" or value != field.get_default(call_default_factory=True):
            found[field.alias or name] = _plain(value, versions)
    if versions and isinstance(config, ComponentConfig):
        found["version"] = config.version
    return found


def _plain(value: Any, versions: bool) -> Any:
    if isinstance(value, Closed):
        return changed(value, versions=versions)
    if isinstance(value, list | tuple):
        return [_plain(item, versions) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item, versions) for key, item in value.items()}
    return to_jsonable_python(value)
