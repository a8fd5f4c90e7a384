"""archspec check: is it a valid spec, space or study?"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.text import Text

from archspec.commands import print_problems
from archspec.commands._options import JsonOption, PluginOption, SetOption
from archspec.commands._plugins import importable
from archspec.errors import Problem, SpecError, printable
from archspec.holes import has_hole
from archspec.identity import spec_hash
from archspec.source import Source, load_source
from archspec.space import Space
from archspec.survey import survey

if TYPE_CHECKING:
    from zoo import Zoo

Kind = Literal["spec", "space", "study"]


@dataclass
class Report:
    """What was found in one file."""

    file: str
    kind: Kind | None = None
    errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    summary: str = ""

    @property
    def ok(self) -> bool:
        return not self.errors

    def as_json(self) -> dict[str, Any]:
        """The stable keys of ``check --json``."""
        return {
            "file": self.file,
            "ok": self.ok,
            "kind": self.kind,
            "errors": [_located(problem) for problem in self.errors],
            "warnings": [_located(problem) for problem in self.warnings],
            **self.facts,
        }


def _located(problem: Problem) -> dict[str, object]:
    return {"file": problem.file, **problem.as_json()}


def check(
    paths: Annotated[list[str], typer.Argument(metavar="PATHS...", help="Files, or folders of YAML files.")],
    set_: SetOption = None,
    plugin: PluginOption = None,
    json_: JsonOption = False,
) -> None:
    """Check specs, spaces and studies: everything short of building weights.

    A space is sampled: each of its options must stand in a valid filling. Exit code 1 if anything is wrong.
    """
    plugins = importable(plugin or ())
    files, folders_skipped = _files(paths)
    reports = [_report(file, overrides=set_ or (), plugins=plugins) for file in files]
    ok = all(report.ok for report in reports)
    if json_:
        document = {"ok": ok, "files": [report.as_json() for report in reports], "skipped": folders_skipped}
        typer.echo(json.dumps(document, indent=2))
    else:
        for report in reports:
            _print(report)
        for file in folders_skipped:
            Console(stderr=True).print(Text(f"skipped {printable(file)}: it has no 'archspec:' key"))
    raise typer.Exit(0 if ok else 1)


def _files(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """The files to check, and the YAML files inside folders that are not ours."""
    files: list[str] = []
    skipped: list[str] = []
    for path in paths:
        if not Path(path).is_dir():
            files.append(path)
            continue
        inside = sorted(file for file in Path(path).rglob("*") if file.suffix in {".yaml", ".yml"})
        if not inside:
            raise SpecError("no YAML file in this folder", file=path)
        for file in inside:
            (files if _is_ours(file) else skipped).append(str(file))
    return files, skipped


def _is_ours(file: Path) -> bool:
    """Whether a file found in a folder is meant for us; a broken file is, so that it is reported."""
    try:
        return "archspec" in load_source(file).root.entries
    except SpecError:
        return True


def _report(file: str, *, overrides: Sequence[str], plugins: tuple[str, ...]) -> Report:
    report = Report(file)
    try:
        source = load_source(file, overrides=overrides)
        report.kind = kind_of(source)
        _CHECKS[report.kind](source, report, plugins)
    except SpecError as error:
        report.errors += error.located(file).problems
    return report


def kind_of(source: Source) -> Kind:
    """What a file means to be."""
    if "study" in source.root.entries:
        return "study"
    return "space" if has_hole(source.root) else "spec"


def _check_spec(source: Source, report: Report, plugins: tuple[str, ...]) -> None:
    from compiler import build_graph
    from compiler.passes.resolve import resolve
    from zoo import load_zoo

    zoo = load_zoo(plugins)
    spec = resolve(source, zoo)
    report.facts["hash"] = spec_hash(spec)
    report.warnings += build_graph(spec, zoo=zoo).graph["warnings"]
    report.summary = f"{spec.name}, {report.facts['hash'][:12]}"


def _check_space(source: Source, report: Report, plugins: tuple[str, ...]) -> None:
    from zoo import load_zoo

    zoo = load_zoo(plugins)
    space = Space(source)
    found = survey(space, zoo.components, check=lambda spec: _build(spec, zoo))
    report.facts |= {"holes": len(space.holes), **found.as_json()}
    report.errors += found.problems
    report.summary = f"{len(space.holes)} holes, {found.summary()}"


def _build(spec: Any, zoo: Zoo) -> None:
    from compiler import build_graph

    build_graph(spec, zoo=zoo)


def _check_study(source: Source, report: Report, plugins: tuple[str, ...]) -> None:
    from search.load import load_study

    study = load_study(source, plugins=plugins)
    report.summary = f"{study.study.study}, {len(study.study.tasks)} tasks"


_CHECKS: dict[Kind, Callable[[Source, Report, tuple[str, ...]], None]] = {
    "spec": _check_spec,
    "space": _check_space,
    "study": _check_study,
}


def _print(report: Report) -> None:
    for problems, severity in ((report.errors, "error"), (report.warnings, "warning")):
        if problems:
            print_problems(SpecError(problems=problems), severity=severity)
    if report.ok:
        text = Text.assemble(("ok", "bold green"), f"  {report.kind:5}  {printable(report.file)}")
        if report.summary:
            text.append(f"  ({printable(report.summary)})", "dim")
        Console(soft_wrap=True, highlight=False).print(text)
