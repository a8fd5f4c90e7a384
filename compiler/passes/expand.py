"""ModelSpec -> Graph: unroll blocks of layers, spell out norms, residuals, masks and FIT's two streams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from archspec import ComponentConfig
from archspec.nodes import Path
from archspec.spec import Entry, Fit, FitBlock, Layer, Loop, ModelSpec, Pattern, Repeat
from compiler.fit_expansion import FitExpansion
from compiler.graph import Graph
from compiler.graph_builder import GraphBuilder
from compiler.parts import Part, reads_encoder
from zoo.condition import ConditionTokens
from zoo.contract import HeadConfig


def expand(spec: ModelSpec) -> Graph:
    """Layers are numbered flat; the turns of a ``loop`` are nodes ``path``, ``path@2``, ... on one module.

    A mixer ``none`` is dropped with its norm and residual. There is a final norm exactly when the model is
    pre-norm. An encoder comes first, under ``encoder``; each ``cross`` reads its last node.
    """
    build = _Expansion(spec)
    encoder = spec.encoder if spec.encoder is not None and reads_encoder(spec.layers) else None
    source = build.add("input", "source", origin=("encoder", "input")) if encoder else ""
    inputs = build.add("input", "inputs", origin=("input",))
    source_mask = build.add("mask", "source_mask", origin=("encoder", "input")) if encoder else ""
    mask = build.add("mask", "mask", origin=("input",))
    refusal = None
    if encoder is not None:
        build.part = Part.of_encoder(encoder, spec)
        build.read = build.trunk(source, source_mask, encoder.stem, encoder.layers)
    elif spec.encoder is None:
        refusal = "there is no encoder to read: the model has no 'encoder'"
    else:
        build.problem(("encoder",), "nothing reads the encoder: no layer has a 'cross'")
    build.part = Part("", (), spec.norm, ("norm",), spec.residual, spec.causal, refusal)
    build.condition_tokens()
    x, mask = build.trunk(inputs, mask, spec.stem, spec.layers)
    assert isinstance(spec.head, HeadConfig), f"{spec.head.kind} is configured by no HeadConfig"
    head_inputs = (x,) if spec.head.per_position else (x, mask)
    head = build.add("head", "head", *head_inputs, config=spec.head, origin=("head",))
    build.add("output", "output", head, *build.kept_latents)
    return build.without_unused_masks()


class _Expansion(GraphBuilder):
    """Walks the layers. ``condition`` is the node of the condition tokens, if anything may read it."""

    def __init__(self, spec: ModelSpec):
        super().__init__(spec)
        self.n_layers = 0
        self.condition: str | None = None
        self.kept_latents: tuple[str, ...] = ()  # what a self-conditioning block leaves to the next pass

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

    def condition_tokens(self) -> None:
        """The further inputs of a conditioned model and the tokens made of them."""
        condition, at = self.spec.condition, ("condition",)
        if condition is None:
            return
        if self.spec.encoder is not None:
            return self.problem(at, "a model with an encoder takes no condition")
        if self.spec.causal:
            hint = "say 'causal: false'; a causal model has no way to decode with it"
            return self.problem(at, "only bidirectional models (denoisers) take a condition", hint)
        if not any(fit.condition_read is not None for fit in _fits(self.spec.layers)):
            return self.problem(at, "nothing reads the condition", "give a 'fit' block a 'condition_read'")
        sources = []
        if condition.seq_len:
            sources.append(self.add("condition", "condition", origin=at))
        if condition.time:
            sources.append(self.add("time", "time", origin=at))
        config = ConditionTokens.Config(
            d_input=condition.d_input,
            time=condition.time,
            project=condition.d_input is not None and condition.d_token is not None,
        )
        self.condition = self.add("condition_tokens", "condition_tokens", *sources, config=config, origin=at)

    def fit(self, x: str, fit: Fit, *, path: str, mask: str, origin: Path) -> str:
        outside = self.part
        self.part = replace(outside, no_cross="a layer inside 'fit' cannot read the encoder")
        group_mask = self.add(
            "mask_view", f"{path}.group_mask", mask, x, origin=origin, view="group", n_groups=fit.n_groups
        )
        latent_mask = self.add(
            "mask_view", f"{path}.latent_mask", mask, origin=origin, view="latents",
            n_groups=fit.n_groups, n_latents=fit.n_latents,
        )  # fmt: skip
        if fit.condition_read is not None and self.spec.condition is None:
            self.problem((*origin, "condition_read"), "this model has no 'condition' to read")
        earlier = self.earlier_latents(fit, origin) if fit.self_conditioning else None
        condition = self.condition
        block = FitExpansion(self, fit, path, origin, x, group_mask, latent_mask, condition, earlier)
        x, z = block.nodes()
        if earlier is not None:
            self.kept_latents = (z,)
        self.part = outside
        return x

    def earlier_latents(self, fit: Fit, origin: Path) -> str | None:
        """The input of a self-conditioning block; one block of a bidirectional model may have it."""
        at = (*origin, "self_conditioning")
        if self.spec.encoder is not None:
            self.problem(at, "a model with an encoder does not condition itself")
        elif self.spec.causal:
            self.problem(
                at, "only bidirectional models (denoisers) condition themselves", "say 'causal: false'"
            )
        elif self.kept_latents:
            self.problem(
                at, "one block of a model, run once, conditions itself on its latents; here are more"
            )
        else:
            return self.add(
                "earlier_latents", "latents", origin=at,
                n_groups=fit.n_groups, n_latents=fit.n_latents, width=fit.d_latent,
            )  # fmt: skip
        return None


def _fits(entries: Sequence[Entry]) -> Iterator[Fit]:
    for entry in entries:
        match entry:
            case FitBlock():
                yield entry.fit
            case Repeat() | Loop():
                yield from _fits(entry.layers)
