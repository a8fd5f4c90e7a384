"""mlp, swiglu and none: widths, gates, biases."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from archspec import CostContext, Site
from zoo.channel_mixers.mlp import MLP
from zoo.channel_mixers.none import NoChannelMixer
from zoo.channel_mixers.swiglu import SwiGLU
from zoo.token_mixers.none import NoTokenMixer

SITE = Site(32, 16, causal=True)


@pytest.mark.parametrize(
    ("config", "width"),
    [
        (MLP.Config(), 128),
        (MLP.Config(d_ff=50), 50),
        (MLP.Config(ratio=2.5), 80),
        (SwiGLU.Config(), 96),
        (SwiGLU.Config(multiple_of=7), 91),
        (SwiGLU.Config(d_ff=50), 50),
    ],
    ids=str,
)
def test_inner_width(config: MLP.Config | SwiGLU.Config, width: int) -> None:
    mixer = MLP(config, SITE) if isinstance(config, MLP.Config) else SwiGLU(config, SITE)
    assert config.inner_width(32) == mixer.down.in_features == width


@pytest.mark.parametrize(("d_model", "width"), [(768, 2048), (4096, 10944)])
def test_swiglu_default_width_of_common_models(d_model: int, width: int) -> None:
    assert SwiGLU.Config().inner_width(d_model) == width


def test_two_widths_are_refused() -> None:
    with pytest.raises(ValidationError, match=r"'d_ff' \(8\) and 'ratio' \(2.0\) both give the inner width"):
        MLP.Config(d_ff=8, ratio=2.0)


def test_geglu_of_routing_transformer() -> None:
    """Three matrices without biases; the activated rows come first."""
    config = MLP.Config(d_ff=4096, activation="gelu_tanh", bias=False, gated=True)
    assert config.cost(CostContext(1032, 8192)).params == 3 * 1032 * 4096
    mixer = MLP(MLP.Config(d_ff=20, activation="gelu_tanh", bias=False, gated=True), SITE)
    x = torch.randn(2, 5, 32)
    gate, value = x @ mixer.up.weight[:20].T, x @ mixer.up.weight[20:].T
    wanted = (F.gelu(gate, approximate="tanh") * value) @ mixer.down.weight.T
    torch.testing.assert_close(mixer(x), wanted)
    swapped = (F.gelu(value, approximate="tanh") * gate) @ mixer.down.weight.T
    assert not torch.allclose(mixer(x), swapped)


@pytest.mark.parametrize(
    ("activation", "at_minus_one"),
    [("relu", 0.0), ("gelu", -0.15865525), ("gelu_tanh", -0.15880801), ("silu", -0.26894142)],
)
def test_activations(activation: str, at_minus_one: float) -> None:
    mixer = MLP(MLP.Config(d_ff=1, activation=activation, bias=False), Site(1, 4, causal=True))
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.fill_(1)
    assert mixer(torch.tensor([[-1.0]])).item() == pytest.approx(at_minus_one, abs=1e-6)


def test_biases_start_at_zero_and_are_optional() -> None:
    assert not MLP(MLP.Config(), SITE).up.bias.any()
    assert MLP(MLP.Config(bias=False), SITE).up.bias is None
    assert SwiGLU(SwiGLU.Config(), SITE).down.bias is None


@pytest.mark.parametrize("cls", [NoTokenMixer, NoChannelMixer])
def test_none_is_the_identity(cls: type[NoTokenMixer | NoChannelMixer]) -> None:
    x = torch.randn(2, 5, 32)
    mixer = cls(cls.Config(), SITE)
    assert torch.equal(mixer(x), x)
    assert not list(mixer.parameters())
    assert mixer.init_state(2, dtype=x.dtype, device="cpu") == {}
