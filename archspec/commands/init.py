"""archspec init: a commented spec, space and study to start from."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from archspec.errors import SpecError
from archspec.schema import NAMES, committed


def init(
    folder: Annotated[Path, typer.Argument(help="Where to write; it is made if need be.")] = Path("."),
) -> None:
    """Write spec.yaml, space.yaml and study.yaml with comments, and the schemas that editors read.

    Nothing is ever overwritten.
    """
    files = {Path("schemas") / f"{name}.schema.json": committed(name) for name in NAMES}
    for name in NAMES:
        text = resources.files("archspec.templates").joinpath(f"{name}.yaml").read_text(encoding="utf-8")
        files[Path(f"{name}.yaml")] = text
    if present := [str(folder / path) for path in files if (folder / path).exists()]:
        raise SpecError(f"{', '.join(present)}: exists already, so nothing was written")
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with (folder / path).open("x", encoding="utf-8") as stream:
            stream.write(text)
    for path in files:
        if path.suffix == ".yaml":
            typer.echo(str(folder / path))
    err = typer.style("next:", bold=True)
    typer.echo(
        f"{err} archspec check {folder}; archspec search {folder / 'study.yaml'} --out runs/first", err=True
    )
