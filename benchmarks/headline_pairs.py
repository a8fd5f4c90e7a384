"""What stands side by side: a mixing core of ours and a baseline, without projections, on equal inputs.

Every pair can check itself first: outputs and gradients of ours against a definition, in float64.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from zoo.ops import routing_dense
from zoo.ops.combiner_fixed import fixed_attention
from zoo.ops.quasiseparable import OneWay, dense_quasiseparable, quasiseparable
from zoo.ops.router import cluster_statistics, commitment, nearest, normalised, router_scores
from zoo.ops.routing import cluster_attention
from zoo.ops.ssd import ssd

N_HEADS, D_HEAD, D_STATE, CHUNK, WINDOW = 8, 64, 64, 64, 64
INSTALL_PEER = (
    "pip install --target DIR --no-deps routing-transformer==1.6.1 local-attention==1.11.2 "
    "hyper-connections product-key-memory colt5-attention mixture-of-experts einops, "
    "and then --peers DIR"
)


@dataclass(frozen=True)
class Setting:
    """Where and in what type, and which phase: training runs forward and backward."""

    length: int
    device: torch.device
    dtype: torch.dtype
    training: bool


@dataclass(frozen=True)
class Case:
    """``outputs()`` are differentiated by ``inputs``."""

    outputs: Callable[[], tuple[Tensor, ...]]
    inputs: tuple[Tensor, ...]

    def forward(self) -> None:
        with torch.no_grad():
            self.outputs()

    def forward_backward(self, gradients: dict[tuple[int, ...], Tensor]) -> None:
        """``gradients`` are those of the outputs by their shape, made at the first call."""
        outputs = self.outputs()
        if not gradients:
            gradients.update({y.shape: torch.randn_like(y) for y in outputs})
        given = [gradients[y.shape] for y in outputs]
        torch.autograd.grad(outputs, self.inputs, given, allow_unused=True)


@dataclass(frozen=True)
class Pair:
    """Ours beside a baseline. ``bar``: how many times as fast ours must be, where ``judged`` says so."""

    name: str
    baseline: str
    cases: Callable[[Setting], tuple[Case, Case]]
    check: Callable[[torch.device], None]
    bar: float | None = None
    judged: Callable[[Setting], bool] = field(default=lambda setting: True)
    lengths: tuple[int, ...] | None = None  # in place of those asked for


def pairs(device: torch.device) -> Iterator[Pair]:
    """All that can run here; a peer that is not installed is told by ``missing_peer``."""
    if not missing_peer():
        for shared in (True, False):
            name = f"causal routing, {'shared' if shared else 'own'} keys"
            peer = "routing-transformer 1.6.1"
            yield Pair(name, peer, lambda s, shared=shared: _routing(s, shared), _check_routing, 1.1)
    yield Pair("hydra core", "two SSD passes and a flip", _hydra, _check_hydra, 1.25)
    at_4096 = {"bar": 6.0, "judged": lambda s: s.length == 4096 and s.training}
    yield Pair("combiner fixed", "causal SDPA", _combiner_sdpa, _check_combiner, **at_4096)
    yield Pair("combiner fixed", "itself (noise)", _combiner_itself, _check_combiner, lengths=(4096,))
    if device.type != "cuda":
        return
    for name, core, causal, check in (
        ("causal routing, own keys", lambda s: _routing_core(s, shared=False), True, _check_routing),
        ("hydra core", _hydra_core, False, _check_hydra),
        ("combiner fixed", _combiner, True, _check_combiner),
    ):
        for baseline, run in (("SDPA, flash kernel", _sdpa_flash), ("FlexAttention", _flex)):
            yield Pair(name, baseline, _beside(core, run, causal), check)


def missing_peer() -> str | None:
    """How to get ``routing-transformer``, if it is not there."""
    return None if importlib.util.find_spec("routing_transformer") else INSTALL_PEER


def span_of(length: int) -> int:
    """The power of two from the square root of the length on."""
    return 2 ** math.ceil(math.log2(length) / 2)


def _beside(core: Callable[[Setting], Case], run: Callable[[Setting, bool], Case], causal: bool) -> Any:
    return lambda setting: (core(setting), run(setting, causal))


def _random(s: Setting, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
    return torch.randn(*shape, device=s.device, dtype=dtype or s.dtype, requires_grad=s.training)


def _qkv(s: Setting) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (_random(s, 1, N_HEADS, s.length, D_HEAD) for _ in range(3))
    return q, k, v


def _routing(s: Setting, shared: bool) -> tuple[Case, Case]:
    """Training includes, on both sides, the commitment loss and what the centroids learn from."""
    from routing_transformer.routing_transformer import KmeansAttention

    ours = _routing_core(s, shared=shared)
    n_clusters = max(1, s.length // WINDOW)
    peer = KmeansAttention(n_clusters, WINDOW, N_HEADS, D_HEAD, causal=True, shared_qk=shared)
    peer = peer.to(s.device, s.dtype).train(s.training)
    q, k, v = ours.inputs

    def theirs() -> tuple[Tensor, ...]:
        y, loss = peer(q, q if shared else k, v)
        return (y, loss) if s.training else (y,)

    return ours, Case(theirs, (q, k, v, *peer.parameters()))


def _routing_core(s: Setting, *, shared: bool) -> Case:
    q, k, v = _qkv(s)
    n_clusters = max(1, s.length // WINDOW)
    centroids = normalised(torch.randn(N_HEADS, n_clusters, D_HEAD, device=s.device))

    def ours() -> tuple[Tensor, ...]:
        seen = normalised(q)
        own = nearest(router_scores(seen, centroids))
        pattern = {"n_clusters": n_clusters, "window": WINDOW, "causal": True, "self_if_alone": shared}
        y = cluster_attention(q, q if shared else k, v, own, **pattern)
        if not s.training:
            return (y,)
        cluster_statistics(seen, own, n_clusters=n_clusters)
        return y, 1e-4 * commitment(seen, own, centroids)

    return Case(ours, (q, k, v))


def _hydra(s: Setting) -> tuple[Case, Case]:
    ours = _hydra_core(s)
    return ours, _two_passes(*ours.inputs)


def _hydra_core(s: Setting) -> Case:
    x = _random(s, 1, s.length, N_HEADS, D_HEAD)
    dt = _random(s, 1, s.length, 2, N_HEADS, dtype=torch.promote_types(s.dtype, torch.float32))
    b_c = [_random(s, 1, s.length, 1, D_STATE) for _ in range(4)]
    return Case(lambda: (quasiseparable(x, *_ways(dt, b_c), chunk_size=CHUNK),), (x, dt, *b_c))


def _two_passes(x: Tensor, dt: Tensor, *b_c: Tensor) -> Case:
    """The same matrix by two scans, the second one on the sequence reversed; both read one step late."""

    def later(y: Tensor) -> Tensor:
        return F.pad(y[:, :-1], (0, 0, 0, 0, 1, 0))

    def scan(x: Tensor, way: OneWay) -> Tensor:
        return ssd((x * way.dt[..., None]).to(x.dtype), way.log_decay, way.b, way.c, chunk_size=CHUNK)[0]

    def run() -> tuple[Tensor, ...]:
        ahead, back = _ways(dt, b_c)
        reverse = scan(x.flip(1), OneWay(*(t.flip(1) for t in back)))
        return (later(scan(x, ahead)) + later(reverse).flip(1),)

    return Case(run, (x, dt, *b_c))


def _ways(dt: Tensor, b_c: Any) -> tuple[OneWay, OneWay]:
    dt = F.softplus(dt - 3)
    return (
        OneWay(-dt[:, :, 0], dt[:, :, 0], b_c[0], b_c[1]),
        OneWay(-dt[:, :, 1], dt[:, :, 1], b_c[2], b_c[3]),
    )


def _combiner(s: Setting) -> Case:
    q, k, v = _qkv(s)
    return Case(lambda: (fixed_attention(q, k, v, span=span_of(s.length), causal=True),), (q, k, v))


def _combiner_itself(s: Setting) -> tuple[Case, Case]:
    return _combiner(s), _combiner(s)


def _combiner_sdpa(s: Setting) -> tuple[Case, Case]:
    q, k, v = (ours := _combiner(s)).inputs
    return ours, Case(lambda: (F.scaled_dot_product_attention(q, k, v, is_causal=True),), (q, k, v))


def _sdpa_flash(s: Setting, causal: bool) -> Case:
    q, k, v = _qkv(s)

    def run() -> tuple[Tensor, ...]:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return (F.scaled_dot_product_attention(q, k, v, is_causal=causal),)

    return Case(run, (q, k, v))


def _flex(s: Setting, causal: bool) -> Case:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    q, k, v = _qkv(s)
    block_mask = None
    if causal:
        block_mask = create_block_mask(
            lambda b, h, i, j: i >= j, None, None, s.length, s.length, device=str(s.device)
        )
    torch.compiler.reset()  # past its limit of compilations dynamo runs a function as it is, unfused
    compiled = torch.compile(flex_attention, dynamic=False)
    return Case(lambda: (compiled(q, k, v, block_mask=block_mask),), (q, k, v))


def _check_routing(device: torch.device) -> None:
    """By all pairs of members."""
    s = Setting(192, device, torch.float64, training=True)
    for shared in (True, False):
        q, k, v = _qkv(s)
        own = nearest(router_scores(normalised(q), torch.randn(N_HEADS, 3, D_HEAD, device=device)))
        runs = [
            op(q, q if shared else k, v, own, n_clusters=3, window=16, causal=True, self_if_alone=shared)
            for op in (cluster_attention, routing_dense.cluster_attention)
        ]
        inputs = (q, v) if shared else (q, k, v)
        _expect_equal(*runs, inputs)


def _check_hydra(device: torch.device) -> None:
    """By two passes, and by the matrix itself."""
    ours = _hydra_core(Setting(192, device, torch.float64, training=True))
    x, dt, *b_c = ours.inputs
    _expect_equal(ours.outputs()[0], _two_passes(x, dt, *b_c).outputs()[0], ours.inputs)
    y = torch.einsum("bhij,bjhp->bihp", dense_quasiseparable(*_ways(dt, b_c)), x)
    _expect_equal(ours.outputs()[0], y, ours.inputs)


def _check_combiner(device: torch.device) -> None:
    """One span as long as the sequence is full attention, and so are spans of one token."""
    s = Setting(96, device, torch.float64, training=True)
    q, k, v = _qkv(s)
    for span in (1, s.length):
        y = fixed_attention(q, k, v, span=span, causal=True)
        _expect_equal(y, F.scaled_dot_product_attention(q, k, v, is_causal=True), (q, k, v))


def _expect_equal(a: Tensor, b: Tensor, inputs: tuple[Tensor, ...]) -> None:
    """Values, and gradients of a random weighting of them."""
    weights = torch.randn_like(a)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    for of_a, of_b in zip(
        torch.autograd.grad((a * weights).sum(), inputs, retain_graph=True),
        torch.autograd.grad((b * weights).sum(), inputs, retain_graph=True),
    ):
        torch.testing.assert_close(of_a, of_b, rtol=0, atol=1e-9)
