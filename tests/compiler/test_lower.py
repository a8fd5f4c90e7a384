"""The lowered module: operations of a hand-written model, initialisation, modules, what torch accepts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn

from archspec import Capabilities, Cost, CostContext, MixerConfig, Site
from archspec.spec import ModelSpec
from compiler import CompiledModel, compile_spec
from zoo import Zoo
from zoo.contract import Mixer, MixerOutput, ParamHint

SpecMaker = Callable[..., ModelSpec]

HYBRID = """
- {token_mixer: attention, channel_mixer: swiglu}
- {token_mixer: {parallel: [{kind: attention, window: 4}, {kind: mamba2, d_head: 16}], combine: concat}}
- loop: 2
  layers: [{channel_mixer: mlp}]
- fit:
    n_groups: 4
    n_latents: 2
    d_latent: 12
    schedule: "(1)1(1)"
    positions: learned
    local: {token_mixer: attention}
    global: {token_mixer: {kind: attention, n_heads: 2}, channel_mixer: mlp}
"""


class Tallying(Mixer):
    """A mixer with side products: it passes x on, and reports its mean square."""

    class Config(MixerConfig):
        kind: Literal["tallying"] = "tallying"

        def cost(self, ctx: CostContext) -> Cost:
            return Cost()

        def capabilities(self) -> Capabilities:
            return Capabilities(causal="always", decode="constant", aux_loss=True, updates_buffers=True)

    config: Config
    examples: ClassVar = (Config(),)
    total: Tensor

    def __init__(self, config: Config, site: Site):
        super().__init__(config, site)
        self.scale = nn.Parameter(torch.ones(site.d_model))
        self.register_buffer("total", torch.zeros(()))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> MixerOutput:
        y = x * self.scale
        return MixerOutput(y, y.square().mean(), x.detach().square().mean())

    reference = forward

    def apply_statistics(self, statistics: Tensor) -> None:
        self.total += statistics

    def param_hints(self) -> dict[str, ParamHint]:
        return {"scale": ParamHint(lr_scale=0.5)}


@pytest.fixture
def tallying_zoo(zoo: Zoo) -> Zoo:
    mixers = {**zoo.classes["token_mixer"], "tallying": Tallying}
    return Zoo({**zoo.classes, "token_mixer": mixers})


class ByHand(nn.Module):
    """What one would write for two layers of attention and SwiGLU, pre-norm, with a tied head."""

    def __init__(self, model: CompiledModel):
        super().__init__()
        self.embed, self.norm, self.head = (model.module.get_submodule(n) for n in ("stem", "norm", "head"))
        self.layers = nn.ModuleList(
            nn.ModuleList(
                model.module.get_submodule(f"layers.{i}.{part}")
                for part in ("token_norm", "token_mixer", "channel_norm", "channel_mixer")
            )
            for i in range(2)
        )

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.embed(ids)
        for token_norm, token_mixer, channel_norm, channel_mixer in self.layers:
            x = x + token_mixer(token_norm(x), mask=mask)
            x = x + channel_mixer(channel_norm(x))
        return self.head(self.norm(x))


def aten(module: nn.Module, *inputs: Tensor) -> list[str]:
    exported = torch.export.export(module, inputs)
    return [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("masked", [False, True])
def test_the_graph_runs_the_operations_of_a_model_written_by_hand(make_spec: SpecMaker, masked: bool) -> None:
    layers = "- repeat: 2\n  layers: [{token_mixer: attention, channel_mixer: swiglu}]"
    model = compile_spec(make_spec(layers, "head={kind: lm, tied: true}"), gate=False)
    by_hand = ByHand(model)
    ids = torch.randint(31, (2, 24))
    inputs = (ids, torch.arange(24) < torch.tensor([[24], [17]])) if masked else (ids,)
    assert torch.equal(model(*inputs), by_hand(*inputs))
    ours = aten(model.module, *inputs)
    assert len(ours) > 30
    assert ours == aten(by_hand, *inputs)


@pytest.mark.parametrize("masked", [False, True])
def test_export_with_a_dynamic_batch(make_spec: SpecMaker, masked: bool) -> None:
    model = compile_spec(make_spec(HYBRID), gate=False).eval()
    ids, lengths = torch.randint(31, (5, 24)), torch.tensor([[24], [17], [6], [7], [1]])
    mask = torch.arange(24) < lengths
    batch = torch.export.Dim("batch", min=2)
    args = (ids[:2], mask[:2]) if masked else (ids[:2],)
    exported = torch.export.export(model.module, args, dynamic_shapes=({0: batch},) * len(args)).module()
    full = (ids, mask) if masked else (ids,)
    torch.testing.assert_close(exported(*full), model(*full))


def test_torch_compile_takes_the_module_whole_with_and_without_a_mask(make_spec: SpecMaker) -> None:
    model = compile_spec(make_spec(HYBRID), gate=False).eval()
    compiled = torch.compile(model.module, fullgraph=True, backend="aot_eager")
    ids = torch.randint(31, (2, 24))
    mask = torch.arange(24) < torch.tensor([[24], [17]])
    torch.testing.assert_close(compiled(ids), model(ids))
    torch.testing.assert_close(compiled(ids, mask), model(ids, mask))


def test_weights_depend_on_the_seed_alone(make_spec: SpecMaker) -> None:
    spec = make_spec(HYBRID)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = compile_spec(spec, seed=5).module.state_dict()
    assert torch.equal(before, torch.random.get_rng_state()), "compiling moved the global random state"
    torch.manual_seed(2)
    second = compile_spec(spec, seed=5, gate=False).module.state_dict()
    other = compile_spec(spec, seed=6, gate=False).module.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["stem.tokens.weight"], other["stem.tokens.weight"])


def test_a_layer_starts_alike_whatever_else_the_model_has(make_spec: SpecMaker) -> None:
    short = compile_spec(make_spec("- {token_mixer: attention}\n- {channel_mixer: mlp}"), gate=False)
    long = compile_spec(
        make_spec("- {token_mixer: mamba2}\n- {channel_mixer: mlp}", "layers[0].token_mixer.d_head=16"),
        gate=False,
    )
    name = "layers.1.channel_mixer.up.weight"
    assert torch.equal(short.module.state_dict()[name], long.module.state_dict()[name])


def test_copies_of_a_repeat_start_differently_and_turns_of_a_loop_share(make_spec: SpecMaker) -> None:
    layers = "- repeat: 2\n  layers: [{channel_mixer: mlp}]\n- loop: 3\n  layers: [{channel_mixer: mlp}]"
    model = compile_spec(make_spec(layers), gate=False)
    state = model.module.state_dict()
    ups = {name for name in state if name.endswith("up.weight")}
    assert ups == {f"layers.{i}.channel_mixer.up.weight" for i in range(3)}
    assert not torch.equal(
        state["layers.0.channel_mixer.up.weight"], state["layers.1.channel_mixer.up.weight"]
    )


def test_a_loop_runs_its_module_once_per_turn(make_spec: SpecMaker) -> None:
    model = compile_spec(make_spec("- loop: 3\n  layers: [{channel_mixer: mlp}]"), gate=False).to(
        torch.float64
    )
    ids = torch.randint(31, (2, 9))
    part = model.module.get_submodule
    x = part("stem")(ids)
    for _ in range(3):
        x = x + part("layers.0.channel_mixer")(part("layers.0.channel_norm")(x))
    torch.testing.assert_close(model(ids), part("head")(part("norm")(x)), rtol=0, atol=1e-12)


def test_parallel_mixers_are_combined(make_spec: SpecMaker) -> None:
    mixer = "{parallel: [attention, {kind: attention, window: 3}], combine: gated}"
    model = compile_spec(make_spec(f"- {{token_mixer: {mixer}}}"), gate=False).to(torch.float64)
    part = model.module.get_submodule
    gate = part("layers.0.token_mixer.combine").gate
    with torch.no_grad():
        gate.copy_(torch.tensor([2.0, -1.0]))
    ids = torch.randint(31, (2, 9))
    x = part("stem")(ids)
    h = part("layers.0.token_norm")(x)
    y = 2 * part("layers.0.token_mixer.0")(h) - part("layers.0.token_mixer.1")(h)
    torch.testing.assert_close(model(ids), part("head")(part("norm")(x + y)), rtol=0, atol=1e-12)


def test_a_tied_head_shares_the_table(make_spec: SpecMaker) -> None:
    model = compile_spec(make_spec("- {channel_mixer: mlp}", "head={kind: lm, tied: true}"), gate=False)
    assert model.module.head.weight is model.module.stem.tokens.weight
    model.to(torch.float64)
    assert model.module.head.weight is model.module.stem.tokens.weight
    assert len({id(p) for p in model.parameters()}) == len(list(model.parameters()))


def test_side_products_reach_the_trainer(make_spec: SpecMaker, tallying_zoo: Zoo) -> None:
    layers = "- loop: 2\n  layers: [{token_mixer: tallying}]\n- {token_mixer: attention}"
    model = compile_spec(make_spec(layers, zoo=tallying_zoo), zoo=tallying_zoo)
    ids = torch.randint(31, (2, 9))
    logits, aux_loss, statistics, latents = model.outputs(ids)
    assert latents is None
    assert torch.equal(logits, model(ids))
    assert list(statistics) == ["layers.0.token_mixer", "layers.0.token_mixer@2"]
    assert aux_loss is not None
    torch.testing.assert_close(aux_loss.detach(), sum(statistics.values()))  # the scale is 1
    model.apply_statistics(statistics)
    torch.testing.assert_close(
        model.module.layers.get_submodule("0.token_mixer").total, sum(statistics.values())
    )
    aux_loss.backward()
    assert model.module.layers.get_submodule("0.token_mixer").scale.grad is not None
    exported = torch.export.export(model.module, (ids,)).module()
    torch.testing.assert_close(exported(ids)[1][1], model.module(ids)[1][1])


def test_a_model_without_side_products_has_none(make_spec: SpecMaker) -> None:
    model = compile_spec(make_spec("- {channel_mixer: mlp}"), gate=False)
    assert model.outputs(torch.randint(31, (2, 9)))[1:] == (None, {}, None)


def test_parameter_groups_hold_each_parameter_once_with_its_hints(
    make_spec: SpecMaker, tallying_zoo: Zoo
) -> None:
    spec = make_spec(
        HYBRID + "- {token_mixer: tallying}", "head={kind: lm, tied: true, bias: true}", zoo=tallying_zoo
    )
    model = compile_spec(spec, gate=False, zoo=tallying_zoo)
    groups = model.param_groups(lr=0.1, weight_decay=0.01)
    held = Counter(id(p) for group in groups for p in group["params"])
    assert held == Counter(id(p) for p in model.parameters())
    rules: dict[str, Any] = {
        name: (group["weight_decay"], group["lr"], group["lr_scale"])
        for group in groups
        for name in group["names"]
    }
    assert rules["layers.0.token_mixer.qkv.weight"] == (0.01, 0.1, 1.0)
    assert rules["layers.4.token_mixer.scale"] == (
        0.01,
        0.05,
        0.5,
    )  # a hint comes before the rule for vectors
    for name in (
        "stem.tokens.weight", "head.bias", "norm.weight", "layers.0.token_norm.weight",
        "layers.2.channel_mixer.up.bias", "layers.3.latents.weight", "layers.3.positions.weight",
        "layers.1.token_mixer.1.A_log",
    ):  # fmt: skip
        assert rules[name][0] == 0.0, name
    torch.optim.AdamW(groups)


def test_a_model_has_two_modes_and_a_type(make_spec: SpecMaker) -> None:
    model = compile_spec(make_spec("- {token_mixer: attention}"), gate=False)
    assert not any(part.training for part in model.eval().module.modules())
    assert all(part.training for part in model.train().module.modules())
    assert model.to(torch.float64)(torch.randint(31, (1, 3))).dtype == torch.float64


def test_initialisation_survives(make_spec: SpecMaker, zoo: Zoo) -> None:
    """No pass over the whole model touches a parameter: each is what its component drew with its own seed."""
    from compiler.passes.lower import _seed_of, component_of, module_ops

    model = compile_spec(make_spec(HYBRID), seed=7)
    model.param_groups(0.1, 0.01)
    for path, op in module_ops(model.graph).items():
        torch.manual_seed(_seed_of(path, 7))
        fresh = component_of(op, zoo, model.graph)
        for name, tensor in fresh.state_dict().items():
            assert torch.equal(tensor, model.module.state_dict()[f"{path}.{name}"]), f"{path}.{name}"


def test_code_reads_like_code(make_spec: SpecMaker) -> None:
    model = compile_spec(make_spec("- {token_mixer: attention, channel_mixer: swiglu}"), gate=False)
    assert model.code == (
        "def forward(self, inputs, mask = None):\n"
        "    x = self.stem(inputs)\n"
        "    h = self.layers[0].token_norm(x)\n"
        "    y = self.layers[0].token_mixer(h, mask=mask)\n"
        "    x_1 = x + y\n"
        "    h_1 = self.layers[0].channel_norm(x_1)\n"
        "    y_1 = self.layers[0].channel_mixer(h_1)\n"
        "    x_2 = x_1 + y_1\n"
        "    h_2 = self.norm(x_2)\n"
        "    logits = self.head(h_2)\n"
        "    return logits\n"
    )
