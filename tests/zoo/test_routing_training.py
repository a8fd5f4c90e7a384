"""Routing's centroids in training: moved once per step, by what all processes saw, and not at all if frozen."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from archspec import Site
from zoo.contract import MixerOutput
from zoo.token_mixers.routing import Routing

CONFIG = Routing.Config(n_heads=2, window=5, n_clusters=3, cluster_window=4, decay=0.5)
CLOSE = {"rtol": 1e-11, "atol": 1e-13}


def build(config: Routing.Config = CONFIG) -> Routing:
    torch.manual_seed(0)
    return Routing(config, Site(8, 64, True)).double()


def tokens(length: int = 19, *, batch: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randn(batch, length, 8, generator=generator, dtype=torch.float64)


def test_recompute_no_double_update() -> None:
    """A layer whose activations are recomputed in the backward pass ends with the centroids of a plain one."""
    ends = []
    for recompute in (False, True):
        mixer, x = build(), tokens().requires_grad_()
        calls: list[int] = []
        mixer.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        start = mixer.centroids.clone()
        out = checkpoint(mixer, x, use_reentrant=False) if recompute else mixer(x)
        assert isinstance(out, MixerOutput)
        (out.y.square().sum() + out.aux_loss).backward()
        assert len(calls) == (2 if recompute else 1)
        assert torch.equal(mixer.centroids, start), "neither pass may move them"
        mixer.apply_statistics(out.statistics)
        assert not torch.equal(mixer.centroids, start)
        ends.append((mixer.centroids, x.grad, mixer.qkv.weight.grad))
    torch.testing.assert_close(*ends, **CLOSE)


def test_statistics_of_shards_add_up() -> None:
    """Sums and numbers: what two halves of a batch report is what the whole batch reports."""
    mixer, x = build(), tokens()
    halves = [mixer(part).statistics for part in x.chunk(2)]
    torch.testing.assert_close(sum(halves), mixer(x).statistics, **CLOSE)


def _half(rank: int, folder: str) -> None:
    """One of two processes: half of the batch, and the centroids that it ends with."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        mixer = build()
        given = mixer(tokens().chunk(2)[rank]).statistics
        before = given.clone()
        mixer.apply_statistics(given)
        assert torch.equal(given, before), "what the caller holds is his own"
        torch.save(mixer.centroids, f"{folder}/{rank}.pt")
    finally:
        dist.destroy_process_group()


def test_ddp_sum() -> None:
    """Two processes with half a batch each move their centroids as one process with all of it does."""
    alone = build()
    alone.apply_statistics(alone(tokens()).statistics)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_half, args=(folder,), nprocs=2, join=True)
        ends = [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert torch.equal(*ends), "both processes hold the same centroids"
    torch.testing.assert_close(ends[0], alone.centroids, **CLOSE)


def test_a_frozen_router_is_the_same_function_whose_centroids_stay() -> None:
    free, frozen = build(), build(CONFIG.model_copy(update={"freeze_router": True}))
    frozen.load_state_dict(free.state_dict())
    x = tokens()
    a, b = free(x), frozen(x)
    torch.testing.assert_close((a.y, a.aux_loss), (b.y, b.aux_loss), **CLOSE)
    assert a.statistics.any()
    assert not b.statistics.any()
    assert free.config.capabilities().updates_buffers
    assert not frozen.config.capabilities().updates_buffers
    before = frozen.centroids.clone()
    frozen.apply_statistics(a.statistics)
    assert torch.equal(frozen.centroids, before)
