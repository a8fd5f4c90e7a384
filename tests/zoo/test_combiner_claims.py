"""What the Combiner paper claims (Ren et al. 2021, arXiv:2107.05768), at a size that a test can run."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archspec import Site
from zoo.causality import randomised
from zoo.contract import Mixer, only_output
from zoo.token_mixers.attention import Attention
from zoo.token_mixers.combiner import Combiner
from zoo.token_mixers.routing import Routing

L, D = 32, 16
SPARSE: dict[str, Mixer.Config] = {
    "local": Attention.Config(n_heads=2, window=4),
    "routing": Routing.Config(n_heads=2, n_routed_heads=2, n_clusters=4, cluster_window=L),
}
COMBINERS = {
    "fixed": {"span": 4},
    "logsparse": {"variant": "logsparse"},
    "axial": {"variant": "axial", "span": 4},
    "axial_proj": {"variant": "axial", "span": 4, "row_summary": "proj"},
    "mixture": {"variant": "mixture", "span": 4},
    "mixture_vertical": {"variant": "mixture", "span": 4, "groups": "vertical"},
    "mixture_horizontal": {"variant": "mixture", "span": 4, "groups": "horizontal"},
    "clustered": {"variant": "clustered", "span": 4, "n_clusters": 4},
}


def build(config: Mixer.Config, *, causal: bool = True) -> Mixer:
    torch.manual_seed(0)
    cls: dict[str, type[Mixer]] = {"attention": Attention, "routing": Routing, "combiner": Combiner}
    return cls[config.kind](config, Site(D, L, causal))


def share_read(mixer: Mixer, *, causal: bool) -> float:
    """Of the tokens that a token may read, how many change its output through one layer, on average."""
    mixer = randomised(mixer, 0)  # type: ignore[assignment]
    x = torch.randn(1, L, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    y = only_output(mixer(x))
    rows = [torch.autograd.grad(y[0, t, 0], x, retain_graph=True)[0][0].abs().amax(-1) > 0 for t in range(L)]
    allowed = torch.ones(L, L, dtype=torch.bool).tril() if causal else torch.ones(L, L, dtype=torch.bool)
    reads = torch.stack(rows)
    assert not (reads & ~allowed).any()
    return float((reads & allowed).sum() / allowed.sum())


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "bidirectional"])
@pytest.mark.parametrize("name", COMBINERS)
def test_one_layer_reads_every_token(name: str, causal: bool) -> None:
    """Full attention capability at sparse cost: every token has a say in every output it may have one in."""
    assert (
        share_read(build(Combiner.Config(n_heads=2, **COMBINERS[name]), causal=causal), causal=causal) == 1.0
    )


@pytest.mark.parametrize("name", SPARSE)
def test_one_sparse_layer_reads_few(name: str) -> None:
    assert share_read(build(SPARSE[name]), causal=True) < 0.6


class Recall(nn.Module):
    """Words and positions, one mixer, logits: what was the first word?"""

    def __init__(self, config: Mixer.Config):
        super().__init__()
        self.mixer = build(config)
        self.words, self.positions = nn.Embedding(4, D), nn.Parameter(torch.randn(L, D))
        self.head = nn.Linear(D, 4)

    def forward(self, words: Tensor) -> Tensor:
        x = self.words(words) + self.positions
        return self.head(only_output(self.mixer(x))[:, -1])


def accuracy(config: Mixer.Config) -> float:
    torch.manual_seed(0)
    model = Recall(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(100):
        words = torch.randint(4, (32, L))
        loss = F.cross_entropy(model(words), words[:, 0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    words = torch.randint(4, (512, L))
    return float((model(words).argmax(-1) == words[:, 0]).float().mean())


def test_one_layer_recalls_the_first_word_where_a_sparse_one_guesses() -> None:
    """Seven spans back, which a window of a span cannot reach; chance is a quarter."""
    assert accuracy(Combiner.Config(n_heads=2, span=4)) > 0.9
    assert accuracy(SPARSE["local"]) < 0.35
