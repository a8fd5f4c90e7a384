"""What a search spends on itself: proposing and recording, per trial, at short and long histories.

    python benchmarks/search_speed.py [--cases predictor:100 random:10000 predictor:100:mirror ...] [--save]

A real space with its real closed-form costs goes through the driver, the ledger (SQLite, synced to disk) and
the rounds; only the trainings are made up, and take no time. A ledger is filled with so many finished trials,
then the driver goes on with it for one round that warms it up and two that are timed. Proposing is from the
end of one round's last trial to the next round in the ledger; recording is all of a trial after that, from
its jobs to its row. Both are per trial, in milliseconds of CPU (of this process, all threads) and on the
wall. With ``mirror`` the search is written as a study of Optuna too, in a SQLite file of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from in_process import InProcess
from record import provenance, save

from archspec.source import load_source
from search.candidates import SpecEvaluator
from search.driver import Event, search
from search.evaluate import Candidate, Need, Unfit
from search.executors import Job
from search.front import TextBaseline
from search.gates import refusal
from search.ledger import FILE_NAME, EvidenceKey, Ledger, Trial
from search.load import LoadedStudy, load_study
from search.rounds import Rounds
from search.trainings import Place

SPACES = Path(__file__).parents[1] / "specs" / "spaces"
SPACE = "demo.yaml"  # its first layer, six times: 7.5 million fillings
N_LAYERS = 6
PROPOSERS = ("predictor", "evolution", "random", "tpe", "nsga2")
CASES = (
    *(f"{proposer}:{history}" for history in (100, 1_000) for proposer in PROPOSERS),
    "predictor:100:mirror",
    "random:10000",
)
BATCH = 8
_N_TIMED = 2  # rounds


class Imagined(SpecEvaluator):
    """Real specs and costs; trainings that are made up at once."""

    def training(self, candidate: Candidate) -> list[Need]:
        return [_need(candidate, task.label) for task in self.tasks]

    def final(self, candidate: Candidate) -> list[Need]:
        return []

    def text_baselines(self) -> tuple[TextBaseline, ...]:
        return ()


def _need(candidate: Candidate, label: str) -> Need:
    payload = {"strip": candidate.strip, "task": label, "hash": candidate.hash}
    key = EvidenceKey("training", candidate.hash, label, "imagined")
    return Need(key, Job("train", label, payload), label)


def _answer(*, strip: Any, task: str, hash: str) -> dict[str, Any]:
    """A score that the mixers explain in part, the rest by the hash."""
    mixers = {mixer for mixer, _ in strip}
    chance = int(hashlib.sha256(f"{hash} {task}".encode()).hexdigest()[:8], 16) / 2**32
    score = 0.4 * ("attention" in mixers) + 0.3 * ("mamba2" in mixers) + 0.3 * chance
    return {
        "status": "ok", "score": score, "loss": 1 - score, "metrics": {"accuracy": score},
        "seconds": 0.0, "reason": "", "label": task,
    }  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """Milliseconds per trial, and of the opening: the median of the timed rounds."""

    proposer: str
    history: int
    mirrored: bool
    propose_cpu_ms: float
    propose_wall_ms: float
    record_cpu_ms: float
    record_wall_ms: float
    open_cpu_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), help="proposer:history, or with :mirror")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--name", default="search-speed", help="of what is saved")
    args = parser.parse_args()
    figures: list[Figure] = []
    begun = provenance()
    for case in args.cases:
        proposer, history, *mirror = case.split(":")
        figures.append(measured(proposer, int(history), mirrored=mirror == ["mirror"]))
        print(_line(figures[-1]), flush=True)
        if args.save:
            _save(args.name, begun, figures)


def _save(name: str, begun: dict[str, Any], figures: list[Figure]) -> None:
    """After each case: what is measured is kept if the rest is stopped."""
    document = {
        **begun,
        "load at the end": round(psutil.getloadavg()[0], 2),
        "space": f"{N_LAYERS} times the first layer of specs/spaces/{SPACE}",
        "batch": BATCH,
        "figures": [asdict(figure) for figure in figures],
    }
    save(name, document, "\n".join([_HEAD, *map(_line, figures)]))


_HEAD = (
    "| proposer | history | mirror | propose, CPU ms | propose, wall ms | record, CPU ms | record, wall ms "
    "| open, CPU s |\n"
    "|---|---|---|---|---|---|---|---|"
)


def _line(f: Figure) -> str:
    return (
        f"| {f.proposer} | {f.history:,} | {'SQLite' if f.mirrored else '-'} "
        f"| {f.propose_cpu_ms:.1f} | {f.propose_wall_ms:.1f} "
        f"| {f.record_cpu_ms:.2f} | {f.record_wall_ms:.2f} | {f.open_cpu_s:.1f} |"
    )


def loaded_study(folder: Path, proposer: str, trials: int) -> LoadedStudy:
    """A study of score against FLOPs, with a budget that refuses some, in files of its own."""
    space = dict(load_source(SPACES / SPACE).tree)
    space |= {"name": "speed", "layers": [space["layers"][0]] * N_LAYERS}
    study = {
        "archspec": 1,
        "study": "speed",
        "space": "space.yaml",
        "tasks": [{"kind": "copy", "n_min": 3, "n_max": 8}, {"kind": "parity", "length": 24}],
        "objectives": {"score": "maximize", "flops": "minimize"},
        "budgets": {"params": "<= 200k"},
        "proposer": proposer,
        "trials": trials,
        "batch": BATCH,
    }
    for name, document in (("space", space), ("study", study)):
        (folder / f"{name}.yaml").write_text(json.dumps(document), encoding="utf-8")  # JSON is YAML
    return load_study(folder / "study.yaml")


def measured(proposer: str, history: int, *, mirrored: bool = False) -> Figure:
    """Fill a ledger and go on with it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loaded = loaded_study(folder, proposer, history + BATCH * (1 + _N_TIMED))
        filled(folder, loaded, history)
        clock = _Clock()
        evaluator = Imagined(loaded, Place("cpu", folder, 1, None))
        search(
            loaded.study,
            evaluator,
            folder,
            make_executor=lambda _: InProcess(lambda job: _answer(**job.payload)),
            storage=f"sqlite:///{folder / 'optuna.sqlite'}" if mirrored else None,
            listen=clock.hear,
        )
    return clock.figure(proposer, history, mirrored=mirrored)


def filled(folder: Path, loaded: LoadedStudy, n: int) -> None:
    """A ledger with ``n`` candidates that have been trained."""
    study, evaluator = loaded.study, Imagined(loaded, Place("cpu", folder, 1, None))
    rounds = Rounds(study, evaluator)
    rng = random.Random(0)
    trials: dict[str, Trial] = {}
    while len(trials) < n:
        try:
            candidate = evaluator.candidate(evaluator.genome.sample(rng))
        except Unfit:
            continue
        if candidate.hash in trials or refusal(candidate, study.budgets) is not None:
            continue
        out = _settled(candidate, evaluator)
        trials[candidate.hash] = Trial(len(trials), candidate.hash, "done", out)
    identity = evaluator.identity()
    ledger = Ledger(folder / FILE_NAME)
    ledger.bind(identity.values, explain=identity.explain)
    ledger.add_round([], trials.values(), study=rounds.key)
    ledger.close()


def _settled(candidate: Candidate, evaluator: Imagined) -> dict[str, Any]:
    answers = {task.label: _answer(**_need(candidate, task.label).job.payload) for task in evaluator.tasks}
    return {
        "genes": dict(candidate.genes),
        "strip": [list(pair) for pair in candidate.strip],
        "costs": dict(candidate.costs),
        "payload": dict(candidate.payload),
        "baseline": None,
        "proposer": "random",
        "scores": {label: [answer["score"]] for label, answer in answers.items()},
        "losses": {label: [answer["loss"]] for label, answer in answers.items()},
        "metrics": {label: answer["metrics"] for label, answer in answers.items()},
        "seconds": 0.0,
        "reason": "",
    }


class _Clock:
    """Hears a search and takes the time between its events."""

    def __init__(self) -> None:
        self._begun = self._now()
        self._opened: tuple[float, float] | None = None
        self._rounds: list[tuple[float, float]] = []  # when each was in the ledger
        self._trials: list[tuple[float, float]] = []  # the last trial of each round

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.process_time(), time.perf_counter()

    def hear(self, event: Event) -> None:
        now = self._now()
        if event.kind == "resumed":
            self._opened = now
        elif event.kind == "round":
            self._rounds.append(now)
            self._trials.append(now)
        elif event.kind == "trial" and event.trial is not None and event.trial.status == "done":
            self._trials[-1] = now

    def figure(self, proposer: str, history: int, *, mirrored: bool) -> Figure:
        assert self._opened is not None
        rounds = range(1, 1 + _N_TIMED)

        def each(of: Callable[[int], tuple[float, float]]) -> tuple[float, float]:
            cpu, wall = zip(*(of(n) for n in rounds), strict=True)
            return tuple(1e3 * statistics.median(times) / BATCH for times in (cpu, wall))  # type: ignore[return-value]

        propose = each(lambda n: _less(self._rounds[n], self._trials[n - 1]))
        record = each(lambda n: _less(self._trials[n], self._rounds[n]))
        opened = _less(self._opened, self._begun)[0]
        return Figure(proposer, history, mirrored, *propose, *record, opened)


def _less(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    return a[0] - b[0], a[1] - b[1]


if __name__ == "__main__":
    main()
