"""Latency predicted from a block table, on random hybrids of two spaces that the table has not seen whole.

    python benchmarks/latency.py [--space large|tiny] [--phase prefill] [--models 12] [--seconds 300] [--save]

For each space: the blocks that its members need, a few whole models for the calibration, and the models that
are predicted are timed in common rounds, every model twice (A/A). The table holds the blocks and the
calibration's models, nothing else. Beside the prediction stand FLOPs and parameters times a constant and the
roofline, raw and times a constant; their constants are fitted to the very models that they are judged on,
the prediction's scale is not. Times are CPU seconds of one thread (``--clock wall``: of the wall), since the
machine may have other users; on CUDA they are events.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import provenance, save

import compiler
from archspec import ModelSpec
from archspec.identity import spec_hash
from archspec.source import load_source
from archspec.space import Space
from compiler.cost.closed_form import CostPlan
from compiler.device.block_table import BlockTable, Entry, Key
from compiler.device.calibrate import Needs, conditions, models_asked, shape_of
from compiler.device.device_profile import DeviceProfile, find_profile
from compiler.device.info import resolve_device
from compiler.device.measuring import Asked, Bench, Effort
from compiler.device.prediction import keyed, model_key, predict
from compiler.device.roofline import roofline
from compiler.device.runs import Shape, checked_backend
from zoo import load_zoo

SPACES = Path(__file__).parents[1] / "specs" / "spaces"
ZOO = load_zoo()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--space", choices=("large", "tiny"), action="append")
    parser.add_argument("--phase", choices=("prefill", "decode", "train"), default="prefill")
    parser.add_argument("--models", type=int, default=12, help="of each space")
    parser.add_argument("--calibration", type=int, default=6, help="other models, of each length")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=300.0, help="at most, of each space")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
    parser.add_argument("--statistic", choices=("median", "lower_quartile"), default="median")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--backend", default="eager")
    parser.add_argument("--device-profile", default="cpu_amd_epyc_zen4", help="for the roofline")
    parser.add_argument("--save", action="store_true", help="write into benchmarks/results/")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    tables = []
    for name in arguments.space or ("large", "tiny"):
        found, models = judge(name, arguments)
        rows += [{"space": name, **row} for row in found]
        tables.append(as_table([{"space": name, **row} for row in found]) + "\n\n" + as_table(models))
        print(tables[-1], flush=True)
    if arguments.save:
        facts = {
            "phase": arguments.phase,
            "backend": arguments.backend,
            "clock": arguments.clock,
            "statistic": arguments.statistic,
            "seed": arguments.seed,
        }
        name = "latency" if arguments.phase == "prefill" else f"latency-{arguments.phase}"
        save(name, {**provenance(), **facts, "rows": rows}, "\n\n".join(tables))


def judge(name: str, arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """A row for each predictor, and one for each model."""
    device = resolve_device(arguments.device)
    backend = checked_backend(arguments.backend, device)
    own = Shape(1, 0, arguments.dtype, arguments.phase)
    of = shape_of(own, None)
    space = Space(load_source(SPACES / f"latency_{name}.yaml"))
    rng = random.Random(arguments.seed)
    judged = drawn(space, rng, arguments.models, set())
    others = drawn(space, rng, 12 * arguments.calibration, set(judged))
    needs, extra = Needs(), Needs()
    for spec in judged.values():
        needs.add(spec, of(spec), ZOO)
    for spec in others.values():
        extra.add(spec, of(spec), ZOO)
    calibration = models_asked(extra, of, arguments.calibration, zoo=ZOO)
    for one in calibration:
        needs.add(one.models[0], of(one.models[0]), ZOO)
    bench = Bench(
        device=device, shape=own, backend=backend, clock=arguments.clock,
        statistic=arguments.statistic, zoo=ZOO,
    )  # fmt: skip
    truths = [
        Asked(replace(model_key(spec, of(spec)), block=f"{hash}:{twin}"), spec.name, (spec,))
        for hash, spec in judged.items()
        for twin in "AB"
    ]
    effort = Effort(min_rounds=arguments.rounds, min_seconds=5.0, max_seconds=arguments.seconds)
    asked = [*needs.asked.values(), *calibration, *truths]
    entries: dict[Key, Entry] = {}
    for session in bench.measure(asked, effort, seed=arguments.seed):
        entries |= {entry.key: entry for entry in session}
    hidden = {one.key for one in truths}
    with tempfile.TemporaryDirectory() as folder:
        kept = conditions(
            device,
            shape=own,
            backend=backend,
            clock=arguments.clock,
            statistic=arguments.statistic,
            plugins=(),
        )
        table = BlockTable(Path(folder) / "latency.sqlite", kept)
        table.add(entry for key, entry in entries.items() if key not in hidden)
        raw = BlockTable(Path(folder) / "raw.sqlite", kept)
        raw.add(entry for entry in table.entries() if entry.key.kind != "model")
        return compare(judged, entries, table, raw, of, arguments)


def drawn(space: Space, rng: random.Random, n: int, taken: set[str]) -> dict[str, ModelSpec]:
    """``n`` different random members, by hash, none of them among ``taken``."""
    found: dict[str, ModelSpec] = {}
    while len(found) < n:
        spec = space.spec(space.sample(rng), ZOO.components)
        if (hash := spec_hash(spec)) not in taken:
            found[hash] = spec
    return found


def compare(
    judged: dict[str, ModelSpec],
    entries: dict[Key, Entry],
    table: BlockTable,
    raw: BlockTable,
    of: Callable[[ModelSpec], Shape],
    arguments: argparse.Namespace,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    device = find_profile(arguments.device_profile)
    truth, again, models = [], [], []
    figures: dict[str, list[float]] = {
        name: [] for name in ("block table", "block table, not calibrated", "roofline", "FLOPs", "params")
    }
    inside = 0
    for hash, spec in judged.items():
        key = model_key(spec, of(spec))
        a, b = (entries[replace(key, block=f"{hash}:{twin}")].ms for twin in "AB")
        found = predict(spec, table, of(spec), zoo=ZOO)
        truth.append(a)
        again.append(b)
        inside += found.low_ms <= a <= found.high_ms
        bound, flops, params = closed_forms(spec, of(spec), device)
        for name, figure in zip(
            figures, (found.ms, predict(spec, raw, of(spec), zoo=ZOO).ms, bound, flops, params), strict=True
        ):
            figures[name].append(figure)
        kinds = "-".join(block.what[:4] for _, block in keyed(spec, of(spec), ZOO).decomposition.blocks)
        models.append(
            {
                "model": hash[:8],
                "ms": f"{a:.2f}",
                "again": f"{b:.2f}",
                "predicted": f"{found.ms:.2f}",
                "90 %": f"{found.low_ms:.2f}..{found.high_ms:.2f}",
                "error": f"{found.ms / a - 1:+.1%}",
                "d_model": spec.d_model,
                "length": spec.input.seq_len,
                "blocks": kinds,
            }
        )
    rows = [row("noise floor (A/A)", np.asarray(again), np.asarray(truth), fitted=False)]
    for name, figure in figures.items():
        is_time = "table" in name or name == "roofline"
        if is_time:
            rows.append(row(name, np.asarray(figure), np.asarray(truth), fitted=False))
        if not is_time or name == "roofline":
            rows.append(row(f"{name} x constant", np.asarray(figure), np.asarray(truth), fitted=True))
    rows[1]["in 90 %"] = f"{inside}/{len(judged)}"
    rows[0]["rounds"] = min(entry.n for entry in entries.values())
    return rows, models


def closed_forms(spec: ModelSpec, shape: Shape, device: DeviceProfile) -> tuple[float, float, float]:
    """Roofline in ms, FLOPs, parameters."""
    costs = CostPlan(compiler.build_graph(spec), shape.seq_len).costs(
        batch_size=shape.batch_size,
        dtype=shape.dtype,
        phase=shape.phase,
        context_len=shape.seq_len - 1 if shape.phase == "decode" else 0,
    )
    basis = "measured" if device.flops_per_second(shape.dtype, "measured") else "peak"
    bound = roofline(costs.values(), device, dtype=shape.dtype, phase=shape.phase, basis=basis)
    flops, params = (sum(getattr(cost, name) for cost in costs.values()) for name in ("flops", "params"))
    return bound.bound_ms, float(flops), float(params)


def row(name: str, figures: np.ndarray, truth: np.ndarray, *, fitted: bool) -> dict[str, Any]:
    """Errors of a predictor; ``fitted``: times the constant that is best for these very models."""
    if fitted:
        figures = figures * statistics.median(truth / figures)
    errors = figures / truth - 1
    return {
        "predictor": name,
        "mean |error|": f"{np.abs(errors).mean():.1%}",
        "greatest": f"{np.abs(errors).max():.1%}",
        "bias": f"{errors.mean():+.1%}",
        "Spearman": f"{spearman(figures, truth):.3f}",
        "models": len(truth),
        "ms": f"{truth.min():.1f}..{truth.max():.1f}",
        "in 90 %": "",
        "rounds": "",
    }


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    ranks = [np.argsort(np.argsort(x)) for x in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def as_table(rows: list[dict[str, Any]]) -> str:
    head = list(rows[0])
    lines = [" | ".join(head), " | ".join("---" for _ in head)]
    return "\n".join(lines + [" | ".join(str(row[name]) for name in head) for row in rows])


if __name__ == "__main__":
    main()
