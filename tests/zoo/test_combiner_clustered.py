"""Combiner's clustered variant: Routing's centroids, the fixed pattern of one cluster, causality, padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from archspec import CostContext, Site
from zoo.causality import causality_leak, sees_future, vectors
from zoo.contract import MixerOutput
from zoo.ops.combiner_clusters import n_spans, places_of
from zoo.ops.router import normalised
from zoo.token_mixers.combiner import Combiner
from zoo.token_mixers.routing import Routing

Config = Combiner.Config
SIDES = pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
CLOSE = {"rtol": 1e-11, "atol": 1e-13}


def build(*, causal: bool = True, d_model: int = 8, **fields: Any) -> Combiner:
    torch.manual_seed(0)
    config = Config(**{"variant": "clustered", "n_heads": 2, "n_clusters": 3, "span": 4} | fields)
    return Combiner(config, Site(d_model, 64, causal)).double()


def tokens(length: int, *, batch: int = 2, d_model: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randn(batch, length, d_model, generator=generator, dtype=torch.float64)


@SIDES
@pytest.mark.parametrize("length", [1, 16, 29])
@pytest.mark.parametrize("summary", ["identity-max", "deepset-mean"])
def test_one_cluster_is_fixed(summary: str, length: int, causal: bool) -> None:
    mixer, x = build(causal=causal, n_clusters=1, local_summary=summary), tokens(length)
    fixed = build(causal=causal, variant="fixed", n_clusters=8, local_summary=summary)
    weights = {name: t for name, t in mixer.state_dict().items() if name != "centroids"}
    fixed.load_state_dict(weights)
    torch.testing.assert_close(mixer(x).y, fixed(x), **CLOSE)


@pytest.mark.parametrize(
    "fields", [{}, {"span": 99}, {"n_clusters": 9, "span": 2}], ids=["cut", "whole", "many"]
)
def test_causal_layers_do_not_leak_and_others_look_ahead(fields: dict[str, Any]) -> None:
    assert causality_leak(build(**fields), vectors(8), lengths=(2, 7, 33, 65, 130)) is None
    assert sees_future(build(causal=False, **fields), vectors(8), length=20)


@SIDES
@pytest.mark.parametrize("side", ["right", "left", "middle"])
def test_padding_changes_nothing(side: str, causal: bool) -> None:
    """Nor does it move a centroid or cost anything, wherever it stands."""
    mixer, x = build(causal=causal), tokens(40)
    pad = 1e2 * torch.randn(2, 9, 8, dtype=torch.float64)
    at = {"right": 40, "left": 0, "middle": 17}[side]
    padded = torch.cat([x[:, :at], pad, x[:, at:]], dim=1)
    mask = torch.ones(2, 49, dtype=torch.bool)
    mask[:, at : at + 9] = False
    want = mixer(x)
    for run in (mixer, mixer.reference):
        got = run(padded, mask)
        torch.testing.assert_close(got.y[mask].view(2, 40, 8), want.y, **CLOSE)
        torch.testing.assert_close(got[1:], want[1:], **CLOSE)


def test_places_of_every_partition_of_five() -> None:
    """Each member stands in its cluster's spans in order; there are always spans enough."""
    for s in (1, 2, 3, 5):
        for number in range(3**5):
            cluster = torch.tensor([number // 3**i % 3 for i in range(5)])
            at = places_of(cluster.view(1, 1, 5), n_clusters=3, span=s)
            assert at.tokens.shape == (1, 1, n_spans(5, 3, s), s)
            rows = [[t for t in row if t < 5] for row in at.tokens[0, 0].tolist()]
            members = [(cluster == c).nonzero().flatten().tolist() for c in range(3)]
            want = [part[i : i + s] for part in members for i in range(0, len(part), s)]
            assert [row for row in rows if row] == want
            assert at.tokens.flatten()[at.places.flatten()].tolist() == list(range(5))


def test_ema_step_by_hand() -> None:
    mixer, x = build(n_heads=1, decay=0.9), tokens(17)
    start = mixer.centroids.clone()
    seen = normalised(mixer.qkv(x)[..., :8])
    chosen = (seen @ normalised(start[0]).T).argmax(-1)
    output = mixer(x)
    assert torch.equal(mixer.centroids, start), "forward moves nothing"
    mixer.apply_statistics(output.statistics)
    for c in range(3):
        members = seen[chosen == c]
        want = start[0, c] if not len(members) else 0.9 * start[0, c] + 0.1 * members.mean(0)
        torch.testing.assert_close(mixer.centroids[0, c], want, **CLOSE)
    assert len(set(chosen.flatten().tolist())) > 1


def test_aux_loss_value() -> None:
    """``commitment`` times the queries' mean square distance from their centroids; keys have none."""
    mixer, x = build(n_heads=1, commitment=0.25), tokens(15)
    seen = normalised(mixer.qkv(x)[..., :8])
    own = mixer.centroids[0][(seen @ normalised(mixer.centroids[0]).T).argmax(-1)]
    torch.testing.assert_close(mixer(x).aux_loss, 0.25 * (seen - own).square().mean(), **CLOSE)
    (gradient,) = torch.autograd.grad(mixer(x).aux_loss, mixer.qkv.weight)
    assert gradient[:8].any()
    assert not gradient[8:].any()


def test_it_learns_as_routing_does() -> None:
    """Of the same queries the same statistics and the same loss."""
    mixer = build(commitment=0.25)
    routing = Routing(
        Routing.Config(n_heads=2, n_routed_heads=2, n_clusters=3, commitment=0.25), Site(8, 64, True)
    ).double()
    routing.load_state_dict(mixer.state_dict())
    got, want = mixer(tokens(31)), routing(tokens(31))
    assert isinstance(want, MixerOutput)
    torch.testing.assert_close(got[1:], want[1:], **CLOSE)


def test_no_update_in_eval_nor_of_a_frozen_router() -> None:
    x = tokens(20)
    frozen, evaluated = build(freeze_router=True), build().eval()
    for mixer in (frozen, evaluated):
        before, output = mixer.centroids.clone(), mixer(x)
        assert not output.statistics.any()
        mixer.apply_statistics(output.statistics)
        assert torch.equal(mixer.centroids, before)
    assert frozen(x).aux_loss > 0
    assert not evaluated(x).aux_loss
    before = frozen.centroids.clone()
    frozen.apply_statistics(build()(x).statistics)
    assert torch.equal(frozen.centroids, before)
    assert not frozen.config.capabilities().updates_buffers
    assert not Config().capabilities().aux_loss


def test_centroids_stay_in_fp32_and_are_saved_and_count() -> None:
    mixer = Combiner(Config(variant="clustered", n_heads=2), Site(8, 64, True))
    assert mixer.bfloat16().centroids.dtype == torch.float32
    assert mixer.qkv.weight.dtype == torch.bfloat16
    assert "centroids" in mixer.state_dict()
    cost = mixer.config.cost(CostContext(8, 64, causal=True))
    assert cost.buffer_bytes == mixer.centroids.nbytes
    assert cost.params == 4 * 8 * 8


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n_clusters": 4}, r"'n_clusters' \(4\) means nothing to variant 'fixed'"),
        ({"variant": "axial", "decay": 0.5}, "'decay'"),
        ({"variant": "mixture", "freeze_router": True}, "'freeze_router'"),
        ({"commitment": 1.0}, "'commitment'"),
        ({"variant": "clustered", "compat": "official"}, "'compat'"),
        ({"variant": "clustered", "n_clusters": 0}, "greater than 0"),
        ({"variant": "clustered", "decay": 1.0}, "less than 1"),
    ],
)
def test_config_refuses(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Config(**fields)


def test_smells_of_spans_that_stay_empty() -> None:
    config = Config(variant="clustered", n_clusters=8, span=64)
    assert config.smells(Site(64, 512, True)) == []
    assert "n_clusters 8 x span 64 = 512 exceeds seq_len 256" in config.smells(Site(64, 256, True))[0]
    whole = Config(variant="clustered", n_clusters=8, span=512)
    assert not any("full attention" in smell for smell in whole.smells(Site(64, 512, True)))
