"""RMSNorm and LayerNorm: what they fix, where eps stands, and fp32 inside."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter, ValidationError
from torch import nn

from archspec import CostContext
from zoo.norms import InnerNorm, LayerNorm, RMSNorm, build_norm

D = 48


@pytest.fixture
def x(generator: torch.Generator) -> torch.Tensor:
    return 3 * torch.randn(2, 5, D, generator=generator, dtype=torch.float64) + 1


def test_rmsnorm_has_unit_mean_square(x: torch.Tensor) -> None:
    y = RMSNorm(RMSNorm.Config(eps=1e-30), D).double()(x)
    torch.testing.assert_close(y.square().mean(-1), torch.ones(2, 5, dtype=torch.float64))
    torch.testing.assert_close(y * x.norm(dim=-1, keepdim=True) / D**0.5, x)  # the direction is kept


def test_layernorm_has_mean_zero_and_unit_variance(x: torch.Tensor) -> None:
    y = LayerNorm(LayerNorm.Config(eps=1e-30), D).double()(x)
    torch.testing.assert_close(y.mean(-1), torch.zeros(2, 5, dtype=torch.float64))
    torch.testing.assert_close(y.var(-1, correction=0), torch.ones(2, 5, dtype=torch.float64))


def test_eps_is_added_to_the_mean_square(x: torch.Tensor) -> None:
    y = RMSNorm(RMSNorm.Config(eps=0.5), D).double()(x)
    torch.testing.assert_close(y, x / (x.square().mean(-1, keepdim=True) + 0.5).sqrt())


def test_default_eps() -> None:
    assert RMSNorm.Config().eps == LayerNorm.Config().eps == 1e-5


@pytest.mark.parametrize(
    "norm", [RMSNorm(RMSNorm.Config(), D), LayerNorm(LayerNorm.Config(), D)], ids=["rms", "layer"]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_fp32_inside(norm: nn.Module, dtype: torch.dtype, generator: torch.Generator) -> None:
    """In half precision the output is the exact one rounded once, even where squares would overflow."""
    for parameter in norm.parameters():
        nn.init.normal_(parameter)  # values that half precision cannot hold
    x = (300 * torch.randn(4, D, generator=generator)).to(dtype)
    wide = norm(x.float())
    assert norm(x).dtype == dtype
    assert torch.equal(norm(x), wide.to(dtype))
    assert norm(x).isfinite().all()


def test_layernorm_is_torchs(x: torch.Tensor) -> None:
    ours = LayerNorm(LayerNorm.Config(), D).double()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_()
    torch.testing.assert_close(ours(x), F.layer_norm(x, (D,), ours.weight, ours.bias, 1e-5))


def test_affine_without_bias_and_neither() -> None:
    ctx = CostContext(D, 7)
    for config, params in (
        (LayerNorm.Config(), 2 * D),
        (LayerNorm.Config(bias=False), D),
        (LayerNorm.Config(affine=False), 0),
        (RMSNorm.Config(), D),
    ):
        assert config.cost(ctx).params == sum(p.numel() for p in build_norm(config, D).parameters()) == params


def test_a_shift_without_a_scale_is_refused() -> None:
    with pytest.raises(ValidationError, match="'bias' is true but 'affine' is false"):
        LayerNorm.Config(affine=False, bias=True)


def test_eps_must_be_positive() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        RMSNorm.Config(eps=0)


def test_norms_are_not_decayed() -> None:
    norm = LayerNorm(LayerNorm.Config(), D)
    assert set(norm.param_hints()) == {"weight", "bias"}
    assert all(hint.no_weight_decay for hint in norm.param_hints().values())


def test_inner_norm_is_a_kind_or_a_mapping() -> None:
    parse = TypeAdapter(InnerNorm).validate_python
    assert parse("layernorm") == LayerNorm.Config()
    assert parse({"kind": "rmsnorm", "eps": 1e-3}) == RMSNorm.Config(eps=1e-3)
    with pytest.raises(ValidationError, match="rmsnorm"):
        parse("batchnorm")
