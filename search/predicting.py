"""Predicted latency: a table of measured blocks tells what a candidate takes before anything of it runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from archspec import ModelSpec, SpecError
from compiler.device.block_table import BlockTable
from compiler.device.calibrate import conditions, shape_of
from compiler.device.prediction import predict
from compiler.device.runs import Shape
from search.evaluate import Predicted
from search.load import LoadedStudy


@dataclass(frozen=True)
class LatencyPredictor:
    """The study's table under the conditions of its target."""

    table: BlockTable
    shape: Shape
    seq_len: int | None
    loaded: LoadedStudy

    def __call__(self, spec: ModelSpec) -> Predicted | None:
        """The time of ``spec`` with its interval; None if the table lacks a block."""
        zoo = self.loaded.zoo
        try:
            found = predict(spec, self.table, shape_of(self.shape, self.seq_len)(spec), zoo=zoo)
        except SpecError:
            return None
        return Predicted(found.ms, found.low_ms, found.high_ms)


def latency_predictor(loaded: LoadedStudy, device: torch.device, *, threads: int) -> LatencyPredictor | None:
    """Of the study's ``latency_table``, None without one; a table of other conditions is a SpecError."""
    if (file := loaded.latency_table) is None:
        return None
    target = loaded.study.target
    shape = Shape(target.batch_size, 0, target.dtype, target.phase)
    before = torch.get_num_threads()
    torch.set_num_threads(threads if device.type == "cpu" else before)
    try:
        here = conditions(
            device, shape=shape, backend="eager", clock="wall", statistic="median", plugins=loaded.plugins
        )
    finally:
        torch.set_num_threads(before)
    table = BlockTable(file, here)
    if not table.entries():
        raise loaded.error(
            ("target", "latency_table"),
            "this table holds nothing for this device, target and version",
            _command(loaded, threads),
        )
    return LatencyPredictor(table, shape, target.seq_len, loaded)


def _command(loaded: LoadedStudy, threads: int) -> str:
    target = loaded.study.target
    length = "" if target.seq_len is None else f" --seq-len {target.seq_len}"
    return (
        f"fill it with: archspec device calibrate {loaded.space.source.file} --table {loaded.latency_table} "
        f"--device {target.device} --phase {target.phase} --dtype {target.dtype} "
        f"--batch-size {target.batch_size}{length} --threads {threads}"
    )
