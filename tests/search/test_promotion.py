"""Promotion against its definition, and hypervolume against Optuna's."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest
from optuna._hypervolume import compute_hypervolume

from search.front import Direction
from search.pareto import hypervolume
from search.promotion import Climber, promoted, promotion_order


def dominates(a: Climber, b: Climber, directions: Sequence[Direction]) -> bool:
    """No worse anywhere and better somewhere, each objective in its own direction."""
    better = worse = False
    for x, y, direction in zip(a.values, b.values, directions, strict=True):
        ahead = x > y if direction == "maximize" else x < y
        behind = x < y if direction == "maximize" else x > y
        better, worse = better or ahead, worse or behind
    return better and not worse


def front_of(climber: Climber, rest: Sequence[Climber], directions: Sequence[Direction]) -> int:
    """One more than the deepest front among those that dominate it."""
    above = [front_of(o, rest, directions) for o in rest if dominates(o, climber, directions)]
    return 1 + max(above) if above else 0


def may_precede(a: Climber, b: Climber, all_: Sequence[Climber], directions: Sequence[Direction]) -> bool:
    """Whether the definition lets ``a`` be promoted before ``b``; ties are let through."""
    if (a.excess > 0) != (b.excess > 0):
        return a.excess <= 0
    if a.excess > 0:
        return (a.excess, a.number) <= (b.excess, b.number)
    feasible = [c for c in all_ if is_sound(c) and c.excess <= 0]
    return front_of(a, feasible, directions) <= front_of(b, feasible, directions)


def is_sound(climber: Climber) -> bool:
    return not climber.failed and all(math.isfinite(x) for x in (*climber.values, climber.excess))


def some_climbers(rng: random.Random) -> tuple[list[Climber], list[Direction]]:
    """Few distinct values, so that ties are common; NaN, failures and excess among them."""
    n_objectives = rng.choice((1, 2, 2, 3))
    numbers = rng.sample(range(100), rng.randrange(0, 9))
    grid = rng.choice((2, 4, 1000))

    def value() -> float:
        return math.nan if rng.random() < 0.05 else rng.randrange(grid) / rng.choice((1, 1, 8))

    climbers = [
        Climber(
            number,
            tuple(value() for _ in range(n_objectives)),
            excess=rng.choice((0.0, 0.0, 0.0, 0.5, 1.0, rng.random(), math.nan)),
            failed=rng.random() < 0.1,
        )
        for number in numbers
    ]
    return climbers, [rng.choice(("maximize", "minimize")) for _ in range(n_objectives)]


def test_promotion_is_the_definition_on_ten_thousand_random_cases() -> None:
    rng = random.Random(0)
    for _ in range(10_000):
        climbers, directions = some_climbers(rng)
        by_number = {climber.number: climber for climber in climbers}
        share = Fraction(rng.randrange(1, 10), 9)
        chosen = promoted(climbers, directions, share)
        sound = [c for c in climbers if is_sound(c)]
        assert len(chosen) == len(set(chosen)) == math.ceil(share * len(sound))
        assert {n for n in chosen} <= {c.number for c in sound}
        left = [c for c in sound if c.number not in chosen]
        for number, other in product(chosen, left):
            assert may_precede(by_number[number], other, climbers, directions)
        order = promotion_order(climbers, directions)
        assert order[: len(chosen)] == chosen
        for first, second in pairwise(order):
            assert may_precede(by_number[first], by_number[second], climbers, directions)


def test_the_order_depends_on_nothing_but_the_candidates() -> None:
    rng = random.Random(1)
    for _ in range(300):
        climbers, directions = some_climbers(rng)
        order = promotion_order(climbers, directions)
        rng.shuffle(climbers)
        assert promotion_order(climbers, directions) == order


def test_the_smallest_of_3_2_4_1_is_promoted() -> None:
    """A peer takes argsort for the rank, and promotes another."""
    climbers = [Climber(number, (float(value),)) for number, value in enumerate([3, 2, 4, 1])]
    assert promoted(climbers, ["minimize"], Fraction(1, 4)) == [3]
    assert promotion_order(climbers, ["minimize"]) == [3, 1, 0, 2]
    assert promotion_order(climbers, ["maximize"]) == [2, 0, 1, 3]


def test_inside_a_front_what_adds_more_goes_first() -> None:
    """(0, 4), (1, 1), (4, 0) and a near twin of the middle: the ends and one of the middle are worth more."""
    points = [(0.0, 4.0), (1.0, 1.0), (1.05, 0.99), (4.0, 0.0)]
    climbers = [Climber(number, point) for number, point in enumerate(points)]
    directions: list[Direction] = ["minimize", "minimize"]

    def without(index: int) -> float:
        return hypervolume([p for i, p in enumerate(points) if i != index], (4.4, 4.4))

    by_loss = sorted(range(4), key=lambda index: (without(index), index))
    assert promotion_order(climbers, directions) == by_loss
    assert set(by_loss[2:]) == {1, 2}, "the twins cost least"


def test_of_equal_points_one_goes_first_and_the_others_after_the_rest_of_their_front() -> None:
    points = [(0.0, 1.0), (0.0, 1.0), (1.0, 0.0), (0.0, 1.0)]
    climbers = [Climber(number, point) for number, point in enumerate(points)]
    assert promotion_order(climbers, ["minimize", "minimize"]) == [0, 2, 1, 3]


@pytest.mark.parametrize("n_objectives", [1, 2, 3, 4])
def test_hypervolume_equals_optunas(n_objectives: int) -> None:
    rng = np.random.default_rng(n_objectives)
    for _ in range(60):
        points = rng.random((int(rng.integers(0, 14)), n_objectives))
        if rng.random() < 0.5:
            points = np.round(points * 5) / 5  # ties in single coordinates, equal points
        reference = np.full(n_objectives, 0.9) + 0.4 * rng.random(n_objectives)
        inside = points[(points <= reference).all(axis=1)]
        theirs = compute_hypervolume(inside, reference) if len(inside) else 0.0
        ours = hypervolume([tuple(point) for point in points], tuple(reference))
        assert ours == pytest.approx(theirs, rel=0, abs=1e-12)
