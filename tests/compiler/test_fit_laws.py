"""FIT over random blocks: the lowered model equals the definition written plainly, and decoding the parallel pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from fit_cases import compiled
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archspec.schedule import parse_schedule
from archspec.source import parse_source
from archspec.spec import ModelSpec
from compiler import CompiledModel, resolve
from compiler.decode import decode_obstacles
from zoo import load_zoo
from zoo.contract import only_output

PRIMES = (2, 3, 5, 7, 11, 13)
V = 11

MIXERS = {
    "attention": "{kind: attention, n_heads: 2}",
    "attention, no positions, biases": "{kind: attention, n_heads: 2, rope: false, qkv_bias: true, out_bias: true}",
    "attention, shared keys, convolution": "{kind: attention, n_heads: 2, n_kv_heads: 1, d_conv: 3}",
    "window": "{kind: attention, n_heads: 2, window: 3}",
    "mamba2": "{kind: mamba2, d_head: 4, d_state: 3}",
    "combiner fixed": "{kind: combiner, n_heads: 2, span: 3}",
    "combiner logsparse": "{kind: combiner, n_heads: 2, variant: logsparse}",
    "routing": "{kind: routing, n_heads: 2, n_clusters: 2, cluster_window: WIDE, window: 2}",
    "pool": "pool",
    "none": "none",
}
BOTH_WAYS = {
    "attention": MIXERS["attention"],
    "mamba2 one way": MIXERS["mamba2"],
    "hydra": "{kind: hydra, d_head: 4, d_state: 3}",
    "matrix, quasiseparable": "{kind: matrix, d_head: 4, d_qk: 2}",
    "matrix, attention": "{kind: matrix, structure: attention, d_head: 4, d_qk: 2}",
    "combiner fixed": MIXERS["combiner fixed"],
    "routing": MIXERS["routing"],
    "pool": "pool",
    "none": "none",
}
TRANSFERS = ("{kind: %s, n_heads: 2}", "{kind: routed_read, n_heads: 2, n_clusters: 2, cluster_window: 2}")


@dataclass(frozen=True)
class Case:
    spec: ModelSpec
    lengths: tuple[int, int]  # of the two rows; the shorter one is padded
    n_prefilled: int
    seed: int

    @property
    def ids(self) -> Tensor:
        draw = torch.Generator().manual_seed(self.seed)
        return torch.randint(V, (2, max(self.lengths)), generator=draw)

    @property
    def mask(self) -> Tensor | None:
        if self.lengths[0] == self.lengths[1]:
            return None
        return torch.arange(max(self.lengths)) < torch.tensor(self.lengths)[:, None]


@st.composite
def cases(draw: st.DrawFn, *, causal: bool | None = None) -> Case:
    is_causal = draw(st.booleans()) if causal is None else causal
    n, t = draw(st.integers(1, 7)), draw(st.integers(1, 4))
    blocks = draw(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 2)), max_size=2))
    schedule = "".join(f"({a}){b}" for a, b in blocks) + f"({draw(st.integers(0, 1))})"
    mixers = MIXERS if is_causal else BOTH_WAYS
    local, globe = (draw(st.sampled_from(sorted(mixers))) for _ in range(2))
    n_latents = draw(st.integers(1, 3))
    local_mixer, global_mixer = (
        mixers[name].replace("WIDE", str(min(2, length)))
        for name, length in ((local, n), (globe, t * n_latents))
    )
    channel = draw(st.sampled_from(["mlp", "none", "swiglu"]))
    if "none" in (local, globe):
        channel = "mlp"
    positions = ["none", "learned", "sin_cos", *(["sin_cos_2d"] if n in (1, 4) else [])]
    text = f"""
archspec: 1
input: {{kind: tokens, vocab_size: {V}, seq_len: {n * t}}}
causal: {str(is_causal).lower()}
d_model: {draw(st.sampled_from([4, 8, 12]))}
norm: {draw(st.sampled_from(["rmsnorm", "layernorm"]))}
residual: {draw(st.sampled_from(["pre", "pre", "post"]))}
stem: embedding
layers:
  - fit:
      n_groups: {t}
      n_latents: {n_latents}
      d_latent: {draw(st.sampled_from([4, 8, 12]))}
      schedule: "{schedule}"
      positions: {draw(st.sampled_from(positions))}
      latent_positions: {draw(st.sampled_from(["learned", "sin_cos"]))}
      local: {{token_mixer: {local_mixer}, channel_mixer: {channel}}}
      global: {{token_mixer: {global_mixer}, channel_mixer: {channel}}}
      read: {draw(st.sampled_from(TRANSFERS)).replace("%s", "read")}
      write: {draw(st.sampled_from(TRANSFERS)).replace("%s", "write")}
      exchange_mixer: {draw(st.sampled_from(["none", "mlp"]))}
head: lm
"""
    spec = resolve(parse_source(text), load_zoo())
    edges = {many * n + more for many in range(1, t + 1) for more in (-1, 0, 1)}
    legal = sorted(length for length in {1, *PRIMES, *edges} if 1 <= length <= n * t)
    lengths = draw(st.sampled_from(legal)), draw(st.sampled_from(legal))
    if draw(st.booleans()):
        lengths = (lengths[0], lengths[0])
    prefilled = draw(st.integers(0, max(lengths)))
    return Case(spec, lengths, prefilled, draw(st.integers(0, 9)))


class Plain:
    """The model on one row without padding, group after group, by the references of its components."""

    def __init__(self, model: CompiledModel):
        self.part: Any = model.module.get_submodule
        self.spec = model.spec
        self.fit: Any = model.spec.layers[0]
        self.fit = self.fit.fit
        self.paths = dict(model.module.named_modules())

    def __call__(self, ids: Tensor) -> Tensor:
        """(L,) -> (L, V)."""
        x = self.part("stem").reference(ids[None])
        n, m = self.spec.input.seq_len // self.fit.n_groups, self.fit.n_latents
        groups = list(x.split(n, dim=1))
        if self.fit.positions != "none":
            table = self.part("layers.0.positions")(torch.zeros(1, n, x.shape[-1], dtype=x.dtype))
            groups = [g + table[:, : g.shape[1]] for g in groups]
        schedule = parse_schedule(self.fit.schedule)
        latents: list[Tensor] = []
        if len(schedule) > 1:
            full = self.part("layers.0.latents")(torch.zeros(1, self.spec.input.seq_len, 1, dtype=x.dtype))
            latents = list(full.split(m, dim=1))[: len(groups)]
        for i, (n_local, n_global) in enumerate(schedule):
            at = f"layers.0.blocks.{i}"
            for j in range(n_local):
                groups = [self.layer(f"{at}.local_layers.{j}", g) for g in groups]
            if i == len(schedule) - 1:
                break
            latents = [z + self.transfer(f"{at}.read", z, g) for z, g in zip(latents, groups, strict=True)]
            joined = self.layer(f"{at}.after_read", torch.cat(latents, dim=1))
            for j in range(n_global):
                joined = self.layer(f"{at}.global_layers.{j}", joined)
            latents = list(joined.split(m, dim=1))
            given = [torch.zeros_like(latents[0]), *latents[:-1]] if self.spec.causal else latents
            groups = [g + self.transfer(f"{at}.write", g, z) for g, z in zip(groups, given, strict=True)]
            groups = [self.layer(f"{at}.after_write", g) for g in groups]
        x = torch.cat(groups, dim=1)
        if self.spec.residual == "pre":
            x = self.part("norm").reference(x)
        y: Tensor = self.part("head").reference(x)[0]
        return y

    def layer(self, path: str, x: Tensor) -> Tensor:
        """Those mixers that stand at ``path``, each with its norm and residual."""
        for mixer in ("token", "channel"):
            if f"{path}.{mixer}_mixer" not in self.paths:
                continue
            run, norm = self.part(f"{path}.{mixer}_mixer"), self.part(f"{path}.{mixer}_norm")
            if self.spec.residual == "pre":
                x = x + only_output(run.reference(norm.reference(x)))
            else:
                x = norm.reference(x + only_output(run.reference(x)))
        return x

    def transfer(self, path: str, queries: Tensor, source: Tensor) -> Tensor:
        return only_output(self.part(path).reference(queries, source))


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(cases())
def test_the_lowered_model_is_the_plain_one(case: Case) -> None:
    """Values and gradients; rows of two lengths under a mask, or of one length without."""
    model = compiled(case.spec)
    got = model(case.ids, case.mask)
    plain = Plain(model)
    rows = [plain(ids[:length]) for ids, length in zip(case.ids, case.lengths, strict=True)]
    weight = torch.randn(got.shape, generator=torch.Generator().manual_seed(case.seed), dtype=got.dtype)
    sums = []
    for b, row in enumerate(rows):
        torch.testing.assert_close(got[b, : len(row)], row, rtol=1e-10, atol=1e-10)
        sums.append((row * weight[b, : len(row)]).sum())
    real = torch.ones(got.shape[:2], dtype=got.dtype) if case.mask is None else case.mask.to(got.dtype)
    parameters = list(model.parameters())
    for ours, theirs in zip(
        torch.autograd.grad((got * weight * real[..., None]).sum(), parameters, allow_unused=True),
        torch.autograd.grad(torch.stack(sums).sum(), parameters, allow_unused=True),
        strict=True,
    ):
        nothing = torch.zeros((), dtype=got.dtype)
        ours, theirs = (nothing if g is None else g for g in (ours, theirs))
        size = float(theirs.abs().amax()) if theirs.numel() else 0.0
        wanted = theirs.expand_as(ours) if theirs.ndim < ours.ndim else theirs
        torch.testing.assert_close(ours.expand_as(wanted), wanted, rtol=1e-9, atol=1e-10 * max(1.0, size))


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(cases(causal=True))
def test_decoding_is_the_parallel_pass(case: Case) -> None:
    model = compiled(case.spec)
    assert not list(decode_obstacles(model.graph))
    with torch.no_grad():
        torch.testing.assert_close(
            torch.stack([*decoded(model, case)], 1), model(case.ids), rtol=0, atol=1e-10
        )


def decoded(model: CompiledModel, case: Case) -> Iterator[Tensor]:
    """The outputs of a prefilled prefix, then one by one."""
    decoder = model.decoder()
    state = decoder.init_state(2)
    if case.n_prefilled:
        logits, state = decoder.prefill(case.ids[:, : case.n_prefilled], state)
        yield from logits.unbind(1)
    for ids in case.ids[:, case.n_prefilled :].unbind(1):
        logits, state = decoder.step(ids, state)
        yield logits
