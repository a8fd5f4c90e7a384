"""ModelSpec -> the strip that draws it: one (token mixer, channel mixer) pair of kinds per layer."""

from __future__ import annotations

from collections.abc import Iterator

from archspec.components import Parallel
from archspec.config import ComponentConfig
from archspec.schedule import parse_schedule
from archspec.spec import FitBlock, Layer, Layers, Loop, ModelSpec, Pattern, Repeat


def layer_pairs(spec: ModelSpec) -> tuple[tuple[str, str], ...]:
    """Copies and turns written out, empty layers left out; mixers side by side are joined by ``+``.

    The layers of a FIT block, local and global ones, are all called ``fit``.
    """
    return tuple(pair for pair in _pairs(spec.layers) if pair != ("none", "none"))


def without_empty_layers(spec: ModelSpec) -> ModelSpec:
    """The same architecture without outermost layers that do nothing (optional ones left out)."""
    kept = tuple(e for e in spec.layers if not (isinstance(e, Layer) and _pair(e) == ("none", "none")))
    return spec.model_copy(update={"layers": kept}) if kept else spec


def _pairs(entries: Layers) -> Iterator[tuple[str, str]]:
    for entry in entries:
        match entry:
            case Layer():
                yield _pair(entry)
            case Repeat():
                yield from entry.repeat * list(_pairs(entry.layers))
            case Loop():
                yield from entry.loop * list(_pairs(entry.layers))
            case Pattern():
                yield from (_pair(entry.symbols[symbol]) for symbol in entry.pattern)
            case FitBlock():
                fit = entry.fit
                for n_local, n_global in parse_schedule(fit.schedule):
                    yield from n_local * [("fit", _kind(fit.local.channel_mixer))]
                    yield from n_global * [("fit", _kind(fit.global_.channel_mixer))]


def _pair(layer: Layer) -> tuple[str, str]:
    return _kind(layer.token_mixer), _kind(layer.channel_mixer)


def _kind(mixer: ComponentConfig | Parallel) -> str:
    if isinstance(mixer, Parallel):
        return "+".join(branch.kind for branch in mixer.parallel)
    return mixer.kind
