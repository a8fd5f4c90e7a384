"""Transfer audit: does the ranking of small twins hold for the full models, trained longer?

    python benchmarks/transfer.py --out WORK [--device cpu] [--seed 1] [--small-steps 250] [--large-steps 450]
        [--finished] [--save]

Hybrids of ``transfer_space.yaml`` are trained as shrunk twins on ``python_stdlib``. Their picks are written
to ``WORK/picks.json`` before anything large is trained. The picks are trained full-size with two seeds and
read on the sealed test. Every finished model is a file in WORK, and the same command goes on from there;
``--finished`` trains nothing more and reports what is there.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from record import provenance, save
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transfer_models import PROXY, Member, members, picks
from transfer_report import draw, report
from transfer_stats import repeated

from archspec import ModelSpec
from archspec.identity import spec_hash
from compiler import CompiledModel
from search.checkpoint import write_text
from search.recipe import Recipe
from search.scoring import answer_logits, autocast
from search.tasks import load_tasks
from search.tasks.contract import Task
from search.tasks.text_lm import TextLm
from search.train import train

_PLOT = Path(__file__).parents[1] / "docs" / "transfer.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of this audit; the same one resumes it"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--models", type=int, default=48, help="trained small")
    parser.add_argument("--picks", type=int, default=12, help="trained large")
    parser.add_argument("--seeds", type=int, default=2, help="of each large training")
    parser.add_argument(
        "--seed", type=int, default=1, help="of the hybrids that are drawn and of the random picks"
    )
    parser.add_argument("--small-steps", type=int, default=250)
    parser.add_argument("--large-steps", type=int, default=450)
    parser.add_argument(
        "--small-rates", type=_rates, default=(3e-3, 8e-3), help="the best by validation counts"
    )
    parser.add_argument("--large-rates", type=_rates, default=(2e-3, 5e-3))
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--test-examples", type=int, default=192)
    parser.add_argument("--finished", action="store_true", help="report what is there, train nothing more")
    parser.add_argument("--note", default="", help="what a reader of the result must know")
    parser.add_argument("--save", action="store_true", help="write into benchmarks/results/ and docs/")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    models = members(arguments.models, seed=arguments.seed)
    audit = Audit(arguments)
    small = audit.each(
        "small", [(m.name, m.twin, 0) for m in models], arguments.small_steps, arguments.small_rates
    )
    chosen = audit.once("picks.json", lambda: _picks(models, small, arguments))
    by_name = {m.name: m for m in models}
    jobs = [(p["name"], by_name[p["name"]].full, seed) for seed in range(arguments.seeds) for p in chosen]
    large = audit.each("large", jobs, arguments.large_steps, arguments.large_rates)
    document, table = report(models, small, chosen, large)
    print(table)
    if arguments.save:
        settings = {k: v for k, v in vars(arguments).items() if k not in ("out", "save", "finished")}
        save("transfer", {**provenance(), **settings, "proxy": PROXY.model_dump(), **document}, table)
        draw(document, _PLOT)


def _rates(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))


def _picks(
    models: list[Member], small: list[dict[str, Any]], arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    loss = {row["name"]: row["validation_loss"] for row in small}
    return picks(models, loss, n=arguments.picks, seed=arguments.seed)


class Audit:
    """The work folder: what is in it is not done again."""

    def __init__(self, arguments: argparse.Namespace):
        self._arguments, self._out = arguments, arguments.out

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """The content of a file, made if it is not there."""
        file = self._out / name
        if not file.exists():
            write_text(file, json.dumps(make(), indent=1) + "\n")
        return json.loads(file.read_text())

    def each(
        self, size: str, jobs: list[tuple[str, ModelSpec, int]], steps: int, rates: tuple[float, ...]
    ) -> list[dict[str, Any]]:
        """A row for every (name, spec, seed), in order, with a progress bar."""
        rows = []
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns) as bar:
            task = bar.add_task(size, total=len(jobs))
            for name, spec, seed in jobs:
                bar.update(task, description=f"{size} {name}")
                # What a result depends on is in its file's name: other settings make other files.
                schedule = f"{steps}x{self._arguments.batch_size}-{'-'.join(f'{rate:g}' for rate in rates)}"
                key = f"{spec_hash(spec)[:12]}-{seed}-{schedule}"
                file = f"{size}/{key}.json"
                make = functools.partial(self._row, name, spec, seed, steps, rates, size, key)
                if not self._arguments.finished or (self._out / file).exists():
                    rows.append(self.once(file, make))
                bar.advance(task)
        return rows

    def _row(
        self, name: str, spec: ModelSpec, seed: int, steps: int, rates: tuple[float, ...], size: str, key: str
    ) -> dict[str, Any]:
        """Train one model, read its validation loss and, of a large one, its loss on the sealed test."""
        config = TextLm.Config(source="python_stdlib", seq_len=spec.input.seq_len)
        recipe = Recipe(
            learning_rates=rates, batch_size=self._arguments.batch_size, steps=steps, curve_points=1,
            validation_examples=8, final_examples=self._arguments.test_examples, solved_at=None,
        )  # fmt: skip
        started = time.process_time()
        result = train(
            spec, config, recipe, seed=seed, device=self._arguments.device,
            directory=self._out / size / key, gate=False,
        )  # fmt: skip
        row = {
            "name": name,
            "seed": seed,
            "status": result.status,
            "tokens": result.best.tokens,
            "learning_rate": result.best.learning_rate,
            "validation_loss": result.metrics.get("bits_per_byte", 8.0),
            "cpu_seconds": round(time.process_time() - started, 1),
        }
        if size == "large" and result.model is not None and result.status == "ok":
            task = load_tasks().build(config, causal=True, seed=seed)
            row |= sealed(result.model, task, self._arguments.test_examples, self._arguments.batch_size)
        return row


def sealed(model: CompiledModel, task: Task, n_examples: int, batch_size: int) -> dict[str, Any]:
    """Bits per byte on the sealed test: of all bytes, of those in repeated n-grams, and of the rest."""
    device = next(iter(model.parameters())).device
    sums = torch.zeros(2, 2, dtype=torch.float64)  # (elsewhere, repeated) x (bits, bytes)
    model.eval()
    for index in range(min(n_examples, task.n_examples("test") or n_examples) // batch_size):
        batch = task.batch("test", index, batch_size).to(device)
        with torch.no_grad(), autocast("auto", device):
            logits = answer_logits(task, model(batch.inputs))
        nats = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none")
        window = torch.cat((batch.inputs[:, :1], batch.targets), 1)
        again = repeated(window).flatten()
        for i in (0, 1):
            part = nats[again == bool(i)].double()
            sums[i, 0] += float(part.sum()) / float(torch.log(torch.tensor(2.0)))
            sums[i, 1] += len(part)
    total = sums.sum(0)
    return {
        "test_loss": float(total[0] / total[1]),
        "test_repeated": float(sums[1, 0] / sums[1, 1]),
        "test_rest": float(sums[0, 0] / sums[0, 1]),
        "share_repeated": float(sums[1, 1] / total[1]),
    }


if __name__ == "__main__":
    main()
