"""ModelSpec -> Graph: unroll blocks of layers, spell out norms, residuals, masks and FIT's two streams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from archspec import ComponentConfig
from archspec.components import Parallel
from archspec.nodes import Path
from archspec.schedule import parse_schedule
from archspec.spec import (
    Entry,
    Fit,
    FitBlock,
    Layer,
    Loop,
    ModelSpec,
    Pattern,
    Repeat,
)
from compiler.graph import Graph, Op, OpKind, add_op, new_graph
from compiler.parts import Part, reads_encoder
from zoo.combine import Combine
from zoo.contract import HeadConfig
from zoo.fit import GroupPositions, Latents


def expand(spec: ModelSpec) -> Graph:
    """Layers are numbered flat; the turns of a ``loop`` are nodes ``path``, ``path@2``, ... on one module.

    A mixer ``none`` is dropped with its norm and residual. There is a final norm exactly when the model is
    pre-norm. An encoder comes first, under ``encoder``; each ``cross`` reads its last node.
    """
    build = _Builder(spec)
    encoder = spec.encoder if spec.encoder is not None and reads_encoder(spec.layers) else None
    source = build.add("input", "source", origin=("encoder", "input")) if encoder else ""
    inputs = build.add("input", "inputs", origin=("input",))
    source_mask = build.add("mask", "source_mask", origin=("encoder", "input")) if encoder else ""
    mask = build.add("mask", "mask", origin=("input",))
    refusal = None
    if encoder is not None:
        build.part = Part.of_encoder(encoder, spec)
        read, read_mask = build.trunk(source, source_mask, encoder.stem, encoder.layers)
        build.read = (read, read_mask)
    elif spec.encoder is None:
        refusal = "there is no encoder to read: the model has no 'encoder'"
    else:
        build.problem(("encoder",), "nothing reads the encoder: no layer has a 'cross'")
    build.part = Part("", (), spec.norm, ("norm",), spec.residual, spec.causal, refusal)
    x, mask = build.trunk(inputs, mask, spec.stem, spec.layers)
    assert isinstance(spec.head, HeadConfig), f"{spec.head.kind} is configured by no HeadConfig"
    head_inputs = (x,) if spec.head.per_position else (x, mask)
    head = build.add("head", "head", *head_inputs, config=spec.head, origin=("head",))
    build.add("output", "output", head)
    return build.without_unused_masks()


@dataclass(frozen=True)
class _Fit:
    """A FIT block under construction: its module path and origin, and the nodes that say shapes and masks."""

    fit: Fit
    path: str
    origin: Path
    tokens: str  # the ungrouped tokens
    group_mask: str
    latent_mask: str


class _Builder:
    part: Part
    read: tuple[str, str] = ("", "")  # the encoder's last node and its mask

    def __init__(self, spec: ModelSpec):
        self.spec = spec
        self.graph = new_graph(spec)
        self.n_layers = 0
        self.uses: Counter[str] = Counter()
        self.masked: dict[int, bool] = {}

    def add(
        self,
        kind: OpKind,
        path: str,
        *inputs: str,
        config: ComponentConfig | None = None,
        origin: Path = (),
        **attributes: int | str,
    ) -> str:
        """A node at ``path``; the second use of a path is another turn on the same module."""
        self.uses[path] += 1
        name = path if self.uses[path] == 1 else f"{path}@{self.uses[path]}"
        module = None if config is None else path
        op = Op(kind, config, module, tuple(origin), attributes=tuple(sorted(attributes.items())))
        return add_op(self.graph, name, op, *inputs)

    def warn(self, origin: Path, message: str, hint: str | None = None) -> None:
        problem = self.spec.problem(origin, message, hint)
        if problem not in self.graph.graph["warnings"]:  # once, however often a block is repeated
            self.graph.graph["warnings"] += (problem,)

    def problem(self, origin: Path, message: str, hint: str | None = None) -> None:
        self.graph.graph["problems"] += (self.spec.problem(origin, message, hint),)

    def trunk(
        self, inputs: str, mask: str, stem: ComponentConfig, layers: Sequence[Entry]
    ) -> tuple[str, str]:
        """Stem, layers and final norm of a part -> its last node, and the mask of its stream."""
        path, origin, self.n_layers = self.part.path, self.part.origin, 0
        stem_inputs = (inputs, mask) if stem.capabilities().mixes_tokens else (inputs,)
        x = self.add("stem", f"{path}stem", *stem_inputs, config=stem, origin=(*origin, "stem"))
        mask = self.add("mask_view", f"{path}stem_mask", mask, origin=(*origin, "stem"), view="stem")
        x = self.entries(x, layers, mask=mask, origin=(*origin, "layers"))
        if self.part.residual == "pre":
            x = self.add("norm", f"{path}norm", x, config=self.part.norm, origin=self.part.norm_at)
        return x, mask

    def without_unused_masks(self) -> Graph:
        """Mask views are added wherever they might be needed; those that nobody reads go."""
        for name in reversed(list(self.graph)):
            if self.graph.nodes[name]["op"].kind == "mask_view" and not self.graph.out_degree(name):
                self.graph.remove_node(name)
        return self.graph

    def entries(self, x: str, entries: Sequence[Entry], *, mask: str, origin: Path) -> str:
        for i, entry in enumerate(entries):
            x = self.entry(x, entry, mask=mask, origin=(*origin, i))
        return x

    def entry(self, x: str, entry: Entry, *, mask: str, origin: Path) -> str:
        match entry:
            case Repeat():
                for _ in range(entry.repeat):
                    x = self.entries(x, entry.layers, mask=mask, origin=(*origin, "layers"))
                return x
            case Loop():
                first = self.n_layers
                for _ in range(entry.loop):
                    self.n_layers = first
                    x = self.entries(x, entry.layers, mask=mask, origin=(*origin, "layers"))
                return x
            case Pattern():
                for symbol in entry.pattern:
                    layer = entry.symbols[symbol]
                    path, at = self.next_layer(), (*origin, "symbols", symbol)
                    x = self.layer(x, layer, path=path, mask=mask, origin=at)
                return x
            case FitBlock():
                return self.fit(x, entry.fit, path=self.next_layer(), mask=mask, origin=(*origin, "fit"))
            case Layer():
                return self.layer(x, entry, path=self.next_layer(), mask=mask, origin=origin)

    def next_layer(self) -> str:
        self.n_layers += 1
        return f"{self.part.path}layers.{self.n_layers - 1}"

    def layer(self, x: str, layer: Layer, *, path: str, mask: str, origin: Path) -> str:
        """pre: x + f(norm(x)); post: norm(x + f(x)); none: f(norm(x))."""
        residual = layer.residual or self.part.residual
        norm, norm_at = (layer.norm, (*origin, "norm")) if layer.norm else (self.part.norm, self.part.norm_at)
        given: tuple[tuple[OpKind, MixerOrParallel | None], ...] = (
            ("token_mixer", layer.token_mixer),
            ("cross", layer.cross),
            ("channel_mixer", layer.channel_mixer),
        )
        parts = [(kind, config) for kind, config in given if config is not None and not _is_none(config)]
        if not parts:
            self.warn(origin, "this layer does nothing: both mixers are 'none'")
        if layer.cross is not None and self.part.no_cross:
            self.problem((*origin, "cross"), self.part.no_cross)
            parts = [(kind, config) for kind, config in parts if kind != "cross"]
        for kind, config in parts:
            norm_path = f"{path}.{kind.removesuffix('_mixer')}_norm"
            y = x
            if residual != "post":
                y = self.add("norm", norm_path, y, config=norm, origin=norm_at)
            y = self.mixer(kind, y, config, path=f"{path}.{kind}", mask=mask, origin=(*origin, kind))
            if residual != "none":
                y = self.add("add", f"{path}.{kind.removesuffix('_mixer')}_add", x, y, origin=origin)
            if residual == "post":
                y = self.add("norm", norm_path, y, config=norm, origin=norm_at)
            x = y
        return x

    def mixer(
        self, kind: OpKind, x: str, config: MixerOrParallel, *, path: str, mask: str, origin: Path
    ) -> str:
        if isinstance(config, Parallel):
            ys = [
                self.mixer(kind, x, branch, path=f"{path}.{i}", mask=mask, origin=(*origin, "parallel", i))
                for i, branch in enumerate(config.parallel)
            ]
            combine = Combine.Config(combine=config.combine, n_branches=len(ys))
            return self.add("combine", f"{path}.combine", *ys, config=combine, origin=origin)
        if kind == "cross":
            return self.add(kind, path, x, *self.read, config=config, origin=origin)
        inputs = (x, mask) if self.reads_mask(config) else (x,)
        return self.add(kind, path, *inputs, config=config, origin=origin)

    def reads_mask(self, config: ComponentConfig) -> bool:
        """Asked once of each configuration: a ``repeat`` has many copies of one."""
        if id(config) not in self.masked:
            can = config.capabilities()
            self.masked[id(config)] = can.mixes_tokens and can.padding
        return self.masked[id(config)]

    def fit(self, x: str, fit: Fit, *, path: str, mask: str, origin: Path) -> str:
        """Inside the block tokens stand as (batch * groups, positions, width), beside the latents."""
        outside, refusal = self.part, "a layer inside 'fit' cannot read the encoder"
        self.part = replace(outside, no_cross=refusal)
        n_groups, n_latents = fit.n_groups, fit.n_latents
        schedule = parse_schedule(fit.schedule)
        group_mask = self.add(
            "mask_view", f"{path}.group_mask", mask, x, origin=origin, view="group", n_groups=n_groups
        )
        latent_mask = self.add(
            "mask_view", f"{path}.latent_mask", mask, origin=origin, view="latents",
            n_groups=n_groups, n_latents=n_latents,
        )  # fmt: skip
        block = _Fit(fit, path, origin, x, group_mask, latent_mask)
        g = self.add("group", f"{path}.group", x, origin=origin, n_groups=n_groups)
        if fit.positions == "learned":
            at = (*origin, "positions")
            g = self.add("group_positions", f"{path}.positions", g, config=GroupPositions.Config(), origin=at)
        z = ""
        if len(schedule) > 1:
            config = Latents.Config(n_latents=n_latents)
            z = self.add(
                "latents", f"{path}.latents", x, config=config, origin=origin,
                n_groups=n_groups, n_latents=n_latents, width=fit.d_latent,
            )  # fmt: skip
        for i, (n_local, n_global) in enumerate(schedule):
            for j in range(n_local):
                where = f"{path}.blocks.{i}.local_layers.{j}"
                g = self.layer(g, fit.local, path=where, mask=group_mask, origin=(*origin, "local"))
            if i < len(schedule) - 1:
                g, z = self.exchange(g, z, block, index=i, n_global=n_global)
            elif n_global:
                self.warn(
                    (*origin, "schedule"),
                    f"the last {n_global} global layer(s) of schedule '{fit.schedule}' have no effect on the "
                    "logits (nothing is written after them) and are left out",
                    f"end with local layers: '{fit.schedule}(1)'",
                )
        self.part = outside
        return self.add("ungroup", f"{path}.ungroup", g, x, origin=origin)

    def exchange(self, g: str, z: str, block: _Fit, *, index: int, n_global: int) -> tuple[str, str]:
        """Read, global layers, write: latents take from their group's tokens, mix, and give to tokens.

        In a causal model a group is given the latents of the group before it (zeros for the first): its own
        have seen all of its tokens.
        """
        fit, origin, m = block.fit, block.origin, block.fit.n_latents
        at = f"{block.path}.blocks.{index}"
        own = self.add("group", f"{at}.read_group", z, origin=origin, length=m)
        y = self.add(
            "read", f"{at}.read", own, g, block.group_mask, config=fit.read, origin=(*origin, "read")
        )
        own = self.add("add", f"{at}.read_add", own, y, origin=origin)
        z = self.add("ungroup", f"{at}.read_ungroup", own, z, origin=origin)
        for j in range(n_global):
            where = f"{at}.global_layers.{j}"
            z = self.layer(z, fit.global_, path=where, mask=block.latent_mask, origin=(*origin, "global"))
        given = self.add("shift", f"{at}.shift", z, origin=origin, length=m) if self.part.causal else z
        given = self.add("group", f"{at}.write_group", given, origin=origin, length=m)
        y = self.add("write", f"{at}.write", g, given, config=fit.write, origin=(*origin, "write"))
        return self.add("add", f"{at}.write_add", g, y, origin=origin), z


MixerOrParallel = ComponentConfig | Parallel


def _is_none(config: MixerOrParallel) -> bool:
    return not isinstance(config, Parallel) and config.kind == "none"
