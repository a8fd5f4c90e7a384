"""The latency table: exact keys, one file, sums with sources; the fit to whole models; what is refused."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from archspec import SpecError
from archspec.source import parse_source
from archspec.space import Space
from archspec.spec import ModelSpec
from compiler.device import measuring
from compiler.device.block_table import BlockTable, Conditions, Entry, Key
from compiler.device.calibrate import conditions, measure_missing, models_asked, needs_of, shape_of
from compiler.device.device_profile import find_profile
from compiler.device.interleaved import Series
from compiler.device.measuring import Bench, Effort, block_asked
from compiler.device.prediction import fitted_to, keyed, model_key, predict
from compiler.device.runs import Shape, checked_backend, prepared
from zoo import Zoo

SpecMaker = Callable[..., ModelSpec]
CPU = torch.device("cpu")
SHAPE = Shape(1, 24, "float32", "prefill")
LAYERS = "- repeat: 3\n  layers: [{token_mixer: {kind: attention, n_heads: 4}, channel_mixer: mlp}]"


@pytest.fixture
def here() -> Conditions:
    return conditions(CPU, shape=SHAPE, backend="eager", clock="cpu", statistic="median", plugins=())


def entry(key: Key, ms: float, *, spread: float = 0.0, parts: dict[str, int] | None = None) -> Entry:
    return Entry(key, "made up", ms, ms - spread, ms + spread, 30, 10**6, 10**6, 10, parts=parts)


def filled(table: BlockTable, spec: ModelSpec, shape: Shape, zoo: Zoo, ms: Callable[[Key], float]) -> None:
    found = keyed(spec, shape, zoo)
    table.add(entry(key, ms(key), spread=0.1) for key in {found.base, *found.blocks})


def test_entries_outlive_the_process(tmp_path: Path, here: Conditions) -> None:
    key = Key("block", "abc", 1, 24, 16)
    kept = replace(entry(key, 1.5, parts={"base:x:24": 1}), flops=10**30)  # more than SQLite's integers hold
    BlockTable(tmp_path / "deep" / "t.sqlite", here).add([kept])
    again = BlockTable(tmp_path / "deep" / "t.sqlite", here).get(key)
    assert again is not None
    assert replace(again, measured_at="") == kept
    assert again.measured_at


@pytest.mark.parametrize("name", [field.name for field in fields(Conditions)])
def test_any_change_of_the_conditions_is_a_miss(tmp_path: Path, here: Conditions, name: str) -> None:
    key = Key("block", "abc", 1, 24, 16)
    BlockTable(tmp_path / "t.sqlite", here).add([entry(key, 1.0)])
    other = replace(here, **{name: 9 if name == "threads" else "other"})
    assert BlockTable(tmp_path / "t.sqlite", other).get(key) is None
    assert BlockTable(tmp_path / "t.sqlite", here).get(key) is not None


@pytest.mark.parametrize(
    "change", [{"block": "x"}, {"batch_size": 2}, {"length": 25}, {"d_model": 8}, {"kind": "base"}]
)
def test_any_change_of_the_key_is_a_miss(tmp_path: Path, here: Conditions, change: dict[str, object]) -> None:
    key = Key("block", "abc", 1, 24, 16)
    table = BlockTable(tmp_path / "t.sqlite", here)
    table.add([entry(key, 1.0)])
    assert table.get(replace(key, **change)) is None  # type: ignore[arg-type]


def test_a_file_that_is_no_table_is_refused(tmp_path: Path, here: Conditions) -> None:
    (tmp_path / "text.sqlite").write_text("no database at all, but long enough to be taken for one " * 40)
    with pytest.raises(SpecError, match="is no latency table"):
        BlockTable(tmp_path / "text.sqlite", here)
    with sqlite3.connect(tmp_path / "other.sqlite") as connection:
        connection.execute("CREATE TABLE studies (name TEXT)")
    with pytest.raises(SpecError, match="is no latency table of ours"):
        BlockTable(tmp_path / "other.sqlite", here)


def test_a_shared_file_may_hold_anything(tmp_path: Path, here: Conditions) -> None:
    BlockTable(tmp_path / "t.sqlite", here).add([entry(Key("block", "abc", 1, 24, 16), 1.0)])
    with sqlite3.connect(tmp_path / "t.sqlite") as connection:
        connection.execute("UPDATE entries SET ms = 'fast'")
    connection.close()
    with pytest.raises(SpecError, match="broken entry"):
        BlockTable(tmp_path / "t.sqlite", here)


def test_a_prediction_is_the_sum_of_its_parts(
    tmp_path: Path, here: Conditions, make_spec: SpecMaker, zoo: Zoo
) -> None:
    table = BlockTable(tmp_path / "t.sqlite", here)
    spec = make_spec(LAYERS)
    attention, mlp = keyed(spec, SHAPE, zoo).blocks[:2]
    filled(table, spec, SHAPE, zoo, lambda key: 3.0 if key == attention else 2.0 if key == mlp else 1.0)
    found = predict(spec, table, SHAPE, zoo=zoo)
    assert found.ms == pytest.approx(1.0 + 3 * 3.0 + 3 * 2.0)
    assert found.source == "measured"
    assert [part.path for part in found.parts][:3] == [
        "base", "layers[0].layers[0].token_mixer", "layers[0].layers[0].channel_mixer",
    ]  # fmt: skip
    assert found.low_ms < found.ms < found.high_ms
    assert found.fit.n_models == 0
    document = found.as_json()
    assert document["value"] == found.ms
    assert {part["source"] for part in document["parts"]} == {"measured"}


def test_copies_of_a_block_are_off_together(
    tmp_path: Path, here: Conditions, make_spec: SpecMaker, zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three copies of one entry: three times its spread, not the root of three."""
    monkeypatch.setattr("compiler.device.prediction._UNCALIBRATED", 0.0)
    monkeypatch.setattr(
        "compiler.device.prediction.fit", lambda table, shape: fitted_to([1.0] * 999, [1.0] * 999)
    )
    table = BlockTable(tmp_path / "t.sqlite", here)
    spec = make_spec("- repeat: 3\n  layers: [{token_mixer: pool, channel_mixer: none}]")
    filled(table, spec, SHAPE, zoo, lambda key: 1.0)
    found = predict(spec, table, SHAPE, zoo=zoo)
    assert found.high_ms - found.ms == pytest.approx(math.hypot(3 * 0.1, 0.1), rel=0.1)


def test_calibration_takes_scale_and_overhead_from_whole_models(
    tmp_path: Path, here: Conditions, make_spec: SpecMaker, zoo: Zoo
) -> None:
    table = BlockTable(tmp_path / "t.sqlite", here)
    specs = [make_spec(LAYERS.replace("3", str(n))) for n in range(1, 13)]
    for spec in specs:
        filled(table, spec, SHAPE, zoo, lambda key: 1.0)
    for spec in specs[:-1]:
        parts = keyed(spec, SHAPE, zoo).parts()
        table.add([entry(model_key(spec, SHAPE), 1.2 * sum(parts.values()) + 0.3, parts=parts)])
    found = predict(specs[-1], table, SHAPE, zoo=zoo)
    assert found.fit.n_models == 11
    assert found.ms == pytest.approx(1.2 * 25 + 0.3, rel=0.01)
    assert found.fit.deviation < 0.02
    longer = replace(SHAPE, batch_size=2)
    filled(table, specs[-1], longer, zoo, lambda key: 1.0)
    assert (
        predict(specs[-1], table, longer, zoo=zoo).fit.n_models == 0
    )  # models of another shape do not count


def test_a_fit_to_few_models_stays_near_the_sum() -> None:
    assert fitted_to([], []).scale == 1.0
    one = fitted_to([10.0], [13.0])
    assert 1.1 < one.scale < 1.3
    assert one.scale * 10.0 + one.overhead_ms < 13.0
    rng = np.random.default_rng(0)
    sums = rng.uniform(5, 20, 12)
    noisy = fitted_to(list(sums), list(sums * (1.1 + 0.02 * rng.standard_normal(12))))
    assert noisy.scale * 10 + noisy.overhead_ms == pytest.approx(11.0, rel=0.02)
    assert 0.01 < noisy.deviation < 0.04


def test_between_two_lengths_a_block_is_interpolated(
    tmp_path: Path, here: Conditions, make_spec: SpecMaker, zoo: Zoo
) -> None:
    table, spec = BlockTable(tmp_path / "t.sqlite", here), make_spec(LAYERS)
    filled(table, spec, replace(SHAPE, seq_len=6), zoo, lambda key: 1.0)
    filled(table, spec, SHAPE, zoo, lambda key: 4.0)
    found = predict(spec, table, replace(SHAPE, seq_len=12), zoo=zoo)
    assert found.source == "interpolated"
    assert found.ms == pytest.approx(7 * 2.0)  # halfway in logarithms
    with pytest.raises(SpecError, match="no entry for stem"):
        predict(spec, table, replace(SHAPE, seq_len=3), zoo=zoo)


def test_what_is_missing_has_a_roofline_if_the_device_is_known(
    tmp_path: Path, here: Conditions, make_spec: SpecMaker, zoo: Zoo
) -> None:
    table, spec = BlockTable(tmp_path / "t.sqlite", here), make_spec(LAYERS)
    device = find_profile("cpu_amd_epyc_zen4")
    found = predict(spec, table, SHAPE, zoo=zoo, device=device)
    assert found.source == "roofline"
    assert found.as_json()["high"] is None  # nobody knows how far above it is
    first = keyed(spec, SHAPE, zoo).blocks[0]
    bound = next(part.ms for part in found.parts if part.block == first.block)
    filled(table, make_spec(LAYERS, "d_model=32"), SHAPE, zoo, lambda key: 5.0)
    raised = predict(spec, table, SHAPE, zoo=zoo, device=device)
    part = next(part for part in raised.parts if part.block == first.block)
    assert part.low_ms == bound < part.ms
    assert raised.as_json()["high"] is not None


@pytest.fixture
def bench(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A bench on which everything takes as many milliseconds as it has parameters."""

    def series(runs: list[Callable[[], object]], **_: object) -> Series:
        seconds = [run() for run in runs]
        return Series(tuple((1e-3 * float(s),) * 5 for s in seconds))  # type: ignore[arg-type]

    def counting(compiled: object, *_: object, **__: object) -> Callable[[], object]:
        n = sum(p.numel() for p in compiled.parameters())  # type: ignore[attr-defined]
        return lambda: n

    monkeypatch.setattr(measuring, "interleaved", series)
    monkeypatch.setattr(measuring, "prepared", counting)
    return Bench(device=CPU, shape=SHAPE, backend="eager", clock="cpu", statistic="median", zoo=zoo)


def test_an_entry_is_what_one_more_copy_adds(
    tmp_path: Path, here: Conditions, make_spec: SpecMaker, zoo: Zoo, bench: Bench
) -> None:
    spec, table = make_spec(LAYERS), BlockTable(tmp_path / "t.sqlite", here)
    asked = {key: block_asked(key, block) for _, block, key in keyed(spec, SHAPE, zoo).items()}
    new = measure_missing(table, bench, list(asked.values()), Effort())
    assert len(new) == 3
    for found in new:
        assert found.ms == pytest.approx(found.params)  # with the norm, without the frame
    n_params = sum(entry.params for entry in new) + 2 * sum(e.params for e in new if e.key.kind == "block")
    assert predict(spec, table, SHAPE, zoo=zoo).ms == pytest.approx(n_params)
    assert measure_missing(table, bench, list(asked.values()), Effort()) == []  # nothing is measured twice


SPACE = """
archspec: 1
input: {kind: tokens, vocab_size: 31, seq_len: {choice: [12, 24]}}
causal: true
d_model: 16
stem: embedding
layers:
  - {token_mixer: {choice: [{kind: attention, n_heads: 4}, pool]}, channel_mixer: {choice: [mlp, none]}}
  - {token_mixer: pool, channel_mixer: mlp}
head: lm
"""


def test_a_space_needs_each_block_once(zoo: Zoo) -> None:
    of = shape_of(SHAPE, None)
    needs = needs_of(Space(parse_source(SPACE)), of, zoo=zoo)
    assert needs.is_complete
    assert len(needs.specs) == 8
    whats = [
        (asked.key.kind, asked.what.partition(" ")[0], asked.key.length) for asked in needs.asked.values()
    ]
    assert sorted(whats) == sorted(
        (kind, what, length)
        for length in (12, 24)
        for kind, what in (("base", "stem"), ("block", "attention"), ("block", "pool"), ("block", "mlp"))
    )
    models = models_asked(needs, of, 3, zoo=zoo)
    assert sorted(one.key.length for one in models) == [12, 12, 12, 24, 24, 24]
    assert len({one.key for one in models}) == 6


def test_a_space_of_which_nothing_can_be_built(zoo: Zoo) -> None:
    text = SPACE.replace("[{kind: attention, n_heads: 4}, pool]", "[{kind: attention, n_heads: 5}]")
    space = Space(parse_source(text))
    with pytest.raises(SpecError, match="no candidate of this space can be built: .*n_heads"):
        needs_of(space, shape_of(SHAPE, None), zoo=zoo)
    with pytest.raises(SpecError, match="seq_len 99 is not in"):
        needs_of(Space(parse_source(SPACE)), shape_of(SHAPE, 99), zoo=zoo)


def test_backends() -> None:
    assert checked_backend("eager", CPU) == "eager"
    with pytest.raises(SpecError, match="replays CUDA graphs, and the device is cpu"):
        checked_backend("graph", CPU)
    with pytest.raises(SpecError, match="unknown backend 'eagre'"):
        checked_backend("eagre", CPU)


@pytest.mark.gpu
@pytest.mark.parametrize("phase", ["prefill", "decode", "train"])
@pytest.mark.parametrize("backend", ["eager", "compile", "graph"])
def test_every_backend_runs_every_phase_on_cuda(
    make_spec: SpecMaker, zoo: Zoo, phase: str, backend: str, tmp_path: Path
) -> None:
    device, shape = torch.device("cuda", 0), replace(SHAPE, phase=phase)
    spec = make_spec(LAYERS)
    kept = conditions(device, shape=shape, backend=backend, clock="wall", statistic="median", plugins=())
    assert kept.clock == "events"
    bench = Bench(device=device, shape=shape, backend=backend, clock="wall", statistic="median", zoo=zoo)
    asked = {key: block_asked(key, block) for _, block, key in keyed(spec, shape, zoo).items()}
    table = BlockTable(tmp_path / "t.sqlite", kept)
    measure_missing(table, bench, list(asked.values()), Effort(min_rounds=5, min_seconds=0.0))
    assert predict(spec, table, shape, zoo=zoo).ms > 0


@pytest.mark.gpu
def test_a_captured_graph_computes_what_eager_does(make_spec: SpecMaker) -> None:
    import compiler

    model = compiler.compile_spec(make_spec(LAYERS), gate=False)
    shape, device = replace(SHAPE, phase="prefill"), torch.device("cuda", 0)
    with torch.inference_mode():
        prepared(model, shape, device=device, backend="graph")()
        torch.cuda.synchronize()
