"""The command line: one verb per file of this folder; the file holds one function of the verb's name.

Results go to stdout, everything else to stderr. Exit codes: 0 good, 1 the spec or a check failed, 2 usage,
130 Ctrl-C. Verbs import the zoo, the compiler and the search inside functions, so that ``--help`` needs no
torch.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys

import typer
from rich.console import Console
from rich.text import Text

from archspec.errors import SpecError

_ORDER = (
    "init", "check", "show", "compile", "profile", "train", "search", "front", "report", "zoo", "schema",
    "device", "doctor",
)  # fmt: skip
_FILES = {"compile": "compile_"}  # where the verb is a builtin's name


def command_line() -> typer.Typer:
    """The command with all its verbs: those of the help's order first."""
    app = typer.Typer(
        name="archspec",
        help="Write a sequence model as a spec, see what it costs, and search for better ones.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_of_every_verb)
    files = {info.name for info in pkgutil.iter_modules(__path__) if info.name[0] != "_"}
    verbs = {file.removesuffix("_") for file in files}
    for verb in sorted(verbs, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER)):
        file = _FILES.get(verb, verb)
        module = importlib.import_module(f"{__name__}.{file}")
        if (group := getattr(module, "app", None)) is not None:
            app.add_typer(group, name=verb)
        else:
            app.command(verb)(getattr(module, file))
    return app


def _of_every_verb(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None:
    """Options of every verb."""


def main() -> None:
    """Run the command line; a user's error is a message and exit code 1, never a traceback."""
    debug = "--debug" in sys.argv[1:]  # wherever it stands
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        command_line()(arguments, prog_name="archspec")
    except SpecError as error:
        if debug:
            raise
        print_problems(error)
        raise SystemExit(1) from None
    except OSError as error:
        if debug:
            raise
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print_problems(SpecError(what))
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted")
        raise SystemExit(130) from None


def print_problems(error: SpecError, *, severity: str = "error") -> None:
    """Every problem of ``error`` on stderr; nothing in it is read as markup or steers the terminal."""
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    for problem in error.problems:
        text = Text(problem.render(severity))
        text.highlight_regex(rf"\A{severity}", "bold red" if severity == "error" else "bold yellow")
        text.highlight_regex(r"(?m)^  hint: ", "cyan")
        console.print(text)
