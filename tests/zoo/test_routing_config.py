"""Routing's configuration: what it refuses, what it warns of, and what it says that a layer costs."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from routing_layers import EACH_SITE, Config, build, tokens

from archspec import CostContext, Site
from compiler.cost.fvcore_check import count_macs


def test_shared_queries_have_no_key_weights_unless_official() -> None:
    sizes = {
        compat: build(
            Config(n_heads=4, n_routed_heads=3, share_qk=True, cluster_window=4, compat=compat), causal=True
        ).qkv.out_features
        for compat in ("none", "official")
    }
    assert sizes == {"none": (4 + 1 + 4) * 2, "official": (4 + 4 + 4) * 2}


@EACH_SITE
@pytest.mark.parametrize("length", [1, 2, 31, 64, 65])
def test_cost_counts_what_runs(config: Config, causal: bool, length: int) -> None:
    mixer = build(config, causal=causal).float()
    cost = config.cost(CostContext(d_model=8, seq_len=length, batch_size=2, causal=causal))
    x, masks = tokens(length).float(), (None, torch.ones(2, length, dtype=torch.bool))
    folded = length > config.window and not config.n_strided_heads
    for mask in masks if folded else masks[:1]:  # full attention takes a channel for a mask
        counted = count_macs(mixer, (x,) if mask is None else (x, mask))
        assert counted.unknown_ops == ()
        assert cost.flops == 2 * counted.macs
    assert cost.flops_needed <= cost.flops
    assert cost.params == sum(p.numel() for p in mixer.parameters())
    assert cost.buffer_bytes == sum(b.nbytes for b in mixer.buffers())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n_heads": 2, "n_routed_heads": 3}, "n_routed_heads 3 exceeds n_heads 2"),
        ({"n_clusters": 0}, "greater than 0"),
        ({"cluster_window": 0}, "greater than 0"),
        ({"decay": 1.0}, "less than 1"),
        ({"selection": "topk"}, "'causal' or 'top_w'"),
        (
            {"n_heads": 3, "n_routed_heads": 2, "n_strided_heads": 2},
            r"n_routed_heads 2 \+ n_strided_heads 2 exceeds n_heads 3",
        ),
        ({"allow_leaky": True}, "'selection' is 'causal': only 'top_w' leaks"),
        ({"allow_leaky": True, "selection": "top_w"}, "'allow_leaky' needs 'share_qk: true'"),
    ],
)
def test_config_refuses(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        Config(**fields)


def test_misfit_and_smells_name_fields_and_values() -> None:
    assert Config(n_heads=3).misfit(Site(64, 640, True)) == (
        "d_model 64 is not a multiple of n_heads 3 (or set d_head)"
    )
    assert Config(cluster_window=65).misfit(Site(64, 64, True)) == (
        "cluster_window 65 exceeds the stream's length 64"
    )
    assert Config().smells(Site(64, 512, True)) == []
    assert "full attention in disguise" in Config(n_routed_heads=0).smells(Site(64, 64, True))[0]
    strided = Config(n_routed_heads=0, n_strided_heads=1, stride=64)
    assert "strided heads read their own token" in strided.smells(Site(64, 64, True))[-1]
    assert "is far from seq_len 4096" in Config().smells(Site(64, 4096, True))[0]
