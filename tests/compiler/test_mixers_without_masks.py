"""A mixer that takes no mask never sees one, and nothing lets it read padding by accident."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import pytest
import torch
from torch import Tensor

from archspec import Capabilities, Cost, CostContext, MixerConfig, SpecError
from archspec.spec import ModelSpec
from compiler import build_graph, compile_spec
from compiler.graph import inputs_of, warnings_of
from zoo import Zoo
from zoo.contract import Mixer

SpecMaker = Callable[..., ModelSpec]

FIT = """
- fit:
    n_groups: 4
    n_latents: 2
    d_latent: 12
    schedule: "(1)1(1)"
    local: {token_mixer: total}
    global: {token_mixer: {kind: attention, n_heads: 2}}
"""
IDS = torch.randint(31, (2, 24), generator=torch.Generator().manual_seed(0))


class Total(Mixer):
    """The sum of all tokens, or of those so far; padding would be counted in."""

    class Config(MixerConfig):
        kind: Literal["total"] = "total"

        def cost(self, ctx: CostContext) -> Cost:
            return Cost()

        def capabilities(self) -> Capabilities:
            return Capabilities(causal="switch", padding=False)

    config: Config
    examples: ClassVar = (Config(),)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        assert mask is None
        return x.cumsum(1) if self.site.causal else x.sum(1, keepdim=True).expand_as(x)

    reference = forward


@pytest.fixture
def zoo_of_total(zoo: Zoo) -> Zoo:
    return Zoo({**zoo.classes, "token_mixer": {**zoo.classes["token_mixer"], "total": Total}})


def test_a_model_refuses_masks_that_a_mixer_cannot_take(make_spec: SpecMaker, zoo_of_total: Zoo) -> None:
    spec = make_spec("- {token_mixer: attention}\n- {token_mixer: total}", zoo=zoo_of_total)
    model = compile_spec(spec, zoo=zoo_of_total)
    assert inputs_of(model.graph, "layers.1.token_mixer") == ["layers.1.token_norm"]
    assert model(IDS).isfinite().all()
    with pytest.raises(SpecError, match="'total' takes no mask") as caught:
        model(IDS, torch.ones(2, 24, dtype=torch.bool))
    assert (caught.value.path, caught.value.problems[0].line) == ("layers[1].token_mixer", 12)


def test_groups_must_be_full_where_the_filling_would_be_read(make_spec: SpecMaker, zoo_of_total: Zoo) -> None:
    model = compile_spec(make_spec(FIT, "causal=false", zoo=zoo_of_total), zoo=zoo_of_total)
    (warning,) = model.warnings
    assert warning.path == "layers[0].fit.local.token_mixer"
    assert "inputs must fill their groups" in warning.message
    assert model(IDS[:, :12]).shape == (2, 12, 31)
    with pytest.raises(ValueError, match="length 13 does not fill groups of 6"):
        model(IDS[:, :13])


def test_a_causal_mixer_never_reads_the_filling(make_spec: SpecMaker, zoo_of_total: Zoo) -> None:
    spec = make_spec(FIT, zoo=zoo_of_total)
    assert warnings_of(build_graph(spec)) == ()
    model = compile_spec(spec, zoo=zoo_of_total).eval()
    torch.testing.assert_close(model(IDS[:, :13]), model(IDS)[:, :13])


def test_images_take_no_mask(make_spec: SpecMaker) -> None:
    image = ("input={kind: image, height: 8, width: 8}", "stem={kind: patch, size: 4}")
    head = "head={kind: classifier, n_classes: 3}"
    model = compile_spec(make_spec("- {token_mixer: pool}", "causal=false", head, *image), gate=False)
    x = torch.randn(2, 3, 8, 8)
    assert model(x).shape == (2, 3)
    with pytest.raises(SpecError, match="images take no mask"):
        model(x, torch.ones(2, 64, dtype=torch.bool))
