"""Orderings that the papers of Hydra, Combiner, Routing Transformer and FIT claim, in four small studies.

    python benchmarks/headline_science.py [--out runs] [--workers 1] [--picture FILE.png] [--save]

Runs ``specs/studies/headline_*.yaml``, or goes on with what is in the folders below ``--out``, and reads
every seed's validation figure from their ledgers. The models of one study differ in what is compared and in
nothing else; the same seed shows them the same training examples in the same order, hence differences are
taken seed by seed. ``verdict`` counts seeds and ranges, and no more can be said from so few.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import altair as alt
import torch
from record import provenance, save

from compiler import load
from search import run
from search.ledger import FILE_NAME, Ledger
from search.load import load_study
from search.report.charts import png
from search.tasks import load_tasks
from search.tasks.contract import IGNORE, Task

STUDIES = Path(__file__).parents[1] / "specs" / "studies"
LOWER_IS_BETTER = {"bits_per_byte"}
UNITS = {"bits_per_byte": "bits per byte, lower is better", "accuracy": "accuracy, higher is better"}
FONT = "DejaVu Sans, Helvetica, Arial, sans-serif"


@dataclass(frozen=True)
class Claim:
    """``better`` and ``worse`` are baselines of a study; a paper says that the first wins."""

    study: str
    text: str
    better: str
    worse: str
    metric: str


CLAIMS = (
    Claim("headline_quasi", "quasiseparable over the sum of two scans", "quasi", "add", "bits_per_byte"),
    Claim(
        "headline_combiner", "Combiner-fixed over a window of its span", "combiner_fixed", "local",
        "bits_per_byte",
    ),
    Claim(
        "headline_combiner", "Combiner-axial over rows and columns", "combiner_axial", "local_and_strided",
        "bits_per_byte",
    ),
    Claim(
        "headline_routing", "local and routed heads over local ones", "local_and_routed", "local", "accuracy"
    ),
    Claim(
        "headline_routing", "the same, windows as wide as a cluster's", "local_and_routed", "local_wide",
        "accuracy",
    ),
    Claim("headline_fit", "one round over local layers, as many", "one_round", "local_2", "accuracy"),
    Claim("headline_fit", "the same, as many parameters", "one_round", "local_4", "accuracy"),
)  # fmt: skip


@dataclass(frozen=True)
class Model:
    """One variant of a study, and what each of its seeds reached on validation."""

    study: str
    name: str
    params: int
    metric: str
    by_seed: dict[int, float]
    test: float  # mean over the seeds, on the sealed split
    cpu_seconds: float  # of all seeds
    weights: tuple[Path, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.by_seed.values())

    def as_json(self) -> dict[str, Any]:
        return {
            "study": self.study, "model": self.name, "params": self.params, "metric": self.metric,
            "validation_by_seed": self.by_seed, "sealed_test_mean": self.test,
            "cpu_seconds": round(self.cpu_seconds, 1),
        }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the studies' folders")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--picture", type=Path, help="a PNG of every seed of every model")
    parser.add_argument("--save", action="store_true", help="write into benchmarks/results/")
    arguments = parser.parse_args()
    models = [
        model
        for study, metric in {claim.study: claim.metric for claim in CLAIMS}.items()
        for model in read_models(study, metric, out=arguments.out, workers=arguments.workers)
    ]
    by_name = {(model.study, model.name): model for model in models}
    verdicts = [judged(claim, by_name) for claim in CLAIMS]
    (config,) = load_study(STUDIES / "headline_fit.yaml").task_configs
    task = load_tasks().build(config, causal=True)
    groups = {name: by_group(by_name["headline_fit", name], task) for name in ("local_2", "one_round")}
    text = "\n\n".join([verdict_table(verdicts), model_table(models), group_table(groups)])
    print(text)
    if arguments.picture is not None:
        arguments.picture.write_bytes(png(chart(models)))
    if arguments.save:
        cpu = round(sum(model.cpu_seconds for model in models) / 60, 1)
        by_groups = [{"model": name, "accuracy_by_group": found} for name, found in groups.items()]
        found = {"verdicts": verdicts, "rows": [m.as_json() for m in models], "fit_by_group": by_groups}
        save("headline_science", {**provenance(), "training_cpu_minutes": cpu, **found}, text)


def judged(claim: Claim, models: dict[tuple[str, str], Model]) -> dict[str, Any]:
    """A claim with the figures of both sides and their differences seed by seed (positive: as claimed)."""
    better, worse = models[claim.study, claim.better], models[claim.study, claim.worse]
    sign = -1 if claim.metric in LOWER_IS_BETTER else 1
    gains = [sign * (better.by_seed[seed] - worse.by_seed[seed]) for seed in sorted(better.by_seed)]
    sides = [[sign * value for value in model.by_seed.values()] for model in (better, worse)]
    return {
        "study": claim.study, "claim": claim.text, "better": claim.better, "worse": claim.worse,
        "metric": claim.metric, "gain_by_seed": gains, "gain": statistics.fmean(gains),
        "verdict": verdict(gains, apart=min(sides[0]) > max(sides[1])),
    }  # fmt: skip


def verdict(gains: list[float], *, apart: bool) -> str:
    """``apart``: the worst seed of the one side is better than the best seed of the other."""
    if min(gains) > 0:
        return "reproduced" if apart else "reproduced on every seed, ranges overlap"
    return "not reproduced: the reverse on every seed" if max(gains) < 0 else "not reproduced: seeds disagree"


def by_group(model: Model, task: Task, *, n_groups: int = 8, n_examples: int = 512) -> list[float | None]:
    """Validation accuracy by the group of tokens, all seeds together; None where nothing is asked."""
    batch = task.batch("validation", 0, n_examples)
    right, asked = torch.zeros(n_groups), torch.zeros(n_groups)
    for folder in model.weights:
        trained = load(folder / "model").eval()
        with torch.no_grad():
            found = trained(batch.inputs).argmax(-1)
        group = torch.arange(batch.inputs.shape[1]) * n_groups // trained.spec.input.seq_len
        is_asked = batch.targets != IGNORE
        asked.index_add_(0, group, is_asked.sum(0).float())
        right.index_add_(0, group, (found.eq(batch.targets) & is_asked).sum(0).float())
    return [float(r / a) if a else None for r, a in zip(right, asked)]


def read_models(study: str, metric: str, *, out: Path, workers: int) -> list[Model]:
    """Run a study, or what is left of it, and read its baselines' figures."""
    result = run(STUDIES / f"{study}.yaml", out=out / study, workers=workers, listen=_tell)
    ledger = Ledger(out / study / FILE_NAME, writable=False)
    try:
        trainings = ledger.all_evidence("training")
    finally:
        ledger.close()
    (task,) = result.tasks
    models = []
    for row in result.baselines:
        found = {key.seed: document for key, document in trainings if key.spec == row.hash}
        if lost := [seed for seed, document in found.items() if document["status"] != "ok"]:
            sys.exit(f"{study}, {row.name}: the training of seeds {lost} failed")
        models.append(
            Model(
                study=study,
                name=row.name,
                params=int(row.costs["params"]),
                metric=metric,
                by_seed={seed: found[seed]["metrics"][metric] for seed in sorted(found)},
                test=row.test_metrics[task.label][metric],
                cpu_seconds=sum(document["cpu_seconds"] for document in found.values()),
                weights=tuple(out / study / "weights" / row.short / f"{task.label}-seed{s}" for s in found),
            )
        )
    return models


def verdict_table(verdicts: list[dict[str, Any]]) -> str:
    lines = ["| claim | models | gain by seed | mean gain | verdict |", "|---" * 5 + "|"]
    lines += [
        f"| {v['claim']} | {v['better']}, {v['worse']} | "
        f"{', '.join(f'{gain:+.3f}' for gain in v['gain_by_seed'])} | {v['gain']:+.3f} | {v['verdict']} |"
        for v in verdicts
    ]
    return "\n".join(lines)


def model_table(models: list[Model]) -> str:
    lines = ["| study | model | parameters | measure | validation: mean (least to most) | sealed test |"]
    lines.append("|---" * 6 + "|")
    lines += [
        f"| {m.study} | {m.name} | {m.params:,} | {m.metric} | "
        f"{m.mean:.3f} ({min(m.by_seed.values()):.3f} to {max(m.by_seed.values()):.3f}) | {m.test:.3f} |"
        for m in models
    ]
    return "\n".join(lines)


def group_table(groups: dict[str, list[float | None]]) -> str:
    """Accuracy by group of tokens."""
    n = len(next(iter(groups.values())))
    lines = ["| accuracy by group |" + "".join(f" {g} |" for g in range(n)), "|---" * (n + 1) + "|"]
    lines += [
        f"| {name} |" + "".join(" |" if value is None else f" {value:.3f} |" for value in found)
        for name, found in groups.items()
    ]
    return "\n".join(lines)


def chart(models: list[Model]) -> Any:
    """A panel for each study: every seed a dot, the mean a bar."""
    panels = []
    for study in dict.fromkeys(model.study for model in models):
        mine = [model for model in models if model.study == study]
        rows = [{"model": shown(m.name), "value": value} for m in mine for value in m.by_seed.values()]
        means = [{"model": shown(m.name), "value": m.mean} for m in mine]
        is_share = mine[0].metric not in LOWER_IS_BETTER
        scale = alt.Scale(domain=[0, 1]) if is_share else alt.Scale(zero=False, nice=True)
        x = alt.X("value:Q", title=UNITS[mine[0].metric], scale=scale)
        y = alt.Y("model:N", sort=None, title=None, axis=alt.Axis(labelLimit=160))
        dots = alt.Chart(alt.Data(values=rows)).mark_circle(size=60, opacity=0.7).encode(x=x, y=y)
        bars = (
            alt.Chart(alt.Data(values=means)).mark_tick(thickness=2, size=18, color="black").encode(x=x, y=y)
        )
        panels.append((bars + dots).properties(title=shown(study), width=300, height=26 * len(mine)))
    whole = alt.concat(*panels, columns=2).resolve_scale(x="independent", y="independent")
    return whole.configure(font=FONT).configure_view(stroke=None)


def shown(name: str) -> str:
    return name.replace("_", " ")


def _tell(event: Any) -> None:
    if event.text:
        print(event.text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
