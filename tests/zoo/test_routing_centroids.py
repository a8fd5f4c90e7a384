"""Routing's centroids in one layer: how far a step moves them, when none does, and the loss towards them."""

from __future__ import annotations

import pytest
import torch
from routing_layers import CLOSE, STRICT, TOP_W, Config, build, tokens

from archspec import Site
from zoo.contract import MixerOutput
from zoo.ops.router import normalised
from zoo.token_mixers.routing import Routing


def test_ema_step_by_hand() -> None:
    config = Config(n_heads=1, n_routed_heads=1, n_clusters=3, cluster_window=4, decay=0.9)
    mixer, x = build(config, causal=True), tokens(17)
    start = mixer.centroids.clone()
    x_seen = normalised(mixer.qkv(x)[..., :8])[:, :, None].transpose(1, 2)[:, 0]  # (B, L, K)
    chosen = (x_seen @ normalised(start[0]).T).argmax(-1)
    mixer.apply_statistics(mixer(x).statistics)
    for c in range(3):
        members = x_seen[chosen == c]
        want = start[0, c] if not len(members) else 0.9 * start[0, c] + 0.1 * members.mean(0)
        torch.testing.assert_close(mixer.centroids[0, c], want, **CLOSE)
    assert len(set(chosen.flatten().tolist())) > 1
    nobody = torch.zeros_like(mixer(x).statistics)
    before = mixer.centroids.clone()
    mixer.apply_statistics(nobody)
    assert torch.equal(mixer.centroids, before), "a centroid that nothing chose stays"


@pytest.mark.parametrize("config", [*STRICT.values(), *TOP_W.values()], ids=[*STRICT, *TOP_W])
def test_no_update_in_eval(config: Config) -> None:
    """Neither mode of forward moves a buffer, and in eval mode there is nothing to apply."""
    mixer, x = build(config, causal=config in STRICT.values()), tokens(20)
    before = {name: b.clone() for name, b in mixer.named_buffers()}
    for mode in (True, False):
        output = mixer.train(mode)(x)
        assert all(torch.equal(before[name], b) for name, b in mixer.named_buffers())
    assert isinstance(output, MixerOutput) == (config.routed_heads > 0)
    if isinstance(output, MixerOutput):
        assert not output.statistics.any()
        assert not output.aux_loss.any()
        mixer.apply_statistics(output.statistics)
        assert torch.equal(mixer.centroids, before["centroids"])


@pytest.mark.parametrize("selection", ["causal", "top_w"])
def test_aux_loss_value(selection: str) -> None:
    """``commitment`` times the mean square distance from the own centroid; queries, and keys if routed too."""
    config = Config(
        selection=selection, n_heads=1, n_routed_heads=1, n_clusters=3, cluster_window=4, commitment=0.25
    )
    mixer, x = build(config, causal=False), tokens(15)
    want = 0.0
    for first in (0, 8) if selection == "top_w" else (0,):
        seen = normalised(mixer.qkv(x)[..., first : first + 8])
        own = mixer.centroids[0][(seen @ normalised(mixer.centroids[0]).T).argmax(-1)]
        want = want + 0.25 * (seen - own).square().mean()
    torch.testing.assert_close(mixer(x).aux_loss, want, **CLOSE)
    (gradient,) = torch.autograd.grad(mixer(x).aux_loss, mixer.qkv.weight)
    assert gradient[:8].any()
    assert not gradient[16:].any(), "values have no centroid"


def test_centroids_stay_in_fp32_and_are_saved() -> None:
    mixer = Routing(STRICT["half_routed"], Site(8, 64, True))
    assert mixer.bfloat16().centroids.dtype == torch.float32
    assert mixer.qkv.weight.dtype == torch.bfloat16
    assert mixer.double().centroids.dtype == torch.float64
    assert "centroids" in mixer.state_dict()
