"""What has to be trained of a candidate: tasks, seeds and rungs, each with its key and its job."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

from archspec.proxy import Proxy
from search.evaluate import Candidate, Need
from search.executors import Job
from search.fingerprint import code_fingerprint, digest
from search.front import TaskInfo, TextBaseline
from search.ledger import EvidenceKey
from search.load import LoadedStudy
from search.measuring import asked_figures
from search.stretch import folder_of, reached
from search.tasks.contract import Task, TaskConfig


@dataclass(frozen=True)
class Place:
    """Where and within which limits the jobs of a study run."""

    device: str
    weights: Path  # folder for trained weights
    threads: int  # of a measurement on CPU
    memory: int | None  # bytes of one worker
    deterministic: bool = False  # torch's deterministic algorithms alone


class Trainings:
    """The tasks of ``loaded``, and what they ask of a candidate; weights go to ``place``."""

    def __init__(self, loaded: LoadedStudy, place: Place):
        self._loaded, self._place, self._study = loaded, place, loaded.study
        self.labelled = dict(zip(self._study.labels, loaded.task_configs, strict=True))
        self._built: dict[tuple[str, Fraction], Task] = {}

    @property
    def proxy(self) -> Proxy | None:
        """How much smaller what is trained is than the candidate; None: it is the candidate."""
        return self._study.proxy if isinstance(self._study.proxy, Proxy) else None

    def needs(self, candidate: Candidate, index: int) -> list[Need]:
        """Every task with the seeds of rung ``index``, up to there."""
        rung = self._study.fidelity.rungs[index]
        return [
            self._need(candidate, label, seed, index)
            for label in self.labelled
            for seed in self.seeds[: rung.seeds]
        ]

    def discard(self, candidate: Candidate) -> None:
        """Delete its weights and checkpoints, but not those of a twin, which may be another's too."""
        if self.proxy is None:
            shutil.rmtree(self._folder(candidate), ignore_errors=True)

    def infos(self) -> tuple[TaskInfo, ...]:
        """The tasks as a result has them."""
        found = []
        for label, config in self.labelled.items():
            task = self._task(label)
            found.append(TaskInfo(label, config.kind, task.metric, task.record(), config.weight))
        return tuple(found)

    def text_baselines(self) -> tuple[TextBaseline, ...]:
        """xz and the 5-gram model for every task on text."""
        found = []
        for label in self.labelled:
            task = self._task(label)
            if task.metric != "bits_per_byte":
                continue
            for split in ("validation", "test"):
                for baseline in task.baselines(split, self._loaded.recipe.final_examples):
                    bits = baseline.values["bits_per_byte"]
                    found.append(TextBaseline(label, baseline.name, split, bits))
        return tuple(found)

    @cached_property
    def seeds(self) -> list[int]:
        """Of the trainings of each candidate and task."""
        return [1_000 * self._study.seed + index for index in range(self._study.seeds)]

    @cached_property
    def versions(self) -> str:
        """Of the code that trains."""
        return code_fingerprint(self._loaded.plugins)

    @cached_property
    def _causal(self) -> bool:
        """Whether the space's models are causal; a space that leaves it open is asked as a causal one."""
        return self._loaded.space.source.tree.get("causal") is not False

    def config(self, label: str, share: Fraction) -> TaskConfig:
        """A task at a share of its length; a proxy shortens it further."""
        config = self.labelled[label]
        share = share if self.proxy is None else share * Fraction(self.proxy.seq_len)
        return config if share == 1 else config.shortened(share)

    def subject(self, label: str, share: Fraction = Fraction(1)) -> dict[str, Any]:
        """What a task's results depend on: everything in its record but the weight in the mean."""
        record = json.loads(json.dumps(self._task(label, share).record()))
        record["config"].pop("weight", None)
        return dict(record)

    def _task(self, label: str, share: Fraction = Fraction(1)) -> Task:
        if (label, share) not in self._built:
            config = self.config(label, share)
            self._built[label, share] = self._loaded.tasks.build(config, causal=self._causal)
        return self._built[label, share]

    def _need(self, candidate: Candidate, label: str, seed: int, index: int) -> Need:
        study, recipe = self._study, self._loaded.recipe
        written, judged = recipe.model_dump(mode="json"), study.model_dump(mode="json")["score_by"]
        conditions = digest(written) if judged == "final" else digest([written, judged])
        subject = digest(self.subject(label, study.fidelity.rungs[index].seq_len))
        rung = study.fidelity.label(index, len(recipe.learning_rates))
        key = EvidenceKey(
            "training", _trained_hash(candidate), subject, conditions, rung, seed, self.versions
        )
        payload = {
            "recipe": written,
            "seed": seed,
            "device": self._place.device,
            "gate": not asked_figures(self._study),
            "deterministic": self._place.deterministic,
            "score_by": judged,
            **self._stretch(candidate, label, seed, index),
        }
        if index > 0 and study.fidelity.cuts_rates(len(recipe.learning_rates)):
            payload["sweep"] = self._stretch(candidate, label, seed, 0)
        what = label if len(self.seeds) == 1 else f"{label}, seed {seed}"
        training = study.fidelity.rungs[index].training
        what = what if training == "full" else f"{what}, {training}"
        job = Job("train", what, payload, self._study.limits.training_s, self._place.memory)
        return Need(key, job, label)

    def _stretch(self, candidate: Candidate, label: str, seed: int, index: int) -> dict[str, Any]:
        """What one rung trains, on what, and how far."""
        rung = self._study.fidelity.rungs[index]
        whole = candidate.payload.get("twin", candidate.payload)["spec"]
        spec = whole if rung.width == 1 else candidate.payload["twins"][str(rung.width)]
        return {
            "spec": spec,
            "task": self.config(label, rung.seq_len).model_dump(mode="json"),
            "directory": str(self._folder(candidate) / f"{label}-seed{seed}{folder_of(rung)}"),
            **reached(self._study.fidelity, self._loaded.recipe, index),
        }

    def _folder(self, candidate: Candidate) -> Path:
        return self._place.weights / _trained_hash(candidate)[:12]


def _trained_hash(candidate: Candidate) -> str:
    """Of what is trained: two candidates with one twin share its training."""
    return str(candidate.payload.get("twin", {}).get("hash", candidate.hash))
