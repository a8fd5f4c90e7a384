"""Routing: what is its own beside the contract of every component."""

from __future__ import annotations

import pytest
import torch
from routing_layers import CLOSE, EACH_SITE, EACH_STRICT, STRICT, TOP_W, Config, build, parts, tokens

from archspec import Site
from zoo.causality import causality_leak, sees_future, vectors
from zoo.token_mixers.attention import Attention


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
