"""Graph -> torch.fx.GraphModule: a module per component, and the code that runs them as written by hand."""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import fx, nn

from compiler import streams
from compiler.graph import Graph, Op, input_of, inputs_of, is_inside, maskless_mixers, must_be_causal, ops
from zoo import Zoo
from zoo.combine import Combine
from zoo.condition import ConditionTokens, SelfCondition
from zoo.contract import Component, Head, HeadConfig, Stem
from zoo.fit import GroupPositions, Latents


def lower(graph: Graph, zoo: Zoo, *, seed: int) -> fx.GraphModule:
    """A model with ``forward(inputs, mask=None)``, freshly initialised; torch's random state is left alone.

    With an encoder it is ``forward(source, inputs, source_mask=None, mask=None)``. A conditioned model takes
    ``condition`` and ``time`` too, and one that conditions itself ``latents``.

    It returns the logits; if mixers return a ``MixerOutput``, (logits, auxiliary losses, statistics), the
    two tuples in the order of ``side_products``; the latents, if they are an input, last. A component's first
    weights depend on ``seed``, its path and itself alone, not on what else the model has.
    """
    root = nn.Module()
    for path, op in module_ops(graph).items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed_of(path, seed))
            _place(root, path, component_of(op, zoo, graph))
    head, stem = root.get_submodule("head"), root.get_submodule("stem")
    assert isinstance(head, Head)
    assert isinstance(stem, Stem)
    if _is_tied(graph):
        head.tie(stem)
    code = _Emitter(graph).emit()
    code.lint()
    return fx.GraphModule(root, code, class_name="Model")


def encoder_of(graph: Graph, module: fx.GraphModule) -> fx.GraphModule:
    """The encoder of ``module`` alone, on the same weights: source, mask -> its output and its mask."""
    code = _Emitter(graph).emit_encoder()
    code.lint()
    return fx.GraphModule(module, code, class_name="Encoder")


def module_ops(graph: Graph) -> dict[str, Op]:
    """The first op of every module; the turns of a loop share one."""
    found: dict[str, Op] = {}
    for _, op in ops(graph):
        if op.module is not None:
            found.setdefault(op.module, op)
    return found


def has_side_products(op: Op) -> bool:
    """Whether the component of ``op`` returns a ``MixerOutput``."""
    if op.kind not in ("token_mixer", "channel_mixer", "read", "write", "cross") or op.config is None:
        return False
    can = op.config.capabilities()
    return can.aux_loss or can.updates_buffers


def side_products(graph: Graph) -> list[str]:
    """The nodes whose auxiliary loss and statistics the model returns, in order."""
    return [name for name, op in ops(graph) if has_side_products(op)]


def _is_tied(graph: Graph) -> bool:
    config = graph.nodes["head"]["op"].config
    assert isinstance(config, HeadConfig)
    return config.is_tied


def _seed_of(path: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}/{path}".encode()).digest()[:7], "big")


def _place(root: nn.Module, path: str, module: nn.Module) -> None:
    *parents, name = path.split(".")
    for parent in parents:
        if parent not in dict(root.named_children()):
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    root.add_module(name, module)


def component_of(op: Op, zoo: Zoo, graph: Graph) -> Component:
    """A fresh component for ``op``, drawn from torch's own random state."""
    config, site = op.config, op.site
    assert config is not None
    assert site is not None, f"{op.module}: shapes are not inferred"
    match op.kind:
        case "combine":
            assert isinstance(config, Combine.Config)
            return Combine(config, site)
        case "latents":
            assert isinstance(config, Latents.Config)
            return Latents(config, site, op.number("length"))
        case "group_positions":
            assert isinstance(config, GroupPositions.Config)
            return GroupPositions(config, site)
        case "condition_tokens":
            assert isinstance(config, ConditionTokens.Config)
            return ConditionTokens(config, site)
        case "self_condition":
            assert isinstance(config, SelfCondition.Config)
            return SelfCondition(config, site)
        case "token_mixer" | "channel_mixer":
            return zoo.component(op.kind, config)(config, site)
        case "stem" | "head":
            return zoo.component(op.kind, config)(config, site, input_of(graph, op))
        case "norm":
            return zoo.component("norm", config)(config, site.d_model)
        case "read" | "write" | "cross":
            return zoo.component("transfer", config)(config, site, op.d_source)
    raise AssertionError(f"no module for {op.kind}")


class _Emitter:
    """Writes the code: x are tokens, g grouped tokens, z latents, h outputs of norms, y of mixers.

    The tokens of an encoder are s.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self.code = fx.Graph()
        self.values: dict[str, fx.Node] = {}
        self.losses: list[fx.Node] = []
        self.statistics: list[fx.Node] = []

    def emit(self) -> fx.Graph:
        for name, op in ops(self.graph):
            self.values[name] = self.value(name, op, [self.values[i] for i in inputs_of(self.graph, name)])
        return self.code

    def emit_encoder(self) -> fx.Graph:
        for name, op in ops(self.graph):
            inputs = inputs_of(self.graph, name)
            if op.kind == "cross":
                self.code.output(tuple(self.values[source] for source in inputs[1:]))
                return self.code
            assert op.stream is not None
            if op.stream.of_encoder:
                self.values[name] = self.value(name, op, [self.values[source] for source in inputs])
        raise AssertionError("nothing reads an encoder")

    def value(self, name: str, op: Op, inputs: list[fx.Node]) -> fx.Node:
        match op.kind:
            case "input":
                return self.code.placeholder(name)
            case "mask" | "condition" | "time" | "earlier_latents":
                return self.code.placeholder(name, default_value=None)
            case "mask_view":
                return self.mask_view(op, inputs)
            case "add":
                return self.call(_stream_name(op), operator.add, *inputs)
            case "group":
                cut = streams.group_whole if self.reads_filling(op) else streams.group
                return self.call(_stream_name(op), cut, inputs[0], op.number("length"))
            case "shift":
                return self.call(_stream_name(op), streams.shift, inputs[0], op.number("length"))
            case "ungroup":
                return self.call(_stream_name(op), streams.ungroup, *inputs)
            case "output":
                return self.output(*inputs)
        assert op.module is not None, f"{name} ({op.kind}) has no module"
        masked = op.kind in ("stem", "token_mixer", "channel_mixer", "head") and len(inputs) > 1
        args, kwargs = (inputs[:1], {"mask": inputs[1]}) if masked else (inputs, {})
        if op.kind in ("read", "write", "cross"):
            args, kwargs = inputs[:2], {"mask": inputs[2]} if len(inputs) > 2 else {}
        value_name = {"norm": "h", "head": "logits"}.get(op.kind) or (
            _stream_name(op) if op.kind in _STREAM_MAKERS else "y"
        )
        if not has_side_products(op):
            return self.create("call_module", op.module, args, kwargs, value_name)
        mixed = self.create("call_module", op.module, args, kwargs, "mixed")
        y = self.call(value_name, getattr, mixed, "y")
        self.losses.append(self.call("aux_loss", getattr, mixed, "aux_loss"))  # here, or y lives to the end
        self.statistics.append(self.call("statistics", getattr, mixed, "statistics"))
        return y

    def reads_filling(self, group: Op) -> bool:
        """Whether a mixer in the groups would read the filling at the end of a group that is not full."""
        causal = must_be_causal(self.graph, group.stream)
        return not causal and any(is_inside(op, group) for op in maskless_mixers(self.graph).values())

    def mask_view(self, op: Op, inputs: list[fx.Node]) -> fx.Node:
        mask = inputs[0]
        match op.attribute("view"):
            case "stem":
                assert op.stream is not None
                if op.stream.length == input_of(self.graph, op).seq_len:
                    return mask
                path = "encoder.stem" if op.of_encoder else "stem"
                stem = self.create("get_attr", path, [], {}, "stem")
                return self.call(f"{_stream_name(op)}_mask", streams.stem_mask, stem, mask)
            case "group":
                return self.call("g_mask", streams.group_mask, *inputs, op.number("length"))
            case _:
                n, m = op.number("length"), op.number("n_latents")
                return self.call("z_mask", streams.latent_mask, mask, n, m)

    def output(self, logits: fx.Node, *latents: fx.Node) -> fx.Node:
        if not self.losses and not latents:
            return self.code.output(logits)
        return self.code.output((logits, tuple(self.losses), tuple(self.statistics), *latents))

    def call(self, name: str, function: Callable[..., object], *args: fx.Node | int | str) -> fx.Node:
        return self.create("call_function", function, list(args), {}, name)

    def create(
        self,
        kind: str,
        target: Callable[..., object] | str,
        args: Sequence[fx.Node | int | str],
        kwargs: Mapping[str, fx.Node],
        name: str,
    ) -> fx.Node:
        return self.code.create_node(kind, target, tuple(args), dict(kwargs), name=name)


_STREAM_MAKERS = ("stem", "latents", "group_positions", "condition_tokens", "self_condition")


def _stream_name(op: Op) -> str:
    assert op.stream is not None
    if op.stream.name in ("latents", "condition"):
        return {"latents": "z", "condition": "c"}[op.stream.name]
    if op.stream.fold > 1:
        return "g"
    return "s" if op.stream.of_encoder else "x"
