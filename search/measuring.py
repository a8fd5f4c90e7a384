"""The measured quantities of a study: what a device can report, and one candidate's figures on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch

from archspec import Phase, SpecError
from archspec.quantities import MEASURED
from archspec.study import Study
from compiler import CompiledModel
from compiler.device.energy import energy_counter, measure_energy
from compiler.device.latency import Latency
from compiler.device.model_latency import measure_model
from compiler.device.runs import Shape, prepared
from search.evaluate import Locate

_ENERGY_S = 3.0  # of runs in one measurement of energy: the counter moves about fifty times a second
_PHASES: Mapping[str, Phase] = {"prefill_ms": "prefill", "decode_ms": "decode", "train_step_ms": "train"}


@dataclass(frozen=True)
class Figure:
    """One measured figure with the interval that holds it; ``n`` runs are behind it."""

    value: float
    low: float
    high: float
    n: int


def asked_figures(study: Study) -> tuple[str, ...]:
    """The measured quantities that the study names, in a fixed order."""
    named = {*study.objectives, *study.budgets}
    return tuple(name for name in MEASURED if name in named)


def phases_of(figures: Iterable[str], target_phase: Phase) -> frozenset[Phase]:
    """The phases that a candidate must have for its figures to be measured."""
    return frozenset(_PHASES.get(name, target_phase) for name in figures)


def check_reported(study: Study, device: torch.device, error: Locate) -> None:
    """SpecError, with its place in the study, if ``device`` cannot report what the study asks for."""
    for name in asked_figures(study):
        if (why := unreported(name, device)) is not None:
            where = "objectives" if name in study.objectives else "budgets"
            raise error((where, name), f"'{name}' cannot be measured here: {why}", None)


def unreported(name: str, device: torch.device) -> str | None:
    """Why ``device`` cannot report a quantity; None if it can."""
    if name == "peak_memory" and device.type != "cuda":
        return f"{device} does not report its peak memory; inference_peak and train_peak are closed forms"
    if name == "energy_j":
        try:
            energy_counter(device)
        except SpecError as error:
            return error.message
    return None


def measure_figures(
    model: CompiledModel, target: Mapping[str, Any], figures: Iterable[str], effort: Mapping[str, Any]
) -> dict[str, Figure]:
    """Each of ``figures`` on the target; one phase is timed once, however many figures come of it."""
    found: dict[str, Figure] = {}
    timed: dict[Phase, Latency] = {}

    def latency(phase: Phase) -> Latency:
        if phase not in timed:
            timed[phase] = _timed(model, target, phase, effort)
        return timed[phase]

    for name in figures:
        if name == "peak_memory":
            found[name] = _peak_memory(model, target)
        elif name == "energy_j":
            found[name] = _energy(model, target)
        else:
            phase = cast(Phase, _PHASES.get(name, target["phase"]))
            found[name] = _of_latency(name, latency(phase), tokens=_tokens(model, target, phase))
    return found


def _of_latency(name: str, latency: Latency, *, tokens: int) -> Figure:
    low, value, high = latency.low_ms, latency.median_ms, latency.high_ms
    if name == "throughput":
        low, value, high = (1e3 * tokens / ms for ms in (high, value, low))
    return Figure(value, low, high, latency.n)


def _tokens(model: CompiledModel, target: Mapping[str, Any], phase: Phase) -> int:
    """Positions that one run works through."""
    return int(target["batch_size"]) * (1 if phase == "decode" else _seq_len(model, target))


def _seq_len(model: CompiledModel, target: Mapping[str, Any]) -> int:
    return int(target["seq_len"] or model.spec.input.seq_len)


def _timed(
    model: CompiledModel, target: Mapping[str, Any], phase: Phase, effort: Mapping[str, Any]
) -> Latency:
    return measure_model(
        model,
        batch_size=target["batch_size"],
        seq_len=target["seq_len"],
        phase=phase,
        dtype=target["dtype"],
        device=target["device"],
        **effort,
        max_seconds=20.0,
    )


def _peak_memory(model: CompiledModel, target: Mapping[str, Any]) -> Figure:
    """What the allocator held at most during two runs, the model itself included."""
    device = torch.device(target["device"])
    before = torch.cuda.memory_allocated(device)

    def peak(run: Callable[[], object]) -> Figure:
        torch.cuda.reset_peak_memory_stats(device)
        run()
        run()
        torch.cuda.synchronize(device)
        held = float(torch.cuda.max_memory_allocated(device) - before)
        return Figure(held, held, held, 2)

    return _on_run(model, target, peak)


def _energy(model: CompiledModel, target: Mapping[str, Any]) -> Figure:
    device = torch.device(target["device"])
    counter = energy_counter(device)

    def spent(run: Callable[[], object]) -> Figure:
        wait = lambda: torch.cuda.synchronize(device)  # noqa: E731
        energy = measure_energy(run, counter, wait=wait, seconds=_ENERGY_S)
        return Figure(energy.median_j, energy.low_j, energy.high_j, energy.n)

    return _on_run(model, target, spent)


def _on_run(
    model: CompiledModel, target: Mapping[str, Any], use: Callable[[Callable[[], object]], Figure]
) -> Figure:
    """``use`` on a prepared run of the target's phase; too large a model is a SpecError."""
    shape = Shape(target["batch_size"], _seq_len(model, target), target["dtype"], target["phase"])
    try:
        run = prepared(model, shape, device=torch.device(target["device"]))
        with torch.inference_mode(target["phase"] != "train"):
            return use(run)
    except torch.OutOfMemoryError:
        raise SpecError(f"'{model.spec.name}' does not fit into the memory of {target['device']}") from None
