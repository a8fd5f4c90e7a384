"""Graph -> Graph: give every node its stream (fold, length, width), and every component its site."""

from __future__ import annotations

from dataclasses import replace

from archspec import Problem, Site
from compiler.graph import (
    Graph,
    Op,
    Stream,
    all_inputs,
    input_of,
    must_be_causal,
    ops,
    replace_ops,
    spec_of,
)
from zoo.contract import HeadConfig, StemConfig


def infer_shapes(graph: Graph) -> Graph:
    """Lengths are the greatest ones, from ``input.seq_len``. What does not fit is noted for ``check``."""
    infer = _Inference(graph)
    inputs = all_inputs(graph)
    for name, op in ops(graph):
        streams = [infer.streams[source] for source in inputs[name]]
        op = infer.sited(op, streams)
        stream = infer.stream(op, streams)
        infer.streams[name], infer.ops[name] = stream, op.placed(stream=stream)
    typed = replace_ops(graph, infer.ops)
    typed.graph["problems"] = (*graph.graph["problems"], *dict.fromkeys(infer.problems))
    return typed


class _Inference:
    def __init__(self, graph: Graph):
        self.graph = graph
        self.spec = spec_of(graph)
        self.streams: dict[str, Stream] = {}
        self.ops: dict[str, Op] = {}
        self.problems: list[Problem] = []

    def sited(self, op: Op, streams: list[Stream]) -> Op:
        """``op`` with its site; a site is that of the stream a component makes or queries with."""
        if op.kind == "stem":
            causal = must_be_causal(self.graph, streams[0])
            return op.placed(site=Site(self.width(op), self.stem_length(op), causal))
        if op.kind == "condition_tokens":
            condition = self.spec.condition
            assert condition is not None
            return op.placed(site=Site(condition.width, condition.n_tokens, self.spec.causal))
        if op.kind == "earlier_latents":
            return self.with_group_length(op, self.streams["stem"])
        if op.kind == "latents":
            length = op.number("n_groups") * op.number("n_latents")
            op = self.with_group_length(op, streams[0])
            causal = must_be_causal(self.graph, streams[0])
            return op.placed(site=Site(op.number("width"), length, causal, op.number("n_latents")))
        if op.kind in ("group", "mask_view"):
            return self.with_group_length(op, streams[-1])
        if op.config is None:
            return op
        x = streams[0]
        causal = must_be_causal(self.graph, x)
        site = Site(x.width, x.length, causal, x.block if causal else 1)
        reads = op.kind in ("read", "write", "cross")
        return op.placed(site=site, d_source=streams[1].width if reads else None)

    def stream(self, op: Op, streams: list[Stream]) -> Stream:
        """The stream that ``op`` makes; streams that meet are equal, since ``expand`` pairs them so."""
        input, x = input_of(self.graph, op), streams[0] if streams else None
        match op.kind:
            case "input":
                field = {"features": "d_input", "image": "n_channels"}.get(input.kind)
                width = getattr(input, field) if field else 1
                return Stream("input", input.seq_len, width, of_encoder=op.of_encoder)
            case "mask":
                return Stream("mask", input.seq_len, 1, of_encoder=op.of_encoder)
            case "condition":
                assert self.spec.condition is not None
                return Stream("condition", self.spec.condition.seq_len, self.spec.condition.d_input or 0)
            case "time":
                return Stream("time", 1, 1)
            case "condition_tokens":
                assert op.site is not None
                return Stream("condition", op.site.seq_len, op.site.d_model)
            case "earlier_latents":
                m = op.number("n_latents")
                return Stream("latents", op.number("n_groups") * m, op.number("width"), block=m)
            case "stem":
                assert op.site is not None
                return Stream("tokens", op.site.seq_len, op.site.d_model, of_encoder=op.of_encoder)
            case "latents":
                assert op.site is not None
                assert x is not None
                return Stream(
                    "latents", op.site.seq_len, op.site.d_model, block=op.number("n_latents"),
                    of_encoder=x.of_encoder,
                )  # fmt: skip
            case "head":
                assert x is not None
                return self.head_stream(op, x)
            case "ungroup":
                return streams[1]
        assert x is not None, f"{op.kind} has no input"
        if op.kind == "mask_view":
            return self.mask_view(op, x)
        if op.kind == "group":
            n = op.number("length")
            fold = dict(op.attributes).get(
                "n_groups", -(-x.length // n)
            )  # as said, even where it divides not
            assert isinstance(fold, int)
            return Stream(x.name, n, x.width, fold=fold, of_encoder=x.of_encoder)
        if op.kind in ("add", "combine"):
            assert all(y == x for y in streams), f"{op.kind} joins {streams}"
        if op.kind in ("read", "write", "cross"):
            assert streams[1].fold == x.fold, f"{op.kind} joins {streams}"
        return x

    def width(self, stem: Op) -> int:
        encoder = self.spec.encoder if stem.of_encoder else None
        return (encoder and encoder.d_model) or self.spec.d_model

    def stem_length(self, op: Op) -> int:
        stem, input = op.config, input_of(self.graph, op)
        assert isinstance(stem, StemConfig), f"{stem} is no StemConfig"
        if (misfit := stem.input_misfit(input)) is not None:
            self.problem(op, misfit)
            return input.seq_len
        return stem.out_length(input)

    def head_stream(self, op: Op, x: Stream) -> Stream:
        head, input = op.config, self.spec.input
        assert isinstance(head, HeadConfig), f"{head} is no HeadConfig"
        length = x.length if head.per_position else 1
        if (misfit := head.input_misfit(input)) is not None:
            self.problem(op, misfit)
            return Stream("output", length, 1)
        return Stream("output", length, head.output_width(input))

    def mask_view(self, op: Op, mask: Stream) -> Stream:
        match op.attribute("view"):
            case "stem":
                stem = "encoder.stem" if mask.of_encoder else "stem"
                return replace(mask, length=self.streams[stem].length)
            case "group":
                return replace(mask, length=op.number("length"), fold=op.number("n_groups"))
            case _:
                return replace(mask, length=op.number("n_groups") * op.number("n_latents"))

    def with_group_length(self, op: Op, tokens: Stream) -> Op:
        """Positions per group, where the op cuts tokens: fixed by the greatest length."""
        attributes = dict(op.attributes)
        if "length" in attributes or "n_groups" not in attributes:
            return op
        n_groups = op.number("n_groups")
        if tokens.length % n_groups:
            self.problem(
                op,
                f"n_groups {n_groups} does not divide the {tokens.length} positions of the stream",
                f"try {_nearest_divisor(tokens.length, n_groups)}",
                field="n_groups",
            )
        return replace(op, attributes=(*op.attributes, ("length", -(-tokens.length // n_groups))))

    def problem(self, op: Op, message: str, hint: str | None = None, *, field: str | None = None) -> None:
        path = op.origin if field is None else (*op.origin, field)
        self.problems.append(self.spec.problem(path, message, hint))


def _nearest_divisor(length: int, wanted: int) -> int:
    below = next(n for n in range(min(wanted, length), 0, -1) if length % n == 0)
    above = next((n for n in range(wanted, min(length, 2 * wanted) + 1) if length % n == 0), below)
    return below if wanted - below <= above - wanted else above
