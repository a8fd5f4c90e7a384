"""Hydra: what is its own beside the contract of every component (the matrix itself: ``ops/``)."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor

import compiler
from archspec import CostContext, Site
from compiler.cost.fvcore_check import count_macs
from zoo.ops.quasiseparable import dense_scans
from zoo.token_mixers.hydra import Hydra

PAPERS = Path(__file__).parents[2] / "specs" / "papers"
Config = Hydra.Config
CONFIGS = {
    "plain": Config(d_state=6, d_head=4, chunk_size=16),
    "grouped": Config(d_state=3, d_head=4, n_groups=2, expand=3, d_conv=3, chunk_size=7, bias=True),
    "smallest": Config(d_state=1, d_head=8, expand=1, d_conv=1, chunk_size=1),
    "unshifted": Config(d_state=3, d_head=4, chunk_size=7, shift=False),
    "sum of two scans": Config(d_state=3, d_head=4, chunk_size=5, n_groups=2, shift=False, diagonal=False),
    "plain diagonal": Config(d_state=3, d_head=4, chunk_size=5, diagonal=False),
    "product": Config(d_state=3, d_head=4, chunk_size=5, combine="multiply", shift=False, diagonal=False),
    "shifted product": Config(d_state=3, d_head=4, chunk_size=6, combine="multiply", initial_state="learned"),
    "side by side": Config(d_state=3, d_head=4, chunk_size=5, combine="concat", shift=False),
    "learned state": Config(d_state=3, d_head=4, n_groups=2, chunk_size=5, initial_state="learned"),
}
EACH = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())


def build(config: Config, *, d_model: int = 8) -> Hydra:
    torch.manual_seed(0)
    mixer = Hydra(config, Site(d_model, 64, causal=False)).double()
    with torch.no_grad():
        for parameter in (mixer.norm_weight, mixer.D_skip, mixer.A_log):
            parameter.add_(torch.randn_like(parameter))
        mixer.dt_bias.add_(2.0)  # long steps, so that decays matter
        if mixer.state is not None:
            mixer.state.add_(torch.randn_like(mixer.state))
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
    gradients = (torch.autograd.grad((y**2).sum(), list(mixer.parameters())) for y in values)
    for got, want in zip(*gradients):
        torch.testing.assert_close(got, want, rtol=1e-8, atol=1e-9)


@EACH
@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_does_not_enter_the_scan(config: Config, side: str) -> None:
    mixer, x = build(config), tokens(20)
    pad = 1e2 * torch.randn(2, 9, 8, dtype=torch.float64)
    both, keep = ([x, pad], slice(0, 20)) if side == "right" else ([pad, x], slice(9, 29))
    mask = torch.zeros(2, 29, dtype=torch.bool)
    mask[:, keep] = True
    padded = torch.cat(both, dim=1)
    torch.testing.assert_close(mixer(padded, mask)[:, keep], mixer(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(mixer.reference(padded, mask)[:, keep], mixer(x), rtol=1e-10, atol=1e-10)


def test_pad_dt0() -> None:
    """dt is 0 at padding: tokens that do not touch a hole come out as if it were cut out."""
    mixer, x = build(Config(d_state=6, d_head=4, d_conv=1, chunk_size=8)), tokens(20)
    mask = torch.ones(2, 20, dtype=torch.bool)
    mask[:, 9:12] = False
    cut = mixer(x[:, mask[0]])
    got = mixer(x, mask)[:, mask[0]]
    away = [t for t in range(17) if t not in (8, 9)]
    torch.testing.assert_close(got[:, away], cut[:, away], rtol=1e-10, atol=1e-10)


@EACH
@pytest.mark.parametrize("length", [1, 16, 33, 100])
def test_cost_counts_what_runs(config: Config, length: int) -> None:
    mixer = build(config).float()
    cost = config.cost(CostContext(d_model=8, seq_len=length, batch_size=2))
    counted = count_macs(mixer, (tokens(length).float(),))
    assert counted.unknown_ops == ()
    assert cost.flops == 2 * counted.macs
    assert cost.flops_needed <= cost.flops
    assert cost.params == sum(p.numel() for p in mixer.parameters())


def test_count_112086712() -> None:
    """Hydra-BERT of 23 layers: the published layer, a norm each, and BERT's embeddings and head."""
    layer = Config().cost(CostContext(d_model=768, seq_len=1)).params
    assert layer == 3_825_224
    model = compiler.profile(compiler.load_spec(PAPERS / "hydra_bert.yaml"))
    assert model.params == 112_086_712
    assert 23 * (layer + 2 * 768) == sum(
        row.cost.params for row in model.rows if row.path.startswith("layers.")
    )


def test_shared_A_dtbias() -> None:
    mixer = build(CONFIGS["plain"])
    assert mixer.A_log.shape == mixer.dt_bias.shape == (4,)
    dt = F.linear(tokens(5), mixer.in_proj.weight[-8:])  # the last columns are both directions' dt
    _, _, ahead, back = mixer._inputs(tokens(5), None)
    for way, raw in ((ahead, dt[..., :4]), (back, dt[..., 4:])):
        torch.testing.assert_close(way.dt, F.softplus(raw + mixer.dt_bias))
        torch.testing.assert_close(way.log_decay, -way.dt * mixer.A_log.exp())


def test_gate_after_norm() -> None:
    mixer = build(CONFIGS["plain"])
    y, x, z = (torch.randn(2, 3, *s, dtype=torch.float64) for s in ((4, 4), (4, 4), (16,)))
    with torch.no_grad():
        mixer.D_skip.zero_()
        mixer.D_proj.weight.zero_()
    expected = mixer.out_proj(F.rms_norm(y.flatten(-2), (16,), mixer.norm_weight, 1e-5) * F.silu(z))
    torch.testing.assert_close(mixer._finish(y, x=x, z=z), expected)


@EACH
def test_flip_equivariance(config: Config) -> None:
    """With the directions' weights exchanged and the kernels mirrored, a reversed sequence comes out reversed."""
    mixer, x = build(config), tokens(21)
    twin = copy.deepcopy(mixer)
    di, shared, H = mixer.d_inner, 2 * mixer.d_shared, mixer.n_heads
    rows = torch.arange(mixer.in_proj.out_features)
    zx, bc_ahead, bc_back, dt_ahead, dt_back = rows.split([2 * di, shared, shared, H, H])
    order = torch.cat([zx, bc_back, bc_ahead, dt_back, dt_ahead])
    convolved = order[di : di + mixer.d_conv_in] - di
    with torch.no_grad():
        twin.in_proj.weight.copy_(mixer.in_proj.weight[order])
        if config.bias:
            twin.in_proj.bias.copy_(mixer.in_proj.bias[order])
        twin.conv_weight.copy_(mixer.conv_weight[convolved].flip(-1))
        twin.conv_bias.copy_(mixer.conv_bias[convolved])
        if config.combine == "concat":
            twin.norm_weight.copy_(mixer.norm_weight.roll(di))
            twin.out_proj.weight.copy_(mixer.out_proj.weight.roll(di, dims=1))
    torch.testing.assert_close(twin(x.flip(1)).flip(1), mixer(x), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("combine", ["add", "multiply", "concat"])
def test_what_becomes_of_both_scans(combine: str) -> None:
    """The scans apart, by letting the other one's B be zero; before the norm and the gate, which are one."""
    config = Config(d_state=3, d_head=4, d_conv=1, shift=False, diagonal=False).model_copy(
        update={"combine": combine}
    )
    mixer, x = build(config), tokens(12)
    z, values, ahead, back = mixer._inputs(x, None)
    y, w = (m @ values.transpose(1, 2) for m in dense_scans(ahead, back, shift=False))
    y, w = (t.transpose(1, 2) for t in (y, w))
    own = mixer.D_skip[:, None] * values
    made = {"add": [y + w + own], "multiply": [(y + own) * (w + own)], "concat": [y + own, w + own]}[combine]
    wide = torch.cat([t.flatten(-2) for t in made], dim=-1)
    gate = F.silu(z).repeat(1, 1, len(made))
    normed = F.rms_norm(wide, wide.shape[-1:], mixer.norm_weight, 1e-5)
    torch.testing.assert_close(mixer(x), mixer.out_proj(normed * gate))


def test_a_learned_state_starts_at_zero_and_learns() -> None:
    learned, zero = (Config(d_state=3, d_head=4, initial_state=state) for state in ("learned", "zero"))
    torch.manual_seed(0)
    mixer = Hydra(learned, Site(8, 64, causal=False))
    torch.manual_seed(0)
    x = tokens(9).float()
    torch.testing.assert_close(mixer(x), Hydra(zero, Site(8, 64, causal=False))(x))
    mixer(x).square().sum().backward()
    assert mixer.state is not None
    assert mixer.state.grad.abs().min() > 0
    assert mixer.param_hints()["state"].no_weight_decay


def test_one_token_sees_only_the_diagonal() -> None:
    """Alone, a token gives norm((W_D x + D) x) under its gate, x after convolution and SiLU."""
    mixer, u = build(CONFIGS["plain"]), tokens(1)
    z, x, *_ = torch.split(mixer.in_proj(u), [16, 16, 24, 8], dim=-1)
    center = mixer.conv_weight[:16, 0, 3]
    x = F.silu(x * center + mixer.conv_bias[:16])
    diagonal = (x @ mixer.D_proj.weight.T + mixer.D_skip).repeat_interleave(4, dim=-1)
    y = F.rms_norm(diagonal * x, (16,), mixer.norm_weight, 1e-5)
    torch.testing.assert_close(mixer(u), mixer.out_proj(y * F.silu(z)))


def test_without_b_only_the_diagonal_remains() -> None:
    mixer = build(Config(d_state=6, d_head=4, d_conv=1))
    with torch.no_grad():
        for start in (32, 44):  # the columns of B, ahead and back, among z 16, x 16, B C, B C, dt
            mixer.in_proj.weight[start : start + 6] = 0
            mixer.conv_bias[start - 16 : start - 10] = 0
    x = tokens(12)
    alone = torch.cat([mixer(x[:, t : t + 1]) for t in range(12)], dim=1)
    torch.testing.assert_close(mixer(x), alone)


def test_the_convolution_is_centered() -> None:
    """With silent scans, a token sees three neighbours on each side and no further."""
    mixer = build(CONFIGS["plain"])
    with torch.no_grad():
        mixer.in_proj.weight[32:56] = 0
        mixer.conv_bias[16:] = 0
    x = tokens(15).requires_grad_()
    (gradient,) = torch.autograd.grad(mixer(x)[0, 7].sum(), x)
    assert gradient[0].abs().sum(-1).nonzero().flatten().tolist() == [4, 5, 6, 7, 8, 9, 10]


def test_initialisation() -> None:
    mixer = Hydra(Config(d_head=1), Site(1024, 64, causal=False))
    dt = F.softplus(mixer.dt_bias)
    assert 0.99e-3 < dt.min() < dt.max() < 1.01e-1
    assert (mixer.A_log == 0).all()
    assert (mixer.D_skip == 1).all()
    assert {"A_log", "D_skip", "dt_bias"} <= {n for n, h in mixer.param_hints().items() if h.no_weight_decay}
    assert mixer.param_hints().keys() <= dict(mixer.named_parameters()).keys()


def test_refusals_name_fields_and_values() -> None:
    with pytest.raises(ValidationError, match="odd number of taps, got d_conv 4"):
        Config(d_conv=4)
    site = Site(8, 8, causal=False)
    assert Config(d_head=5).misfit(site) == "expand 2 * d_model 8 = 16 is not a multiple of d_head 5"
    assert "4 heads" in (Config(d_head=4, n_groups=3).misfit(site) or "")
    assert Config().capabilities().causal == "never"


@EACH
def test_bfloat16_stays_close(config: Config) -> None:
    mixer, x = build(config).float(), tokens(40).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = mixer(x)
    assert (y.float() - mixer(x)).norm() < 0.03 * mixer(x).norm()


def test_decays_stay_in_float32() -> None:
    """Under bf16 autocast, and in a module that is bf16 as a whole: step sizes, decays and carried states."""
    mixer, x = build(CONFIGS["learned state"]).float(), tokens(40).float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, values, *ways = mixer._inputs(x, None)
    assert values.dtype == torch.bfloat16
    assert {t.dtype for way in ways for t in (way.dt, way.log_decay)} == {torch.float32}
    _, _, *ways = mixer.bfloat16()._inputs(x.bfloat16(), None)
    assert {t.dtype for way in ways for t in (way.dt, way.log_decay)} == {torch.float32}


@EACH
def test_runs_in_bfloat16(config: Config) -> None:
    mixer, x = build(config).float(), tokens(40).float()
    exact = mixer(x)
    y = mixer.bfloat16()(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert (y.float() - exact).norm() < 0.05 * exact.norm()


@EACH
def test_exports(config: Config) -> None:
    mixer, x = build(config), tokens(20)
    mask = torch.arange(20) < torch.tensor([[20], [15]])
    for args in ((x,), (x, mask)):
        exported = torch.export.export(mixer, args).module()
        torch.testing.assert_close(exported(*args), mixer(*args), rtol=1e-11, atol=1e-11)
