"""The 5-gram model is a proper probability and equals its definition; xz counts what a split adds."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from search.baselines_text import CAUSAL_CONTEXT, MASKED_CONTEXT, NGram, Questions, baselines
from search.corpora import Corpus
from search.tasks.contract import IGNORE
from search.tasks.text_lm import MASK_ID, TextLm

TEXT = "".join(random.Random(0).choices("abcd", k=600)).encode()


def definition(text: bytes, offsets: tuple[int, ...], context: list[int], c: int) -> float:
    """p(c | context), the context's bytes standing at ``offsets``, by counting."""
    inner = range(*_inner(text, offsets).indices(len(text)))
    used = offsets[: len(context)]
    counts = Counter(text[i] for i in inner if [text[i + o] for o in used] == context)
    lower = definition(text, offsets, context[:-1], c) if context else 1 / 256
    n, types = sum(counts.values()), len(counts)
    return lower if n == 0 else (counts[c] + types * lower) / (n + types)


def _inner(text: bytes, offsets: tuple[int, ...]) -> slice:
    return slice(-min(0, *offsets), len(text) - max(0, *offsets))


def test_causal_probabilities_equal_the_definition() -> None:
    model = NGram.fit(TEXT, CAUSAL_CONTEXT)
    window = np.frombuffer(b"abdcazab", dtype=np.uint8).astype(np.int64)
    found = model.probabilities(Questions(window[None, :-1], window[None, 1:], causal=True))
    wanted = []
    for t in range(1, len(window)):
        context = [int(b) for b in window[max(0, t - 4) : t][::-1]]
        wanted.append(definition(TEXT, CAUSAL_CONTEXT, context, int(window[t])))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_a_masked_neighbour_ends_the_context() -> None:
    model = NGram.fit(TEXT, MASKED_CONTEXT)
    window = np.array([[97, 98, MASK_ID, 99, MASK_ID, 100, 97]])
    targets = np.array([[IGNORE, IGNORE, 97, IGNORE, 100, IGNORE, IGNORE]])
    found = model.probabilities(Questions(window, targets, causal=False))
    wanted = [
        definition(TEXT, MASKED_CONTEXT, [98, 99, 97], 97),  # the byte 2 to the right is masked
        definition(TEXT, MASKED_CONTEXT, [99, 100], 100),  # the byte 2 to the left is
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "masked"])
def test_probabilities_sum_to_one(causal: bool) -> None:
    model = NGram.fit(TEXT, CAUSAL_CONTEXT if causal else MASKED_CONTEXT)
    rng = np.random.default_rng(0)
    for window in rng.choice(np.array([*b"abcdz", MASK_ID]), size=(20, 9)):
        inputs = np.repeat(window[None, :], 256, axis=0)
        if causal:
            inputs[inputs == MASK_ID] = 0
        else:
            inputs[:, 4] = MASK_ID
        targets = np.full_like(inputs, IGNORE)
        targets[:, 4] = np.arange(256)
        total = model.probabilities(Questions(inputs, targets, causal=causal)).sum()
        assert total == pytest.approx(1, abs=1e-12)


def test_both_baselines_of_a_text_that_repeats_are_small_and_of_noise_are_large() -> None:
    noise = np.random.default_rng(0).integers(0, 256, 60_000, dtype=np.uint8).tobytes()
    repeated = noise[:1000] * 60
    for text, low, high in ((repeated, 0.0, 0.5), (noise, 7.9, 9.5)):
        corpus = Corpus("text", text[:40_000], text[40_000:50_000], text[50_000:])
        window = np.frombuffer(corpus.validation, dtype=np.uint8).astype(np.int64)[None]
        questions = Questions(window[:, :-1], window[:, 1:], causal=True)
        for baseline in baselines(corpus, questions, "validation"):
            assert low <= baseline.values["bits_per_byte"] <= high, (baseline, low, high)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "masked"])
def test_real_text_has_both_beside_it_on_the_same_bytes(causal: bool) -> None:
    task = TextLm(TextLm.Config(seq_len=64), causal=causal)
    by_name = {b.name: b for b in task.baselines("validation", 200)}
    assert set(by_name) == {"5-gram", "xz"}
    assert 1.5 < by_name["5-gram"].values["bits_per_byte"] < 2.6
    assert 1.2 < by_name["xz"].values["bits_per_byte"] < 2.4
    assert ("either side" in by_name["5-gram"].note) is not causal
