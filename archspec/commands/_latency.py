"""The latency table on the command line: which one, for which device and shape, with a progress bar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from archspec.cost import Dtype, Phase
from archspec.errors import Problem, SpecError, did_you_mean, printable

if TYPE_CHECKING:
    from archspec.space import Space
    from archspec.spec import ModelSpec
    from compiler.device.block_table import BlockTable, Entry
    from compiler.device.measuring import Asked, Bench, Effort
    from compiler.device.prediction import Fit, Prediction


@dataclass(frozen=True)
class Setting:
    """What was asked for on the command line, unchecked; ``bench`` checks it."""

    device: str
    phase: str
    dtype: str
    batch_size: int
    seq_len: int | None
    backend: str
    threads: int
    clock: str
    statistic: str
    table: Path | None
    plugins: tuple[str, ...]

    def bench(self) -> TableBench:
        """The table with the device that fills it; SpecError for what is not there."""
        from compiler.device import calibrate
        from compiler.device.block_table import BlockTable
        from compiler.device.info import resolve_device
        from compiler.device.interleaved import Statistic
        from compiler.device.measuring import Bench
        from compiler.device.runs import Shape, checked_backend
        from zoo import load_zoo

        problems = [
            Problem(f"unknown {what} '{value}'", hint=did_you_mean(value, known))
            for what, value, known in (
                ("phase", self.phase, get_args(Phase)),
                ("dtype", self.dtype, get_args(Dtype)),
            )
            if value not in known
        ]
        if problems:
            raise SpecError(problems=problems)
        set_threads(self.threads)
        device = resolve_device(self.device)
        backend = checked_backend(self.backend, device)
        shape = Shape(self.batch_size, 0, cast(Dtype, self.dtype), cast(Phase, self.phase))
        conditions = calibrate.conditions(
            device, shape=shape, backend=backend, clock=self.clock, statistic=self.statistic,
            plugins=self.plugins,
        )  # fmt: skip
        bench = Bench(
            device=device, shape=shape, backend=backend, clock=self.clock,
            statistic=cast(Statistic, self.statistic), zoo=load_zoo(self.plugins),
        )  # fmt: skip
        table = BlockTable(self.table or calibrate.default_table(), conditions)
        return TableBench(table, bench, self.seq_len)


def set_threads(n: int) -> None:
    """How many threads torch uses on a CPU from now on."""
    import torch

    torch.set_num_threads(n)


@dataclass(frozen=True)
class Calibrated:
    """What a calibration left: new entries, and by length what predictions are scaled by."""

    table: BlockTable
    new: tuple[Entry, ...]
    n_blocks: int
    is_complete: bool
    fits: dict[int, Fit]

    def as_json(self) -> dict[str, Any]:
        """The stable keys of ``device calibrate --json``."""
        return {
            "table": str(self.table.file),
            "conditions": asdict(self.table.conditions),
            "entries": self.n_blocks,
            "measured": [asdict(entry) for entry in self.new],
            "every_filling_seen": self.is_complete,
            "fits": {str(length): asdict(fit) for length, fit in self.fits.items()},
        }

    def render(self) -> RenderableType:
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for heading in ("entry", "what", "d_model", "length", "ms", "90 %", "n"):
            table.add_column(heading, justify="left" if heading in ("entry", "what") else "right")
        for entry in self.new:
            key = entry.key
            table.add_row(
                key.kind, Text(printable(entry.what)), f"{key.d_model}", f"{key.length}", f"{entry.ms:.4g}",
                f"{entry.low_ms:.4g}..{entry.high_ms:.4g}", f"{entry.n}",
            )  # fmt: skip
        lines = [
            f"{self.n_blocks} entries are needed, {len(self.new)} measurements are new: {self.table.file}"
        ]
        if not self.is_complete:
            lines.append("the space was sampled: a rare block is measured when it is first asked for")
        lines += [
            f"length {length}: time = {fit.scale:.3f} * sum {fit.overhead_ms:+.3g} ms, "
            f"{fit.deviation:.1%} around {fit.n_models} models"
            for length, fit in sorted(self.fits.items())
        ]
        return Group(*([table] if self.new else []), *(Text(printable(line)) for line in lines))


class TableBench:
    """A latency table and the bench that measures what it lacks."""

    def __init__(self, table: BlockTable, bench: Bench, seq_len: int | None):
        self.table, self.bench, self.seq_len = table, bench, seq_len

    def calibrate(self, space: Space, *, n_models: int, rounds: int, seconds: float) -> Calibrated:
        """Measure what the members of ``space`` need, and whole models."""
        from compiler.device import calibrate
        from compiler.device.measuring import Effort
        from compiler.device.prediction import fit

        of = calibrate.shape_of(self.bench.shape, self.seq_len)
        needs = calibrate.needs_of(space, of, zoo=self.bench.zoo)
        models = calibrate.models_asked(needs, of, n_models, zoo=self.bench.zoo)
        effort = Effort(min_rounds=rounds, max_seconds=seconds)
        new = self._measure([*needs.asked.values(), *models], effort)
        lengths = {
            spec.input.seq_len if self.seq_len is None else self.seq_len for spec in needs.specs.values()
        }
        fits = {length: fit(self.table, self._at(length)) for length in lengths}
        return Calibrated(self.table, tuple(new), len(needs.asked), needs.is_complete, fits)

    def predict(
        self, spec: ModelSpec, *, measure_missing: bool, device_profile: str | None = None
    ) -> Prediction:
        """The time of ``spec``; what the table lacks is measured first, if that is wanted."""
        from compiler.device import calibrate
        from compiler.device.device_profile import find_profile, profile_reported_as
        from compiler.device.measuring import Effort, block_asked
        from compiler.device.prediction import keyed, predict

        shape = calibrate.shape_of(self.bench.shape, self.seq_len)(spec)
        if measure_missing:
            items = keyed(spec, shape, self.bench.zoo).items()
            asked = {key: block_asked(key, block) for _, block, key in items}
            self._measure(list(asked.values()), Effort(min_seconds=2.0, max_seconds=120.0))
        named = find_profile(device_profile) if device_profile is not None else None
        profile = named or profile_reported_as(self.table.conditions.device.partition(" at ")[0])
        return predict(spec, self.table, shape, zoo=self.bench.zoo, device=profile)

    def _measure(self, asked: list[Asked], effort: Effort) -> list[Entry]:
        from compiler.device import calibrate

        with _bar() as bar:
            return calibrate.measure_missing(self.table, self.bench, asked, effort, progress=bar)

    def _at(self, length: int) -> Any:
        from dataclasses import replace

        return replace(self.bench.shape, seq_len=length)


@contextmanager
def _bar() -> Iterator[Any]:
    """A bar on stderr that moves with every round; nothing where it is no terminal."""
    columns = (TextColumn("measuring entries"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("entries", total=None)
        yield lambda done, of: progress.update(task, completed=int(done), total=of)
