"""Where FIT's tokens and latents stand: shared by the groups, in learned or fixed codes, on a line or a square."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from fit_cases import FIT, IDS, compiled

from archspec import SpecError
from archspec.spec import ModelSpec
from compiler import build_graph
from zoo.ops.patches import image_of, patches_of
from zoo.ops.sin_cos import grid_codes, line_codes

SpecMaker = Callable[..., ModelSpec]
SQUARES = (
    "input={kind: image, height: 12, width: 8, n_channels: 3}",
    "causal=false",
    "stem={kind: patch, size: 1, tile: 4}",
    "head={kind: denoiser}",
    "layers[0].fit.n_groups=6",
    "layers[0].fit.positions=sin_cos_2d",
)


@pytest.mark.parametrize("positions", ["learned", "sin_cos"])
def test_position_sharing(make_spec: SpecMaker, positions: str) -> None:
    """One table of a group's positions for all groups: equal groups under equal latents come out equal."""
    attention = "{kind: attention, n_heads: 2, rope: false}"
    override = ("causal=false", f"layers[0].fit.positions={positions}")
    model = compiled(make_spec(FIT, *override, f"layers[0].fit.global.token_mixer={attention}"))
    with torch.no_grad():
        table = model.module.get_submodule("layers.0.latents").weight
        table.copy_(table[:2].repeat(4, 1))
    same = IDS[:, :6].repeat(1, 4)
    groups = model(same).unflatten(1, (4, 6))
    torch.testing.assert_close(groups, groups[:, :1].expand_as(groups), rtol=0, atol=1e-10)
    places = groups[:, 0]
    assert (places[:, 0] - model(same.flip(1)).unflatten(1, (4, 6))[:, 0, 5]).abs().amax() > 1e-6


def test_without_positions_the_order_inside_a_group_is_unknown(make_spec: SpecMaker) -> None:
    attention = "{kind: attention, n_heads: 2, rope: false}"
    override = [f"layers[0].fit.{stream}.token_mixer={attention}" for stream in ("local", "global")]
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    for positions, is_blind in (("none", True), ("learned", False), ("sin_cos", False)):
        model = compiled(make_spec(FIT, "causal=false", f"layers[0].fit.positions={positions}", *override))
        before = model(IDS).unflatten(1, (4, 6))[:, :, order]
        after = model(IDS.unflatten(1, (4, 6))[:, :, order].flatten(1)).unflatten(1, (4, 6))
        assert ((after - before).abs().amax() < 1e-10) == is_blind, positions


@pytest.mark.parametrize("d_model", [1, 2, 6, 7])
@pytest.mark.parametrize("n", [1, 2, 5])
def test_codes_of_a_line(n: int, d_model: int) -> None:
    for place, code in enumerate(line_codes(n, d_model)):
        coordinate = 1000 * place / (n - 1) if n > 1 else 0.0
        angles = [coordinate / 10_000 ** (2 * j / d_model) for j in range((d_model + 1) // 2)]
        wanted = [*map(math.sin, angles), *map(math.cos, angles)][:d_model]
        torch.testing.assert_close(code, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-12)


def test_codes_of_a_grid_are_those_of_its_rows_and_columns() -> None:
    codes = grid_codes(3, 4, 10).view(3, 4, 10)
    for i in range(3):
        for j in range(4):
            wanted = torch.cat([line_codes(3, 5)[i], line_codes(4, 5)[j]])
            assert torch.equal(codes[i, j], wanted)


def test_fixed_codes_are_added_as_they_are_and_have_no_parameters(make_spec: SpecMaker) -> None:
    fixed = ("layers[0].fit.positions=sin_cos", "layers[0].fit.latent_positions=sin_cos")
    model = compiled(make_spec(FIT, *fixed))
    assert not {name for name in model.module.state_dict() if "positions" in name or "latents" in name}
    fit = model.module.get_submodule("layers.0")
    x = torch.randn(8, 6, 16, dtype=torch.float64)
    torch.testing.assert_close(fit.positions(x), x + line_codes(6, 16))
    tokens = torch.randn(3, 24, 16, dtype=torch.float64)
    torch.testing.assert_close(fit.latents(tokens), grid_codes(4, 2, 12).expand(3, -1, -1))
    torch.testing.assert_close(fit.latents(tokens[:, :7]), grid_codes(4, 2, 12)[:4].expand(3, -1, -1))


def test_a_group_of_an_image_is_a_square_piece(make_spec: SpecMaker) -> None:
    """Through the stem's tiles: pixels of one 4 x 4 square are a group, with codes of row and column."""
    spec = make_spec(FIT, *SQUARES)
    assert not build_graph(spec).graph["warnings"]
    model = compiled(make_spec(FIT, *SQUARES, 'layers[0].fit.schedule="(1)"'))
    image = torch.randn(1, 3, 12, 8, dtype=torch.float64)
    changed = image.clone()
    changed[0, :, 5, 6] += 1
    moved = (model(changed) - model(image)).abs().amax(-1, keepdim=True) > 1e-12
    seen = image_of(moved.double(), height=12, width=8, n_channels=1, size=1, tile=4)[0, 0]
    wanted = torch.zeros(12, 8, dtype=torch.float64)
    wanted[4:8, 4:8] = 1
    assert torch.equal(seen, wanted)
    g = torch.zeros(6, 16, 16, dtype=torch.float64)
    added = model.module.get_submodule("layers.0.positions")(g)[0].view(4, 4, 16)
    torch.testing.assert_close(added[2, 3], torch.cat([line_codes(4, 8)[2], line_codes(4, 8)[3]]))


@pytest.mark.parametrize("tile", [None, 1, 2, 4])
def test_patches_make_the_image_again(tile: int | None) -> None:
    images = torch.randn(2, 3, 16, 24)
    patches = patches_of(images, size=2, tile=tile)
    assert patches.shape == (2, 96, 12)
    again = image_of(patches, height=16, width=24, n_channels=3, size=2, tile=tile)
    assert torch.equal(again, images)
    if tile:
        corner = patches_of(images[:, :, : 2 * tile, : 2 * tile], size=2)
        assert torch.equal(patches[:, : tile**2], corner)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (("layers[0].fit.n_groups=3",), "a group's 32 positions are no square"),
        (("d_model=15",), "'sin_cos_2d', which needs an even 'd_model', not 15"),
        (("stem={kind: patch, size: 1, tile: 5}",), "must divide the image's sides"),
        (
            ("layers[0].fit.latent_positions=sin_cos", "layers[0].fit.d_latent=9"),
            "'latent_positions' is 'sin_cos', which needs an even 'd_latent', not 9",
        ),
    ],
)
def test_what_has_no_codes_is_refused(make_spec: SpecMaker, override: tuple[str, ...], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build_graph(make_spec(FIT, *SQUARES, *override))


def test_a_square_that_is_no_piece_of_the_image_smells(make_spec: SpecMaker) -> None:
    graph = build_graph(make_spec(FIT, *SQUARES, "stem={kind: patch, size: 1}"))
    assert [problem.hint for problem in graph.graph["warnings"]] == ["say 'tile: 4' in the stem"]
