"""Routing layers to test: strictly causal ones at both sites, the published selection where it is no leak."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from archspec import Site
from zoo.contract import MixerOutput
from zoo.token_mixers.routing import Routing

Config = Routing.Config
STRICT = {
    "half_routed": Config(n_heads=2, window=5, n_clusters=3, cluster_window=4),
    "all_routed": Config(n_heads=2, n_routed_heads=2, n_clusters=2, cluster_window=40),
    "shared": Config(
        n_heads=3, n_routed_heads=2, d_head=4, window=6, n_clusters=4, cluster_window=7, share_qk=True,
        head_mix=True, relative_positions=3,
    ),
    "official": Config(
        n_heads=2, window=4, n_clusters=2, cluster_window=5, share_qk=True, relative_positions=9,
        compat="official",
    ),
    "local": Config(n_heads=2, n_routed_heads=0, window=4, relative_positions=2),
    "strided": Config(
        n_heads=4, n_routed_heads=1, n_strided_heads=2, window=5, stride=6, n_clusters=3, cluster_window=4,
        share_qk=True, relative_positions=2,
    ),
    "strided_alone": Config(n_heads=2, n_routed_heads=0, n_strided_heads=2, stride=7),
}  # fmt: skip
TOP_W = {
    "top_w": Config(selection="top_w", n_heads=2, window=7, n_clusters=3, cluster_window=6),
    "top_w_official": Config(
        selection="top_w", n_heads=2, n_routed_heads=2, n_clusters=2, cluster_window=9, share_qk=True,
        relative_positions=2, compat="official",
    ),
}  # fmt: skip
AT_SITES = [
    pytest.param(config, causal, id=f"{name}-{'causal' if causal else 'both ways'}")
    for name, config in (STRICT | TOP_W).items()
    for causal in ((True, False) if name in STRICT else (False,))
]
EACH_SITE = pytest.mark.parametrize(("config", "causal"), AT_SITES)
EACH_STRICT = pytest.mark.parametrize("config", STRICT.values(), ids=STRICT.keys())
CLOSE = {"rtol": 1e-11, "atol": 1e-13}


def build(config: Config, *, causal: bool, d_model: int = 8) -> Routing:
    torch.manual_seed(0)
    return Routing(config, Site(d_model, 64, causal)).double()


def tokens(length: int, *, batch: int = 2, d_model: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randn(batch, length, d_model, generator=generator, dtype=torch.float64)


def parts(output: Tensor | MixerOutput) -> tuple[Tensor, ...]:
    return (output,) if isinstance(output, Tensor) else tuple(output)
