"""Blocks and whole models -> entries of a latency table: timed side by side, so that drift hits all alike.

    entry of a block = (T[4 distinct copies, stacked] - T[1 copy]) / 3

is what one more such block adds to a model: its weights are as cold as in a model, and what a model costs
beside its layers cancels. Everything that is asked for at once is timed in common rounds, as far as memory
goes: on a machine that is slow for a while, all of it is slow for a while.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import psutil
import torch

from archspec import DTYPE_BYTES, Cost, ModelSpec, SpecError
from compiler.build import build_graph, compile_spec
from compiler.cost.closed_form import CostPlan, total
from compiler.device.block_table import Entry, Key
from compiler.device.blocks import Block
from compiler.device.interleaved import Statistic, Tick, estimate, interleaved, interval
from compiler.device.runs import Backend, Shape, prepared
from zoo import Zoo

N_COPIES = 4
_MEMORY_SHARE = 0.3  # of what is free, for the models of one session
_MOST_RUNS = 160  # in one session
_TRAIN_STATES = 4  # weights, gradients and two states of the optimizer
Progress = Callable[[float, int], None]  # entries done, and all of them


@dataclass(frozen=True)
class Effort:
    """How long one session measures; every run of it is in every round."""

    min_rounds: int = 30
    min_seconds: float = 5.0
    max_seconds: float = 600.0


@dataclass(frozen=True)
class Asked:
    """One entry to be made: a block (``spec`` None) or a whole model with its parts."""

    key: Key
    what: str
    models: tuple[ModelSpec, ...]  # what is timed for it: one copy and four, or the model
    parts: dict[str, int] | None = None


def block_asked(key: Key, block: Block) -> Asked:
    """A block, or a base, which is timed as it is."""
    n = (0,) if key.kind == "base" else (1, N_COPIES)
    return Asked(key, block.what, tuple(block.copies(i) for i in n))


class Bench:
    """A device and the way of measuring on it."""

    def __init__(
        self,
        *,
        device: torch.device,
        shape: Shape,
        backend: Backend,
        clock: str,
        statistic: Statistic,
        zoo: Zoo,
    ):
        """Of ``shape`` only dtype and phase count; sizes come with every key."""
        self.device, self.shape, self.backend = device, shape, backend
        self.clock, self.statistic, self.zoo = clock, statistic, zoo

    def measure(
        self, asked: Sequence[Asked], effort: Effort, *, seed: int = 0, progress: Progress | None = None
    ) -> Iterator[list[Entry]]:
        """The entries of one session after the other; what is larger than memory is a SpecError."""
        n_done = 0
        for session in self._sessions(asked):

            def tick(share: float, done: int = n_done, n: int = len(session)) -> None:
                if progress is not None:
                    progress(done + share * n, len(asked))

            tick(0.0)
            yield self._session(session, effort, seed, tick)
            n_done += len(session)

    def _session(self, asked: Sequence[Asked], effort: Effort, seed: int, tick: Tick) -> list[Entry]:
        runs, owners = [], []
        for i, one in enumerate(asked):
            for j, spec in enumerate(one.models):
                compiled = compile_spec(spec, seed=seed + 7 * i + j, gate=False, zoo=self.zoo)
                shape = Shape(one.key.batch_size, one.key.length, self.shape.dtype, self.shape.phase)
                runs.append(prepared(compiled, shape, device=self.device, backend=self.backend))
                owners.append(i)
                del compiled
        with torch.inference_mode(self.shape.phase != "train"):
            series = interleaved(
                runs,
                device=self.device,
                clock=self.clock,
                cold=self.backend == "graph",
                min_rounds=effort.min_rounds,
                min_seconds=effort.min_seconds,
                max_seconds=effort.max_seconds,
                warm_up_seconds=1.0,
                seed=seed,
                tick=tick,
            )
        del runs
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        times: list[list[np.ndarray]] = [[] for _ in asked]
        for owner, seconds in zip(owners, series.times, strict=True):
            times[owner].append(1e3 * np.asarray(seconds))
        return [self._entry(one, own) for one, own in zip(asked, times, strict=True)]

    def _entry(self, one: Asked, times: list[np.ndarray]) -> Entry:
        def value(rounds: np.ndarray) -> float:
            figures = [estimate(series[rounds], self.statistic) for series in times]
            return figures[0] if len(figures) == 1 else (figures[1] - figures[0]) / (N_COPIES - 1)

        n = len(times[0])
        low, high = interval(value, n)
        cost = self._work(one)
        return Entry(
            one.key,
            one.what,
            ms=value(np.arange(n)),
            low_ms=low,
            high_ms=high,
            n=n,
            flops=cost.flops_needed,
            bytes_moved=cost.bytes_moved,
            params=cost.params,
            parts=one.parts,
        )

    def _work(self, one: Asked) -> Cost:
        """Closed-form work of what the entry stands for."""
        graph = build_graph(one.models[0], zoo=self.zoo)
        phase = self.shape.phase
        costs = CostPlan(graph, one.key.length).costs(
            batch_size=one.key.batch_size,
            dtype=self.shape.dtype,
            phase=phase,
            context_len=one.key.length - 1 if phase == "decode" else 0,
        )
        if one.key.kind == "block":
            costs = {name: cost for name, cost in costs.items() if name.startswith("layers.")}
        return total(costs.values())

    def _sessions(self, asked: Sequence[Asked]) -> Iterator[list[Asked]]:
        """``asked`` cut into sessions that fit into memory."""
        if self.device.type == "cuda":
            free = torch.cuda.mem_get_info(self.device)[0]
        else:
            free = psutil.virtual_memory().available
        room, n_runs = _MEMORY_SHARE * free, 0
        session: list[Asked] = []
        for one in asked:
            needed = self._bytes(one)
            if needed > free:
                raise SpecError(
                    f"{one.what}: its models need {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
                )
            if session and (needed > room or n_runs + len(one.models) > _MOST_RUNS):
                yield session
                session, room, n_runs = [], _MEMORY_SHARE * free, 0
            session.append(one)
            room -= needed
            n_runs += len(one.models)
        if session:
            yield session

    def _bytes(self, one: Asked) -> int:
        """Weights of the models, with what training adds to them; activations are there for one at a time."""
        states = _TRAIN_STATES if self.shape.phase == "train" else 1
        item = DTYPE_BYTES[self.shape.dtype]
        return sum(
            states * item * total(CostPlan(build_graph(spec, zoo=self.zoo)).costs().values()).params
            for spec in one.models
        )
