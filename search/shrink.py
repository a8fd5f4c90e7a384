"""A spec's shrunk twin: the same mixers in the same order, narrower, shorter or with fewer layers.

Every width is scaled in step: ``d_model``, FIT's ``d_latent``, an encoder's own width, ``d_ff``, ``d_head``
and ``d_embed``. Heads (and their groups, routed and strided heads) keep their number, so it is a head's width
that shrinks; that way the split of a layer into heads of several sorts is the same in both. Vocabulary,
convolutions, clusters and, unless asked for, states keep their size. With ``seq_len``, windows, spans,
strides and FIT's groups scale too. Sizes are rounded to what the heads allow; what cannot be shrunk is a
SpecError that shows where.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from archspec import ModelSpec, SpecError
from archspec.dump import dump_tree
from archspec.nodes import Path
from archspec.proxy import Proxy, Shrink
from archspec.schedule import parse_schedule
from archspec.source import parse_source
from compiler import build_graph, resolve
from zoo import Zoo, load_zoo

_WIDTHS = ("d_ff", "d_embed")
_STATES = ("d_state", "d_qk")
_WINDOWS = ("window", "cluster_window", "span", "stride", "relative_positions")
_LEAST_WINDOW = 4
Tree = dict[str, Any]


def shrink(spec: ModelSpec, proxy: Proxy, zoo: Zoo | None = None) -> ModelSpec:
    """The twin of ``spec``; at shares of 1 the spec itself. The twin is checked as a whole."""
    if proxy.is_identity:
        return spec
    found = zoo or load_zoo()
    tree = _Twin(spec, proxy.shrink, Fraction(proxy.seq_len)).tree()
    try:
        twin = resolve(parse_source(dump_tree(tree), file="the shrunk twin"), found)
        build_graph(twin, zoo=found)
    except SpecError as error:
        problem = error.problems[0]
        path = _path(problem.path or "") if proxy.shrink.n_layers == "1" else ("layers",)
        message = f"the shrunk twin is no model: {problem.message}"
        raise SpecError(problems=[spec.problem(path, message, problem.hint)]) from error
    return twin


@dataclass(frozen=True)
class _Part:
    """A component as a plain tree, where it stands, and the widths that its heads must divide."""

    tree: Tree
    path: Path
    streams: tuple[str, ...]  # "main", "encoder", or a FIT block's path


class _Twin:
    """One spec on its way to become smaller; ``tree()`` is to be called once."""

    def __init__(self, spec: ModelSpec, by: Shrink, length: Fraction):
        self._spec, self._length = spec, length
        self._width, self._state, self._depth = (Fraction(s) for s in (by.d_model, by.d_state, by.n_layers))
        self._tree: Tree = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
        self._holders: dict[str, tuple[Tree, str, Path]] = {"main": (self._tree, "d_model", ("d_model",))}
        self._parts: list[_Part] = []

    def tree(self) -> Tree:
        self._collect()
        if self._width != 1:
            self._narrow()
        if self._state != 1:
            self._scale(_STATES, self._state)
        if self._length != 1:
            self._shorten()
        if self._depth != 1:
            for holder in filter(None, (self._tree.get("encoder"), self._tree)):
                holder["layers"] = _fewer(holder["layers"], self._depth)
        return self._tree

    def _collect(self) -> None:
        """All components, each with the streams it stands on."""
        for slot in ("stem", "head"):
            self._add(self._tree[slot], (slot,), ("main",))
        self._add_layers(self._tree["layers"], ("layers",), ("main",))
        if (encoder := self._tree.get("encoder")) is not None:
            stream = "main"
            if "d_model" in encoder:
                stream = "encoder"
                self._holders[stream] = (encoder, "d_model", ("encoder", "d_model"))
            self._add(encoder["stem"], ("encoder", "stem"), (stream,))
            self._add_layers(encoder["layers"], ("encoder", "layers"), (stream,))

    def _add_layers(self, entries: list[Tree], path: Path, streams: tuple[str, ...]) -> None:
        for i, entry in enumerate(entries):
            at = (*path, i)
            if "layers" in entry:
                self._add_layers(entry["layers"], (*at, "layers"), streams)
            elif "symbols" in entry:
                for symbol, layer in entry["symbols"].items():
                    self._add(layer, (*at, "symbols", symbol), streams)
            elif "fit" in entry:
                self._add_fit(entry["fit"], (*at, "fit"))
            else:
                self._add(entry, at, streams)

    def _add_fit(self, fit: Tree, path: Path) -> None:
        latent = ".".join(map(str, path))
        self._holders[latent] = (fit, "d_latent", (*path, "d_latent"))
        self._add(fit["local"], (*path, "local"), ("main",))
        self._add(fit["global"], (*path, "global"), (latent,))
        for name in ("read", "write", "exchange_mixer", "condition_read"):
            if name in fit:
                self._add(fit[name], (*path, name), ("main", latent))

    def _add(self, node: Any, path: Path, streams: tuple[str, ...]) -> None:
        """Every component in ``node``; parallel ones hold several."""
        if isinstance(node, dict):
            if isinstance(node.get("kind"), str):
                self._parts.append(_Part(node, path, streams))
            for key, child in node.items():
                self._add(child, (*path, key), streams)
        elif isinstance(node, list):
            for i, child in enumerate(node):
                self._add(child, (*path, i), streams)

    def _narrow(self) -> None:
        widths = {name: (holder[key], path) for name, (holder, key, path) in self._holders.items()}
        heads = {id(p.tree): _recurrent_heads(p.tree, widths[p.streams[0]][0]) for p in self._parts}
        for name, (holder, key, path) in self._holders.items():
            of = [p.tree for p in self._parts if name in p.streams]
            step = math.lcm(2, *(_step(tree, heads[id(tree)]) for tree in of))
            wide = widths[name][0]
            narrow = max(step, round(wide * self._width / step) * step)
            if narrow >= wide:
                message = f"{self._width} of {key} {wide}: the heads allow multiples of {step} only"
                raise self._error(path, message, "ask for a smaller share, or give the heads a d_head")
            holder[key] = narrow
        for part in self._parts:
            if (n_heads := heads[id(part.tree)]) is not None:
                stream, key, _ = self._holders[part.streams[0]]
                part.tree["d_head"] = part.tree["expand"] * stream[key] // n_heads
            elif "d_head" in part.tree:
                part.tree["d_head"] = max(2, 2 * round(part.tree["d_head"] * self._width / 2))
        self._scale(_WIDTHS, self._width)

    def _scale(self, names: tuple[str, ...], share: Fraction) -> None:
        for part in self._parts:
            for name in names:
                if name in part.tree:
                    part.tree[name] = max(1, round(part.tree[name] * share))

    def _shorten(self) -> None:
        groups = [holder["n_groups"] for holder, key, _ in self._holders.values() if key == "d_latent"]
        for part in self._parts:
            for name in _windows(part.tree):
                part.tree[name] = _window(part.tree[name], self._length)
        for path in (("input",), ("encoder", "input")):
            holder = self._tree if len(path) == 1 else self._tree.get("encoder")
            if holder is None:
                continue
            taken = holder["input"]
            if "seq_len" not in taken:
                raise self._error(
                    path, "an image has no seq_len to shrink", "leave 'seq_len' out of the proxy"
                )
            step = math.lcm(*groups, *(_length_step(part.tree) for part in self._parts))
            long = taken["seq_len"]
            taken["seq_len"] = max(step, round(long * self._length / step) * step)
            if taken["seq_len"] >= long:
                message = f"{self._length} of seq_len {long}: lengths here are multiples of {step} only"
                raise self._error((*path, "seq_len"), message, "ask for a smaller share")

    def _error(self, path: Path, message: str, hint: str) -> SpecError:
        return SpecError(problems=[self._spec.problem(path, message, hint)])


def _recurrent_heads(tree: Tree, d_model: int) -> int | None:
    """How many heads a mixer has whose heads cut up an expanded stream; None for any other component."""
    if "expand" not in tree or "d_head" not in tree:
        return None
    return int(tree["expand"] * d_model // tree["d_head"])


def _step(tree: Tree, recurrent_heads: int | None) -> int:
    """What a stream's width must be a multiple of so that the heads divide it, each into an even width."""
    if recurrent_heads is not None:
        return recurrent_heads // math.gcd(recurrent_heads, tree["expand"])
    return 2 * int(tree["n_heads"]) if "n_heads" in tree and "d_head" not in tree else 1


def _windows(tree: Tree) -> list[str]:
    """The fields that count positions; a logsparse combiner's spans follow from the length."""
    if tree.get("variant") == "logsparse":
        return []
    return [name for name in (*_WINDOWS, *(("size",) if tree["kind"] == "pool" else ())) if name in tree]


def _length_step(tree: Tree) -> int:
    """Rows of a combiner must fill the length."""
    return int(tree["span"]) if tree["kind"] == "combiner" and "span" in _windows(tree) else 1


def _window(positions: int, share: Fraction) -> int:
    """A window at ``share``, odd where it was odd, and not so short that it mixes nothing."""
    found = max(min(positions, _LEAST_WINDOW), round(positions * share))
    return found if (found - positions) % 2 == 0 or positions % 2 == 0 else found - 1


def _fewer(entries: list[Tree], share: Fraction) -> list[Tree]:
    """``share`` of the layers: repeats are shortened, of single layers some of each kind go."""
    kept = []
    for entry, stays in zip(entries, _spread([str(entry) for entry in entries], share), strict=True):
        if "fit" in entry:
            kept.append({"fit": entry["fit"] | {"schedule": _schedule(entry["fit"]["schedule"], share)}})
        elif "pattern" in entry:
            symbols = [s for s, keep in zip(entry["pattern"], _spread(list(entry["pattern"]), share)) if keep]
            kept.append(entry | {"pattern": "".join(symbols)})
        elif "layers" in entry:
            count = "repeat" if "repeat" in entry else "loop"
            if entry[count] == 1:
                kept.append(entry | {"layers": _fewer(entry["layers"], share)})
            else:
                kept.append(entry | {count: math.ceil(entry[count] * share)})
        elif stays:
            kept.append(entry)
    return kept


def _spread(kinds: list[str], share: Fraction) -> Iterator[bool]:
    """For each in turn whether it stays: of every kind the share, spread evenly, and at least the first."""
    seen: dict[str, int] = {}
    for kind in kinds:
        n = seen.get(kind, 0)
        seen[kind] = n + 1
        yield math.ceil((n + 1) * share) > math.ceil(n * share)


def _schedule(text: str, share: Fraction) -> str:
    pairs = [(math.ceil(a * share), math.ceil(b * share)) for a, b in parse_schedule(text)]
    return "".join(f"({a}){b or ''}" for a, b in pairs)


def _path(text: str) -> Path:
    """``layers[0].token_mixer`` -> ("layers", 0, "token_mixer")."""
    return tuple(int(i) if i else name for name, i in re.findall(r"([^.\[\]]+)|\[(\d+)\]", text))
