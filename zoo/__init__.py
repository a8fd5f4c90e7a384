"""The words of the language: one component per file, found by listing folders; its file name is its kind."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

from archspec import ComponentConfig, Role, SpecError
from archspec.components import Components
from zoo.contract import Component, Head, Mixer, Norm, Stem, Transfer

_FOLDERS: dict[Role, str] = {
    "token_mixer": "token_mixers",
    "channel_mixer": "channel_mixers",
    "stem": "stems",
    "head": "heads",
    "transfer": "transfers",
}
_BASES: dict[Role, type[Component]] = {
    "token_mixer": Mixer,
    "channel_mixer": Mixer,
    "stem": Stem,
    "head": Head,
    "norm": Norm,
    "transfer": Transfer,
}


@dataclass(frozen=True)
class Zoo:
    """For each role, the component class of every kind: ours, and those of plug-ins that the user names."""

    classes: Mapping[Role, Mapping[str, type[Component]]]

    @property
    def components(self) -> Components:
        """The table the language validates against."""
        return Components(
            {role: {kind: cls.Config for kind, cls in table.items()} for role, table in self.classes.items()}
        )

    def component(self, role: Role, config: ComponentConfig) -> type[Component]:
        """The class that ``config`` configures."""
        return self.classes[role][config.kind]


@functools.cache
def load_zoo(plugins: tuple[str, ...] = ()) -> Zoo:
    """Our components and those of each plug-in package, which has the same folders (any may be absent)."""
    classes: dict[Role, dict[str, type[Component]]] = {role: {} for role in _BASES}
    for package in ("zoo", *plugins):
        for role, cls in _package_components(package):
            kind = component_kind(cls)
            if (other := classes[role].get(kind)) is not None and other is not cls:
                raise SpecError(f"plug-in '{package}' brings a {role} '{kind}', but '{kind}' exists already")
            classes[role][kind] = cls
    return Zoo(classes)


def component_kind(cls: type[Component]) -> str:
    """The kind a component answers to: its config's default."""
    return str(cls.Config.model_fields["kind"].default)


def _package_components(package: str) -> Iterator[tuple[Role, type[Component]]]:
    root = _import(package, package)
    if root.__spec__ is None or root.__spec__.submodule_search_locations is None:
        return  # a single file may bring a task, but no components
    for role, folder in _FOLDERS.items():
        if importlib.util.find_spec(f"{package}.{folder}") is None:
            continue
        folder_module = _import(f"{package}.{folder}", package)
        for info in pkgutil.iter_modules(folder_module.__path__):
            module = _import(f"{folder_module.__name__}.{info.name}", package)
            yield role, _only_component(module, _BASES[role], expected_kind=info.name)
    if importlib.util.find_spec(f"{package}.norms") is not None:
        for cls in _components_defined_in(_import(f"{package}.norms", package), Norm):
            yield "norm", cls


def _import(module: str, package: str) -> ModuleType:
    """A module of ours, or of a plug-in, whose faults are its user's."""
    if package == "zoo":
        return importlib.import_module(module)
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise SpecError(f"plug-in '{module}' cannot be imported: {type(error).__name__}: {error}") from error


def _components_defined_in(module: ModuleType, base: type[Component]) -> Sequence[type[Component]]:
    members = (cls for _, cls in inspect.getmembers(module, inspect.isclass))
    return [cls for cls in members if issubclass(cls, base) and cls.__module__ == module.__name__]


def _only_component(module: ModuleType, base: type[Component], expected_kind: str) -> type[Component]:
    found = _components_defined_in(module, base)
    if len(found) != 1:
        names = ", ".join(cls.__name__ for cls in found) or "none"
        raise SpecError(f"{module.__name__} must define exactly one {base.__name__}, found {names}")
    if (kind := component_kind(found[0])) != expected_kind:
        raise SpecError(f"{module.__name__}: kind '{kind}' is not the file's name '{expected_kind}'")
    return found[0]
