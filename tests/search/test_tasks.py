"""Every task: the same examples whenever asked for, the right answers, and no model that does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from task_specs import byte_model

from search.tasks import load_tasks
from search.tasks.contract import IGNORE, Metrics, Task
from search.tasks.copy import BAR, BLANK, END, START, Copy
from search.tasks.mqar import Mqar
from search.tasks.parity import Parity
from search.tasks.text_lm import MASK_ID, TextLm

PLUGIN = Path(__file__).parent / "plugin_example"
CONFIGS = {
    "copy": Copy.Config(),
    "copy_odd": Copy.Config(n_min=1, n_max=3, alphabet=2),
    "parity": Parity.Config(),
    "parity_one": Parity.Config(length=1),
    "mqar": Mqar.Config(),
    "mqar_odd": Mqar.Config(n_pairs=3, vocab_size=9, length=17, filler="random"),
    "text_lm": TextLm.Config(),
    "text_lm_short": TextLm.Config(seq_len=7),
}


@pytest.fixture(params=[(name, causal) for name in CONFIGS for causal in (True, False)], ids=str)
def task(request: pytest.FixtureRequest) -> Task:
    name, causal = request.param
    return load_tasks().build(CONFIGS[name], causal=causal, seed=3)


def test_every_file_is_a_task() -> None:
    assert set(load_tasks().classes) == {"copy", "parity", "mqar", "text_lm"}


def test_a_batch_is_the_same_whenever_asked_for(task: Task) -> None:
    again = load_tasks().build(task.config, causal=task.causal, seed=3)
    for split in ("train", "validation", "test"):
        first, second = task.batch(split, 5, 4), again.batch(split, 5, 4)
        assert torch.equal(first.inputs, second.inputs)
        assert torch.equal(first.targets, second.targets)


def test_batches_splits_and_seeds_differ(task: Task) -> None:
    other_seed = load_tasks().build(task.config, causal=task.causal, seed=4)
    batches = [task.batch("train", 0, 32), task.batch("train", 1, 32), task.batch("validation", 0, 32)]
    batches += [task.batch("test", 0, 32), other_seed.batch("train", 0, 32)]
    distinct = {tuple(batch.inputs.flatten().tolist()) for batch in batches}
    assert len(distinct) == len(batches)


def test_validation_is_the_same_for_every_seed(task: Task) -> None:
    other_seed = load_tasks().build(task.config, causal=task.causal, seed=4)
    for split in ("validation", "test"):
        assert torch.equal(task.batch(split, 1, 8).inputs, other_seed.batch(split, 1, 8).inputs)


def test_a_batch_is_what_the_task_says_it_needs(task: Task) -> None:
    needs = task.config.needs(causal=task.causal)
    batch = task.batch("train", 0, 16)
    assert batch.inputs.shape == batch.targets.shape == (16, needs.length)
    assert batch.inputs.dtype == batch.targets.dtype == torch.long
    assert batch.inputs.min() >= 0
    assert batch.inputs.max() < needs.n_ids
    asked = batch.targets[batch.targets != IGNORE]
    assert asked.min() >= 0
    assert asked.max() < needs.n_outputs


@pytest.mark.parametrize("causal", [True, False])
def test_copy_asks_for_the_string_and_its_end(causal: bool) -> None:
    config = Copy.Config(n_min=2, n_max=6, alphabet=5)
    batch = Copy(config, causal=causal).batch("train", 0, 64)
    lengths = set()
    for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist()):
        assert inputs[0] == START
        n = inputs.index(BAR) - 1
        lengths.add(n)
        string, asked = inputs[1 : n + 1], [t for t in targets if t != IGNORE]
        assert asked == [*string, END][: len(asked)]
        assert len(asked) == n + 1
        first = n + 1 if causal else n + 2  # a causal model answers one place before the letter stands
        assert [i for i, t in enumerate(targets) if t != IGNORE] == list(range(first, first + n + 1))
        answer = inputs[n + 2 : 2 * n + 2]
        assert answer == (string if causal else [BLANK] * n)
    assert lengths == {2, 3, 4, 5, 6}


def test_parity_counts_ones() -> None:
    batch = Parity(Parity.Config(length=20), causal=True).batch("train", 0, 8)
    for bits, targets in zip(batch.inputs.tolist(), batch.targets.tolist()):
        assert targets == [sum(bits[: t + 1]) % 2 for t in range(20)]


@pytest.mark.parametrize("filler", ["zero", "random"])
def test_mqar_asks_every_key_once_for_its_value(filler: str) -> None:
    config = Mqar.Config(n_pairs=5, vocab_size=20, length=24, filler=filler)
    batch = Mqar(config, causal=True).batch("train", 0, 64)
    for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist()):
        pairs = dict(zip(inputs[0:10:2], inputs[1:10:2]))
        assert len(pairs) == 5
        asked = {inputs[t]: target for t, target in enumerate(targets) if target != IGNORE}
        assert asked == pairs
        fillers = [inputs[t] for t in range(10, 24) if targets[t] == IGNORE]
        assert all(f == 0 for f in fillers) if filler == "zero" else all(10 <= f < 20 for f in fillers)


def test_mqar_favours_early_places() -> None:
    batch = Mqar(Mqar.Config(n_pairs=2, vocab_size=20, length=44), causal=True).batch("train", 0, 512)
    first, last = batch.targets[:, 4] != IGNORE, batch.targets[:, 43] != IGNORE
    assert first.float().mean() > 4 * last.float().mean()


def test_text_windows_hold_the_next_byte() -> None:
    task = TextLm(TextLm.Config(seq_len=30), causal=True)
    batch = task.batch("validation", 0, 8)
    for inputs, targets in zip(batch.inputs, batch.targets):
        assert bytes([*inputs.tolist(), int(targets[-1])]) in task.corpus.validation
        assert torch.equal(inputs[1:], targets[:-1])


def test_masked_text_hides_what_it_asks_for() -> None:
    task = TextLm(TextLm.Config(seq_len=100), causal=False)
    for split in ("train", "validation"):
        batch = task.batch(split, 0, 64)
        asked = batch.targets != IGNORE
        assert torch.equal(asked, batch.inputs == MASK_ID)
        assert 0.13 < asked.float().mean() < 0.17
        whole = batch.inputs.where(~asked, batch.targets)
        assert all(bytes(row.tolist()) in getattr(task.corpus, split) for row in whole)


@pytest.mark.parametrize("causal", [True, False])
def test_validation_windows_cover_the_text_once(causal: bool) -> None:
    task = TextLm(TextLm.Config(seq_len=500), causal=causal)
    n = task.n_examples("validation")
    assert n == len(task.corpus.validation) // (501 if causal else 500)
    batch = task.batch("validation", 0, n)
    whole = batch.inputs.where(batch.inputs != MASK_ID, batch.targets)
    starts = sorted(task.corpus.validation.index(bytes(row.tolist())) for row in whole)
    assert len(set(starts)) == n
    halves = torch.cat([task.batch("validation", index, 10).inputs for index in range(2)])
    assert torch.equal(halves, batch.inputs[:20])  # whatever the batch size


@pytest.mark.parametrize(
    ("accuracy", "score"), [(1.0, 1.0), (0.75, 0.5), (0.5, 0.0), (0.3, 0.0)], ids=lambda v: f"{v:g}"
)
def test_score_is_accuracy_above_chance(accuracy: float, score: float) -> None:
    assert Parity(Parity.Config(), causal=True).score(Metrics(1.0, accuracy, 10)) == pytest.approx(score)


def test_chance_of_copy_is_the_best_blind_answer() -> None:
    config = Copy.Config(n_min=2, n_max=6, alphabet=50)
    task = Copy(config, causal=True)
    targets = task.batch("train", 0, 20_000).targets
    asked = targets[targets != IGNORE]
    shares = asked.bincount() / len(asked)
    assert task.chance == pytest.approx(float(shares.max()), abs=0.003)


def test_text_score_is_bits_saved_of_eight() -> None:
    task = TextLm(TextLm.Config(), causal=True)
    nats = 2 * 0.6931471805599453
    assert task.score(Metrics(nats, 0.5, 10)) == pytest.approx(0.75)
    assert task.score(Metrics(10.0, 0.0, 10)) == 0.0
    assert task.values(Metrics(nats, 0.5, 10)) == pytest.approx({"bits_per_byte": 2.0, "accuracy": 0.5})


def test_record_names_the_data_but_not_the_place(tmp_path: Path) -> None:
    records = []
    for name in ("a", "b"):
        file = tmp_path / name / "text.txt"
        file.parent.mkdir()
        file.write_text("to be or not to be, that is the question. " * 20)
        config = TextLm.Config(source="path", path=f"{name}/text.txt", seq_len=8).relative_to(tmp_path)
        records.append(TextLm(config, causal=True).record())
    assert records[0] == records[1]
    assert len(records[0]["data"]["sha256"]) == 64
    assert str(tmp_path) not in str(records)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_byte_model_fits_every_task(name: str) -> None:
    assert CONFIGS[name].misfit(byte_model()) is None


@pytest.mark.parametrize(
    ("config", "changes", "words"),
    [
        (Copy.Config(alphabet=300), {}, ["'copy'", "304", "vocab_size is 256"]),
        (TextLm.Config(), {"causal": False}, ["'text_lm'", "257", "vocab_size is 256"]),
        (Parity.Config(length=257), {}, ["257 positions", "seq_len is 256"]),
        (
            Parity.Config(),
            {"input": {"kind": "features", "d_input": 3, "seq_len": 64}},
            ["token ids", "features"],
        ),
        (
            Parity.Config(),
            {
                "encoder": {
                    "input": {"kind": "tokens", "vocab_size": 8, "seq_len": 9},
                    "stem": "embedding",
                    "layers": [{"token_mixer": "attention"}],
                },
                "layers": [{"token_mixer": "attention", "cross": "attention"}],
            },
            ["one sequence", "an encoder"],
        ),
        (
            Parity.Config(),
            {"head": {"kind": "classifier", "n_classes": 2}},
            ["every position", "'classifier'"],
        ),
        (
            Parity.Config(),
            {"stem": {"kind": "embedding", "cls_token": True}},
            ["'embedding'", "257 positions"],
        ),
        (Parity.Config(), {"condition": {"d_token": 8, "time": True}}, ["gives no condition"]),
    ],
    ids=["vocabulary", "mask_id", "length", "features", "encoder", "head", "cls_token", "condition"],
)
def test_a_model_that_does_not_fit_is_told_why(config, changes, words) -> None:
    reason = config.misfit(byte_model(**changes))
    assert reason is not None
    assert all(word in reason for word in words), reason


@pytest.mark.parametrize(
    ("cls", "fields", "words"),
    [
        (Copy, {"n_min": 5, "n_max": 4}, ["n_min 5", "n_max 4"]),
        (Mqar, {"n_pairs": 16, "vocab_size": 32}, ["n_pairs 16", "vocab_size 32"]),
        (Mqar, {"n_pairs": 16, "length": 47}, ["length 47", "n_pairs 16"]),
        (TextLm, {"source": "path"}, ["path", "'path'"]),
        (TextLm, {"path": "a.txt"}, ["a.txt", "python_docs"]),
    ],
    ids=["copy_range", "mqar_keys", "mqar_length", "no_path", "path_unused"],
)
def test_impossible_settings_name_both_fields(cls, fields, words) -> None:
    with pytest.raises(ValueError, match=words[0]) as error:
        cls.Config(**fields)
    assert all(word in str(error.value) for word in words)
