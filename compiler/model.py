"""A compiled model: the graph, the torch module made of it, and what a trainer needs around them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from archspec import Input, Problem, SpecError
from archspec.identity import spec_hash
from archspec.spec import ModelSpec
from compiler.decode import Decoder
from compiler.graph import Graph, maskless_mixers, spec_of, warnings_of
from compiler.passes.lower import module_ops, side_products
from compiler.render import readable_code
from compiler.save import save
from zoo import Zoo
from zoo.contract import Component, Mixer, ParamHint, Transfer
from zoo.masks import check_mask


class ModelOutput(NamedTuple):
    """Logits, the sum of auxiliary losses if mixers have any, and statistics by the nodes' names.

    ``latents`` (B, t m, D) are those of a model that conditions itself, an input of its next pass.
    """

    logits: Tensor
    aux_loss: Tensor | None
    statistics: dict[str, Tensor]
    latents: Tensor | None = None


class CompiledModel:
    """What ``compile_spec`` makes; ``module`` is the plain torch module, ``forward(inputs, mask=None)``.

    With an encoder it is ``forward(source, inputs, source_mask=None, mask=None)``.
    """

    def __init__(self, *, graph: Graph, module: fx.GraphModule, zoo: Zoo, seed: int):
        self.graph = graph
        self.module = module
        self.zoo = zoo
        self.seed = seed

    def __call__(
        self,
        *inputs: Tensor | None,
        mask: Tensor | None = None,
        source_mask: Tensor | None = None,
        **further: Tensor,
    ) -> Tensor:
        """The logits of ``model(inputs, mask)``; with an encoder, of ``model(source, target)``.

        Inputs are ids (B, L), features or images. A mask is boolean (B, L), True at real tokens: a row is one
        sequence, packed ones are refused. ``further`` are the other inputs that the model has, by name:
        ``condition`` (B, S, C) and ``time`` (B,) of a conditioned one, ``latents`` (B, t m, D) of an earlier
        pass where it conditions itself.
        """
        return self.outputs(*inputs, mask=mask, source_mask=source_mask, **further).logits

    def outputs(
        self,
        *inputs: Tensor | None,
        mask: Tensor | None = None,
        source_mask: Tensor | None = None,
        **further: Tensor,
    ) -> ModelOutput:
        """The logits, and what training needs beside them."""
        y = self.module(*self._arguments(inputs, mask, source_mask), **further)
        names = side_products(self.graph)
        if isinstance(y, Tensor):
            return ModelOutput(y, None, {})
        logits, losses, statistics, *latents = y
        aux_loss = torch.stack(losses).sum() if names else None
        found = dict(zip(names, statistics, strict=True))
        return ModelOutput(logits, aux_loss, found, latents[0] if latents else None)

    def apply_statistics(self, statistics: Mapping[str, Tensor]) -> None:
        """Update the buffers of the components that gave ``statistics``; once, after the optimizer step."""
        for name, value in statistics.items():
            op = self.graph.nodes[name]["op"]
            if op.config.capabilities().updates_buffers:
                component = self.module.get_submodule(op.module)
                assert isinstance(component, (Mixer, Transfer))
                component.apply_statistics(value)

    def param_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for an optimizer; ``lr_scale`` tells a schedule how a group's rate differs.

        A component's hints come first. Otherwise parameters of fewer than two dimensions (biases, the scales
        of norms), those of norms and those of embeddings have no weight decay.
        """
        groups: dict[tuple[bool, float], list[tuple[str, nn.Parameter]]] = {}
        for name, (parameter, hint) in self._hinted().items():
            groups.setdefault((hint.no_weight_decay, hint.lr_scale), []).append((name, parameter))
        return [
            {
                "params": [parameter for _, parameter in members],
                "names": [name for name, _ in members],
                "lr": lr * lr_scale,
                "lr_scale": lr_scale,
                "weight_decay": 0.0 if no_weight_decay else weight_decay,
            }
            for (no_weight_decay, lr_scale), members in sorted(groups.items(), key=lambda item: item[0])
        ]

    def decoder(self) -> Decoder:
        """Token-by-token decoding with this model's weights; SpecError if a part of it cannot."""
        return Decoder(self.graph, self.module)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write spec, graph, code and weights into ``directory``, all or nothing."""
        save(directory, graph=self.graph, module=self.module, seed=self.seed)

    @property
    def spec(self) -> ModelSpec:
        return spec_of(self.graph)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """What the compiler found legal but suspicious, each with its place."""
        return warnings_of(self.graph)

    @property
    def code(self) -> str:
        """The forward pass as Python, for reading."""
        return readable_code(self.module)

    @property
    def hash(self) -> str:
        """The identity of the architecture: 64 hexadecimal digits."""
        return spec_hash(self.spec)

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every parameter once."""
        return self.module.parameters()

    def train(self, mode: bool = True) -> CompiledModel:
        self.module.train(mode)
        return self

    def eval(self) -> CompiledModel:
        return self.train(False)

    def to(self, target: torch.device | torch.dtype | str) -> CompiledModel:
        """Move to a device or change the type of all floating tensors."""
        self.module.to(target)
        return self

    def _arguments(
        self, inputs: tuple[Tensor | None, ...], mask: Tensor | None, source_mask: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """The arguments of ``module``, in its order; ValueError where they are not the model's."""
        encoder = self.spec.encoder
        if encoder is None:
            if (
                len(inputs) not in (1, 2)
                or source_mask is not None
                or (len(inputs) == 2 and mask is not None)
            ):
                raise ValueError("this model has no encoder: call it as model(inputs, mask)")
            mask = inputs[1] if len(inputs) == 2 else mask
            self._check_mask(mask, inputs[0], self.spec.input, of_encoder=False)
            return inputs[0], mask
        if len(inputs) != 2:
            raise ValueError(
                "this model has an encoder: call it as model(source, target, source_mask=..., mask=...)"
            )
        source, target = inputs
        self._check_mask(source_mask, source, encoder.input, of_encoder=True)
        self._check_mask(mask, target, self.spec.input, of_encoder=False)
        return source, target, source_mask, mask

    def _check_mask(
        self, mask: Tensor | None, inputs: Tensor | None, input: Input, *, of_encoder: bool
    ) -> None:
        if mask is None:
            return
        if input.kind == "image":
            raise SpecError("images take no mask", path="encoder.input.kind" if of_encoder else "input.kind")
        for op in maskless_mixers(self.graph).values():
            if op.stream is not None and op.stream.of_encoder == of_encoder:
                assert op.config is not None
                message = f"'{op.config.kind}' takes no mask, so this model cannot run on padded batches"
                raise SpecError(problems=[self.spec.problem(op.origin, message)])
        if inputs is not None:
            check_mask(mask, inputs)

    def _hinted(self) -> dict[str, tuple[nn.Parameter, ParamHint]]:
        """Each trainable parameter once, with what its components (two, if tied) ask for."""
        hints: dict[int, ParamHint] = {}
        for path, op in module_ops(self.graph).items():
            component = self.module.get_submodule(path)
            assert isinstance(component, Component)
            own = component.param_hints()
            plain = _without_decay(component)
            for name, parameter in component.named_parameters():
                hint = own.get(name) or ParamHint(no_weight_decay=op.kind == "norm" or name in plain)
                hints[id(parameter)] = _both(hints.get(id(parameter)), hint)
        return {
            name: (parameter, hints[id(parameter)])
            for name, parameter in self.module.named_parameters()
            if parameter.requires_grad
        }


def _without_decay(component: nn.Module) -> set[str]:
    """Parameters that by default have no weight decay: vectors, scalars, and tables of embeddings."""
    found = {name for name, parameter in component.named_parameters() if parameter.ndim < 2}
    for path, part in component.named_modules():
        if isinstance(part, nn.Embedding):
            found.add(f"{path}.weight" if path else "weight")
    return found


def _both(first: ParamHint | None, second: ParamHint) -> ParamHint:
    """The hint of a shared parameter: no decay if one of the two wants none; the one rate that is not 1."""
    if first is None:
        return second
    scales = {first.lr_scale, second.lr_scale} - {1.0}
    assert len(scales) <= 1, f"a shared parameter has two learning-rate scales: {scales}"
    return ParamHint(first.no_weight_decay or second.no_weight_decay, scales.pop() if scales else 1.0)
