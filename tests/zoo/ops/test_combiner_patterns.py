"""The laws that Combiner's variants share, by the names of the catalogue; random ones are beside this file."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from combiner_cases import (
    EACH,
    GRIDS,
    PROJECTED,
    SIDES,
    SUMMARIES,
    UNPROJECTED,
    VARIANTS,
    attend,
    build,
    draw,
    heads,
    matrix,
    tables,
)

from archspec import CostContext
from zoo.contract import only_output
from zoo.ops.combiner_axial import RowSummary
from zoo.ops.combiner_pattern import Tokens
from zoo.ops.combiner_summary import Summary
from zoo.token_mixers.combiner import Combiner

CLOSE = {"rtol": 1e-12, "atol": 1e-13}


def is_full_attention(mixer: Combiner, tokens: Tokens, *, causal: bool) -> None:
    want = F.scaled_dot_product_attention(*tokens[:3], is_causal=causal)
    torch.testing.assert_close(attend(mixer, tokens), want, **CLOSE)


@SIDES
@pytest.mark.parametrize("variant", ["fixed", "clustered"])
@pytest.mark.parametrize("span", [23, 40])
def test_span_ge_L(variant: str, span: int, causal: bool) -> None:
    """A span of all tokens, which clustered has if all of them are in one cluster."""
    tokens = heads(23)
    one = tokens._replace(cluster=torch.zeros(2, 2, 23, dtype=torch.long))
    is_full_attention(build(causal, variant=variant, span=span), one, causal=causal)


@SIDES
@GRIDS
@pytest.mark.parametrize("span", [23, 40])
def test_one_row(variant: str, span: int, causal: bool) -> None:
    is_full_attention(build(causal, variant=variant, span=span), heads(23), causal=causal)


@SIDES
@GRIDS
def test_one_column(variant: str, causal: bool) -> None:
    is_full_attention(build(causal, variant=variant, span=1), heads(23), causal=causal)


@SIDES
@pytest.mark.parametrize("variant", ["fixed", "clustered"])
def test_span_1(variant: str, causal: bool) -> None:
    """Whatever the clusters."""
    is_full_attention(build(causal, variant=variant, span=1), heads(23), causal=causal)


@SIDES
@UNPROJECTED
@pytest.mark.parametrize("length", [1, 12, 13])
def test_rowsum1(fields: dict[str, Any], length: int, causal: bool) -> None:
    rows = matrix(build(causal, **fields), heads(length))
    torch.testing.assert_close(rows.sum(-1), torch.ones_like(rows[..., 0]), rtol=1e-12, atol=0)


@SIDES
@UNPROJECTED
@pytest.mark.parametrize("length", [1, 12, 13])
def test_support_exact(fields: dict[str, Any], length: int, causal: bool) -> None:
    rows = matrix(build(causal, **fields), heads(length))
    everything = torch.ones_like(rows, dtype=torch.bool)
    assert torch.equal(rows > 0, everything.tril() if causal else everything)


@SIDES
@pytest.mark.parametrize("name", [name for name in VARIANTS if name not in (*PROJECTED, "mixture")])
def test_rank1_blocks(name: str, causal: bool) -> None:
    """Where its readers and its members meet, a summary is one row times one column."""
    mixer, tokens = build(causal, **VARIANTS[name]), heads(21)
    rows, (direct, members, readers) = matrix(mixer, tokens)[0, 0], tables(mixer, tokens)
    large = 0
    for e in range(len(members)):
        block = rows[readers[:, e]][:, members[e]]
        if min(block.shape) > 1:
            large += 1
            assert float(torch.linalg.svdvals(block)[1]) < 1e-14
    assert large >= 3
    most = direct[direct.sum(1).argmax()]
    near = rows[most][:, most]
    assert float(torch.linalg.svdvals(near)[1]) > 1e-6, "tokens that are read as they are have no such form"


@SIDES
def test_logsparse_L_1_to_70(causal: bool) -> None:
    mixer = build(causal, variant="logsparse")
    for length in range(1, 71):
        tokens = heads(length)
        want = mixer.pattern.reference(tokens, mixer.summary)
        torch.testing.assert_close(attend(mixer, tokens), want, **CLOSE)
        rows = matrix(mixer, tokens)[0, 0]
        everything = torch.ones(length, length, dtype=torch.bool)
        assert torch.equal(rows > 0, everything.tril() if causal else everything), length
        torch.testing.assert_close(rows.sum(-1), torch.ones(length, dtype=torch.float64), rtol=1e-12, atol=0)


@pytest.mark.parametrize("fields", [VARIANTS["fixed"], VARIANTS["axial_wsum"]], ids=["fixed", "axial"])
def test_own_span_excluded(fields: dict[str, Any]) -> None:
    """In the clean form one span is full attention; the official one reads the own span's summary too."""
    clean, official = (build(False, **fields, compat=compat) for compat in ("none", "official"))
    is_full_attention(clean, heads(4), causal=False)
    tokens = heads(8)
    apart = attend(clean, tokens) - attend(official, tokens)
    assert float(apart.abs().max()) > 1e-3


@SIDES
@UNPROJECTED
def test_uniform_q0(fields: dict[str, Any], causal: bool) -> None:
    """Without a query every entry counts alike, so a token's own weight is 1 over their number."""
    mixer, tokens = build(causal, **fields), heads(14)
    direct, members, readers = tables(mixer, tokens)
    entries = direct.sum(1) + (readers & members.any(1)).sum(1)
    own = matrix(mixer, tokens._replace(q=torch.zeros_like(tokens.q)))[0, 0].diagonal()
    torch.testing.assert_close(own, 1 / entries.double(), rtol=1e-12, atol=0)


@SIDES
@UNPROJECTED
def test_no_double_scale(fields: dict[str, Any], causal: bool) -> None:
    """Queries times c is keys times c: the logits, direct, summary and local, carry the scale once."""
    mixer, tokens = build(causal, **fields), heads(19)
    a, b = (
        attend(mixer, tokens._replace(q=c * tokens.q, k=d * tokens.k)) for c, d in ((3.0, 1.0), (1.0, 3.0))
    )
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)
    q, k, v = (
        F.pad(t, (0, 12)) for t in (2 * tokens.q, tokens.k, tokens.v)
    )  # 4 x the width halves the scale
    wide = attend(mixer, tokens._replace(q=q, k=k, v=v))[..., :4]
    torch.testing.assert_close(wide, attend(mixer, tokens), rtol=1e-11, atol=1e-12)


def test_deepset_params() -> None:
    mixer = build(True, d_model=12, n_heads=3, local_summary="deepset-max")
    assert {n: tuple(p.shape) for n, p in mixer.summary.named_parameters()} == {
        "q.weight": (4, 4),
        "k.weight": (4, 4),
    }
    assert isinstance(mixer.summary, Summary)
    cost = mixer.config.cost(CostContext(12, 5, causal=True))
    assert cost.params == 4 * 12**2 + 2 * 4**2
    row = build(True, variant="axial", row_summary="proj", qkv_bias=True, out_bias=True).summary
    assert isinstance(row, RowSummary)
    assert sum(p.numel() for p in row.parameters()) == 2 * (8**2 + 8) + 2 * 8


@EACH
def test_decode_parity(fields: dict[str, Any]) -> None:
    for summary in SUMMARIES[::2] if fields.get("variant") != "axial" else ["identity-max"]:
        mixer, x = build(True, **fields, local_summary=summary).eval(), draw(35)
        for n in (0, 1, 4, 7, 16, 31):
            state, ys = mixer.init_state(2, dtype=torch.float64, device="cpu"), []
            if n:
                y, state = mixer.prefill(x[:, :n], state)
                ys += list(y.unbind(1))
            for token in x[:, n:].unbind(1):
                y, state = mixer.step(token, state)
                ys.append(y)
            torch.testing.assert_close(torch.stack(ys, 1), only_output(mixer(x)), rtol=1e-10, atol=1e-12)
