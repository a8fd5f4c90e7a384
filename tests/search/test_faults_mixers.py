"""Mixers of a plug-in that go wrong in a real search: each costs its own trial, and the front is of the others."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from search import run
from search.tasks import load_tasks
from zoo import load_zoo

PLUGIN = Path(__file__).parent / "plugin_faults"
SPACE = """\
archspec: 1
name: faults
input: {kind: tokens, vocab_size: 32, seq_len: 32}
causal: true
d_model: 8
stem: embedding
layers:
  - token_mixer: {choice: {sound: pool, nan: {kind: faulty, fault: nan}, segfault: {kind: faulty, fault: segfault}}}
head: {kind: lm, tied: true}
"""
STUDY = """\
archspec: 1
study: faults
space: space.yaml
tasks: [{kind: copy, n_min: 2, n_max: 4, alphabet: 8}]
objectives: {score: maximize, params: minimize}
recipe:
  {learning_rates: [5e-3], steps: 4, curve_points: 1, batch_size: 4, validation_examples: 8, final_examples: 8}
trials: 3
batch: 3
proposer: random
"""


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.syspath_prepend(str(PLUGIN))
    yield "my_faults"
    for name in [name for name in sys.modules if name.startswith("my_faults")]:
        del sys.modules[name]
    load_tasks.cache_clear()
    load_zoo.cache_clear()


@pytest.mark.slow
def test_a_nan_and_a_segfault_in_a_mixer_cost_their_own_trials(plugin: str, tmp_path: Path) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    (tmp_path / "study.yaml").write_text(STUDY)
    result = run(tmp_path / "study.yaml", out=tmp_path / "out", workers=1, plugins=(plugin,))
    assert psutil.Process().children() == [], "a worker is left running"
    by_mixer = {row.genes["layers[0].token_mixer"]: row for row in result.rows if row.status != "duplicate"}
    assert set(by_mixer) == {"sound", "nan", "segfault"}
    assert by_mixer["sound"].status == "done"
    assert [row.trial for row in result.front] == [by_mixer["sound"].trial]
    assert result.front[0].causality == "passed"
    assert by_mixer["nan"].status == "failed"
    assert by_mixer["nan"].reason.startswith("diverged on copy: ")
    assert by_mixer["segfault"].status == "failed"
    assert "poisoned: 2 workers died on it: its worker was killed by SIGSEGV" in by_mixer["segfault"].reason
    assert result.stopped == "3 candidates trained"
