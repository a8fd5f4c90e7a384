"""The identity of an architecture: what it computes, written in one way, and the SHA-256 of that.

Names, comments, spelt-out defaults (also those that depend on the width), bare kinds, ``pattern`` and
``repeat`` sugar, ``none`` mixers and dead genes do not change it; a component's ``version`` does.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

from archspec.changed import changed
from archspec.components import Parallel
from archspec.config import ComponentConfig
from archspec.schedule import parse_schedule
from archspec.spec import (
    Encoder,
    Fit,
    FitBlock,
    Layer,
    Layers,
    Loop,
    ModelSpec,
    Pattern,
    Repeat,
    Residual,
)


def spec_hash(spec: ModelSpec) -> str:
    """64 hexadecimal digits; the first 12 are the short form."""
    text = json.dumps(canonical(spec), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def canonical(spec: ModelSpec) -> dict[str, Any]:
    """The spec as JSON: sub-layers written out one by one, fields that differ from their defaults only."""
    condition = {} if spec.condition is None else {"condition": changed(spec.condition)}
    return {
        "archspec": spec.archspec,
        "input": changed(spec.input),
        **condition,
        "causal": spec.causal,
        "d_model": spec.d_model,
        **({"encoder": _encoder(spec.encoder, spec)} if spec.encoder else {}),
        "stem": _component(spec.stem),
        "layers": _sublayers(spec.layers, _Around(spec.norm, spec.residual, spec.d_model)),
        "final_norm": _component(spec.norm) if spec.residual == "pre" else None,
        "head": _component(spec.head),
    }


@dataclass(frozen=True)
class _Around:
    """Where layers stand: what their norm and residual are unless they say, and the width of the stream."""

    norm: ComponentConfig
    residual: Residual
    d_model: int


def _encoder(encoder: Encoder, spec: ModelSpec) -> dict[str, Any]:
    own = _Around(
        encoder.norm or spec.norm, encoder.residual or spec.residual, encoder.d_model or spec.d_model
    )
    return {
        "input": changed(encoder.input),
        "d_model": encoder.d_model or spec.d_model,
        "stem": _component(encoder.stem),
        "layers": _sublayers(encoder.layers, own),
        "final_norm": _component(own.norm) if own.residual == "pre" else None,
    }


def _sublayers(entries: Layers, spec: _Around) -> list[Any]:
    """One entry per mixer, loop of several turns and FIT block, in order."""
    flat: list[Any] = []
    for entry in entries:
        match entry:
            case Layer():
                flat += _layer(entry, spec)
            case Repeat():
                flat += entry.repeat * _sublayers(entry.layers, spec)
            case Pattern():
                for symbol in entry.pattern:
                    flat += _layer(entry.symbols[symbol], spec)
            case Loop():
                flat += _loop(entry, spec)
            case FitBlock():
                flat.append({"fit": _fit(entry.fit, spec)})
    return flat


def _layer(layer: Layer, spec: _Around) -> list[Any]:
    around = {"norm": _component(layer.norm or spec.norm), "residual": layer.residual or spec.residual}
    parts = (
        ("token_mixer", layer.token_mixer), ("cross", layer.cross), ("channel_mixer", layer.channel_mixer)
    )  # fmt: skip
    return [
        {role: _mixer(mixer, spec.d_model), **around}
        for role, mixer in parts
        if mixer is not None and (isinstance(mixer, Parallel) or mixer.kind != "none")
    ]


def _loop(loop: Loop, spec: _Around) -> list[Any]:
    body = _sublayers(loop.layers, spec)
    if loop.loop == 1 or not body:
        return body
    if len(body) == 1 and "loop" in body[0]:  # turns of turns
        return [{"loop": loop.loop * body[0]["loop"], "layers": body[0]["layers"]}]
    return [{"loop": loop.loop, "layers": body}]


def _fit(fit: Fit, spec: _Around) -> dict[str, Any]:
    return {
        "n_groups": fit.n_groups,
        "n_latents": fit.n_latents,
        "d_latent": fit.d_latent,
        "schedule": [list(pair) for pair in parse_schedule(fit.schedule)],
        "local": _layer(fit.local, spec),
        "global": _layer(fit.global_, replace(spec, d_model=fit.d_latent)),
        "positions": fit.positions,
        "read": _component(fit.read),
        "write": _component(fit.write),
        **_later_fields(fit),
    }


def _later_fields(fit: Fit) -> dict[str, Any]:
    """What later versions of the language added, where it is used: older specs keep their hash."""
    found: dict[str, Any] = {}
    if fit.latent_positions != "learned":
        found["latent_positions"] = fit.latent_positions
    if fit.exchange_mixer.kind != "none":
        found["exchange_mixer"] = _component(fit.exchange_mixer)
    if fit.condition_read is not None:
        found["condition_read"] = _component(fit.condition_read)
    if fit.self_conditioning:
        found["self_conditioning"] = True
    return found


def _mixer(mixer: ComponentConfig | Parallel, d_model: int) -> dict[str, Any]:
    if isinstance(mixer, Parallel):
        branches = [_component(branch.canonical_at(d_model)) for branch in mixer.parallel]
        return {"parallel": branches, "combine": mixer.combine}
    return _component(mixer.canonical_at(d_model))


def _component(config: ComponentConfig) -> dict[str, Any]:
    return changed(config, versions=True)
