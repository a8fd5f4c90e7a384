"""What xz and a 5-gram model need for the same bytes, to be printed beside every text model.

The 5-gram model is interpolated with Witten-Bell weights: with h a context seen n(h) times before t(h)
different bytes, p(c | h) = (n(h c) + t(h) p(c | h')) / (n(h) + t(h)), where h' is h without its farthest
byte; below the empty context stands 1/256. It is a proper probability. For a causal question the context is
the 4 bytes before; for a masked byte it is the 2 visible ones on either side, nearest first, up to the first
one that is masked itself.
"""

from __future__ import annotations

import functools
import lzma
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from search.corpora import Corpus
from search.tasks.contract import Baseline

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
CAUSAL_CONTEXT = (-1, -2, -3, -4)
MASKED_CONTEXT = (-1, 1, -2, 2)
_HIDDEN = 256  # not a byte: masked, or outside the window


@dataclass(frozen=True)
class Questions:
    """Windows as a task gives them: inputs (N, L), targets (N, L) with negative ones ignored."""

    inputs: Ints
    targets: Ints
    causal: bool


def baselines(
    corpus: Corpus, questions: Questions, split: Literal["validation", "test"]
) -> tuple[Baseline, ...]:
    """5-gram on exactly these questions; xz on the whole split, compressed after the training text."""
    offsets = CAUSAL_CONTEXT if questions.causal else MASKED_CONTEXT
    model = _fitted(corpus, offsets)
    bits = float(-np.log2(model.probabilities(questions)).mean())
    context = "the 4 bytes before it" if questions.causal else "the 2 visible bytes on either side of it"
    return (
        Baseline(
            "5-gram",
            {"bits_per_byte": bits},
            f"the same bytes, each from {context}; Witten-Bell, trained alike",
        ),
        Baseline(
            "xz",
            {"bits_per_byte": _xz(corpus, split)},
            "the whole split, left to right, after the training text",
        ),
    )


@dataclass(frozen=True)
class NGram:
    """Counts of byte c in the contexts made of the first 0, 1, ... ``offsets``.

    ``pairs[k]`` are the sorted keys (context of k bytes, c), ``contexts[k]`` those of the contexts alone.
    """

    offsets: tuple[int, ...]
    pairs: tuple[Ints, ...]
    pair_counts: tuple[Ints, ...]
    contexts: tuple[Ints, ...]
    context_counts: tuple[Ints, ...]
    context_types: tuple[Ints, ...]

    @staticmethod
    def fit(text: bytes, offsets: tuple[int, ...]) -> NGram:
        """One pass of sorting per order; 9 MB take some seconds."""
        data = np.frombuffer(text, dtype=np.uint8).astype(np.int64)
        left, right = -min(0, *offsets), max(0, *offsets)
        inner = slice(left, len(data) - right)
        tables = []
        for k in range(len(offsets) + 1):
            key = np.zeros(max(0, len(data) - left - right), dtype=np.int64)
            for offset in offsets[:k]:
                key = key << 8 | data[inner.start + offset : inner.stop + offset]
            pairs, pair_counts = np.unique(key << 8 | data[inner], return_counts=True)
            context = pairs >> 8  # sorted, like the pairs
            first = np.flatnonzero(np.diff(context, prepend=-1))
            types = np.diff(first, append=len(pairs))
            tables.append((pairs, pair_counts, context[first], np.add.reduceat(pair_counts, first), types))
        return NGram(offsets, *(tuple(column) for column in zip(*tables)))

    def probabilities(self, questions: Questions) -> Floats:
        """p(target) for every target that is asked, in row-major order."""
        row, t = np.nonzero(questions.targets >= 0)
        c = questions.targets[row, t].astype(np.int64)
        # A causal question at t is about the byte after input t; a masked one about the byte at t itself.
        center = t + 1 if questions.causal else t
        n_columns = questions.inputs.shape[1]
        p = np.full(len(c), 1 / 256)
        key, visible = np.zeros(len(c), dtype=np.int64), np.ones(len(c), dtype=bool)
        for k in range(len(self.offsets) + 1):
            if k:
                place = center + self.offsets[k - 1]
                inside = (place >= 0) & (place < n_columns)
                byte = np.where(inside, questions.inputs[row, np.clip(place, 0, n_columns - 1)], _HIDDEN)
                visible &= byte < _HIDDEN
                key = key << 8 | np.minimum(byte, 255)
            n_hc = _look_up(self.pairs[k], self.pair_counts[k], key << 8 | c)
            n_h = _look_up(self.contexts[k], self.context_counts[k], key)
            t_h = _look_up(self.contexts[k], self.context_types[k], key)
            seen = visible & (n_h > 0)
            p = np.where(seen, (n_hc + t_h * p) / np.maximum(n_h + t_h, 1), p)
        return p


@functools.lru_cache(maxsize=4)
def _fitted(corpus: Corpus, offsets: tuple[int, ...]) -> NGram:
    return NGram.fit(corpus.train, offsets)


@functools.lru_cache(maxsize=8)
def _xz(corpus: Corpus, split: Literal["validation", "test"]) -> float:
    """Bits per byte that the split adds to the compressed training text."""
    part = corpus.validation if split == "validation" else corpus.test
    dictionary = max(1 << 12, len(corpus.train) + len(part))  # all of the training text can be referred to
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": min(dictionary, 1 << 30)}]
    after = len(lzma.compress(corpus.train + part, filters=filters))
    return 8 * (after - len(lzma.compress(corpus.train, filters=filters))) / len(part)


def _look_up(keys: Ints, values: Ints, wanted: Ints) -> Ints:
    """The value of each wanted key in a sorted table, 0 where it has none."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
