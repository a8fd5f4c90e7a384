"""Study file -> LoadedStudy: the study, its space and its words, checked against each other."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from pydantic_core import PydanticCustomError

from archspec.errors import SpecError, did_you_mean, shown
from archspec.source import Source, load_source
from archspec.space import Space
from archspec.spec import ModelSpec
from archspec.study import Study, StudyKinds
from archspec.validate import validate
from search import proposers
from search.recipe import Recipe
from search.tasks import Tasks, load_tasks
from search.tasks.contract import TaskConfig
from zoo import Zoo, load_zoo

_N_SAMPLED = 24


@dataclass(frozen=True)
class LoadedStudy:
    """A study with everything that it names."""

    study: Study
    source: Source
    space: Space
    zoo: Zoo
    tasks: Tasks
    plugins: tuple[str, ...]
    baselines: Mapping[str, ModelSpec | dict[str, Any]]  # a spec, or all genes of one

    @cached_property
    def task_configs(self) -> tuple[TaskConfig, ...]:
        """The study's tasks, paths in them taken from the study's folder."""
        folder = Path(self.source.file).parent.absolute()
        return tuple(cast(TaskConfig, task).relative_to(folder) for task in self.study.tasks)

    @property
    def recipe(self) -> Recipe:
        """How candidates are trained."""
        return cast(Recipe, self.study.recipe)

    def error(self, path: tuple[str | int, ...], message: str, hint: str | None = None) -> SpecError:
        """An error with its place in the study's file."""
        return self.source.error(path, message, hint)


def load_study(
    study: Source | str | os.PathLike[str], *, overrides: Iterable[str] = (), plugins: Iterable[str] = ()
) -> LoadedStudy:
    """Read a study and its space; baselines are resolved, and some filling must fit every task."""
    source = study if isinstance(study, Source) else load_source(study, overrides=overrides)
    plugins = tuple(plugins)
    zoo, tasks = load_zoo(plugins), load_tasks(plugins)
    checked = validate(Study, source, StudyKinds(tasks.configs, proposers.kinds(), Recipe))
    space = Space(load_source(_beside(source, ("space",), checked.space)))
    if not space.holes:
        raise source.error(("space",), "this space has no hole, so there is one architecture and no search")
    baselines = {
        name: _baseline(source, space, zoo, name, written) for name, written in checked.baselines.items()
    }
    loaded = LoadedStudy(checked, source, space, zoo, tasks, plugins, baselines)
    _check_rungs(loaded)
    _check_space(loaded)
    _check_baselines(loaded)
    return loaded


def _beside(source: Source, path: tuple[str | int, ...], name: str) -> Path:
    """A YAML file named in a study, from the study's own folder."""
    if Path(name).is_absolute() or Path(name).suffix not in (".yaml", ".yml"):
        raise source.error(path, f"must be the path of a YAML file relative to this one, got {shown(name)}")
    file = Path(os.path.normpath(Path(source.file).parent / name))
    if not file.is_file():
        raise source.error(path, f"no such file: {shown(name)}", f"looked for {file}")
    return file


def _baseline(
    source: Source, space: Space, zoo: Zoo, name: str, written: str | Mapping[str, Any]
) -> ModelSpec | dict[str, Any]:
    path = ("baselines", name)
    if isinstance(written, str):
        base = load_source(_beside(source, path, written))
        return validate(ModelSpec, base, zoo.components).read_from(base)
    genes = {hole.gene: hole.options[0] if hole.options else hole.low for hole in space.holes}
    for word, value in written.items():
        meant = [gene for gene in genes if gene == word] or [g for g in genes if g.endswith(f".{word}")]
        if not meant:
            raise source.error((*path, word), f"the space has no gene {shown(word)}", _gene_hint(word, genes))
        takers = [gene for gene in meant if space.by_gene[gene].holds(value)]
        if not takers:
            options = ", ".join(map(str, space.by_gene[meant[0]].options)) or "a number of its range"
            raise source.error(
                (*path, word), f"{shown(value)} is no value of {meant[0]}", f"it takes {options}"
            )
        genes |= dict.fromkeys(takers, value)
    return genes


def _gene_hint(word: str, genes: Mapping[str, Any]) -> str | None:
    close = did_you_mean(word, genes)
    return close or f"genes here: {', '.join(itertools.islice(genes, 12))}, ..."


def _check_space(loaded: LoadedStudy) -> None:
    """At least one of some fillings must fit every task."""
    misfits: dict[int, str] = {}
    invalid: SpecError | None = None
    n_valid = 0
    for genes in _some_fillings(loaded.space):
        try:
            spec = loaded.space.spec(genes, loaded.zoo.components)
        except SpecError as error:
            invalid = error
            continue
        n_valid += 1
        found = {
            i: why for i, task in enumerate(loaded.task_configs) if (why := task.misfit(spec)) is not None
        }
        if not found:
            return
        misfits |= found
    if n_valid == 0 and invalid is not None:
        raise invalid
    hint = f"none of {n_valid} fillings of the space fits every task"
    raise SpecError(problems=[loaded.source.problem(("tasks", i), misfits[i], hint) for i in sorted(misfits)])


def _check_rungs(loaded: LoadedStudy) -> None:
    """Every task must have the lengths that the rungs ask for."""
    for index, rung in enumerate(loaded.study.fidelity.rungs):
        if rung.seq_len == 1:
            continue
        for config in loaded.task_configs:
            try:
                config.shortened(rung.seq_len)
            except PydanticCustomError as error:
                hint = (error.context or {}).get("hint")
                raise loaded.error(("fidelity", "rungs", index), error.message(), hint) from error


def _check_baselines(loaded: LoadedStudy) -> None:
    """Every baseline must be a spec and fit every task."""
    words = loaded.zoo.components
    for name, baseline in loaded.baselines.items():
        path = ("baselines", name)
        try:
            spec = baseline if isinstance(baseline, ModelSpec) else loaded.space.spec(baseline, words)
        except SpecError as error:
            raise loaded.error(path, error.message, "give the other genes as well") from error
        for task in loaded.task_configs:
            if (reason := task.misfit(spec)) is not None:
                raise loaded.error(path, reason)


def _some_fillings(space: Space) -> Iterator[dict[str, Any]]:
    n, _ = space.count()
    if n <= _N_SAMPLED:
        yield from space.enumerate()
        return
    rng = random.Random(0)  # noqa: S311 (reproducible, not secret)
    for _ in range(_N_SAMPLED):
        yield space.sample(rng)
