"""A model's layers on one line: ``4 x (7 x mamba2+swiglu | attention+swiglu)``."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from archspec.components import Parallel
from archspec.config import ComponentConfig
from archspec.spec import Entry, FitBlock, Layer, Layers, Loop, ModelSpec, Pattern, Repeat


def strip(spec: ModelSpec) -> str:
    """The layers in order, an encoder's before ``=>``; copies as ``n x``, a loop's as ``n turns of``."""
    decoder = _joined(spec.layers)
    return decoder if spec.encoder is None else f"{_joined(spec.encoder.layers)} => {decoder}"


def _joined(entries: Layers) -> str:
    return _counted(_text(entry) for entry in entries)


def _counted(texts: Iterable[str]) -> str:
    """Equal neighbours once, with how many they are."""
    runs = [(text, len(list(run))) for text, run in groupby(texts)]
    return " | ".join(text if n == 1 else _times(f"{n} x", text) for text, n in runs)


def _times(n: str, text: str) -> str:
    return f"{n} ({text})" if " " in text else f"{n} {text}"


def _text(entry: Entry) -> str:
    match entry:
        case Layer():
            return _layer(entry)
        case Repeat():
            inner = _joined(entry.layers)
            return inner if entry.repeat == 1 else _times(f"{entry.repeat} x", inner)
        case Loop():
            return _times(f"{entry.loop} turns of", _joined(entry.layers))
        case Pattern():
            return _counted(_layer(entry.symbols[symbol]) for symbol in entry.pattern)
        case FitBlock():
            fit = entry.fit
            return f"fit[{fit.schedule}, local {_layer(fit.local)}, global {_layer(fit.global_)}]"


def _layer(layer: Layer) -> str:
    cross = "none" if layer.cross is None else f"cross:{layer.cross.kind}"
    parts = (_mixer(layer.token_mixer), cross, _mixer(layer.channel_mixer))
    return "+".join(part for part in parts if part != "none") or "none"


def _mixer(mixer: ComponentConfig | Parallel) -> str:
    if isinstance(mixer, Parallel):
        return "{" + " & ".join(branch.kind for branch in mixer.parallel) + "}"
    return mixer.kind
