"""FIT blocks against their definition, group by group, and what follows from it (arXiv:2305.12689)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from fit_cases import FIT, IDS, compiled
from torch import Tensor, nn

from archspec import SpecError
from archspec.schedule import parse_schedule
from archspec.spec import ModelSpec
from compiler import CompiledModel, compile_spec, streams
from zoo.causality import causality_leak, token_ids

SpecMaker = Callable[..., ModelSpec]
N_GROUPS, N_POSITIONS, N_LATENTS = 4, 6, 2


def layer(part: nn.Module, x: Tensor) -> Tensor:
    x = x + part.token_mixer(part.token_norm(x))
    return x + part.channel_mixer(part.channel_norm(x))


def block_causal_layer(part: nn.Module, z: Tensor) -> Tensor:
    """``layer`` in which latents attend to those of groups up to their own, one group at a time."""
    mixer = part.token_mixer
    h = part.token_norm(z)
    m = N_LATENTS
    rows = []
    for g in range(z.shape[1] // m):
        seen = h[:, : (g + 1) * m]
        q, k, v = mixer._heads(mixer._project(seen, None))
        y = F.scaled_dot_product_attention(q[:, :, -m:], k, v)
        rows.append(mixer._merge(y))
    z = z + torch.cat(rows, dim=1)
    return z + part.channel_mixer(part.channel_norm(z))


def by_definition(model: CompiledModel, ids: Tensor, *, causal: bool) -> Tensor:
    """The block of ``FIT``: every group on its own, the latents in a list that lasts."""
    part = model.module.get_submodule
    fit = part("layers.0")
    x = part("stem")(ids)
    groups = [g + fit.positions.weight for g in x.split(N_POSITIONS, dim=1)]
    latents = [z.expand(len(ids), -1, -1) for z in fit.latents.weight.split(N_LATENTS)][: len(groups)]
    for i, (n_local, n_global) in enumerate([(1, 1), (2, 2), (1, 0)]):
        block = part(f"layers.0.blocks.{i}")
        for j in range(n_local):
            groups = [layer(block.get_submodule(f"local_layers.{j}"), g) for g in groups]
        if not n_global:
            continue
        latents = [z + block.read(z, g) for z, g in zip(latents, groups, strict=True)]
        joined = torch.cat(latents, dim=1)
        for j in range(n_global):
            run = block_causal_layer if causal else layer
            joined = run(block.get_submodule(f"global_layers.{j}"), joined)
        latents = list(joined.split(N_LATENTS, dim=1))
        given = [torch.zeros_like(latents[0]), *latents[:-1]] if causal else latents
        groups = [g + block.write(g, z) for g, z in zip(groups, given, strict=True)]
    return part("head")(part("norm")(torch.cat(groups, dim=1)))


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("length", [24, 12], ids=["full", "two groups"])
def test_the_block_is_its_definition(make_spec: SpecMaker, causal: bool, length: int) -> None:
    model = compiled(make_spec(FIT, f"causal={str(causal).lower()}"))
    ids = IDS[:, :length]
    torch.testing.assert_close(model(ids), by_definition(model, ids, causal=causal), rtol=0, atol=1e-10)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("length", [1, 6, 7, 13, 23])
def test_padding_changes_nothing(make_spec: SpecMaker, causal: bool, length: int) -> None:
    """A short input alone, the same filled up under a mask, and beside a longer one."""
    model = compiled(make_spec(FIT, f"causal={str(causal).lower()}"))
    alone = model(IDS[:, :length])
    mask = torch.arange(24) < torch.tensor([[length], [24]])
    torch.testing.assert_close(model(IDS, mask)[0, :length], alone[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(model(IDS, mask)[1], model(IDS)[1], rtol=0, atol=1e-10)


def influence(model: CompiledModel) -> Tensor:
    """(L, L), True where changing the token of a column moves the output of a row."""
    before = model(IDS[:1])
    moved = []
    for t in range(24):
        changed = IDS[:1].clone()
        changed[0, t] = (changed[0, t] + 7) % 31
        moved.append((model(changed) - before)[0].abs().amax(-1) > 1e-12)
    return torch.stack(moved, dim=1)


def test_receptive_field_after_one_block(make_spec: SpecMaker) -> None:
    """Every later position is reached, and no earlier one."""
    reached = influence(compiled(make_spec(FIT, 'layers[0].fit.schedule="(1)1(1)"')))
    groups = torch.arange(24) // N_POSITIONS
    within = (groups[:, None] == groups) & torch.ones(24, 24, dtype=torch.bool).tril()
    later_group = groups[:, None] > groups
    assert torch.equal(reached, within | later_group)


@pytest.mark.parametrize("length", [1, 2, 7, 12, 23])
def test_ar_causality(make_spec: SpecMaker, length: int) -> None:
    """By perturbation: no later token, whatever replaces it, moves an output."""
    model = compiled(make_spec(FIT))
    leak = causality_leak(model.module, token_ids(31), lengths=(length,), weights="own")
    assert leak is None, leak


def test_shift_back_identity(make_spec: SpecMaker) -> None:
    """Latents are shifted for the write alone: those that go on are the ones before it, the last group's too."""
    z = torch.randn(2, N_GROUPS * N_LATENTS, 12)
    shifted = streams.shift(z, N_LATENTS)
    assert torch.equal(shifted[:, N_LATENTS:], z[:, :-N_LATENTS])
    model = compiled(make_spec(FIT))
    last_layer = model.module.get_submodule("layers.0.blocks.0.global_layers.0")
    next_read = model.module.get_submodule("layers.0.blocks.1.read")
    seen: list[Tensor] = []
    last_layer.channel_norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    next_read.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(IDS)
    before, after = seen
    before = before + last_layer.channel_mixer(last_layer.channel_norm(before))
    torch.testing.assert_close(after.flatten(0, 1), before.flatten(0, 1))


def test_zero_first_group(make_spec: SpecMaker) -> None:
    """Its tokens are given zeros, so the biases of a write still reach them, and no latent does."""
    model = compiled(make_spec(FIT, 'layers[0].fit.schedule="(0)1(0)"'))
    fit, part = model.module.get_submodule("layers.0"), model.module.get_submodule
    g = part("stem")(IDS[:, :N_POSITIONS]) + fit.positions.weight
    write = part("layers.0.blocks.0.write")
    given = write(g, torch.zeros(2, N_LATENTS, 12, dtype=torch.float64))
    assert given.abs().amax() > 1e-3
    wanted = part("head")(part("norm")(g + given))
    torch.testing.assert_close(model(IDS)[:, :N_POSITIONS], wanted, rtol=0, atol=1e-12)
    before = model(IDS)
    with torch.no_grad():
        fit.latents.weight.add_(torch.randn_like(fit.latents.weight))
    moved = (model(IDS) - before).abs().amax((0, 2))
    assert not moved[:N_POSITIONS].any()
    assert (moved[N_POSITIONS:] > 1e-9).all()


@pytest.mark.parametrize(
    ("schedule", "blocks"),
    [
        ("(2)4(2)", ((2, 4), (2, 0))),
        ("(1)1(1)1", ((1, 1), (1, 1))),
        ("(0)4(0)", ((0, 4), (0, 0))),
        ("(3)", ((3, 0),)),
        (" (1) 2 (1) ", ((1, 2), (1, 0))),
    ],
)
def test_layer_string_parser(schedule: str, blocks: tuple[tuple[int, int], ...]) -> None:
    assert parse_schedule(schedule) == blocks


@pytest.mark.parametrize("schedule", ["(2)0(2)", "(2)(2)", "2(2)", "(2", "", "(1)2(1)x", "(-1)", "(1)2(999)"])
def test_layer_string_parser_refuses(make_spec: SpecMaker, schedule: str) -> None:
    with pytest.raises(SpecError, match="schedule"):
        make_spec(FIT, f'layers[0].fit.schedule="{schedule}"')


def test_bidirectional_exchange_reaches_everything(make_spec: SpecMaker) -> None:
    assert influence(compiled(make_spec(FIT, "causal=false"))).all()


def test_groups_block_diagonal(make_spec: SpecMaker) -> None:
    reached = influence(compiled(make_spec(FIT, "causal=false", 'layers[0].fit.schedule="(2)"')))
    groups = torch.arange(24) // N_POSITIONS
    assert torch.equal(reached, groups[:, None] == groups)


def test_one_group_plain(make_spec: SpecMaker) -> None:
    override = ('layers[0].fit.schedule="(2)"', "layers[0].fit.n_groups=1", "layers[0].fit.positions=none")
    fit = compiled(make_spec(FIT, *override))
    plain = compile_spec(
        make_spec("- repeat: 2\n  layers: [{token_mixer: attention, channel_mixer: mlp}]"), gate=False
    ).to(torch.float64)
    weights = {
        name.replace("layers.0.blocks.0.local_layers.", "layers."): tensor
        for name, tensor in fit.module.state_dict().items()
    }
    plain.module.load_state_dict(weights)
    torch.testing.assert_close(fit(IDS), plain(IDS), rtol=0, atol=1e-12)


def test_permuting_groups_with_their_latents_permutes_outputs(make_spec: SpecMaker) -> None:
    """Group identity comes from the latents alone; without RoPE among them their order means nothing."""
    mixer = "{kind: attention, n_heads: 2, rope: false}"
    model = compiled(make_spec(FIT, "causal=false", f"layers[0].fit.global.token_mixer={mixer}"))
    order = torch.tensor([2, 0, 3, 1])
    before = model(IDS).unflatten(1, (N_GROUPS, N_POSITIONS))
    with torch.no_grad():
        table = model.module.get_submodule("layers.0.latents").weight
        table.copy_(table.unflatten(0, (N_GROUPS, N_LATENTS))[order].flatten(0, 1))
    permuted = IDS.unflatten(1, (N_GROUPS, N_POSITIONS))[:, order].flatten(1)
    after = model(permuted).unflatten(1, (N_GROUPS, N_POSITIONS))
    torch.testing.assert_close(after, before[:, order], rtol=0, atol=1e-10)


def test_trailing_global_noop(make_spec: SpecMaker) -> None:
    with_, without = (
        compile_spec(make_spec(FIT, f'layers[0].fit.schedule="{schedule}"'), gate=False)
        for schedule in ("(1)1(1)2", "(1)1(1)")
    )
    assert torch.equal(with_(IDS), without(IDS))


def test_an_input_longer_than_the_block_has_latents_for_says_so(make_spec: SpecMaker) -> None:
    model = compiled(make_spec(FIT))
    with pytest.raises(ValueError, match="length 25 is past the 24 positions"):
        model(torch.zeros(1, 25, dtype=torch.long))


MIXERS = {
    "mamba2": "{kind: mamba2, d_head: 4, d_state: 8}",
    "hydra": "{kind: hydra, d_head: 4, d_state: 8}",
    "combiner": "{kind: combiner, n_heads: 2, span: 3}",
    "routing": "{kind: routing, n_heads: 2, n_clusters: 2, cluster_window: 2, window: 2}",
    "pool": "pool",
    "window": "{kind: attention, n_heads: 2, window: 3}",
}


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("length", [7, 13])
def test_any_mixer_stands_on_both_streams(make_spec: SpecMaker, mixer: str, length: int) -> None:
    """Causal ones pass the gate (a recurrence over latents goes by token); all keep padding out."""
    both = [f"layers[0].fit.{stream}.token_mixer={MIXERS[mixer]}" for stream in ("local", "global")]
    if mixer != "hydra":
        compile_spec(make_spec(FIT, *both))
    model = compiled(make_spec(FIT, "causal=false", *both))
    mask = torch.arange(24) < torch.tensor([[length], [24]])
    torch.testing.assert_close(model(IDS, mask)[0, :length], model(IDS[:, :length])[0], rtol=0, atol=1e-10)


def test_numel_formula(make_spec: SpecMaker) -> None:
    """Layers of 12 d^2 + 13 d with biases throughout; read, write of inner width a; positions, latents."""
    attention = "{kind: attention, qkv_bias: true, out_bias: true, n_heads: 2}"
    model = compile_spec(
        make_spec(
            FIT,
            "norm=layernorm",
            f"layers[0].fit.local.token_mixer={attention}",
            f"layers[0].fit.global.token_mixer={attention}",
            "head={kind: lm, tied: true, bias: true}",
        ),
        gate=False,
    )
    x, z, a, vocab = 16, 12, 12, 31
    local, across = 12 * x**2 + 13 * x, 12 * z**2 + 13 * z
    read = 2 * z * a + 2 * x * a + 3 * a + z + 2 * z + 2 * x
    write = 2 * x * a + 2 * z * a + 3 * a + x + 2 * x + 2 * z
    tables = N_POSITIONS * x + N_GROUPS * N_LATENTS * z + vocab * x + vocab
    expected = 4 * local + 3 * across + 2 * (read + write) + tables + 2 * x
    assert sum(p.numel() for p in model.parameters()) == expected
