"""Every Combiner variant beside its definition, on random configurations, and the laws that they share."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from archspec import CostContext, Site
from zoo.ops.combiner_axial import RowSummary
from zoo.ops.combiner_pattern import Pattern, SpanPattern, Tokens
from zoo.ops.combiner_summary import Summary
from zoo.token_mixers.combiner import Combiner

Config = Combiner.Config
SIDES = pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
VARIANTS: dict[str, dict[str, Any]] = {
    "fixed": {"span": 4},
    "logsparse": {"variant": "logsparse"},
    "axial_none": {"variant": "axial", "span": 4, "row_summary": "none"},
    "axial_wsum": {"variant": "axial", "span": 4},
    "axial_proj": {"variant": "axial", "span": 4, "row_summary": "proj"},
    "mixture": {"variant": "mixture", "span": 4},
    "mixture_vertical": {"variant": "mixture", "span": 4, "groups": "vertical"},
    "mixture_horizontal": {"variant": "mixture", "span": 4, "groups": "horizontal"},
}
EACH = pytest.mark.parametrize("fields", VARIANTS.values(), ids=VARIANTS.keys())
GRIDS = pytest.mark.parametrize("variant", ["fixed", "axial", "mixture"])
SUMMARIES = [f"{f}-{p}" for f in ("identity", "relu", "deepset") for p in ("max", "mean", "sum")]


def build(causal: bool, d_model: int = 8, **fields: Any) -> Combiner:
    torch.manual_seed(0)
    return Combiner(Config(**{"n_heads": 2} | fields), Site(d_model, 64, causal)).double()


def draw(length: int, *, seed: int = 0, width: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * seed + length)
    return torch.randn(2, length, width, generator=generator, dtype=torch.float64)


def heads(length: int, width: int = 4) -> Tokens:
    x = draw(length)
    generator = torch.Generator().manual_seed(length)
    q, k, v = torch.randn(3, 2, 2, length, width, generator=generator, dtype=torch.float64)
    return Tokens(q, k, v, x)


def matrix(mixer: Combiner, tokens: Tokens) -> Tensor:
    """The (B, H, L, L) matrix that the values are multiplied with: values are seen at the end of wide heads."""
    L, K = tokens.q.shape[2:]
    width = K + L
    v = F.pad(torch.eye(L, dtype=torch.float64).expand(2, 2, L, L), (K, 0))
    q, k = (F.pad(t, (0, L)) * (width / K) ** 0.25 for t in tokens[:2])
    return mixer.pattern.attend(Tokens(q, k, v, tokens.x), mixer.summary)[..., K:]


def same(mixer: Combiner, x: Tensor, mask: Tensor | None) -> None:
    keep = torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else mask
    results = []
    for run in (mixer, mixer.reference):
        given_x = x.clone().requires_grad_()
        y = run(given_x, mask)[keep]
        wanted = [given_x, *mixer.parameters()]
        weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=y.dtype)
        results.append(
            [
                y.detach(),
                *torch.autograd.grad((y * weight).sum(), wanted, materialize_grads=True, allow_unused=True),
            ]
        )
    for a, b in zip(*results):
        assert float((a - b).abs().max()) < 1e-10 * max(1.0, float(b.abs().max()))


@st.composite
def configurations(draw_: st.DrawFn) -> dict[str, Any]:
    variant = draw_(st.sampled_from(["fixed", "logsparse", "axial", "mixture"]))
    fields: dict[str, Any] = {"variant": variant}
    if variant != "logsparse":
        fields["span"] = draw_(st.sampled_from([1, 2, 3, 5, 8, 30]))
    if variant == "axial":
        fields["row_summary"] = draw_(st.sampled_from(["none", "wsum", "proj", "wsum_proj"]))
    else:
        fields["local_summary"] = draw_(st.sampled_from(SUMMARIES))
    if variant == "mixture":
        fields["groups"] = draw_(st.sampled_from(["both", "vertical", "horizontal"]))
    if variant in ("fixed", "axial"):
        fields["compat"] = draw_(st.sampled_from(["none", "official"]))
    return fields


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    fields=configurations(),
    causal=st.booleans(),
    length=st.sampled_from([1, 2, 5, 7, 8, 9, 13, 15, 16, 17, 23, 33]),
    padding=st.sampled_from(["none", "right", "left", "holes"]),
)
def test_augmented_kv(fields: dict[str, Any], causal: bool, length: int, padding: str) -> None:
    i = torch.arange(length)
    mask = {
        "none": None,
        "right": i < torch.tensor([[length], [max(1, length // 2)]]),
        "left": i >= torch.tensor([[0], [length // 2]]),
        "holes": (i % 3 != 1).expand(2, length),
    }[padding]
    same(build(causal, **fields), draw(length), mask)


@SIDES
@GRIDS
@pytest.mark.parametrize("span", [23, 40])
def test_span_ge_L(variant: str, span: int, causal: bool) -> None:
    """One row of all tokens: one_row."""
    mixer, tokens = build(causal, variant=variant, span=span), heads(23)
    want = F.scaled_dot_product_attention(*tokens[:3], is_causal=causal)
    torch.testing.assert_close(mixer.pattern.attend(tokens, mixer.summary), want, rtol=1e-12, atol=1e-13)


@SIDES
@GRIDS
def test_span_1(variant: str, causal: bool) -> None:
    """Rows of one token each: one_column."""
    mixer, tokens = build(causal, variant=variant, span=1), heads(23)
    want = F.scaled_dot_product_attention(*tokens[:3], is_causal=causal)
    torch.testing.assert_close(mixer.pattern.attend(tokens, mixer.summary), want, rtol=1e-12, atol=1e-13)


@SIDES
@EACH
@pytest.mark.parametrize("length", [1, 12, 13])
def test_rowsum1_and_support_exact(fields: dict[str, Any], length: int, causal: bool) -> None:
    rows = matrix(
        build(causal, **fields | ({"row_summary": "wsum"} if fields.get("row_summary") == "proj" else {})),
        heads(length),
    )
    torch.testing.assert_close(rows.sum(-1), torch.ones_like(rows[..., 0]), rtol=1e-12, atol=0)
    everything = torch.ones(length, length, dtype=torch.bool)
    assert torch.equal(rows[0, 0] > 0, everything.tril() if causal else everything)


@SIDES
def test_logsparse_L_1_to_70(causal: bool) -> None:
    mixer = build(causal, variant="logsparse")
    for length in range(1, 71):
        rows = matrix(mixer, heads(length))[0, 0]
        everything = torch.ones(length, length, dtype=torch.bool)
        assert torch.equal(rows > 0, everything.tril() if causal else everything), length
        torch.testing.assert_close(rows.sum(-1), torch.ones(length, dtype=torch.float64), rtol=1e-12, atol=0)


@SIDES
@EACH
@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 12, 13, 16, 17, 33])
def test_needed_work_counts_the_tables(fields: dict[str, Any], length: int, causal: bool) -> None:
    pattern: Pattern[Any] = build(causal, **fields).pattern
    tables = pattern.tables(length, torch.device("cpu"))  # type: ignore[attr-defined]
    tables = tables._replace(readers=tables.readers & tables.members.any(1))  # nobody reads an empty part
    inside = tables.members[tables.readers.any(0)]
    work = pattern.work(length)
    assert work.needed <= work.products
    if isinstance(pattern, SpanPattern):
        assert work.needed == 2 * int(tables.direct.sum() + tables.readers.sum() + inside.sum())
        return
    at = torch.nonzero(tables.readers.any(0)).flatten()
    logits = tables.direct.clone()
    logits[at[at < length]] |= tables.members[at[at < length]]  # a row's logits serve both
    sums = 1 + pattern.row_summary.startswith("wsum")  # type: ignore[attr-defined]
    assert work.needed == int(
        logits.sum() + tables.direct.sum() + sums * inside.sum() + 2 * tables.readers.sum()
    )


@EACH
def test_decode_parity(fields: dict[str, Any]) -> None:
    for summary in (
        SUMMARIES[::2] if "row_summary" not in fields and fields.get("variant") != "axial" else [None]
    ):
        mixer, x = build(True, **fields | ({} if summary is None else {"local_summary": summary})), draw(35)
        for n in (0, 1, 4, 7, 16, 31):
            state, ys = mixer.init_state(2, dtype=torch.float64, device="cpu"), []
            if n:
                y, state = mixer.prefill(x[:, :n], state)
                ys += list(y.unbind(1))
            for token in x[:, n:].unbind(1):
                y, state = mixer.step(token, state)
                ys.append(y)
            torch.testing.assert_close(torch.stack(ys, 1), mixer(x), rtol=1e-10, atol=1e-12)


@SIDES
@EACH
def test_no_double_scale(fields: dict[str, Any], causal: bool) -> None:
    if fields.get("row_summary") == "proj":
        return  # there keys do not scale with keys
    mixer, (q, k, v, x) = build(causal, **fields), heads(19)
    a, b = (
        mixer.pattern.attend(Tokens(c * q, d * k, v, x), mixer.summary) for c, d in ((3.0, 1.0), (1.0, 3.0))
    )
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("fields", [VARIANTS["fixed"], VARIANTS["axial_wsum"]], ids=["fixed", "axial"])
def test_own_span_excluded(fields: dict[str, Any]) -> None:
    """In the clean form one span is full attention; the official one reads the own span's summary too."""
    tokens = heads(4)
    want = F.scaled_dot_product_attention(*tokens[:3])
    clean, official = (build(False, **fields, compat=compat) for compat in ("none", "official"))
    torch.testing.assert_close(clean.pattern.attend(tokens, clean.summary), want, rtol=1e-12, atol=1e-13)
    tokens = heads(8)
    apart = [mixer.pattern.attend(tokens, mixer.summary) for mixer in (clean, official)]
    assert float((apart[0] - apart[1]).abs().max()) > 1e-3


@EACH
def test_uniform_q0(fields: dict[str, Any]) -> None:
    """Without a query every entry counts alike, so a token's own weight is 1 over their number."""
    if fields.get("row_summary") == "proj":
        return
    mixer, tokens = build(True, **fields), heads(14)
    tables = mixer.pattern.tables(14, torch.device("cpu"))  # type: ignore[attr-defined]
    used = tables.readers & tables.members.any(1)
    entries = tables.direct.sum(1) + used.sum(1)
    own = matrix(mixer, tokens._replace(q=torch.zeros_like(tokens.q)))[0, 0].diagonal()
    torch.testing.assert_close(own, 1 / entries.double(), rtol=1e-12, atol=0)


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


class Largest(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(t, Tensor):
                self.numel = max(self.numel, t.numel())
        return out


@SIDES
@EACH
def test_no_tensor_of_all_pairs(fields: dict[str, Any], causal: bool) -> None:
    L = 1024
    mixer = build(causal, **fields | ({} if fields.get("variant") == "logsparse" else {"span": 32})).float()
    with Largest() as seen:
        mixer(torch.randn(1, L, 8), torch.ones(1, L, dtype=torch.bool)).sum().backward()
    assert seen.numel <= 2 * L * 5 * 32 < 2 * L * L // 2


@SIDES
@EACH
def test_bf16_autocast_and_checkpointing(fields: dict[str, Any], causal: bool) -> None:
    mixer, x = build(causal, **fields).float(), draw(40).float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = mixer(x)
    torch.testing.assert_close(y.float(), mixer(x), rtol=0.05, atol=0.08)
    plain = torch.autograd.grad(mixer(x).square().sum(), x)[0]
    again = torch.autograd.grad(checkpoint(mixer, x, use_reentrant=False).square().sum(), x)[0]
    assert torch.equal(plain, again)
