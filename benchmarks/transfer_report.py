"""The table, verdict and plot of a transfer audit, from the rows of its trainings."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transfer_models import Member
from transfer_stats import kendall_tau, regret, tau_interval

_PARTS = ("test_loss", "test_repeated", "test_rest")
Row = dict[str, Any]


def report(
    models: Sequence[Member], small: Sequence[Row], picks: Sequence[Row], large: Sequence[Row]
) -> tuple[Row, str]:
    """Everything that is concluded, and the same as a table; losses are bits per byte of the sealed test."""
    by_name = {m.name: m for m in models}
    rows = []
    seeds = common_seeds(large)
    for pick in picks:
        every = [r for r in large if r["name"] == pick["name"]]
        runs = [r for r in every if r["seed"] in seeds]
        if not runs or any("test_loss" not in r for r in runs):
            continue
        member = by_name[pick["name"]]
        means = {part: statistics.fmean(r[part] for r in runs) for part in _PARTS}
        by_seed = [r["test_loss"] for r in every if "test_loss" in r]
        rows.append(
            {**pick, "params": member.params, "flops": member.flops, **means, "test_loss_by_seed": by_seed}
        )
    facts = conclusions(rows)
    facts["failed"] = [r["name"] for r in (*small, *large) if r["status"] != "ok"]
    facts["n_small"], facts["n_large"] = len(small), len(rows)
    facts["seeds_compared"] = str(sorted(seeds))
    facts["n_picked"], facts["n_large_runs"] = len(picks), len(large)
    facts["small_params"] = _range([m.twin_params for m in models])
    facts["large_params"] = _range([row["params"] for row in rows])
    facts["small_tokens"], facts["large_tokens"] = small[0]["tokens"], large[0]["tokens"]
    facts["small_best_rates"], facts["large_best_rates"] = _rates(small), _rates(large)
    facts["share_repeated"] = statistics.fmean(r["share_repeated"] for r in large if "share_repeated" in r)
    facts["cpu_seconds"] = round(sum(r["cpu_seconds"] for r in (*small, *large)))
    return {**facts, "small": list(small), "large": list(large), "rows": rows}, _table(rows)


def common_seeds(large: Sequence[Row]) -> set[int]:
    """The seeds that every model with a large training has: means over other seeds would not compare."""
    by_name: dict[str, set[int]] = {}
    for row in large:
        by_name.setdefault(row["name"], set()).add(row["seed"])
    return set.intersection(*by_name.values()) if by_name else set()


def conclusions(rows: Sequence[Row]) -> Row:
    """Tau of small loss and of the baselines against the large loss, the ceiling, regrets, and a verdict."""
    columns = {
        "small loss": [row["small_loss"] for row in rows],
        "params": [-row["params"] for row in rows],
        "FLOPs": [-row["flops"] for row in rows],
    }
    taus: Row = {}
    for part in _PARTS:
        truth = [row[part] for row in rows]
        taus[part] = {
            name: {"tau": kendall_tau(column, truth), "interval_95": tau_interval(column, truth)}
            for name, column in columns.items()
        }
    ceiling = _ceiling(rows)
    losses = [row["test_loss"] for row in rows]
    found = regret(columns["small loss"], [row["params"] for row in rows], losses)
    regrets = {"by_small": found.by_small, "by_params": found.by_params, "at_random": found.at_random}
    return {
        "tau": taus,
        "ceiling_between_seeds": ceiling,
        "regret": regrets,
        "verdict": verdict(taus["test_loss"], ceiling, regrets),
    }


def _ceiling(rows: Sequence[Row]) -> Row | None:
    """Tau between the first two seeds over the models that have both; None where fewer than three do."""
    pairs = [row["test_loss_by_seed"][:2] for row in rows if len(row["test_loss_by_seed"]) > 1]
    if len(pairs) < 3:
        return None
    first, second = zip(*pairs, strict=True)
    tau, interval = kendall_tau(first, second), tau_interval(first, second)
    return {"tau": tau, "interval_95": interval, "n": len(pairs)}


def verdict(taus: Row, ceiling: Row | None, regrets: Row) -> str:
    """One paragraph; good only where the interval excludes 0 and the twins rank better than parameters."""
    tau, (low, high) = taus["small loss"]["tau"], taus["small loss"]["interval_95"]
    params = taus["params"]["tau"]
    between = "not measured" if ceiling is None else f"{ceiling['tau']:.2f}"
    if low > 0 and tau > params and regrets["by_small"] <= regrets["by_params"]:
        word = "The small search can be believed here"
    elif low > 0:
        word = "The small score ranks better than chance, but did not beat parameters in every respect"
    else:
        word = "The small score cannot be believed here"
    return (
        f"{word}: tau of the twins' loss against the full models' sealed-test loss is {tau:.2f} "
        f"[{low:.2f}, {high:.2f}], of parameters alone {params:.2f}, of FLOPs {taus['FLOPs']['tau']:.2f}; "
        f"between two seeds {between}. Regret in bits per byte: best twin "
        f"{regrets['by_small']:.3f}, most parameters {regrets['by_params']:.3f}, random "
        f"{regrets['at_random']:.3f}."
    )


def draw(document: Row, file: Path) -> None:
    """Small loss against large loss, a point for each pick."""
    import altair as alt
    import vl_convert

    def axis(kind: Any, field: str, title: str) -> Any:
        return kind(f"{field}:Q", title=title, scale=alt.Scale(zero=False))

    in_order = sorted(document["rows"], key=lambda row: row["test_loss"])
    values = [
        {**{k: row[k] for k in ("name", "rule", "strip", "small_loss", "test_loss")}, "is_even": n % 2 == 0}
        for n, row in enumerate(in_order)
    ]
    base = alt.Chart(alt.Data(values=values)).encode(
        x=axis(alt.X, "small_loss", "shrunk twin: validation, bits per byte"),
        y=axis(alt.Y, "test_loss", "full model: sealed test, bits per byte"),
    )
    points = base.mark_point(filled=True, size=70).encode(color=alt.Color("rule:N", title="picked as"))
    labels = alt.layer(  # above and below in turns, so that neighbours stay legible
        *(
            base.mark_text(dx=6, dy=dy, align="left", fontSize=9)
            .encode(text="strip:N")
            .transform_filter(f"datum.is_even == {is_even}")
            for is_even, dy in (("true", 7), ("false", -7))
        )
    )
    tau = document["tau"]["test_loss"]["small loss"]["tau"]
    chart = (points + labels).properties(width=460, height=320, title=f"Transfer, Kendall's tau {tau:.2f}")
    file.write_bytes(vl_convert.vegalite_to_png(chart.to_dict(), scale=2))


def _rates(rows: Sequence[Row]) -> str:
    """How many trainings were best with which learning rate."""
    counts = Counter(row["learning_rate"] for row in rows)
    return ", ".join(f"{rate:g}: {n}" for rate, n in sorted(counts.items()))


def _range(values: Sequence[int]) -> str:
    return f"{min(values):,}..{max(values):,}"


def _table(rows: Sequence[Row]) -> str:
    lines = [
        "| name | picked as | mixers | params | small | large | seeds | repeated | rest |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted(rows, key=lambda row: row["test_loss"]):
        seeds = " ".join(f"{loss:.3f}" for loss in row["test_loss_by_seed"])
        lines.append(
            f"| {row['name']} | {row['rule']} | {row['strip']} | {row['params']:,} | {row['small_loss']:.3f} "
            f"| {row['test_loss']:.3f} | {seeds} | {row['test_repeated']:.3f} | {row['test_rest']:.3f} |"
        )
    return "\n".join(lines)
