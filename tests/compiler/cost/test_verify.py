"""``--verify`` agrees where the closed form is right, and finds what is planted where it is wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from small_models import Make
from torch import Tensor

import compiler
from archspec import Capabilities, Cost, CostContext, MixerConfig, Site
from archspec.spec import ModelSpec
from compiler import Graph
from compiler.cost import verify
from compiler.cost.verification import Verification
from compiler.cost.verify import verify_costs
from zoo import Zoo
from zoo.contract import Mixer


class Square(Mixer):
    """x -> x W, with a cost that is right; the classes below each have one fault."""

    class Config(MixerConfig):
        kind: Literal["square"] = "square"

        def cost(self, ctx: CostContext) -> Cost:
            weights = ctx.d_model**2
            return Cost(params=weights, params_active=weights, flops=2 * ctx.tokens * weights)

        def capabilities(self) -> Capabilities:
            return Capabilities(causal="always", mixes_tokens=False)

    def __init__(self, config: MixerConfig, site: Site):
        super().__init__(config, site)
        self.w = torch.nn.Parameter(torch.randn(site.d_model, site.d_model))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x @ self.w

    def reference(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return x @ self.w


class Cheaper(Square):
    class Config(Square.Config):
        def cost(self, ctx: CostContext) -> Cost:
            cost = super().cost(ctx)
            return replace(cost, flops=cost.flops - 2 * (ctx.seq_len >= 64))  # one multiply-add, when long


class CheaperBackward(Square):
    class Config(Square.Config):
        def backward_flops(self, ctx: CostContext, forward: Cost) -> tuple[int, int]:
            done, needed = super().backward_flops(ctx, forward)
            return done - 2, needed  # one multiply-add


class Lighter(Square):
    class Config(Square.Config):
        def cost(self, ctx: CostContext) -> Cost:
            cost = super().cost(ctx)
            return replace(cost, params=cost.params - 1, params_active=cost.params - 1)


@torch.library.custom_op("archspec_tests::times", mutates_args=())
def times(x: Tensor, w: Tensor) -> Tensor:
    return x @ w


@times.register_fake
def _(x: Tensor, w: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], w.shape[1])


@torch.library.custom_op("archspec_tests::times_backward", mutates_args=())
def times_backward(grad: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    return grad @ w.T, x.flatten(0, -2).T @ grad.flatten(0, -2)


@times_backward.register_fake
def _(grad: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(w)


times.register_autograd(
    lambda ctx, grad: times_backward(grad, *ctx.saved_tensors),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


class Kernel(Square):
    """A kernel of its own that nobody has priced."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return times(x, self.w)


class PricedKernel(Kernel):
    op_flops = {
        "archspec_tests::times": lambda args, kwargs, out: 2 * out.numel() * args[0].shape[-1],
        "archspec_tests::times_backward": lambda args, kwargs, out: 4 * args[0].numel() * args[1].shape[-1],
    }


class Unheard(Square):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return torch.linalg.solve(torch.eye(x.shape[-1]), (x @ self.w).mT).mT


def verified(mixer: type[Square], make: Make, zoo: Zoo) -> Verification:
    spec = make("causal: true\nlayers: [{token_mixer: {kind: attention, n_heads: 2}, channel_mixer: mlp}]")
    layer = spec.layers[0].model_copy(update={"channel_mixer": mixer.Config()})
    spec = spec.model_copy(update={"layers": (layer,)})
    classes = {role: dict(table) for role, table in zoo.classes.items()}
    classes["channel_mixer"]["square"] = mixer
    zoo = Zoo(classes)
    return verify_costs(compiler.build_graph(spec, zoo=zoo), zoo)


def test_models_of_every_kind_are_exact(spec: ModelSpec, graph: Graph, zoo: Zoo) -> None:
    found = verify_costs(graph, zoo)
    assert found.exact is True
    assert (found.unknown_ops, found.skipped) == ([], ())
    assert {check.path for check in found.checks} >= {"stem", "head", ""}
    assert len({c.length for c in found.checks if c.kind == "model"}) == (
        1 if spec.input.kind == "image" else 2
    )


def test_a_true_cost_passes(make: Make, zoo: Zoo) -> None:
    assert verified(Square, make, zoo).exact is True


@pytest.mark.parametrize(
    "mixer",
    [Cheaper, CheaperBackward, Lighter],
    ids=["one_multiply_add_less", "one_less_backward", "one_parameter_less"],
)
def test_a_false_cost_is_found_where_it_is(mixer: type[Square], make: Make, zoo: Zoo) -> None:
    found = verified(mixer, make, zoo)
    assert found.exact is False
    wrong = {check.path for check in found.checks if not check.exact}
    assert "layers.0.channel_mixer" in wrong
    assert wrong <= {"layers.0.channel_mixer", ""}


def test_an_unknown_operation_is_an_error_though_the_numbers_agree(make: Make, zoo: Zoo) -> None:
    found = verified(Unheard, make, zoo)
    assert found.exact is False
    assert found.unknown_ops == ["aten::_linalg_solve_ex", "aten::linalg_solve"]
    assert all(check.macs == check.fvcore_macs for check in found.checks)


def test_what_does_not_fit_is_skipped_by_name_and_leaves_the_verdict_open(
    make: Make, zoo: Zoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = "{token_mixer: {kind: attention, n_heads: 2}, channel_mixer: {kind: mlp, d_ff: 4096}}"
    graph = compiler.build_graph(make(f"causal: true\nlayers: [{layer}]"), zoo=zoo)
    monkeypatch.setattr(verify, "_MEMORY_SHARE", 1e-6)
    found = verify_costs(graph, zoo)
    assert found.exact is None
    assert any(reason.startswith("layers.0.channel_mixer: its weights need") for reason in found.skipped)
    assert any(reason.startswith("the whole model:") for reason in found.skipped)
    assert all(check.exact for check in found.checks)
    assert {check.path for check in found.checks} >= {"layers.0.token_mixer"}


def test_differences_from_stock_fvcore_are_named_by_operation(make: Make, zoo: Zoo) -> None:
    found = verify_costs(
        compiler.build_graph(
            make("causal: true\nnorm: layernorm\nlayers: [{token_mixer: {kind: attention, n_heads: 2}}]")
        ),
        zoo,
    )
    whole = found.checks[-1]
    assert whole.stock_macs is not None
    told: dict[str, int] = {}
    for difference in whole.differences:
        name, gap = difference.split()
        told[name] = int(gap.replace(",", ""))
    assert set(told) == {"layer_norm", "scaled_dot_product_attention"}
    assert whole.fvcore_macs + sum(told.values()) == whole.stock_macs


def test_lengths_reach_past_windows_and_chunks(make: Make, zoo: Zoo) -> None:
    spec = make(
        "input: {kind: tokens, vocab_size: 31, seq_len: 4096}\ncausal: true\n"
        "layers: [{token_mixer: {kind: attention, n_heads: 2, window: 100}}]"
    )
    lengths = {
        c.length for c in verify_costs(compiler.build_graph(spec), zoo).checks if c.kind == "attention"
    }
    assert max(lengths) == 201


def test_json_has_the_stable_keys(graph: Graph, zoo: Zoo) -> None:
    document: dict[str, Any] = verify_costs(graph, zoo).as_json()
    assert document.keys() >= {"fvcore_macs", "exact", "lengths", "unknown_ops"}
    assert document["fvcore_macs"] > 0
    assert document["lengths"] == sorted(set(document["lengths"]))


def test_flop_counter_mode_is_told_apart_by_operation(make: Make, zoo: Zoo) -> None:
    """Its count of a depthwise convolution's weight gradient is too high; attention it has right on meta."""
    layer = "{token_mixer: {kind: attention, n_heads: 2, d_conv: 4}}"
    found = verify_costs(compiler.build_graph(make(f"causal: true\nlayers: [{layer}]"), zoo=zoo), zoo)
    whole = found.checks[-1]
    assert found.exact
    assert whole.counter_macs == whole.macs
    assert whole.train_macs is not None
    assert whole.counter_train_macs is not None
    (difference,) = whole.counter_differences
    name, gap = difference.split()
    assert name == "convolution_backward"
    assert whole.train_macs + int(gap.replace(",", "")) == whole.counter_train_macs > whole.train_macs


def test_a_kernel_of_ones_own_is_refused_until_it_is_priced(make: Make, zoo: Zoo) -> None:
    refused = verified(Kernel, make, zoo)
    assert refused.exact is False
    assert refused.unknown_ops == ["archspec_tests::times"]
    assert verified(PricedKernel, make, zoo).exact is True
