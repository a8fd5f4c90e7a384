"""ModelSpec -> YAML that reads as a person would write it, is accepted by ``check`` and has the same hash."""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

from archspec.changed import changed
from archspec.components import Parallel
from archspec.config import ComponentConfig
from archspec.errors import printable
from archspec.spec import Encoder, Entry, Fit, FitBlock, Layer, Loop, ModelSpec, Pattern, Repeat
from archspec.yaml_text import plain_scalar

_WIDTH = 100
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./+-]*")
_PLAIN_IN_BLOCK = re.compile(r"[A-Za-z_][A-Za-z0-9_./+\-,;()' ]*[A-Za-z0-9_./)]")


def dump_spec(
    spec: ModelSpec, *, comment: str = "", schema: str = "spec.schema.json", defaults: bool = False
) -> str:
    """YAML text; ``comment`` goes on top, ``schema`` is the path of the JSON Schema that editors read.

    ``defaults`` spells out every field, the defaults too.
    """
    lines = [f"# yaml-language-server: $schema={schema}"]
    lines += [f"# {printable(line)}".rstrip() for line in comment.splitlines()]
    tree = spec.model_dump(mode="json", by_alias=True) if defaults else written(spec)
    return "\n".join(lines) + "\n" + dump_tree(tree)


def dump_tree(tree: dict[str, Any]) -> str:
    """Plain values as YAML text in the style of specs."""
    return "".join(f"{line}\n" for key, value in tree.items() for line in _block(f"{key}:", value, indent=0))


def written(spec: ModelSpec) -> dict[str, Any]:
    """The plain tree of a spec, without what goes without saying."""
    tree: dict[str, Any] = {"archspec": spec.archspec}
    for key in ("name", "description"):
        if getattr(spec, key) != ModelSpec.model_fields[key].default:
            tree[key] = getattr(spec, key)
    tree["input"] = changed(spec.input)
    if spec.condition is not None:
        tree["condition"] = changed(spec.condition)
    tree |= {"causal": spec.causal, "d_model": spec.d_model}
    if spec.encoder is not None:
        tree["encoder"] = _encoder(spec.encoder)
    if (norm := _slot(spec.norm)) != "rmsnorm":
        tree["norm"] = norm
    if spec.residual != "pre":
        tree["residual"] = spec.residual
    tree["stem"] = _slot(spec.stem)
    tree["layers"] = [_entry(entry) for entry in spec.layers]
    tree["head"] = _slot(spec.head)
    return tree


def _encoder(encoder: Encoder) -> dict[str, Any]:
    tree: dict[str, Any] = {"input": changed(encoder.input)}
    if encoder.d_model is not None:
        tree["d_model"] = encoder.d_model
    if encoder.norm is not None:
        tree["norm"] = _slot(encoder.norm)
    if encoder.residual is not None:
        tree["residual"] = encoder.residual
    return tree | {
        "stem": _slot(encoder.stem),
        "layers": [_entry(entry) for entry in encoder.layers],
    }


def _entry(entry: Entry) -> dict[str, Any]:
    match entry:
        case Layer():
            return _layer(entry)
        case Repeat():
            return {"repeat": entry.repeat, "layers": [_entry(inner) for inner in entry.layers]}
        case Loop():
            return {"loop": entry.loop, "layers": [_entry(inner) for inner in entry.layers]}
        case Pattern():
            symbols = {symbol: _layer(layer) for symbol, layer in entry.symbols.items()}
            return {"pattern": entry.pattern, "symbols": symbols}
        case FitBlock():
            return {"fit": _fit(entry.fit)}


def _layer(layer: Layer) -> dict[str, Any]:
    parts = {
        "token_mixer": _mixer(layer.token_mixer),
        "cross": "none" if layer.cross is None else _slot(layer.cross),
        "channel_mixer": _mixer(layer.channel_mixer),
    }
    tree = {role: part for role, part in parts.items() if part != "none"} or {"token_mixer": "none"}
    if layer.norm is not None:
        tree["norm"] = _slot(layer.norm)
    if layer.residual is not None:
        tree["residual"] = layer.residual
    return tree


def _fit(fit: Fit) -> dict[str, Any]:
    tree: dict[str, Any] = {
        "n_groups": fit.n_groups,
        "n_latents": fit.n_latents,
        "d_latent": fit.d_latent,
        "schedule": fit.schedule,
        "local": _layer(fit.local),
        "global": _layer(fit.global_),
    }
    if fit.positions != "none":
        tree["positions"] = fit.positions
    if fit.latent_positions != "learned":
        tree["latent_positions"] = fit.latent_positions
    for role, transfer in (("read", fit.read), ("write", fit.write)):
        if (slot := _slot(transfer)) != role:
            tree[role] = slot
    if fit.exchange_mixer.kind != "none":
        tree["exchange_mixer"] = _slot(fit.exchange_mixer)
    if fit.condition_read is not None:
        tree["condition_read"] = _slot(fit.condition_read)
    if fit.self_conditioning:
        tree["self_conditioning"] = True
    return tree


def _mixer(mixer: ComponentConfig | Parallel) -> Any:
    if not isinstance(mixer, Parallel):
        return _slot(mixer)
    tree: dict[str, Any] = {"parallel": [_slot(branch) for branch in mixer.parallel]}
    return tree if mixer.combine == "mean" else {**tree, "combine": mixer.combine}


def _slot(config: ComponentConfig) -> Any:
    fields = changed(config)
    return config.kind if fields.keys() == {"kind"} else fields


def _block(head: str, value: Any, *, indent: int) -> list[str]:
    """``head value`` on one line if it fits, else with the parts of ``value`` on lines of their own."""
    margin = " " * indent
    always_open = isinstance(value, list) and head == "layers:"
    if not isinstance(value, dict | list) or not value:
        return [
            f"{margin}{head} {_scalar(value, in_block=True) if not isinstance(value, dict | list) else value}"
        ]
    one_line = f"{margin}{head} {_flow(value)}"
    if len(one_line) <= _WIDTH and not always_open and not _holds_layers(value):
        return [one_line]
    if isinstance(value, list):
        below = [line for item in value for line in _item(item, indent=indent + 2)]
    else:
        below = [
            line for key, part in value.items() for line in _block(f"{_key(key)}:", part, indent=indent + 2)
        ]
    return [f"{margin}{head}", *below]


def _item(value: Any, *, indent: int) -> list[str]:
    one_line = f"{' ' * indent}- {_flow(value)}"
    if not isinstance(value, dict) or (len(one_line) <= _WIDTH and not _holds_layers(value)):
        return [one_line]
    lines = [line for key, part in value.items() for line in _block(f"{_key(key)}:", part, indent=indent + 2)]
    return [f"{' ' * indent}- {lines[0].lstrip()}", *lines[1:]]


def _holds_layers(value: Any) -> bool:
    return isinstance(value, dict) and "layers" in value


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)}: {_flow(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_flow(part) for part in value) + "]"
    return _scalar(value)


def _key(key: str) -> str:
    return _scalar(key)


def _scalar(value: str | int | float | bool | None, *, in_block: bool = False) -> str:
    if not isinstance(value, str):
        return json.dumps(value)
    is_plain = _PLAIN.fullmatch(value) or (in_block and _PLAIN_IN_BLOCK.fullmatch(value))
    if is_plain and isinstance(plain_scalar(value), str):
        return value
    return "".join(f"\\U{ord(c):08x}" if _is_special(c) else c for c in json.dumps(value, ensure_ascii=False))


def _is_special(character: str) -> bool:
    return unicodedata.category(character) in {"Cc", "Cf", "Cn", "Co", "Zl", "Zp"}
