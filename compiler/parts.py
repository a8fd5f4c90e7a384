"""The two parts of a model: an encoder, and the rest that reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from archspec import ComponentConfig
from archspec.nodes import Path
from archspec.spec import Encoder, Entry, FitBlock, Layer, Loop, ModelSpec, Pattern, Repeat, Residual


@dataclass(frozen=True)
class Part:
    """The encoder or the rest of the model: what its layers are called, and what goes without saying."""

    path: str  # before the names of stem, layers and final norm
    origin: Path
    norm: ComponentConfig
    norm_at: Path
    residual: Residual
    causal: bool
    no_cross: str | None  # why no layer may have a ``cross`` here

    @staticmethod
    def of_encoder(encoder: Encoder, spec: ModelSpec) -> Part:
        norm_at = ("norm",) if encoder.norm is None else ("encoder", "norm")
        residual = encoder.residual or spec.residual
        refusal = "the encoder has nothing to read: 'cross' stands in the layers beside it"
        return Part("encoder.", ("encoder",), encoder.norm or spec.norm, norm_at, residual, False, refusal)


def reads_encoder(entries: Sequence[Entry]) -> bool:
    """Whether a layer has a ``cross``, wherever it may stand."""
    for entry in entries:
        match entry:
            case Layer():
                found = entry.cross is not None
            case Repeat() | Loop():
                found = reads_encoder(entry.layers)
            case Pattern():
                found = reads_encoder([entry.symbols[symbol] for symbol in entry.pattern])
            case FitBlock():
                found = reads_encoder([entry.fit.local, entry.fit.global_])
        if found:
            return True
    return False
