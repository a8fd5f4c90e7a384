"""The tasks: one per file, found by listing the folder; the file's name is the task's ``kind``.

A plug-in package named on the command line may bring a ``tasks`` folder of its own.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType

from archspec import SpecError, did_you_mean
from archspec.errors import shown
from archspec.source import Source
from archspec.validate import validate
from search.tasks.contract import Task, TaskConfig


@dataclass(frozen=True)
class Tasks:
    """The task class of every kind."""

    classes: Mapping[str, type[Task]]

    @property
    def configs(self) -> dict[str, type[TaskConfig]]:
        """The configuration class of every kind, as a study is validated with."""
        return {kind: cls.Config for kind, cls in self.classes.items()}

    def read(self, source: Source) -> TaskConfig:
        """A written task -> its settings, or a SpecError with the place of every problem."""
        kind = source.tree.get("kind")
        if kind not in self.classes:
            raise source.error(
                ("kind",), f"unknown task {shown(kind)}", did_you_mean(str(kind), self.classes)
            )
        return validate(self.classes[kind].Config, source)

    def build(self, config: TaskConfig, *, causal: bool, seed: int = 0) -> Task:
        """The task that ``config`` configures, as it is put to a causal or bidirectional model."""
        return self.classes[config.kind](config, causal=causal, seed=seed)


@functools.cache
def load_tasks(plugins: tuple[str, ...] = ()) -> Tasks:
    """Our own tasks and those of each plug-in package."""
    classes: dict[str, type[Task]] = {}
    for package in ("search", *plugins):
        for kind, cls in _package_tasks(package):
            if kind in classes:
                raise SpecError(f"plug-in '{package}' brings a task '{kind}', but '{kind}' exists already")
            classes[kind] = cls
    return Tasks(classes)


def _package_tasks(package: str) -> Iterator[tuple[str, type[Task]]]:
    try:
        importlib.import_module(package)
    except ImportError as error:
        raise SpecError(f"plug-in '{package}' cannot be imported: {error}") from error
    if importlib.util.find_spec(f"{package}.tasks") is None:
        return
    folder = importlib.import_module(f"{package}.tasks")
    for info in pkgutil.iter_modules(folder.__path__):
        if info.name == "contract" and package == "search":
            continue
        yield info.name, _only_task(importlib.import_module(f"{folder.__name__}.{info.name}"), info.name)


def _only_task(module: ModuleType, expected_kind: str) -> type[Task]:
    members = (cls for _, cls in inspect.getmembers(module, inspect.isclass))
    found = [cls for cls in members if issubclass(cls, Task) and cls.__module__ == module.__name__]
    if len(found) != 1:
        names = ", ".join(cls.__name__ for cls in found) or "none"
        raise SpecError(f"{module.__name__} must define exactly one Task, found {names}")
    if (kind := found[0].Config.model_fields["kind"].default) != expected_kind:
        raise SpecError(f"{module.__name__}: kind '{kind}' is not the file's name '{expected_kind}'")
    return found[0]
