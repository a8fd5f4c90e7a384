"""The tables and the plot of ``search_tables.py``, from its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

MARKS = (25, 50, 100, 200)
_N_BOOTSTRAPS = 10_000
Row = dict[str, Any]
Key = tuple[str, str, str]  # table, budget, method
Runs = Mapping[int, Sequence[float]]  # by seed, the share of the hypervolume after each evaluation


def grouped(rows: Sequence[Row]) -> dict[Key, dict[int, list[float]]]:
    """The curves of every method."""
    groups: dict[Key, dict[int, list[float]]] = {}
    for row in rows:
        groups.setdefault((row["table"], row["budget"], row["method"]), {})[row["seed"]] = row["ratios"]
    return groups


def interval(differences: Sequence[float]) -> tuple[float, float, float]:
    """Mean and a 95 % percentile bootstrap over seeds of paired differences."""
    values = np.array(differences)
    drawn = np.random.default_rng(0).integers(len(values), size=(_N_BOOTSTRAPS, len(values)))
    low, high = np.quantile(values[drawn].mean(axis=1), [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def paired(ours: Runs, others: Runs, mark: int) -> tuple[float, float, float] | None:
    """The interval of ours minus theirs at ``mark`` over the seeds that both have; None with none."""
    common = [s for s in sorted(set(ours) & set(others)) if min(len(ours[s]), len(others[s])) >= mark]
    return interval([ours[s][mark - 1] - others[s][mark - 1] for s in common]) if common else None


def first_reaching(ratios: Sequence[float], goal: float) -> int | None:
    """After how many evaluations ``goal`` is reached."""
    return next((n for n, ratio in enumerate(ratios, 1) if ratio >= goal), None)


def mean_curve(runs: Runs) -> list[float]:
    """Over the seeds, as long as the shortest run."""
    shortest = min(map(len, runs.values()))
    return [float(x) for x in np.mean([run[:shortest] for run in runs.values()], axis=0)]


def reaches_random(groups: Mapping[Key, Runs], key: Key) -> int | None:
    """When the mean of a method is where that of random search is after 500; None: not within its run."""
    random = groups.get((*key[:2], "random"), {})
    if not random or min(map(len, random.values())) < 500:
        return None
    return first_reaching(mean_curve(groups[key]), mean_curve(random)[499])


def results(rows: Sequence[Row]) -> list[Row]:
    """Every method's means at the marks, with the numbers of seeds that they stand on."""
    groups = grouped(rows)
    found = []
    for key, runs in sorted(groups.items()):
        at = {mark: [r[mark - 1] for r in runs.values() if len(r) >= mark] for mark in MARKS}
        found.append(
            {
                **dict(zip(("table", "budget", "method"), key, strict=True)),
                "seeds": len(runs),
                **{f"at_{mark}": round(float(np.mean(v)), 4) for mark, v in at.items() if v},
                **{f"seeds_at_{mark}": len(v) for mark, v in at.items()},
                "reaches_mean_random_500_at": reaches_random(groups, key),
                "mean_curve": [round(x, 4) for x in mean_curve(runs)],
            }
        )
    return found


def report(rows: Sequence[Row], default: str, methods: Sequence[str], ablations: Sequence[str]) -> str:
    """Means; the default against each method; what each part gives."""
    groups = grouped(rows)
    return "\n\n".join(
        (
            "Mean share of the exhaustive hypervolume after so many evaluations, and after how many the mean "
            "is at that of 500 evaluations of random search with rejection:",
            _means(groups, methods),
            "The default minus each other method, paired over seeds, with a 95 % bootstrap interval:",
            _differences(groups, default, [m for m in methods if m != default], (50, 100, 200)),
            "The ablation: the default minus what lacks a part (or, for the warm start, has one more). "
            "Without the predictor, the default is `evolution`.",
            _differences(groups, default, ["evolution", *ablations], (50, 100)),
        )
    )


def _means(groups: Mapping[Key, Runs], methods: Sequence[str]) -> str:
    lines = []
    for key, runs in sorted(groups.items()):
        if key[2] not in methods:
            continue
        cells = []
        for mark in MARKS:
            values = [r[mark - 1] for r in runs.values() if len(r) >= mark]
            short = "" if len(values) == len(runs) else f" ({len(values)} of {len(runs)})"
            cells.append(f"{np.mean(values):.3f}{short}" if values else "")
        at = reaches_random(groups, key)
        lines.append([*key, str(len(runs)), *cells, "not" if at is None else str(at)])
    return _table(["table", "budgets", "method", "seeds", *map(str, MARKS), "at random@500 after"], lines)


def _differences(
    groups: Mapping[Key, Runs], default: str, others: Sequence[str], marks: Sequence[int]
) -> str:
    lines = []
    for key, runs in sorted(groups.items()):
        if key[2] not in others:
            continue
        ours = groups.get((*key[:2], default), {})
        cells = []
        for mark in marks:
            found = paired(ours, runs, mark)
            cells.append("" if found is None else f"{found[0]:+.3f} [{found[1]:+.3f}, {found[2]:+.3f}]")
        if any(cells):
            lines.append([*key, str(len(set(ours) & set(runs))), *cells])
    return _table(["table", "budgets", "other", "seeds", *(f"at {mark}" for mark in marks)], lines)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def draw(rows: Sequence[Row], methods: Sequence[str], file: Path) -> None:
    """Mean curves, a panel for each table and budget."""
    import altair as alt
    import vl_convert

    values = [
        {"panel": f"{table}, {budget}", "method": method, "evaluations": n, "share": round(share, 4)}
        for (table, budget, method), runs in grouped(rows).items()
        if method in methods
        for n, share in enumerate(mean_curve(runs), 1)
        if n >= 8 and (n <= 40 or n % 4 == 0)
    ]
    lines = alt.Chart(alt.Data(values=values)).mark_line().encode(
        x=alt.X("evaluations:Q", scale=alt.Scale(type="log", domain=[8, 500], nice=False)),
        y=alt.Y("share:Q", scale=alt.Scale(zero=False), title="share of the exhaustive hypervolume"),
        color=alt.Color("method:N", sort=list(methods)),
    )  # fmt: skip
    chart = lines.properties(width=260, height=180).facet(alt.Facet("panel:N", title=None), columns=2)
    chart = chart.resolve_scale(y="independent")
    file.write_bytes(vl_convert.vegalite_to_png(chart.to_dict(), scale=1.2))
