"""Routing attention: heads that attend inside clusters of similar tokens, beside heads that attend nearby.

After Routing Transformer (Roy et al. 2021, arXiv:2003.05997). Routed heads compare each token with learnt
centroids (spherical k-means). ``selection: causal`` is ours and strictly causal: a token joins its nearest
centroid's cluster, which looks at that token alone, and attends to the cluster's last ``cluster_window``
members. ``selection: top_w`` is the published one, where each centroid picks its ``cluster_window`` nearest
tokens of the whole sequence. Which past tokens are picked depends on the future, so it is for bidirectional
models; ``allow_leaky`` lets it stand in a causal one, whose causality gate it fails. Strided heads read
every ``stride``-th token. Local heads attend in a sliding window.

Centroids are buffers: a moving average of the vectors that chose them, updated in ``apply_statistics``
after the optimizer step, never in ``forward``. The auxiliary loss pulls vectors towards their centroid
(``commitment``). With ``freeze_router`` centroids stay as they were drawn or loaded.

Shapes: B batch, L length, D d_model, H heads (R routed ones, then S strided and N local ones), K d_head, C
clusters, w cluster_window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archspec import Site
from zoo.contract import Mixer, MixerOutput, State, only_output
from zoo.ops import router, routing, routing_dense
from zoo.ops.centroids import WithCentroids
from zoo.ops.router import nearest, normalised, router_scores
from zoo.ops.routing_config import RoutingConfig
from zoo.ops.shaw import Relative
from zoo.ops.strided import strided_attention
from zoo.ops.top_w import top_w_attention


class Routing(WithCentroids, Mixer):
    class Config(RoutingConfig):
        kind: Literal["routing"] = "routing"

    config: Config
    centroids: Tensor
    examples = (
        Config(n_heads=4, window=5, n_clusters=3, cluster_window=4),
        Config(
            n_heads=3, n_routed_heads=2, d_head=5, window=6, n_clusters=4, cluster_window=7, share_qk=True,
            head_mix=True, relative_positions=3,
        ),
        Config(selection="top_w", n_heads=2, window=7, n_clusters=3, cluster_window=6, relative_positions=2),
        Config(
            selection="top_w", n_heads=2, n_routed_heads=2, n_clusters=2, cluster_window=9, share_qk=True,
            compat="official",
        ),
        Config(n_heads=2, n_routed_heads=0, window=4, relative_positions=8),
        Config(
            n_heads=5, n_routed_heads=2, n_strided_heads=2, d_head=4, window=5, stride=6, n_clusters=2,
            cluster_window=5, share_qk=True, relative_positions=3, freeze_router=True,
        ),
    )  # fmt: skip

    def __init__(self, config: Config, site: Site):
        super().__init__(config, site)
        self.n_heads, self.n_routed, self.d_head = (
            config.n_heads,
            config.routed_heads,
            config.head_width(site.d_model),
        )
        H, K = self.n_heads, self.d_head
        self.strided = slice(self.n_routed, H - config.local_heads)
        self.local = slice(H - config.local_heads, H)
        self.scale = 1.0 if config.compat == "official" else K**-0.5  # of routed logits
        self.qkv = nn.Linear(site.d_model, (2 * H + config.key_heads) * K, bias=False)
        self.out = nn.Linear(H * K, site.d_model, bias=False)
        if config.head_mix:
            self.head_mix = nn.Linear(K, K, bias=False)
        for name, n_heads in (("routed_lags", self.n_routed), ("local_lags", config.local_heads)):
            if config.relative_positions is not None and n_heads:
                table = torch.randn(2, 2 * config.relative_positions + 1, K) * K**-0.5
                self.register_parameter(name, nn.Parameter(table))
        if self.n_routed:
            centroids = normalised(torch.randn(self.n_routed, config.n_clusters, K))
            self.register_buffer("centroids", centroids)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor | MixerOutput:
        return self._mix(x, mask, _FAST)

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor | MixerOutput:
        return self._mix(x, mask, _DEFINITION)

    def _mix(self, x: Tensor, mask: Tensor | None, ops: _Ops) -> Tensor | MixerOutput:
        q, k, v = self._project(x)
        R, c, causal, ys = self.n_routed, self.config, self.site.causal, []
        if c.n_strided_heads:
            heads = [t[:, self.strided] for t in (q, k, v)]
            ys.append(ops.strided(*heads, stride=c.stride, causal=causal, mask=mask))
        if c.local_heads:
            heads, lags = [t[:, self.local] for t in (q, k, v)], self._relative("local_lags")
            ys.append(ops.window(*heads, window=c.window, causal=causal, mask=mask, relative=lags))
        if not R:
            return self._merge(ys)

        q, k, v = q[:, :R], k[:, :R], v[:, :R]
        seen = [normalised(q)]  # what the router sees: (B, R, L, K)
        if c.selection == "top_w" and not c.share_qk:
            seen.append(normalised(k))
        scores = [router_scores(t, self.centroids) for t in seen]
        clusters = [nearest(s, mask) for s in scores]
        pattern = {
            "window": c.cluster_window, "causal": causal, "scale": self.scale,
            "relative": self._relative("routed_lags"),
        }  # fmt: skip
        if c.selection == "top_w":
            damping = 1e-2 if c.compat == "official" else 0.0
            y = ops.top_w(q, k, v, scores[0], scores[-1], mask=mask, damping=damping, **pattern)
        else:
            alone = {"self_if_alone": c.share_qk}
            y = ops.clusters(q, k, v, clusters[0], n_clusters=c.n_clusters, **alone, **pattern)
        y = self._merge([y, *ys])
        nothing = self.centroids.new_zeros(R, c.n_clusters, self.d_head + 1)
        if not self.training:
            return MixerOutput(y, nothing.new_zeros(()), nothing)
        loss = torch.stack([ops.commitment(t, own, self.centroids) for t, own in zip(seen, clusters)]).sum()
        if c.freeze_router:
            return MixerOutput(y, c.commitment * loss, nothing)
        counts = [ops.statistics(t, own, n_clusters=c.n_clusters) for t, own in zip(seen, clusters)]
        return MixerOutput(y, c.commitment * loss, torch.stack(counts).sum(0))

    def init_state(self, batch_size: int, *, dtype: torch.dtype, device: torch.device | str) -> State:
        """The last members of every cluster, the last tokens of local heads (at first zeros), and counts.

        Strided heads keep all tokens.
        """
        assert self.site.causal, "a bidirectional layer has no decode state"
        c, B, R, K = self.config, batch_size, self.n_routed, self.d_head
        S, N = c.n_strided_heads, c.local_heads
        state: State = {}
        for name in ("k", "v"):
            if R:
                state[f"{name}_cluster"] = torch.zeros(
                    B, R, c.n_clusters, c.cluster_window, K, dtype=dtype, device=device
                )
            if N:
                state[f"{name}_local"] = torch.zeros(B, N, c.window, K, dtype=dtype, device=device)
            if S:
                state[f"{name}_strided"] = torch.zeros(B, S, 0, K, dtype=dtype, device=device)
        if R:
            state["n_members"] = torch.zeros(B, R, c.n_clusters, dtype=torch.long, device=device)
        if N:
            state["n_tokens"] = torch.zeros(B, dtype=torch.long, device=device)
        return state

    def prefill(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y, after = self(x), dict(state)
        q, *kv = self._project(x)
        R, C, L = self.n_routed, self.config.n_clusters, x.shape[1]
        for name, t in zip(("k", "v"), kv):
            if self.config.n_strided_heads:
                after[f"{name}_strided"] = torch.cat([state[f"{name}_strided"], t[:, self.strided]], dim=2)
            if self.config.local_heads:
                kept = torch.cat([state[f"{name}_local"], t[:, self.local]], dim=2)
                after[f"{name}_local"] = kept[:, :, L:]
                after["n_tokens"] = state["n_tokens"] + L
            if R:
                cluster = nearest(router_scores(normalised(q[:, :R]), self.centroids))
                after[f"{name}_cluster"], after["n_members"] = routing.last_members(
                    t[:, :R], cluster, n_clusters=C, window=self.config.cluster_window
                )
        return only_output(y), after

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        q, k, v = self._project(x[:, None])  # (B, H, 1, K)
        R, after, ys = self.n_routed, dict(state), []
        if R:
            cluster = nearest(router_scores(normalised(q[:, :R]), self.centroids))  # (B, R, 1)
            n_earlier = state["n_members"].gather(2, cluster)
            after["n_members"] = state["n_members"].scatter(2, cluster, n_earlier + 1)
            after["k_cluster"], k_members = routing.add_member(state["k_cluster"], k[:, :R], cluster)
            after["v_cluster"], v_members = routing.add_member(state["v_cluster"], v[:, :R], cluster)
            ys.append(
                routing.read_last(
                    q[:, :R], k_members, v_members, n_earlier, scale=self.scale,
                    self_if_alone=self.config.share_qk, relative=self._relative("routed_lags"),
                )
            )  # fmt: skip
        if self.config.n_strided_heads:
            for name, t in (("k_strided", k), ("v_strided", v)):
                after[name] = torch.cat([state[name], t[:, self.strided]], dim=2)
            own_column = (after["k_strided"].shape[2] - 1) % self.config.stride
            keys, values = (after[f"{name}_strided"][:, :, own_column :: self.config.stride] for name in "kv")
            ys.append(F.scaled_dot_product_attention(q[:, self.strided], keys, values))
        if self.config.local_heads:
            after["n_tokens"] = state["n_tokens"] + 1
            after["k_local"] = torch.cat([state["k_local"][:, :, 1:], k[:, self.local]], dim=2)
            after["v_local"] = torch.cat([state["v_local"][:, :, 1:], v[:, self.local]], dim=2)
            nearby = (q[:, self.local], after["k_local"], after["v_local"], state["n_tokens"][:, None, None])
            ys.append(routing.read_last(*nearby, relative=self._relative("local_lags")))
        return self._merge(ys).squeeze(1), after

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, L, D) -> queries, keys and values (B, H, L, K), routed heads first; shared keys are queries."""
        H, R, n_keys = self.n_heads, self.n_routed, self.config.key_heads
        heads = self.qkv(x).unflatten(-1, (-1, self.d_head)).transpose(1, 2)  # (B, all, L, K)
        q, k, v = heads.split_with_sizes([H, n_keys, H], dim=1)
        if R and self.config.compat == "official":
            q = torch.cat([normalised(q[:, :R]).to(q.dtype), q[:, R:]], dim=1)
            routed = q[:, :R] if self.config.share_qk else normalised(k[:, :R]).to(k.dtype)
            k = torch.cat([routed, k[:, R:]], dim=1)
        elif R and self.config.share_qk:
            k = torch.cat([q[:, :R], k], dim=1)
        return q, k, v

    def _merge(self, ys: list[Tensor]) -> Tensor:
        y = torch.cat(ys, dim=1)  # (B, H, L, K)
        if self.config.head_mix:
            y = self.head_mix(y)
        return self.out(y.transpose(1, 2).flatten(2))  # (B, L, D)

    def _relative(self, name: Literal["routed_lags", "local_lags"]) -> Relative | None:
        return None if self.config.relative_positions is None else Relative(*self.get_parameter(name))


class _Ops(NamedTuple):
    """What forward and reference do in two ways."""

    clusters: Callable[..., Tensor]
    top_w: Callable[..., Tensor]
    strided: Callable[..., Tensor]
    window: Callable[..., Tensor]
    statistics: Callable[..., Tensor]
    commitment: Callable[..., Tensor]


_FAST = _Ops(
    routing.cluster_attention,
    top_w_attention,
    strided_attention,
    routing.window_attention,
    router.cluster_statistics,
    router.commitment,
)
_DEFINITION = _Ops(
    routing_dense.cluster_attention,
    routing_dense.top_w_attention,
    routing_dense.strided_attention,
    routing_dense.window_attention,
    routing_dense.cluster_statistics,
    routing_dense.commitment,
)
