"""The gate refuses planted leaks and names the layer; it is fast, and lets sound models through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import ClassVar, Literal

import pytest
import torch
from pydantic import Field
from torch import Tensor, nn

from archspec import Capabilities, Cost, CostContext, MixerConfig, Site, SpecError
from archspec.spec import ModelSpec
from compiler import build_graph, causality_gate, compile_spec
from compiler.causality_gate import causality_gate as gate
from compiler.graph import Graph, ops
from compiler.passes.lower import lower
from zoo import Zoo
from zoo.contract import Mixer

SpecMaker = Callable[..., ModelSpec]


class Leaky(Mixer):
    """A causal mean, and behind a gate that starts closed a glance at the token ``reach`` positions later."""

    class Config(MixerConfig):
        kind: Literal["leaky"] = "leaky"
        reach: int = Field(1, ge=0)
        when_trained: bool = False

        def cost(self, ctx: CostContext) -> Cost:
            return Cost()

        def capabilities(self) -> Capabilities:
            return Capabilities(causal="always", decode="none")

    config: Config
    examples: ClassVar = (Config(),)

    def __init__(self, config: Config, site: Site):
        super().__init__(config, site)
        self.gate = nn.Parameter(torch.zeros(site.d_model))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = x.cumsum(1) / torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
        if self.config.reach and (self.training or not self.config.when_trained):
            y = y + self.gate * torch.roll(x, -self.config.reach, dims=1)
        return y

    reference = forward


@pytest.fixture
def leaky_zoo(zoo: Zoo) -> Iterator[Zoo]:
    yield Zoo({**zoo.classes, "token_mixer": {**zoo.classes["token_mixer"], "leaky": Leaky}})
    causality_gate._layer_leak.cache_clear()


@pytest.mark.parametrize(
    "leak", ["{kind: leaky}", "{kind: leaky, reach: 5}", "{kind: leaky, when_trained: true}"]
)
def test_a_leak_behind_a_closed_gate_is_named_with_its_place(
    make_spec: SpecMaker, leaky_zoo: Zoo, leak: str
) -> None:
    layers = f"- {{channel_mixer: mlp}}\n- repeat: 2\n  layers: [{{token_mixer: {leak}}}]"
    spec = make_spec(layers, zoo=leaky_zoo)
    with pytest.raises(SpecError) as caught:
        compile_spec(spec, zoo=leaky_zoo)
    (problem, _) = caught.value.problems  # one per copy
    assert problem.message.startswith("layers.1.token_mixer ('leaky') breaks 'causal: true'")
    assert (problem.path, problem.file, problem.line) == ("layers[1].layers[0].token_mixer", "test.yaml", 13)
    compile_spec(spec, zoo=leaky_zoo, gate=False)


def test_a_sound_plug_in_passes(make_spec: SpecMaker, leaky_zoo: Zoo) -> None:
    compile_spec(make_spec("- {token_mixer: {kind: leaky, reach: 0}}", zoo=leaky_zoo), zoo=leaky_zoo)


def test_a_bidirectional_model_promises_nothing(make_spec: SpecMaker, leaky_zoo: Zoo) -> None:
    compile_spec(make_spec("- {token_mixer: leaky}", "causal=false", zoo=leaky_zoo), zoo=leaky_zoo)


def test_selection_by_the_whole_sequence_is_a_leak(make_spec: SpecMaker, zoo: Zoo) -> None:
    """Routing's ``top_w`` has no gradient from the future, and past outputs move all the same."""
    layers = "- {token_mixer: {kind: routing, selection: top_w, n_clusters: 3, cluster_window: 6, window: 5}}"
    graph = build_graph(make_spec(layers, "causal=false"))
    forced = graph.graph["spec"].model_copy(update={"causal": True})
    graph.graph["spec"] = forced
    with pytest.raises(SpecError, match=r"layers\.0\.token_mixer \('routing'\) breaks 'causal: true'"):
        gate(graph, lower(graph, zoo, seed=0), zoo)


LEAKY = """
- token_mixer:
    {kind: routing, selection: top_w, n_clusters: 3, cluster_window: 6, window: 5, share_qk: true, allow_leaky: true}
"""


def test_leak_detected_for_topk(make_spec: SpecMaker, zoo: Zoo) -> None:
    """Who insists on ``top_w`` in a causal model may build it ungated, warned; no gate ever lets it pass."""
    spec = make_spec(LEAKY)
    with pytest.raises(SpecError, match=r"layers\.0\.token_mixer \('routing'\) breaks 'causal: true'"):
        compile_spec(spec)
    model = compile_spec(spec, gate=False)
    assert ["'top_w' leaks in a causal model" in warning.message for warning in model.warnings] == [True]
    assert model.warnings[0].path == "layers[0].token_mixer"
    with pytest.raises(SpecError, match="depend on inputs after it"):
        gate(model.graph, model.module, zoo, weights="own")  # what a search asks of a front's members
    with pytest.raises(SpecError, match="decode"):
        model.decoder()


def test_unshared_rank_mask_refused(make_spec: SpecMaker) -> None:
    with pytest.raises(SpecError, match="'allow_leaky' needs 'share_qk: true'"):
        make_spec(LEAKY.replace("share_qk: true", "share_qk: false"))


FIT = """
- fit:
    n_groups: 4
    n_latents: 2
    d_latent: 12
    schedule: "(1)1(1)"
    local: {token_mixer: attention}
    global: {token_mixer: {kind: attention, n_heads: 2}}
"""


def unshifted(graph: Graph) -> Graph:
    """The graph with the write's shift taken out: a classic."""
    for name, op in list(ops(graph)):
        if op.kind == "shift":
            (source,) = graph.predecessors(name)
            (reader,) = graph.successors(name)
            graph.add_edge(source, reader, key=0)
            graph.remove_node(name)
    return graph


def test_a_leak_of_the_wiring_is_found_though_every_layer_is_sound(make_spec: SpecMaker, zoo: Zoo) -> None:
    spec = make_spec(FIT)
    gate(graph := build_graph(spec), lower(graph, zoo, seed=0), zoo)
    graph = unshifted(build_graph(spec))
    with pytest.raises(SpecError, match="though no single layer does") as caught:
        gate(graph, lower(graph, zoo, seed=0), zoo)
    assert caught.value.path == "causal"


def test_trained_weights_are_tested_as_they_are(make_spec: SpecMaker, leaky_zoo: Zoo) -> None:
    model = compile_spec(make_spec("- {token_mixer: leaky}", zoo=leaky_zoo), zoo=leaky_zoo, gate=False)
    gate(model.graph, model.module, leaky_zoo, weights="own")  # its gate is closed
    with torch.no_grad():
        model.module.get_submodule("layers.0.token_mixer").gate.fill_(1e-3)
    with pytest.raises(SpecError):
        gate(model.graph, model.module, leaky_zoo, weights="own")


@pytest.mark.parametrize(
    "overrides",
    [
        ["stem=linear", "input={kind: features, d_input: 3, seq_len: 24}"],
        ["stem={kind: patch, size: 4}", "input={kind: image, height: 8, width: 8}"],
        ["stem={kind: embedding, cls_token: true}"],
    ],
    ids=["features", "image", "cls token"],
)
def test_inputs_of_every_kind_are_perturbed(make_spec: SpecMaker, overrides: list[str]) -> None:
    head = "head={kind: classifier, n_classes: 3, pool: last}"
    compile_spec(make_spec("- {token_mixer: {kind: mamba2, d_head: 16}}", head, *overrides))


def test_each_kind_of_layer_is_tested_once(make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    tested = []
    original = causality_gate.causality_leak

    def counting(module: nn.Module, *args: object, **kwargs: object) -> object:
        tested.append(type(module).__name__)
        return original(module, *args, **kwargs)

    causality_gate._layer_leak.cache_clear()
    monkeypatch.setattr(causality_gate, "causality_leak", counting)
    spec = make_spec("- repeat: 3\n  layers: [{token_mixer: attention, channel_mixer: mlp}]")
    compile_spec(spec)
    assert sorted(tested) == ["Attention", "GraphModule", "MLP", "RMSNorm"]
    compile_spec(spec)
    assert tested[4:] == ["GraphModule"]


def test_the_whole_model_is_tested_beyond_the_second_group(make_spec: SpecMaker) -> None:
    overrides = ("input.seq_len=480", "layers[0].fit.n_groups=4")
    assert max(causality_gate._reaches(build_graph(make_spec(FIT, *overrides)))) == 2 * 120 + 3
    assert (
        max(causality_gate._reaches(build_graph(make_spec("- {token_mixer: pool}", "input.seq_len=480"))))
        < 100
    )


def test_small_tests_take_one_thread_and_give_the_others_back(
    make_spec: SpecMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []
    original = causality_gate.causality_leak

    def counting(*args: object, **kwargs: object) -> object:
        threads.append(torch.get_num_threads())
        return original(*args, **kwargs)

    monkeypatch.setattr(causality_gate, "causality_leak", counting)
    causality_gate._layer_leak.cache_clear()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        compile_spec(make_spec("- {token_mixer: pool}"))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(threads) == {1}


def test_lengths_reach_past_the_blocks_that_a_configuration_names() -> None:
    site = Site(16, 1024, causal=True)
    assert causality_gate._reach(Leaky.Config(reach=200), site) == 201
    assert causality_gate._reach(Leaky.Config(reach=200), Site(16, 100, causal=True)) == 100
    assert causality_gate._reach(Leaky.Config(reach=9999), site) == 65  # nothing so long can be reached
