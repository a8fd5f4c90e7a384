"""archspec doctor: what is installed, what it runs on, and what is missing."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from archspec.commands._options import JsonOption

_OURS = "archspec-compiler"


def doctor(json_: JsonOption = False) -> None:
    """Print versions, device and threads, and what is missing; exit code 1 if something needed is."""
    packages = list(_packages())
    missing = [row["name"] for row in packages if not row["ok"]]
    machine = _machine() if importlib.util.find_spec("torch") else {}
    hints = list(_hints(machine, missing))
    if json_:
        typer.echo(json.dumps({"ok": not missing, **machine, "packages": packages, "hints": hints}, indent=2))
        raise typer.Exit(1 if missing else 0)
    console = Console(highlight=False, soft_wrap=True)
    for key, value in machine.items():
        console.print(Text(f"{key:12} {value}"))
    for row in packages:
        mark = ("ok      ", "green") if row["ok"] else ("missing ", "bold red")
        console.print(Text.assemble(mark, f"{row['name']} {row['version'] or ''} ({row['wanted'] or 'any'})"))
    for hint in hints:
        console.print(Text(f"hint: {hint}"))
    raise typer.Exit(1 if missing else 0)


def _packages() -> Iterator[dict[str, Any]]:
    """Everything that we require at run time, with the version present."""
    from packaging.requirements import Requirement

    try:
        required = metadata.requires(_OURS) or []
    except metadata.PackageNotFoundError:
        required = []
    for text in required:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = None
        ok = version is not None and requirement.specifier.contains(version, prereleases=True)
        yield {
            "name": requirement.name,
            "version": version,
            "wanted": str(requirement.specifier),
            "ok": ok,
        }


def _machine() -> dict[str, Any]:
    import psutil
    import torch

    memory = psutil.virtual_memory()
    facts: dict[str, Any] = {
        "archspec": _own_version(),
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "torch": torch.__version__,
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory.total / 2**30, 1),
        "free_gib": round(memory.available / 2**30, 1),
        "disk_gib": round(shutil.disk_usage(".").free / 2**30, 1),
        "cuda": torch.version.cuda,
        "device": "cpu",
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        facts["device"] = f"cuda: {properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    return facts


def _own_version() -> str:
    try:
        return metadata.version(_OURS)
    except metadata.PackageNotFoundError:
        return "not installed"


def _hints(machine: dict[str, Any], missing: list[str]) -> Iterator[str]:
    if missing or not machine:
        yield f"pip install --upgrade {_OURS}, or 'make setup' in a checkout"
    if machine.get("archspec") == "not installed":
        yield "run 'make setup', so that the versions of the packages can be checked"
    if machine and machine["device"] == "cpu" and machine["cuda"]:
        yield "this torch is built for CUDA, but no device is visible to it"
    if machine and machine["free_gib"] < 2:
        yield "less than 2 GiB of memory are free; searches run several workers"
