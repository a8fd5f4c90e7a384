"""Inputs of the tests of Combiner's variants: mixers, tokens, and the matrix that a variant multiplies with."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from archspec import Site
from zoo.ops.combiner_clustered import Clustered
from zoo.ops.combiner_pattern import Tables, Tokens
from zoo.token_mixers.combiner import Combiner

SIDES = pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
VARIANTS: dict[str, dict[str, Any]] = {
    "fixed": {"span": 4},
    "logsparse": {"variant": "logsparse"},
    "axial_none": {"variant": "axial", "span": 4, "row_summary": "none"},
    "axial_wsum": {"variant": "axial", "span": 4},
    "axial_proj": {"variant": "axial", "span": 4, "row_summary": "proj"},
    "axial_wsum_proj": {"variant": "axial", "span": 4, "row_summary": "wsum_proj"},
    "mixture": {"variant": "mixture", "span": 4},
    "mixture_vertical": {"variant": "mixture", "span": 4, "groups": "vertical"},
    "mixture_horizontal": {"variant": "mixture", "span": 4, "groups": "horizontal"},
    "clustered": {"variant": "clustered", "span": 4, "n_clusters": 3},
    "clustered_whole": {"variant": "clustered", "span": 99, "n_clusters": 3},
}
PROJECTED = ("axial_proj", "axial_wsum_proj")  # their keys do not follow from keys alone
EACH = pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS.keys())
UNPROJECTED = pytest.mark.parametrize(
    "fields",
    [fields for name, fields in VARIANTS.items() if name not in PROJECTED],
    ids=[name for name in VARIANTS if name not in PROJECTED],
)
GRIDS = pytest.mark.parametrize("variant", ["axial", "mixture"])
SUMMARIES = [f"{f}-{p}" for f in ("identity", "relu", "deepset") for p in ("max", "mean", "sum")]


def build(causal: bool, d_model: int = 8, **fields: Any) -> Combiner:
    torch.manual_seed(0)
    return Combiner(Combiner.Config(**{"n_heads": 2} | fields), Site(d_model, 64, causal)).double()


def draw(length: int, *, seed: int = 0, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * seed + length)
    return torch.randn(2, length, width, generator=generator, dtype=torch.float64)


def heads(length: int, width: int = 4) -> Tokens:
    """And three clusters, for variants that have them: the first twice as large as the others."""
    x = draw(length)
    generator = torch.Generator().manual_seed(length)
    q, k, v = torch.randn(3, 2, 2, length, width, generator=generator, dtype=torch.float64)
    cluster = (torch.randint(4, (2, 2, length), generator=generator) - 1).clamp(min=0)
    return Tokens(q, k, v, x, cluster)


def attend(mixer: Combiner, tokens: Tokens) -> Tensor:
    return mixer.pattern.attend(tokens, mixer.summary)


def tables(mixer: Combiner, tokens: Tokens) -> Tables:
    """Of the first head of the first sequence."""
    pattern = mixer.pattern
    if isinstance(pattern, Clustered):
        assert tokens.cluster is not None
        return Tables(*(table[0, 0] for table in pattern.tables(tokens.cluster)))
    return pattern.tables(tokens.q.shape[2], torch.device("cpu"))  # type: ignore[attr-defined, no-any-return]


def matrix(mixer: Combiner, tokens: Tokens) -> Tensor:
    """The (B, H, L, L) matrix that the values are multiplied with: values are seen at the end of wide heads."""
    L, K = tokens.q.shape[2:]
    width = K + L
    v = F.pad(torch.eye(L, dtype=torch.float64).expand(2, 2, L, L), (K, 0))
    q, k = (F.pad(t, (0, L)) * (width / K) ** 0.25 for t in tokens[:2])
    return attend(mixer, tokens._replace(q=q, k=k, v=v))[..., K:]
