"""The causality gate itself: what it sees, what it lets pass, and what it says."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.causality import causality_leak, randomised, sees_future, token_ids, vectors

D = 6


class Running(nn.Module):
    """Causal: a linear map of running sums, behind a gate that is closed at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(D, D)
        self.gate = nn.Parameter(torch.zeros(D))
        self.register_buffer("state", torch.zeros(D))
        self.register_buffer("constant", torch.ones(D), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.gate * self.out(x.cumsum(1))


class WithinBlocks(Running):
    """Every token sees its block of four."""

    def forward(self, x: Tensor) -> Tensor:
        padded = nn.functional.pad(x, (0, 0, 0, -x.shape[1] % 4))
        means = padded.unflatten(1, (-1, 4)).mean(2).repeat_interleave(4, dim=1)
        return super().forward(x) + means[:, : x.shape[1]]


class OneBlockAhead(WithinBlocks):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.cat([x[:, 4:], x[:, :4]], dim=1))


class GatedLookahead(Running):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.gate * x.flip(1)


class ByState(Running):
    """Looks ahead where its state is not zero."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.state * x.flip(1)


class Overflowing(Running):
    def forward(self, x: Tensor) -> Tensor:
        return x / (x.abs() < 50).to(x.dtype).amin(1, keepdim=True)


class Words(nn.Module):
    """Ids to logits: causal, or with the last word given away."""

    def __init__(self, leaks: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(11, D)
        self.leaks = leaks

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        return x.cumsum(1) + (x[:, -1:] if self.leaks else 0)


def test_a_causal_module_passes() -> None:
    assert causality_leak(Running(), vectors(D)) is None
    assert not sees_future(Running(), vectors(D))


def test_closed_gates_and_empty_state_hide_nothing() -> None:
    for module in (GatedLookahead(), ByState()):
        leak = causality_leak(module, vectors(D))
        assert leak is not None
        assert leak.what == "future"
        assert causality_leak(module, vectors(D), weights="own") is None  # shut as it stands


def test_trained_weights_are_kept() -> None:
    module = GatedLookahead()
    nn.init.ones_(module.gate)
    assert causality_leak(module, vectors(D), weights="own") is not None


def test_blocks() -> None:
    assert causality_leak(WithinBlocks(), vectors(D), block=4) is None
    assert causality_leak(WithinBlocks(), vectors(D)) is not None
    assert causality_leak(OneBlockAhead(), vectors(D), block=4) is not None


def test_whole_models_on_ids() -> None:
    assert causality_leak(Words(leaks=False), token_ids(11)) is None
    assert causality_leak(Words(leaks=True), token_ids(11)) is not None


def test_outputs_that_are_not_finite() -> None:
    leak = causality_leak(Overflowing(), vectors(D))
    assert leak is not None
    assert leak.what == "not finite"
    assert leak.scale == 100
    assert "not finite" in str(leak)


def test_what_a_leak_says() -> None:
    leak = causality_leak(GatedLookahead(), vectors(D), lengths=(7,), seeds=(3,))
    assert leak is not None
    assert str(leak).startswith("outputs up to position 0 depend on inputs after it: 100.0% of them changed")
    assert "(length 7, eval mode, values x1, seed 3)" in str(leak)


def test_the_module_is_not_touched() -> None:
    module = Running()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    causality_leak(module, vectors(D), lengths=(7,))
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module.training
    assert module.gate.dtype == torch.float32


def test_what_is_drawn_at_random() -> None:
    """Parameters and state, each seed anew; a constant that is not saved stays."""
    one, again, other = (randomised(Running(), seed) for seed in (0, 0, 1))
    assert torch.equal(one.get_parameter("gate"), again.get_parameter("gate"))
    assert not torch.equal(one.get_parameter("gate"), other.get_parameter("gate"))
    assert one.get_parameter("gate").all()
    assert one.get_buffer("state").all()
    assert torch.equal(one.get_buffer("constant"), torch.ones(D, dtype=torch.float64))
