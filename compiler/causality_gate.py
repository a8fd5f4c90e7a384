"""Graph, module -> nothing or a SpecError: perturb a model that promises causality, by layer and whole.

What passes is tested by perturbation, not proved: see ``zoo/causality.py`` for how. The lengths reach past
every block, span and window that the configurations name, up to ``LONGEST``; very wide layers are tested at
shorter ones.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, fx, nn

from archspec import ComponentConfig, FeatureInput, Input, Problem, Role, Site, SpecError, TokenInput
from compiler.cost.closed_form import stem_length
from compiler.graph import Graph, Op, OpKind, must_be_causal, ops, spec_of
from compiler.random_inputs import random_inputs
from zoo import Zoo
from zoo.causality import Leak, Sampler, causality_leak, token_ids, vectors
from zoo.contract import Component, Norm, Transfer

LONGEST = 513
LARGEST_WHOLE_MODEL = 50_000_000  # parameters
_LAYER_WORK, _MODEL_WORK = 1e11, 3e11  # FLOPs that the test of a layer and of the model may take, about
_SMALL = 20_000_000  # parameters, up to which one thread does
_RUNS = 40  # forward passes of one test
_TESTED: tuple[OpKind, ...] = ("token_mixer", "channel_mixer", "norm", "cross")
_SOURCE_LEN = 37  # of what the layers of a decoder read in the test


def causality_gate(
    graph: Graph, module: fx.GraphModule, zoo: Zoo, *, weights: Literal["random", "own"] = "random"
) -> None:
    """Refuse a model with ``causal: true`` whose outputs depend on the future, naming the layer.

    ``weights="own"`` tests the whole model with the weights it has, as after training.
    """
    spec = spec_of(graph)
    if not spec.causal:
        return
    problems = [] if weights == "own" else list(dict.fromkeys(_leaking_layers(graph, zoo)))
    if not problems and (leak := _whole_model_leak(graph, module, weights)) is not None:
        message = f"the model breaks 'causal: true', though no single layer does: {leak}"
        problems = [spec.problem(("causal",), message)]
    if problems:
        raise SpecError(problems=problems)


def _leaking_layers(graph: Graph, zoo: Zoo) -> Iterator[Problem]:
    for name, op in ops(graph):
        if op.kind in _TESTED and op.config is not None and must_be_causal(graph, op.stream):
            assert op.site is not None
            role: Role = "transfer" if op.kind == "cross" else op.kind  # type: ignore[assignment]
            cls = zoo.component(role, op.config)
            leak = _layer_leak(cls, op.config, op.site, op.d_source or 0)  # type: ignore[arg-type]
            if leak is not None:
                what = f"{name} ('{op.config.kind}') breaks 'causal: true': {leak}"
                yield spec_of(graph).problem(op.origin, what, "take a causal mixer, or say 'causal: false'")


@functools.lru_cache(maxsize=4096)
def _layer_leak(cls: type[Component], config: ComponentConfig, site: Site, d_source: int) -> Leak | None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if issubclass(cls, Transfer):
            transfer = cls(config, site, d_source)  # type: ignore[arg-type]
            layer: nn.Module = _Reading(transfer, torch.randn(2, _SOURCE_LEN, d_source))
        else:
            layer = cls(config, site.d_model if issubclass(cls, Norm) else site)
    longest = _affordable(layer, _reach(config, site), work=_LAYER_WORK)
    return _leak(layer, vectors(site.d_model), _lengths(longest, config), block=site.block)


def _leak(layer: nn.Module, sample: Sampler, lengths: tuple[int, ...], *, block: int = 1) -> Leak | None:
    with _fitting_threads(layer):
        leak = causality_leak(layer, sample, lengths=lengths, seeds=(0,), block=block)
        if leak is not None and leak.what == "not finite":  # weights that no initialisation would draw
            return causality_leak(layer, sample, lengths=lengths, seeds=(0,), weights="own", block=block)
    return leak


def _whole_model_leak(graph: Graph, module: fx.GraphModule, weights: Literal["random", "own"]) -> Leak | None:
    if _size(module) > LARGEST_WHOLE_MODEL:
        return None
    spec = spec_of(graph)
    stem: Op = graph.nodes["stem"]["op"]
    assert stem.site is not None
    sample = _raw_inputs(spec.input) if stem.site.seq_len == spec.input.seq_len else None
    trunk: nn.Module = _trunk(module, from_stem=sample is None)
    sample = sample or vectors(spec.d_model)
    if spec.encoder is not None:
        trunk = _Reading(trunk, _source(graph), source_first=True)
    longest = _affordable(trunk, max(_reaches(graph)), work=_MODEL_WORK)
    lengths = tuple(sorted({min(7, longest), longest}))
    if weights == "random":
        return _leak(trunk, sample, lengths)
    with _fitting_threads(trunk):
        return causality_leak(trunk, sample, lengths=lengths, seeds=(1,), weights="own")


def _raw_inputs(input: Input) -> Sampler | None:
    """Random inputs whose positions are the stream's; images have no such thing."""
    if isinstance(input, TokenInput):
        return token_ids(input.vocab_size)
    return vectors(input.d_input) if isinstance(input, FeatureInput) else None


def _trunk(module: fx.GraphModule, *, from_stem: bool) -> fx.GraphModule:
    """The model without its head, on raw inputs or on the stem's output."""
    code = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    has_source = any(node.target == "source" for node in module.graph.nodes)
    if has_source:
        source = code.placeholder("source")
    x = code.placeholder("x") if from_stem else None
    for node in module.graph.nodes:
        if node.op == "placeholder" and node.target in ("mask", "source_mask"):
            values[node] = code.placeholder(node.target, default_value=None)
        elif node.op == "placeholder" and node.target == "source":
            values[node] = source
        elif node.target == "inputs" and from_stem:
            continue
        elif node.target == "stem" and node.op == "call_module" and x is not None:
            values[node] = x
        elif node.target == "head" and node.op == "call_module":
            code.output(values[node.args[0]])
            break
        else:
            values[node] = code.node_copy(node, values.__getitem__)
    return fx.GraphModule(module, code)


class _Reading(nn.Module):
    """A decoder, or a layer of one, beside a source that stays the same whatever the target is."""

    source: Tensor

    def __init__(self, reader: nn.Module, source: Tensor, *, source_first: bool = False):
        super().__init__()
        self.reader, self.source_first = reader, source_first
        self.register_buffer("source", source, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.reader(self.source, x) if self.source_first else self.reader(x, self.source)
        return y


def _source(graph: Graph) -> Tensor:
    """Two sources for the encoder, short ones where it takes them."""
    encoder = spec_of(graph).encoder
    assert encoder is not None
    inside = (op for _, op in ops(graph) if op.stream is not None and op.stream.of_encoder)
    steps = (op.config.capabilities().length_multiple_of for op in inside if op.config is not None)
    step = math.lcm(*steps)
    length = min(encoder.input.seq_len, -(-_SOURCE_LEN // step) * step)
    try:
        stem_length(graph, graph.nodes["encoder.stem"]["op"], length)
    except SpecError:
        length = encoder.input.seq_len
    return random_inputs(encoder.input, batch_size=2, seq_len=length, dtype=torch.float64)


def _reaches(graph: Graph) -> Iterator[int]:
    for _, op in ops(graph):
        if op.stream is not None and op.stream.of_encoder:
            continue
        if op.kind == "group" and op.stream is not None and op.stream.name == "tokens":
            yield min(spec_of(graph).input.seq_len, 2 * op.number("length") + 3)
        elif op.config is not None and op.site is not None and op.stream is not None and op.stream.fold == 1:
            yield min(op.site.seq_len, _reach(op.config, op.site))


def _reach(config: ComponentConfig, site: Site) -> int:
    """A length past whatever the configuration may call a block, a span or a window."""
    sizes = [value for value in config.model_dump().values() if type(value) is int and value < LONGEST]
    return min(
        site.seq_len,
        max(33, 2 * math.isqrt(site.seq_len) + 1, 2 * site.block + 1, *(size + 1 for size in sizes), 0),
    )


def _affordable(module: nn.Module, length: int, *, work: float) -> int:
    return min(length, max(8, int(work / (4 * _RUNS * max(1, _size(module))))))


@contextmanager
def _fitting_threads(module: nn.Module) -> Iterator[None]:
    """One thread for small modules: more gain nothing, and on a busy machine they wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if _size(module) < _SMALL else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _size(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _lengths(longest: int, config: ComponentConfig) -> tuple[int, ...]:
    """A short and a long legal length."""
    step = config.capabilities().length_multiple_of
    return tuple(sorted({max(1, -(-length // step)) * step for length in (min(7, longest), longest)}))
