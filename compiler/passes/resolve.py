"""Source -> ModelSpec: validate the tree against the grammar and the zoo; the spec remembers its text."""

from __future__ import annotations

import os
from collections.abc import Iterable

from archspec.source import Source, load_source
from archspec.spec import ModelSpec
from archspec.validate import validate
from zoo import Zoo, load_zoo


def resolve(source: Source, zoo: Zoo) -> ModelSpec:
    """One SpecError tells everything that is wrong, each with its place."""
    return validate(ModelSpec, source, zoo.components).read_from(source)


def load_spec(
    path: str | os.PathLike[str], *, overrides: Iterable[str] = (), plugins: Iterable[str] = ()
) -> ModelSpec:
    """Read a spec file. ``overrides`` are ``--set`` strings, ``plugins`` packages that bring components."""
    return resolve(load_source(path, overrides=overrides), load_zoo(tuple(plugins)))
