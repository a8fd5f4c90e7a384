"""How many fillings a tree with holes has: a sum over options, a product over all else."""

from __future__ import annotations

import math
from collections.abc import Mapping

from archspec.holes import Hole, below, is_hole
from archspec.nodes import Node

_MAX_TERMS = 5_000
Used = frozenset[tuple[str, int]]  # shared holes with the index of the value they take
_NOTHING: Used = frozenset()


def count_fillings(root: Node, holes: Mapping[str, Hole]) -> tuple[float, bool]:
    """How many fillings there are (inf with a float hole), and whether that is exact or only an upper bound.

    A shared hole takes one value everywhere, so fillings are counted by the shared values that they use.
    """
    try:
        return sum(_terms(root, "", holes).values()), True
    except _TooManyTerms:
        return _at_most(root, "", holes), False


class _TooManyTerms(Exception):
    """Too many combinations of shared values to count one by one."""


def _terms(node: Node, gene: str, holes: Mapping[str, Hole]) -> dict[Used, float]:
    if not is_hole(node):
        product: dict[Used, float] = {_NOTHING: 1}
        for name, child in below(node, gene):
            product = _multiplied(product, _terms(child, name, holes))
        return product
    hole = holes[gene]
    if hole.kind == "float":
        return {_NOTHING: math.inf}
    if hole.share:
        if len(hole.values) > _MAX_TERMS:
            raise _TooManyTerms
        return {frozenset({(hole.gene, index)}): 1 for index in range(len(hole.values))}
    if hole.kind == "int":
        return {_NOTHING: len(hole.values)}
    total: dict[Used, float] = {}
    for option, branch in zip(hole.options, hole.branches, strict=True):
        for used, n in _terms(branch, f"{gene}<{option}>", holes).items():
            total[used] = total.get(used, 0) + n
    return total


def _multiplied(left: dict[Used, float], right: dict[Used, float]) -> dict[Used, float]:
    """Every pair that gives no shared hole two values."""
    if len(left) * len(right) > 100 * _MAX_TERMS:
        raise _TooManyTerms
    product: dict[Used, float] = {}
    for used, n in left.items():
        for other, m in right.items():
            both = used | other
            if len({gene for gene, _ in both}) == len(both):
                product[both] = product.get(both, 0) + n * m
    if len(product) > _MAX_TERMS:
        raise _TooManyTerms
    return product


def _at_most(node: Node, gene: str, holes: Mapping[str, Hole]) -> float:
    """An upper bound: as if every shared hole were free."""
    if not is_hole(node):
        return math.prod(_at_most(child, name, holes) for name, child in below(node, gene))
    hole = holes[gene]
    if hole.kind == "float":
        return math.inf
    if hole.kind == "int" or hole.share:
        return len(hole.values)
    return sum(
        _at_most(branch, f"{gene}<{option}>", holes)
        for option, branch in zip(hole.options, hole.branches, strict=True)
    )
