"""Mamba-2: what is its own beside the contract of every component."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from archspec import DTYPE_BYTES, CostContext, Dtype, Site
from compiler.cost.fvcore_check import count_macs
from zoo.token_mixers.mamba2 import Mamba2

Config = Mamba2.Config
CONFIGS = {
    "plain": Config(d_state=6, d_head=4, chunk_size=16),
    "grouped": Config(d_state=3, d_head=4, n_groups=2, expand=3, d_conv=3, chunk_size=7, bias=True),
    "signed": Config(d_state=5, d_head=8, negative_eigenvalues=True, chunk_size=16),
    "smallest": Config(d_state=1, d_head=8, expand=1, d_conv=1, chunk_size=1),
}
EACH = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def build(config: Config, *, d_model: int = 8, seed: int = 0) -> Mamba2:
    torch.manual_seed(seed)
    mixer = Mamba2(config, Site(d_model, 64, causal=True)).double()
    with torch.no_grad():
        for parameter in (mixer.norm_weight, mixer.D_skip):
            parameter.add_(torch.randn_like(parameter))
        mixer.dt_bias.add_(2.0)  # long steps, so that decays matter
    return mixer


def tokens(length: int, *, d_model: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randn(2, length, d_model, generator=generator, dtype=torch.float64)


@EACH
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 37])
def test_forward_is_reference(config: Config, length: int) -> None:
    mixer, x = build(config), tokens(length)
    values = [mixer(x), mixer.reference(x)]
    torch.testing.assert_close(*values, rtol=1e-11, atol=1e-12)
    parameters = list(mixer.parameters())
    gradients = [torch.autograd.grad((y**2).sum(), parameters, allow_unused=length == 1) for y in values]
    for got, want in zip(*gradients):
        if want is not None:
            torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-9)


@EACH
@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_changes_nothing(config: Config, side: str) -> None:
    mixer, x = build(config), tokens(20)
    pad = 1e2 * torch.randn(2, 9, 8, dtype=torch.float64)
    both, keep = ([x, pad], slice(0, 20)) if side == "right" else ([pad, x], slice(9, 29))
    mask = torch.zeros(2, 29, dtype=torch.bool)
    mask[:, keep] = True
    padded = torch.cat(both, dim=1)
    torch.testing.assert_close(mixer(padded, mask)[:, keep], mixer(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(mixer.reference(padded, mask)[:, keep], mixer(x), rtol=1e-10, atol=1e-10)


@EACH
@pytest.mark.parametrize("n_prefill", [0, 1, 2, 18])
def test_step_is_forward(config: Config, n_prefill: int) -> None:
    mixer, x = build(config), tokens(21)
    state = mixer.init_state(2, dtype=torch.float64, device="cpu")
    ys = []
    if n_prefill:
        y, state = mixer.prefill(x[:, :n_prefill], state)
        ys += list(y.unbind(1))
    for token in x[:, n_prefill:].unbind(1):
        y, state = mixer.step(token, state)
        ys.append(y)
    torch.testing.assert_close(torch.stack(ys, dim=1), mixer(x), rtol=1e-11, atol=1e-11)


@EACH
@pytest.mark.parametrize("dtype", DTYPE_BYTES)
def test_the_state_has_the_size_that_cost_says(config: Config, dtype: Dtype) -> None:
    cost = config.cost(CostContext(d_model=8, seq_len=1, causal=True, dtype=dtype))
    state = build(config).init_state(1, dtype=getattr(torch, dtype), device="cpu")
    assert sum(t.nbytes for t in state.values()) == cost.state_bytes
    assert cost.kv_bytes_per_token == 0


@EACH
@pytest.mark.parametrize("length", [1, 16, 33, 100])
def test_cost_counts_what_runs(config: Config, length: int) -> None:
    mixer = build(config).float()
    cost = config.cost(CostContext(d_model=8, seq_len=length, batch_size=2, causal=True))
    counted = count_macs(mixer, (tokens(length).float(),))
    assert counted.unknown_ops == ()
    assert cost.flops == 2 * counted.macs
    assert cost.flops_needed <= cost.flops
    assert cost.params == sum(p.numel() for p in mixer.parameters())


@EACH
def test_decode_cost_counts_one_step(config: Config) -> None:
    mixer = build(config).float()
    state = mixer.init_state(2, dtype=torch.float32, device="cpu")
    ctx = CostContext(d_model=8, seq_len=1, batch_size=2, causal=True, phase="decode", context_len=6)
    counted = count_macs(mixer, (tokens(1).float()[:, 0], state), method="step")
    assert config.cost(ctx).flops == 2 * counted.macs


def test_parameters_of_the_130m_model() -> None:
    """24 layers with a norm each, a final norm, and a tied table of 50,288 rows."""
    layer = Config().cost(CostContext(d_model=768, seq_len=1)).params + 768
    assert 24 * layer + 768 + 50_288 * 768 == 128_989_632


def test_the_gate_comes_before_the_norm() -> None:
    mixer = build(CONFIGS["plain"])
    y, values, z = (torch.randn(2, 3, *s, dtype=torch.float64) for s in ((4, 4), (4, 4), (16,)))
    mixer.D_skip.data.zero_()
    gate = F.silu(z)
    expected = mixer.out_proj(F.rms_norm(y.flatten(-2) * gate, (16,), mixer.norm_weight, 1e-5))
    torch.testing.assert_close(mixer._finish(y, values, z), expected)


def test_without_b_only_the_skip_remains() -> None:
    mixer, x = build(CONFIGS["plain"]), tokens(12)
    start, width = 2 * mixer.d_inner, mixer.d_shared
    with torch.no_grad():
        mixer.in_proj.weight[start : start + width] = 0
        mixer.conv_bias[mixer.d_inner : mixer.d_inner + width] = 0
    swapped = x.clone()
    swapped[:, :6] = torch.randn(2, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(mixer(x)[:, 9:], mixer(swapped)[:, 9:])  # beyond the convolution's reach


def test_negative_eigenvalues_flip_the_state() -> None:
    mixer = build(CONFIGS["signed"])
    decay = mixer._decay(torch.tensor([[1e-6, 1e-6], [50.0, 50.0]], dtype=torch.float64))
    torch.testing.assert_close(
        decay, torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64), atol=1e-3, rtol=0
    )


def test_initialisation() -> None:
    mixer = Mamba2(Config(d_head=1), Site(1024, 64, causal=True))
    decay_rate, dt = mixer.A_log.exp(), F.softplus(mixer.dt_bias)
    assert 1 <= decay_rate.min() < 1.1
    assert 15.9 < decay_rate.max() <= 16
    assert 0.99e-3 < dt.min() < dt.max() < 1.01e-1
    assert (mixer.D_skip == 1).all()
    assert {"A_log", "D_skip", "dt_bias"} <= {n for n, h in mixer.param_hints().items() if h.no_weight_decay}
    assert mixer.param_hints().keys() <= dict(mixer.named_parameters()).keys()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (Config(d_head=5), "expand 2 * d_model 8 = 16 is not a multiple of d_head 5"),
        (Config(d_head=4, n_groups=3), "4 heads (expand * d_model 16 / d_head 4) cannot form n_groups 3"),
    ],
)
def test_misfit_names_both_fields(config: Config, words: str) -> None:
    assert config.misfit(Site(8, 8, True)) == words


@EACH
def test_bfloat16_stays_close(config: Config) -> None:
    mixer, x = build(config).float(), tokens(40).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = mixer(x)
    assert (y.float() - mixer(x)).norm() < 0.03 * mixer(x).norm()


@EACH
def test_exports(config: Config) -> None:
    mixer, x = build(config), tokens(20)
    mask = torch.arange(20) < torch.tensor([[20], [15]])
    for args in ((x,), (x, mask)):
        exported = torch.export.export(mixer, args).module()
        torch.testing.assert_close(exported(*args), mixer(*args), rtol=1e-11, atol=1e-11)
