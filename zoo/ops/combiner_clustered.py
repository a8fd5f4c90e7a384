"""Combiner's learnt pattern: the spans are clusters of similar tokens (Ren et al. 2021, arXiv:2107.05768).

Each head's centroids (``zoo/ops/router.py``) cut the tokens into clusters, and every s members of a cluster,
in order, are a span (section 4.4 of the paper). A query reads the members of its own span directly, and each
other span by its summary; causally of the members up to the query, so a span's summary changes whenever it
gets a member. Spans as long as the sequence are the paper's form, a whole cluster each; that clusters are cut
is ours, since they can be of any size. With one cluster it is the fixed pattern. A token's cluster follows
from it alone, so nothing of the future has a say.

The fast path stands the tokens of each span in a row of s places. There a query reads its own span, and
running pools give the summary of each member and those before it: one version of the span's summary for
every token. What a query reads of the other spans is the last version of each before it. Queries come in
chunks of T tokens, which share a list of versions: the last ones before the chunk, one for each span, and
the chunk's own. Each of them is seen from the token after it to the one that makes the next.

Shapes: B batch, H heads, L length, K head width, C clusters, E spans of s places, n chunks of T queries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.contract import State
from zoo.ops.combiner_clusters import Places, n_spans, places_of, taken
from zoo.ops.combiner_pattern import Cache, Kept, Pattern, Tables, Tokens, Work, by_definition
from zoo.ops.combiner_summary import Summary, bias_of, softmax, span_summaries, span_values
from zoo.ops.softmax_parts import Part, joined, part_of

_CHUNK = 64


@dataclass(frozen=True)
class Clustered(Pattern[Summary]):
    """Spans of at most ``span`` members of one of ``n_clusters`` clusters."""

    span: int
    n_clusters: int
    causal: bool

    def attend(self, tokens: Tokens, summary: Summary, mask: Tensor | None = None) -> Tensor:
        q, k, v, _, cluster = tokens
        assert cluster is not None
        L, K = int(q.shape[2]), q.shape[-1]
        s = min(self.span, L)
        q = q * K**-0.5
        at = places_of(cluster, n_clusters=self.n_clusters, span=s)
        f_q, f_k = summary.of_queries(q), summary.of_keys(k)
        own_q, own_k, own_v = (_in_spans(t, at) for t in (q, k, v))  # (B, H, E, s, K)
        f_q, f_k = (own_q, own_k) if f_q is q else (_in_spans(f_q, at), _in_spans(f_k, at))
        if self.causal:
            own, versions = _own_and_versions(own_q, own_k, own_v, f_q, f_k, summary)
            others = _read_versions(q, versions, at)
        else:
            real = at.tokens < L
            hidden = real.logical_not() & real.any(-1, keepdim=True)
            logits = own_q @ own_k.transpose(-1, -2)
            own = part_of(logits.add_(bias_of(~hidden[..., None, :], like=logits)), own_v)
            spans = span_summaries((f_q, f_k), own_k, own_v, summary, real)
            others = _read_spans(q, spans, real.any(-1), at)
        return joined(_in_order(own, at), others)

    def reference(self, tokens: Tokens, summary: Summary, mask: Tensor | None = None) -> Tensor:
        assert tokens.cluster is not None
        return by_definition(self.tables(tokens.cluster), tokens, summary, mask)

    def tables(self, cluster: Tensor) -> Tables:
        """Of clusters (B, H, L). Each token has a summary: of its span's members, causally up to itself."""
        i = torch.arange(cluster.shape[2], device=cluster.device)
        together = cluster[..., :, None] == cluster[..., None, :]
        span = (together & (i < i[:, None])).sum(-1) // self.span
        together = together & (span[..., :, None] == span[..., None, :])  # (B, H, L, L)
        following = torch.where(together & (i > i[:, None]), i, len(i)).amin(-1)[..., None, :]  # in its span
        if self.causal:
            newest = (i < i[:, None]) & (following >= i[:, None])  # and own span's last member is not older
            return Tables(together.tril(), together.tril(), newest & ~together)
        return Tables(together, together, (following == len(i)) & ~together)

    def init_state(self, like: Tensor, x: Tensor, summary: Summary) -> State:
        """Of each cluster's open span the keys and values, what these pool to, and the value; of closed spans
        keys and values. ``since`` has no entries: its length counts the tokens since there was last room
        made for a closed span, which is every s tokens, whether one has closed or not.
        """
        B, H, _, K = like.shape
        C, s = self.n_clusters, self.span
        state = {name: like.new_zeros(B, H, C, s, K) for name in ("k", "v")}
        state |= {name: like.new_full((B, H, C, K), summary.nothing) for name in ("q_pool", "k_pool")}
        return state | {
            "v_open": like.new_zeros(B, H, C, K),
            "n_members": torch.zeros(B, H, C, dtype=torch.long, device=like.device),
            "k_span": like.clone(),
            "v_span": like.clone(),
            "since": like.new_zeros(B, 0, 0),
        }

    def prefill(self, tokens: Tokens, summary: Summary) -> State:
        q, k, v, x, cluster = tokens
        assert cluster is not None
        B, L, K, C, s = q.shape[0], q.shape[2], q.shape[3], self.n_clusters, self.span
        at = places_of(cluster, n_clusters=C, span=s)
        real = at.tokens < L
        own_k, own_v = (_in_spans(t, at) for t in (k, v))
        f_q, f_k = (_in_spans(t, at) for t in (summary.of_queries(q), summary.of_keys(k)))
        k_span, v_span = span_summaries((f_q * K**-0.5, f_k), own_k, own_v, summary, real)

        n_rows, n_closed = L // s, at.sizes.div(s, rounding_mode="floor").sum(-1, keepdim=True)
        is_open = real.logical_not().any(-1).long()
        closed = is_open.sort(dim=-1, stable=True).indices[..., :n_rows]
        empty = (torch.arange(n_rows, device=q.device) >= n_closed)[..., None]
        k_span, v_span = (taken(t, closed).masked_fill(empty, 0.0) for t in (k_span, v_span))

        n_open = at.sizes % s
        row = (at.first + at.sizes.div(s, rounding_mode="floor")).clamp(max=real.shape[2] - 1)
        inside = (torch.arange(s, device=q.device) < n_open[..., None])[..., None]  # (B, H, C, s, 1)
        own_k, own_v, f_q, f_k = (taken(t, row) for t in (own_k, own_v, f_q, f_k))
        q_pool, k_pool = (
            summary.merged_all(f.masked_fill(~inside, summary.nothing)).squeeze(3) for f in (f_q, f_k)
        )
        some = (n_open > 0)[..., None]
        q_open = summary.divided(q_pool, n_open.clamp(min=1)[..., None].to(q.dtype)) * K**-0.5
        hidden = (~inside & some[..., None]).squeeze(-1)
        v_open = span_values(q_open.masked_fill(~some, 0.0), own_k, own_v, hidden)
        return {
            "k": own_k.masked_fill(~inside, 0.0),
            "v": own_v.masked_fill(~inside, 0.0),
            "q_pool": q_pool,
            "k_pool": k_pool,
            "v_open": v_open.masked_fill(~some, 0.0),
            "n_members": at.sizes,
            "k_span": k_span,
            "v_span": v_span,
            "since": x.new_zeros(B, L % s, 0),
        }

    def step(self, tokens: Tokens, state: State, summary: Summary) -> tuple[Tensor, State]:
        q, k, v, _, cluster = tokens  # (B, H, 1, K), (B, H, 1)
        assert cluster is not None
        C, s, K = self.n_clusters, self.span, q.shape[-1]
        state, scale = dict(state), K**-0.5
        n_open = state["n_members"] % s  # (B, H, C)
        n_closed = state["n_members"].div(s, rounding_mode="floor").sum(-1, keepdim=True)
        n_rows, at = state["k_span"].shape[2], n_open.gather(2, cluster)  # (B, H, 1)
        own, place, number = (torch.arange(size, device=q.device) for size in (C, s, n_rows))

        in_cluster = cluster[..., None].expand(-1, -1, -1, K)  # (B, H, 1, K)
        in_spans = in_cluster[..., None, :].expand(-1, -1, -1, s, -1)
        in_span = at[..., None].expand(-1, -1, -1, K)
        k_own, v_own = (
            state[name].gather(2, in_spans).squeeze(2).scatter(2, in_span, new)
            for name, new in (("k", k), ("v", v))
        )  # (B, H, s, K)
        empty = n_open == 0
        k_open = summary.divided(state["k_pool"], n_open.clamp(min=1)[..., None].to(q.dtype))
        keys = [k_own, k_open.masked_fill(empty[..., None], 0.0), state["k_span"]]
        hidden = torch.cat([place > at, empty | (own == cluster), number >= n_closed], -1)[:, :, None]
        logits = q @ torch.cat(keys, 2).transpose(-1, -2) * scale
        weights = softmax(logits.masked_fill(hidden, -math.inf)).to(v.dtype)
        y = weights @ torch.cat([v_own, state["v_open"], state["v_span"]], 2)

        size = (at + 1)[..., None].to(q.dtype)
        q_pool, k_pool = (
            summary.merged(state[name].gather(2, in_cluster), feature)
            for name, feature in (("q_pool", summary.of_queries(q)), ("k_pool", summary.of_keys(k)))
        )
        q_span, k_span = summary.divided(q_pool, size) * scale, summary.divided(k_pool, size)
        v_span = span_values(q_span.squeeze(2), k_own, v_own, place > at)[:, :, None]
        closes = (at + 1 == s)[..., None]
        for name, new in (("k", k_own), ("v", v_own)):
            state[name] = state[name].scatter(2, in_spans, new.masked_fill(closes, 0.0)[:, :, None])
        for name, new, nothing in (
            ("q_pool", q_pool, summary.nothing), ("k_pool", k_pool, summary.nothing), ("v_open", v_span, 0.0),
        ):  # fmt: skip
            state[name] = state[name].scatter(2, in_cluster, new.masked_fill(closes, nothing))
        state["n_members"] = state["n_members"].scatter_add(2, cluster, torch.ones_like(cluster))
        state["since"] = F.pad(state["since"], (0, 0, 0, 1))
        if state["since"].shape[1] == s:
            state["since"] = state["since"][:, :0]
            n_rows += 1
            state |= {name: F.pad(state[name], (0, 0, 0, 1)) for name in ("k_span", "v_span")}
        if n_rows:
            row = n_closed.clamp(max=n_rows - 1)[..., None].expand(-1, -1, -1, K)
            for name, new in (("k_span", k_span), ("v_span", v_span)):
                kept = state[name].gather(2, row)
                state[name] = state[name].scatter(2, row, torch.where(closes, new, kept))
        return y, state

    def work(self, length: int) -> Work:
        """Needed if tokens join the clusters in turn."""
        L, C, s = length, self.n_clusters, min(self.span, length)
        E = n_spans(L, C, s)
        few, more = divmod(L, C)
        sizes = [(few + 1, more), (few, C - more)]
        whole = sum(many * (size // s) for size, many in sizes)
        parts = [(s, whole), *((size % s, many) for size, many in sizes)]
        if not self.causal:
            n_filled = sum(many for size, many in parts if size)
            direct = sum(many * size * size for size, many in parts)
            read = L * (n_filled - 1) + L * (n_filled > 1)
            pairs = E * s * (s + 1) + L * E
            kept = Kept(
                3 * E * s + 2 * L + 4 * E, of_max=2 * E * s, of_features=2 * L, indices=3 * (E * s + L)
            )
            return Work(2 * pairs, 2 * (direct + read), pairs, kept, features=2 * L, features_needed=2 * L)
        T, n = _chunks(L)
        direct = sum(many * size * (size + 1) // 2 for size, many in parts)
        pairs = 2 * E * s * s + n * T * (E + T)
        needed = direct + _read_in_turn(L, C, s) + self._summarised(L, direct)
        listed = n * (E + T)
        kept = Kept(
            4 * E * s + 2 * listed + 2 * L, places=2 * E * s, of_features=2 * (L + E * s),
            indices=3 * (E * s + L) + 2 * listed,
        )  # fmt: skip
        return Work(2 * pairs, 2 * needed, pairs, kept, features=2 * L, features_needed=2 * L)

    def _summarised(self, length: int, direct: int) -> int:
        """Members of all versions that are read: of whole spans if there is one cluster, else all but one."""
        if self.n_clusters == 1:
            return (length - 1) // self.span * self.span
        return direct - ((length - 1) // self.n_clusters % self.span + 1)

    def step_work(self, n_tokens: int) -> Work:
        pairs = 2 * self.span + self.n_clusters + n_tokens // self.span
        return Work(2 * pairs, 2 * pairs, pairs, features=2, features_needed=2)

    def cache(self, n_tokens: int) -> Cache:
        C, s = self.n_clusters, self.span
        return Cache(2 * (n_tokens // s) + C * (2 * s + 3), per_token=(2, s), counters=C)


def _in_spans(t: Tensor, at: Places) -> Tensor:
    """(B, H, L, K) -> (B, H, E, s, K), anything finite at empty places."""
    E, s = at.tokens.shape[2:]
    rows = taken(t, at.tokens.flatten(2).clamp(max=t.shape[2] - 1))
    return rows.view(*t.shape[:2], E, s, t.shape[-1])


def _in_order(own: Part, at: Places) -> Part:
    """(B, H, E, s, ...) -> (B, H, L, ...); padding has seen one value of zeros."""
    y, total, top = (
        taken(F.pad(t.flatten(2, 3), (0, 0, 0, 1), value=value), at.places)
        for t, value in zip(own, (0.0, 1.0, 0.0))
    )
    return Part(y, total, top)


def _own_and_versions(
    q: Tensor, k: Tensor, v: Tensor, f_q: Tensor, f_k: Tensor, summary: Summary
) -> tuple[Part, tuple[Tensor, Tensor]]:
    """(B, H, E, s, K) each -> what each query reads of its span; a version for each token, (B, H, E s, K)."""
    s = int(q.shape[3])
    q_part, k_part = summary.running(f_q), summary.running(f_k)
    bias = bias_of(torch.ones(s, s, dtype=torch.bool, device=q.device).tril(), like=q)
    own = part_of((q @ k.transpose(-1, -2)).add_(bias), v)
    v_part = softmax((q_part @ k.transpose(-1, -2)).add_(bias)).to(v.dtype) @ v
    return own, (k_part.flatten(2, 3), v_part.flatten(2, 3))


def _read_versions(q: Tensor, versions: tuple[Tensor, Tensor], at: Places) -> Part:
    """Queries (B, H, L, K), scaled -> what they read of other spans."""
    B, H, L, K = q.shape
    E, s = at.tokens.shape[2:]
    T, n = _chunks(int(L))
    offset = torch.arange(T, device=q.device)
    start = torch.arange(n, device=q.device) * T
    # The last version of each span before a chunk, and the token that makes the next one.
    count = torch.searchsorted(at.tokens, start.expand(B, H, E, n).contiguous())  # members before the chunk
    place = (torch.arange(E, device=q.device)[:, None] * s + count - 1).clamp(min=0)
    following = F.pad(at.tokens, (0, 1), value=int(L)).gather(3, count) - start
    until = torch.where(count > 0, following, 0).transpose(2, 3)  # (B, H, n, E)
    # The versions that a chunk's own tokens make.
    pad = n * T - int(L)
    own_place = F.pad(at.places, (0, pad), value=E * s).view(B, H, n, T)
    following = F.pad(F.pad(at.tokens[..., 1:], (0, 1), value=int(L)).flatten(2), (0, 1), value=-1)
    own_until = following.gather(2, own_place.flatten(2)).view(B, H, n, T) - start[:, None]

    place = torch.cat([place.transpose(2, 3), own_place.clamp(max=E * s - 1)], -1)  # (B, H, n, E + T)
    until = torch.cat([until, own_until], -1)[..., None, :]
    since = torch.cat([torch.full((E,), -1, device=q.device), offset])
    sees = (offset[:, None] > since) & (offset[:, None] < until)
    keys, values = (taken(t, place.flatten(2)).view(B, H, n, E + T, K) for t in versions)
    q = F.pad(q, (0, 0, 0, pad)) if pad else q
    logits = q.view(B, H, n, T, K) @ keys.transpose(-1, -2)
    part = part_of(logits.add_(bias_of(sees, like=logits)), values)
    return Part(*(t.flatten(2, 3)[:, :, :L] for t in part))


def _read_spans(q: Tensor, spans: tuple[Tensor, Tensor], some: Tensor, at: Places) -> Part:
    """The same bidirectionally: summaries (B, H, E, K) of spans of which ``some`` (B, H, E) are filled."""
    E, s = at.tokens.shape[2:]
    own = at.places.div(s, rounding_mode="floor")[..., None]
    sees = some[:, :, None] & (own != torch.arange(E, device=q.device))
    logits = q @ spans[0].transpose(-1, -2)
    return part_of(logits.add_(bias_of(sees, like=logits)), spans[1])


def _chunks(length: int) -> tuple[int, int]:
    """Queries of a chunk, and chunks."""
    T = min(_CHUNK, length)
    return T, -(-length // T)


def _read_in_turn(length: int, n_clusters: int, span: int) -> int:
    """Summaries that queries read causally where token i joins cluster i mod C.

    A token that opens a span gives every one after it something to read, except the span's own members: of
    each query's spans one is its own. The first C tokens of every C s open spans.
    """
    L, C, turn = length, n_clusters, n_clusters * span
    n = (L - C) // turn + 1 if L >= C else 0  # turns in which all C open one
    opened = n * C * L - C * turn * n * (n - 1) // 2 - n * C * (C - 1) // 2
    rest = max(0, L - n * turn)  # tokens from the next turn's start on
    return opened + rest * (rest + 1) // 2 - L
