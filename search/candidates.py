"""Specs as candidates: the evaluator that compiles, measures and trains with the rest of this project."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from archspec import ModelSpec, SpecError
from archspec.dump import dump_spec
from archspec.identity import spec_hash
from archspec.quantities import Budget
from archspec.source import parse_source
from compiler import build_graph, resolve
from compiler.device.info import device_info, resolve_device
from compiler.profiling import closed_profile
from search.costing import closed_costs
from search.evaluate import Candidate, Identity, Need, Predicted, Unfit
from search.executors import Job
from search.fingerprint import digest
from search.front import TextBaseline
from search.gates import refusal
from search.genome import Gene, Genes, Genome
from search.inversion import genes_of
from search.layers import layer_pairs, without_empty_layers
from search.ledger import EvidenceKey
from search.load import LoadedStudy
from search.measuring import asked_figures, phases_of
from search.predicting import latency_predictor
from search.proof import Proof
from search.provenance import provenance
from search.rows import FINAL
from search.shrink import shrink
from search.space_proof import prove
from search.stretch import twins
from search.trainings import Place, Trainings

_IN_PHASE = {"prefill": "prefill_ms", "decode": "decode_ms", "train": "train_step_ms"}
_TIER = "eager"
_MEASURING_S = 600.0


class SpecEvaluator:
    """``loaded`` says what is searched and on what it is trained, ``place`` where."""

    def __init__(self, loaded: LoadedStudy, place: Place):
        self._loaded, self._place = loaded, place
        self._study = loaded.study
        self._trainings = Trainings(loaded, place)
        self._cache: dict[tuple[Any, ...], Candidate | Unfit] = {}
        device = resolve_device(place.device)
        self._predictor = latency_predictor(loaded, device, threads=place.threads)
        self.genome = Genome(tuple(_gene(hole) for hole in loaded.space.holes))
        self.tasks = self._trainings.infos()

    def size(self) -> tuple[float, bool]:
        """Fillings of the space, and whether that is exact."""
        return self._loaded.space.count()

    def enumerate(self) -> Iterator[dict[str, Any]]:
        """Every filling."""
        return self._loaded.space.enumerate()

    def prove(self, budgets: Mapping[str, Budget]) -> Proof:
        """What bounds of the closed form rule out."""
        return prove(self._loaded.space, self._study.target, budgets, zoo=self._loaded.zoo)

    def candidate(self, genes: Genes) -> Candidate:
        """Fill, check and cost; what was asked before is remembered."""
        key = self.genome.key(genes)
        if key not in self._cache:
            try:
                self._cache[key] = self._candidate(genes)
            except Unfit as unfit:
                self._cache[key] = unfit
        found = self._cache[key]
        if isinstance(found, Unfit):
            raise found
        return found

    def baselines(self) -> list[Candidate]:
        """The study's baselines; one that does not compile is an error with its place in the study."""
        found = []
        for name, baseline in self._loaded.baselines.items():
            try:
                if isinstance(baseline, ModelSpec):
                    candidate = self._of_spec(baseline, {})
                else:
                    candidate = self.candidate(baseline)
            except Unfit as unfit:
                raise self._loaded.error(("baselines", name), unfit.reason) from unfit
            found.append(replace(candidate, baseline=name))
        return found

    def warm(self) -> list[Candidate]:
        """The specs of ``warm_start``, with their genes where those are found in the space."""
        found = []
        for i, spec in enumerate(self._loaded.warm):
            genes = genes_of(spec, self._loaded.space, self._loaded.zoo.components)
            try:
                found.append(self._of_spec(spec, {}) if genes is None else self.candidate(genes))
            except Unfit as unfit:
                raise self._loaded.error(("warm_start", "specs", i), unfit.reason) from unfit
        return found

    def training(self, candidate: Candidate) -> list[Need]:
        """Every task with every seed."""
        return self.rung(candidate, len(self._study.fidelity.rungs) - 1)

    def rung(self, candidate: Candidate, index: int) -> list[Need]:
        """Every task with the seeds of a rung, up to there."""
        return self._trainings.needs(candidate, index)

    def discard(self, candidate: Candidate) -> None:
        """Delete its weights and checkpoints, but not those of a twin, which may be another's too."""
        self._trainings.discard(candidate)

    def measurement(self, candidate: Candidate, *, final: bool) -> Need | None:
        """What the study asks of the target, if anything; causality is tested on the way."""
        if not self._figures:
            return None
        target = self._target
        others = [name for name in self._figures if name != "latency_ms"]
        key = EvidenceKey(
            "measurement",
            candidate.hash,
            digest(target | {"figures": self._figures} if others else target),
            _TIER,
            FINAL if final else "first",
            0,
            self._trainings.versions,
        )
        effort = {"min_runs": 60, "min_seconds": 1.0} if final else {"min_runs": 30, "min_seconds": 0.4}
        payload = {
            **candidate.payload,
            "target": target,
            "figures": self._figures,
            "effort": effort,
            "seed": self._study.seed,
        }
        return Need(key, Job("measure", ", ".join(self._figures), payload, _MEASURING_S, self._place.memory))

    def final(self, candidate: Candidate) -> list[Need]:
        """The sealed test, and causality once more with the trained weights."""
        needs = []
        for need in self.training(candidate):
            key = replace(need.key, kind="final")
            job = replace(need.job, do="final", label=f"{need.label}, sealed test")
            needs.append(Need(key, job, need.label))
        return needs

    def text_baselines(self) -> tuple[TextBaseline, ...]:
        """xz and the 5-gram model for every task on text."""
        return self._trainings.text_baselines()

    def dump(self, candidate: Candidate, *, comment: str) -> str:
        """The candidate as a spec file under its own name."""
        spec = resolve(parse_source(candidate.payload["spec"]), self._loaded.zoo)
        name = candidate.baseline or f"{self._study.study}_{candidate.hash[:12]}"
        if (twin := candidate.payload.get("twin")) is not None:
            comment += f"\nscore of the shrunk twin, which has {twin['params']:,} parameters"
        return dump_spec(spec.model_copy(update={"name": name}), comment=comment)

    def identity(self) -> Identity:
        """Space, tasks, recipe, seeds and target stay as they are in one folder."""
        tree = {k: v for k, v in self._loaded.space.source.tree.items() if k not in ("name", "description")}
        written = self._study.fidelity.model_dump(mode="json")
        values = {
            "space": digest(tree),
            "tasks": digest([self._trainings.subject(label) for label in self._trainings.labelled]),
            "recipe": digest(self._loaded.recipe.model_dump(mode="json")),
            "seeds": digest([self._study.seed, self._study.seeds]),
            "rungs": digest([written["rungs"], written["keep_rates"]]),
            "score_by": digest(self._study.model_dump(mode="json")["score_by"]),
        }
        explain = {
            "space": "another space",
            "tasks": "other tasks or other data",
            "recipe": "another recipe",
            "seeds": "another seed, or another number of seeds",
            "rungs": "other rungs, or another number of learning rates that go on",
            "score_by": "another score_by",
        }
        if self._figures:
            values["target"] = digest(self._target)
            explain["target"] = "another target, or on another device"
        if self._trainings.proxy is not None:
            values["proxy"] = digest(self._trainings.proxy.model_dump(mode="json"))
            explain["proxy"] = "another proxy"
        return Identity(values, explain)

    def provenance(self) -> dict[str, Any]:
        """Versions, device, seeds, data, and the texts of study and space."""
        return provenance(self._loaded, self._place, self._target, self._trainings)

    def _candidate(self, genes: Genes) -> Candidate:
        try:
            spec = self._loaded.space.spec(genes, self._loaded.zoo.components)
        except SpecError as error:
            raise Unfit("invalid", _reason(error)) from error
        return replace(self._of_spec(spec, genes), active=self._loaded.space.active(genes))

    def _of_spec(self, spec: ModelSpec, genes: Genes) -> Candidate:
        found = spec_hash(spec)
        rungs = self._study.fidelity.rungs
        trained = self._trained(spec, found)
        for label, share in itertools.product(self._trainings.labelled, {rung.seq_len for rung in rungs}):
            if (reason := self._trainings.config(label, share).misfit(trained)) is not None:
                raise Unfit("misfit", reason, hash=found)
        target = self._study.target
        seq_len = target.seq_len or spec.input.seq_len
        if seq_len > spec.input.seq_len:
            raise Unfit("misfit", f"target.seq_len {seq_len} is more than input.seq_len {spec.input.seq_len}")
        try:
            profile = closed_profile(
                build_graph(spec, zoo=self._loaded.zoo),
                seq_len=seq_len,
                batch_size=target.batch_size,
                dtype=target.dtype,
                phase=target.phase,
            )
        except SpecError as error:
            raise Unfit("invalid", _reason(error), hash=found) from error
        asked = {target.phase, *phases_of(self._figures, target.phase)}
        if lacking := sorted(phase for phase in asked if profile.flops[phase] is None):
            raise Unfit("misfit", f"it has no phase {lacking[0]}", hash=found)
        costs = closed_costs(profile, target)
        payload: dict[str, Any] = {"spec": dump_spec(without_empty_layers(spec))}
        if self._trainings.proxy is not None:
            payload["twin"] = {
                "spec": dump_spec(without_empty_layers(trained)),
                "hash": spec_hash(trained),
                "params": self._params(trained),
            }
        if any(rung.width != 1 for rung in rungs):
            try:
                payload["twins"] = twins(trained, self._study.fidelity, self._loaded.zoo)
            except SpecError as error:
                raise Unfit("no_twin", _reason(error), hash=found) from error
        candidate = Candidate(found, genes, layer_pairs(spec), costs, payload)
        return replace(candidate, predicted=self._predicted(spec, candidate))

    def _predicted(self, spec: ModelSpec, candidate: Candidate) -> dict[str, Predicted]:
        """Its latency where a table tells it, a budget asks for it, and the closed forms let it through."""
        phase = _IN_PHASE[self._study.target.phase]
        names = [name for name in ("latency_ms", phase) if name in self._study.budgets]
        if self._predictor is None or not names or refusal(candidate, self._study.budgets) is not None:
            return {}
        found = self._predictor(spec)
        return {} if found is None else dict.fromkeys(names, found)

    def _trained(self, spec: ModelSpec, found: str) -> ModelSpec:
        """What is trained in place of ``spec``, whose hash is ``found``: its shrunk twin, or itself."""
        if self._trainings.proxy is None:
            return spec
        for config in self._trainings.labelled.values():
            if (reason := config.misfit(spec)) is not None:
                raise Unfit("misfit", reason, hash=found)
        try:
            return shrink(spec, self._trainings.proxy, self._loaded.zoo)
        except SpecError as error:
            raise Unfit("no_twin", _reason(error), hash=found) from error

    def _params(self, spec: ModelSpec) -> int:
        graph = build_graph(spec, zoo=self._loaded.zoo)
        length = spec.input.seq_len
        return closed_profile(graph, seq_len=length, batch_size=1, dtype="float32", phase="prefill").params

    @cached_property
    def _figures(self) -> tuple[str, ...]:
        """The measured quantities that the study asks for."""
        return asked_figures(self._study)

    @cached_property
    def _target(self) -> dict[str, Any]:
        target = self._study.target.model_dump(mode="json", exclude={"latency_table"})
        device = resolve_device(self._place.device)
        threads = self._place.threads if device.type == "cpu" else None
        return target | {"device": str(device), "device_name": device_info(device).name, "threads": threads}


def _gene(hole: Any) -> Gene:
    if hole.kind == "choice":
        return Gene(hole.gene, "choice", options=hole.options)
    return Gene(hole.gene, hole.kind, low=hole.low, high=hole.high, step=hole.step, log=hole.log)


def _reason(error: SpecError) -> str:
    problem = error.problems[0]
    return f"{problem.path}: {problem.message}" if problem.path else problem.message
