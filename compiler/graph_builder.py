"""Nodes for parts of a spec: layers with their norms and residuals, mixers with the masks they read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from archspec import ComponentConfig
from archspec.components import Parallel
from archspec.nodes import Path
from archspec.spec import Layer, ModelSpec, Residual
from compiler.graph import Graph, Op, OpKind, add_op, new_graph
from compiler.parts import Part
from zoo.combine import Combine

MixerOrParallel = ComponentConfig | Parallel


@dataclass(frozen=True)
class _Around:
    """What stands around a mixer."""

    residual: Residual
    norm: ComponentConfig
    norm_at: Path


class GraphBuilder:
    """A graph under construction. ``part`` is the one that the next layers belong to."""

    part: Part
    read: tuple[str, str] = ("", "")  # the encoder's last node and its mask

    def __init__(self, spec: ModelSpec):
        self.spec = spec
        self.graph = new_graph(spec)
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

    def problem(self, origin: Path, message: str, hint: str | None = None) -> None:
        """Something that ``check`` will raise; the graph goes on without the part it is about."""
        self.graph.graph["problems"] += (self.spec.problem(origin, message, hint),)

    def warn(self, origin: Path, message: str, hint: str | None = None) -> None:
        problem = self.spec.problem(origin, message, hint)
        if problem not in self.graph.graph["warnings"]:  # once, however often a block is repeated
            self.graph.graph["warnings"] += (problem,)

    def without_unused_masks(self) -> Graph:
        """Mask views are added wherever they might be needed; those that nobody reads go."""
        for name in reversed(list(self.graph)):
            if self.graph.nodes[name]["op"].kind == "mask_view" and not self.graph.out_degree(name):
                self.graph.remove_node(name)
        return self.graph

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
            around = _Around(residual, norm, norm_at)
            x = self.sublayer(x, kind, config, around, path=path, mask=mask, origin=(*origin, kind))
        return x

    def channel_mixer(self, x: str, config: ComponentConfig, *, path: str, mask: str, origin: Path) -> str:
        """Alone, with the part's norm and residual; ``none`` is dropped."""
        if _is_none(config):
            return x
        around = _Around(self.part.residual, self.part.norm, self.part.norm_at)
        return self.sublayer(x, "channel_mixer", config, around, path=path, mask=mask, origin=origin)

    def sublayer(
        self,
        x: str,
        kind: OpKind,
        config: MixerOrParallel,
        around: _Around,
        *,
        path: str,
        mask: str,
        origin: Path,
    ) -> str:
        """One mixer in its norm and residual; ``origin`` is the mixer's."""
        stem = f"{path}.{kind.removesuffix('_mixer')}"
        y = x
        if around.residual != "post":
            y = self.add("norm", f"{stem}_norm", y, config=around.norm, origin=around.norm_at)
        y = self.mixer(kind, y, config, path=f"{path}.{kind}", mask=mask, origin=origin)
        if around.residual != "none":
            y = self.add("add", f"{stem}_add", x, y, origin=origin[:-1])
        if around.residual == "post":
            y = self.add("norm", f"{stem}_norm", y, config=around.norm, origin=around.norm_at)
        return y

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


def _is_none(config: MixerOrParallel) -> bool:
    return not isinstance(config, Parallel) and config.kind == "none"
