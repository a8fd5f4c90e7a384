"""Folders with one class per file, where the file's name is the class's ``kind``."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def file_names(path: Iterable[str]) -> tuple[str, ...]:
    """The files of a package's ``__path__``, sorted."""
    return tuple(sorted(info.name for info in pkgutil.iter_modules(path)))


def class_in(package: str, kind: str, base: type[T]) -> type[T]:
    """The one class of the file ``kind`` in ``package`` that is a ``base``."""
    module = importlib.import_module(f"{package}.{kind}")
    found = [
        value
        for value in vars(module).values()
        if inspect.isclass(value) and issubclass(value, base) and value.__module__ == module.__name__
    ]
    assert len(found) == 1, f"{module.__name__} must define one {base.__name__}"
    named = getattr(found[0], "kind", None)
    assert named == kind, f"{module.__name__}: kind '{named}' is not the file's name"
    return found[0]
