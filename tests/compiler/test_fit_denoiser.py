"""FIT's denoiser: condition tokens, latents of an earlier pass, mixers after the exchanges, pixels out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fit_cases import compiled
from torch import Tensor, nn

import compiler
from archspec import SpecError
from archspec.spec import ModelSpec
from compiler import CompiledModel, build_graph, compile_spec, profile
from compiler.random_inputs import random_condition
from zoo.ops.patches import patches_of

SpecMaker = Callable[..., ModelSpec]
HEAD = """
archspec: 1
name: denoiser
input: {kind: image, height: 8, width: 4, n_channels: 3}
condition: {seq_len: 5, d_input: 20, d_token: 24, time: true}
causal: false
d_model: 16
norm: {kind: layernorm, eps: 1e-6}
stem: {kind: patch, size: 1, tile: 2, norm: {kind: layernorm, eps: 1e-6}}
head: denoiser
"""
FIT = """
- fit:
    n_groups: 8
    n_latents: 3
    d_latent: 12
    schedule: "(1)2(0)1(1)"
    positions: sin_cos_2d
    local: {channel_mixer: mlp}
    global: {token_mixer: {kind: attention, n_heads: 2, rope: false}, channel_mixer: mlp}
    exchange_mixer: mlp
    condition_read: {kind: read, n_heads: 2}
    self_conditioning: true
"""
IMAGES = torch.randn(2, 3, 8, 4, generator=torch.Generator().manual_seed(1)).double()
GIVEN = {
    "condition": torch.randn(2, 5, 20, generator=torch.Generator().manual_seed(2)).double(),
    "time": torch.tensor([0.1, 0.7], dtype=torch.float64),
}
EARLIER = torch.randn(2, 24, 12, generator=torch.Generator().manual_seed(3)).double()


def mlp(part: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = x + part.channel_mixer(part.channel_norm(x))
    return y


def by_definition(model: CompiledModel, images: Tensor, earlier: Tensor) -> tuple[Tensor, Tensor]:
    """Group by group: pixels and the last latents."""
    part = model.module.get_submodule
    fit, tokens = part("layers.0"), part("condition_tokens")
    angles = 1000 * GIVEN["time"][:, None] * 10_000.0 ** (-torch.arange(3, dtype=torch.float64) / 3)
    codes = torch.cat([angles.sin(), angles.cos()], dim=-1)
    codes = (codes - codes.mean(1, keepdim=True)) / codes.var(1, correction=0, keepdim=True).sqrt()
    time = tokens.time_down(F.silu(tokens.time_up(codes)))[:, None]
    condition = torch.cat([time, tokens.project(GIVEN["condition"])], dim=1)

    x = part("stem").norm(part("stem").project(patches_of(images, size=1, tile=2)))
    groups = [fit.positions(g) for g in x.split(4, dim=1)]
    start = fit.self_condition
    u = earlier + start.mlp(start.norm(earlier))
    latents = list((fit.latents.weight + start.out_norm(u)).split(3, dim=1))
    for i, (n_local, n_global) in enumerate([(1, 2), (0, 1), (1, 0)]):
        block = part(f"layers.0.blocks.{i}")
        if n_local:
            groups = [mlp(block.local_layers.get_submodule("0"), g) for g in groups]
        if not n_global:
            continue
        latents = [z + block.read(z, g) for z, g in zip(latents, groups, strict=True)]
        joined = mlp(block.after_read, torch.cat(latents, dim=1))
        joined = joined + block.condition_read(joined, condition)
        for j in range(n_global):
            layer = block.global_layers.get_submodule(str(j))
            joined = joined + layer.token_mixer(layer.token_norm(joined))
            joined = mlp(layer, joined)
        latents = list(joined.split(3, dim=1))
        groups = [mlp(block.after_write, g + block.write(g, z)) for g, z in zip(groups, latents, strict=True)]
    x = part("head")(part("norm")(torch.cat(groups, dim=1)))
    return x, torch.cat(latents, dim=1)


def test_the_denoiser_is_its_definition(make_spec: SpecMaker) -> None:
    model = compiled(make_spec(FIT, head=HEAD))
    out = model.outputs(IMAGES, **GIVEN, latents=EARLIER)
    assert out.latents is not None
    wanted = by_definition(model, IMAGES, EARLIER)
    torch.testing.assert_close((out.logits, out.latents), wanted, rtol=0, atol=1e-10)
    parameters = [p for p in model.parameters() if p.requires_grad]
    got = torch.autograd.grad(out.logits.square().sum() + out.latents.sum(), parameters, allow_unused=True)
    want = torch.autograd.grad(wanted[0].square().sum() + wanted[1].sum(), parameters, allow_unused=True)
    for one, other in zip(got, want, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-9)


def test_a_first_pass_begins_with_zeros(make_spec: SpecMaker) -> None:
    model = compiled(make_spec(FIT, head=HEAD))
    first = model.outputs(IMAGES, **GIVEN)
    zeros = model.outputs(IMAGES, **GIVEN, latents=torch.zeros_like(EARLIER))
    assert torch.equal(first.logits, zeros.logits)
    assert first.latents is not None
    second = model.outputs(IMAGES, **GIVEN, latents=first.latents)
    assert (second.logits - first.logits).abs().amax() > 1e-6


def test_a_fresh_model_begins_without_self_conditioning(make_spec: SpecMaker) -> None:
    """The norm after the MLP has scale zero."""
    model = compile_spec(make_spec(FIT, head=HEAD)).to(torch.float64)
    first = model.outputs(IMAGES, **GIVEN)
    assert torch.equal(model(IMAGES, **GIVEN, latents=EARLIER), first.logits)


def test_trailing_global_layers_work_for_the_next_pass(make_spec: SpecMaker) -> None:
    """Nothing is written after them, but the latents they leave are an output."""
    graph = build_graph(make_spec(FIT, 'layers[0].fit.schedule="(1)1(1)2"', head=HEAD))
    assert not graph.graph["warnings"]
    model = compiled(make_spec(FIT, 'layers[0].fit.schedule="(1)1(1)2"', head=HEAD))
    first = model.outputs(IMAGES, **GIVEN, latents=EARLIER)
    with torch.no_grad():
        last = model.module.get_submodule("layers.0.blocks.1.global_layers.1.channel_mixer")
        last.down.bias.add_(1)
    again = model.outputs(IMAGES, **GIVEN, latents=EARLIER)
    assert torch.equal(first.logits, again.logits)
    assert first.latents is not None
    assert again.latents is not None
    torch.testing.assert_close(again.latents - first.latents, torch.ones_like(EARLIER))


@pytest.mark.parametrize("name", ["condition", "time"])
def test_what_is_given_is_read_and_what_is_missing_is_named(make_spec: SpecMaker, name: str) -> None:
    model = compiled(make_spec(FIT, head=HEAD))
    changed = GIVEN | {name: GIVEN[name] + 0.25}
    moved = (model(IMAGES, **changed) - model(IMAGES, **GIVEN)).abs().amax((1, 2))
    assert (moved > 1e-6).all()
    with pytest.raises(ValueError, match=f"give it {name}"):
        model(IMAGES, **{other: tensor for other, tensor in GIVEN.items() if other != name})


def test_latents_of_another_shape_are_refused(make_spec: SpecMaker) -> None:
    with pytest.raises(ValueError, match=r"latents are \(2, 21, 12\), this model's are \(2, 24, 12\)"):
        compiled(make_spec(FIT, head=HEAD))(IMAGES, **GIVEN, latents=EARLIER[:, 3:])


CONDITIONS = {
    "vectors and time": "{seq_len: 5, d_input: 20, d_token: 24, time: true}",
    "vectors as they are": "{seq_len: 5, d_input: 20}",
    "time beside vectors as they are": "{seq_len: 5, d_input: 24, time: true}",
    "time alone": "{d_token: 16, time: true}",
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_closed_form_is_exact(make_spec: SpecMaker, condition: str) -> None:
    spec = make_spec(FIT, f"condition={CONDITIONS[condition]}", head=HEAD)
    found = profile(spec, verify=True)
    assert found.verify is not None
    assert found.verify.exact is True
    model = compile_spec(spec)
    assert found.params == sum(p.numel() for p in model.parameters())
    out = model.outputs(IMAGES.float(), **random_condition(spec, batch_size=2))
    assert out.logits.shape == (2, 32, 3)
    out.logits.square().mean().backward()
    silent = [n for n, p in model.module.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not silent


def test_a_saved_denoiser_is_the_same_again(make_spec: SpecMaker, tmp_path: Path) -> None:
    model = compile_spec(make_spec(FIT, head=HEAD))
    given = random_condition(model.spec, batch_size=2)
    model.save(tmp_path / "model")
    again = compiler.load(tmp_path / "model")
    assert again.hash == model.hash
    assert torch.equal(again(IMAGES.float(), **given), model(IMAGES.float(), **given))


def test_padding_changes_nothing(make_spec: SpecMaker) -> None:
    """Features in runs of groups: a short input alone, and filled up under a mask."""
    head = HEAD.replace(
        "{kind: image, height: 8, width: 4, n_channels: 3}", "{kind: features, d_input: 3, seq_len: 32}"
    )
    model = compiled(make_spec(FIT, "stem=linear", "layers[0].fit.positions=learned", head=head))
    x = torch.randn(2, 32, 3, dtype=torch.float64)
    mask = torch.arange(32) < torch.tensor([[13], [32]])
    padded = model(x, mask, **GIVEN, latents=EARLIER)
    one = {name: tensor[:1] for name, tensor in GIVEN.items()}
    alone = model(x[:1, :13], **one, latents=EARLIER[:1, :12])
    torch.testing.assert_close(padded[:1, :13], alone, rtol=0, atol=1e-10)
    torch.testing.assert_close(padded[1], model(x, **GIVEN, latents=EARLIER)[1], rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("overrides", "path", "message"),
    [
        (("causal=true",), "condition", "only bidirectional models"),
        (("causal=true",), "layers[0].fit.self_conditioning", "only bidirectional models"),
        (("layers[0].fit.condition_read=null",), "condition", "nothing reads the condition"),
        (("condition=null",), "layers[0].fit.condition_read", "no 'condition' to read"),
        (("head={kind: denoiser, size: 2}",), "head", "'size' 2, but the stem's positions are of size 1"),
        (("stem={kind: patch, size: 1, tile: 2, cls_token: true}",), "head", "'cls_token' adds a position"),
        (('layers[0].fit.schedule="(2)"',), "layers[0].fit", "'condition_read' has no effect"),
        (("condition={seq_len: 5}",), "condition", "go together"),
        (("condition={time: false}",), "condition", "vectors"),
        (("condition={time: true}",), "condition", "no width"),
        (("condition={d_token: 12, time: true}",), "condition", "multiple of 8, not 12"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(
    make_spec: SpecMaker, overrides: tuple[str, ...], path: str, message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        build_graph(make_spec(FIT, *overrides, head=HEAD))
    assert any(p.path == path and message in p.message for p in caught.value.problems), caught.value.problems


def test_only_one_block_conditions_itself(make_spec: SpecMaker) -> None:
    for layers in (FIT + FIT, "- loop: 2\n  layers:" + FIT.replace("\n", "\n    ")):
        with pytest.raises(SpecError, match="one block of a model, run once"):
            build_graph(make_spec(layers, head=HEAD))
