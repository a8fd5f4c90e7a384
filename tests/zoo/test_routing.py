"""Routing: what is its own beside the contract of every component."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from archspec import CostContext, Site
from compiler.cost.fvcore_check import count_macs
from zoo.causality import causality_leak, sees_future, vectors
from zoo.contract import MixerOutput
from zoo.ops.router import normalised
from zoo.token_mixers.attention import Attention
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


@EACH_SITE
@pytest.mark.parametrize("length", [1, 2, 13, 31, 32, 33, 37, 64, 65])
def test_forward_is_reference(config: Config, causal: bool, length: int) -> None:
    mixer, x = build(config, causal=causal), tokens(length)
    mask = torch.arange(length) < torch.tensor([[length], [max(1, length - 9)]])
    for args, real in (((x,), ...), ((x, mask), mask)):
        got, want = parts(mixer(*args)), parts(mixer.reference(*args))
        torch.testing.assert_close(got[0][real], want[0][real], **CLOSE)
        torch.testing.assert_close(got[1:], want[1:], **CLOSE)
        gradients = [
            torch.autograd.grad(
                y[0][real].square().sum() + sum(y[1:2]), list(mixer.parameters()), allow_unused=True
            )
            for y in (got, want)
        ]
        for a, b in zip(*gradients):
            assert (a is None) == (b is None)
            if a is not None:
                torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@EACH_SITE
@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_changes_nothing(config: Config, causal: bool, side: str) -> None:
    mixer, x = build(config, causal=causal), tokens(40)
    pad = 1e2 * torch.randn(2, 9, 8, dtype=torch.float64)
    both, keep = ([x, pad], slice(0, 40)) if side == "right" else ([pad, x], slice(9, 49))
    mask = torch.zeros(2, 49, dtype=torch.bool)
    mask[:, keep] = True
    padded = torch.cat(both, dim=1)
    want = parts(mixer(x))
    for run in (mixer, mixer.reference):
        got = parts(run(padded, mask))
        torch.testing.assert_close(got[0][:, keep], want[0], **CLOSE)
        torch.testing.assert_close(got[1:], want[1:], **CLOSE)  # pads neither move centroids nor cost


@EACH_STRICT
@pytest.mark.parametrize("n_prefill", [0, 1, 2, 11, 21])
def test_step_is_forward(config: Config, n_prefill: int) -> None:
    mixer, x = build(config, causal=True).eval(), tokens(21)
    state = mixer.init_state(2, dtype=torch.float64, device="cpu")
    ys = []
    if n_prefill:
        y, state = mixer.prefill(x[:, :n_prefill], state)
        ys += list(y.unbind(1))
    for token in x[:, n_prefill:].unbind(1):
        before = {name: t.clone() for name, t in state.items()}
        y, after = mixer.step(token, state)
        assert all(torch.equal(before[name], state[name]) for name in before), "a step writes its state"
        ys.append(y)
        state = after
    torch.testing.assert_close(torch.stack(ys, dim=1), parts(mixer(x))[0], **CLOSE)


def test_single_cluster_full() -> None:
    """One cluster, all heads routed, a window that holds everything: plain attention with these weights."""
    x, config = tokens(30), Config(n_heads=2, n_routed_heads=2, n_clusters=1, cluster_window=64)
    for causal in (True, False):
        mixer = build(config, causal=causal)
        plain = Attention(Attention.Config(n_heads=2, rope=False), Site(8, 64, causal)).double()
        plain.load_state_dict({n: t for n, t in mixer.state_dict().items() if n != "centroids"})
        torch.testing.assert_close(mixer(x).y, plain(x), **CLOSE)


def test_all_local_exact() -> None:
    """Without routed heads it is sliding-window attention, with no buffer and no side product."""
    x, config = tokens(41), Config(n_heads=2, n_routed_heads=0, window=5)
    for causal in (True, False):
        mixer = build(config, causal=causal)
        plain = Attention(Attention.Config(n_heads=2, rope=False, window=5), Site(8, 64, causal)).double()
        plain.load_state_dict(mixer.state_dict())
        assert not list(mixer.buffers())
        torch.testing.assert_close(mixer(x), plain(x), **CLOSE)


@EACH_STRICT
def test_causal_layers_do_not_leak_and_others_look_ahead(config: Config) -> None:
    assert causality_leak(build(config, causal=True), vectors(8), lengths=(2, 7, 33, 65)) is None
    assert sees_future(build(config, causal=False), vectors(8), length=20)


@pytest.mark.parametrize("config", TOP_W.values(), ids=TOP_W.keys())
def test_leak_detected_for_topk(config: Config) -> None:
    """The published selection says that it is never causal; forced, it is caught by the gate."""
    assert config.capabilities().causal == "never"
    assert config.capabilities().decode == "none"
    if config.share_qk:
        config = config.model_copy(update={"allow_leaky": True})
        assert (config.capabilities().causal, config.capabilities().decode) == ("switch", "none")
        assert "the causality gate refuses it" in config.smells(Site(8, 64, True))[0]
        assert not any("leaks" in smell for smell in config.smells(Site(8, 64, False)))
        leak = causality_leak(build(config, causal=True), vectors(8))
        assert leak is not None
        assert leak.what == "future"


def test_all_strided_is_full_attention_of_stride_1() -> None:
    x, config = tokens(30), Config(n_heads=2, n_routed_heads=0, n_strided_heads=2, stride=1)
    for causal in (True, False):
        mixer = build(config, causal=causal)
        plain = Attention(Attention.Config(n_heads=2, rope=False), Site(8, 64, causal)).double()
        plain.load_state_dict(mixer.state_dict())
        torch.testing.assert_close(mixer(x), plain(x), **CLOSE)


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


def test_shared_queries_have_no_key_weights_unless_official() -> None:
    sizes = {
        compat: build(
            Config(n_heads=4, n_routed_heads=3, share_qk=True, cluster_window=4, compat=compat), causal=True
        ).qkv.out_features
        for compat in ("none", "official")
    }
    assert sizes == {"none": (4 + 1 + 4) * 2, "official": (4 + 4 + 4) * 2}


def test_centroids_stay_in_fp32_and_are_saved() -> None:
    mixer = Routing(STRICT["half_routed"], Site(8, 64, True))
    assert mixer.bfloat16().centroids.dtype == torch.float32
    assert mixer.qkv.weight.dtype == torch.bfloat16
    assert mixer.double().centroids.dtype == torch.float64
    assert "centroids" in mixer.state_dict()


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


@pytest.mark.parametrize(
    ("config", "causal"),
    [(STRICT["shared"], True), (STRICT["strided"], False), (TOP_W["top_w_official"], False)],
    ids=["shared", "strided", "top_w"],
)
def test_exports(config: Config, causal: bool) -> None:
    mixer, x = build(config, causal=causal).eval(), tokens(40)
    mask = torch.arange(40) < torch.tensor([[40], [25]])
    exported = torch.export.export(mixer, (x, mask)).module()
    torch.testing.assert_close(parts(exported(x, mask))[0], parts(mixer(x, mask))[0], **CLOSE)
