"""The report: complete, self-contained, and safe with hostile text in it."""

from __future__ import annotations

import html.parser
import re
import shutil
import subprocess
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from search.front import (
    HypervolumePoint,
    Interval,
    Limit,
    Objective,
    Row,
    SearchResult,
    TaskInfo,
    TextBaseline,
    Verdict,
)
from search.report import write
from search.report.charts import front_chart, svg
from search.report.page import render

HOSTILE = "</script><img src=x onerror=alert(1)>"


def row(trial: int, score: float, latency: float, **more: object) -> Row:
    fields: dict[str, object] = {
        "trial": trial,
        "hash": f"{trial:064x}",
        "name": f"{trial:012x}",
        "status": "done",
        "strip": (("mamba2", "none"), ("attention", "swiglu")),
        "objectives": {"score": score, "latency_ms": latency},
        "costs": {"params": 52_000 + trial, "flops": 10**7},
        "scores": {"copy": score, "parity": score},
        "measured": {"latency_ms": Interval(latency, latency * 0.95, latency * 1.1, 30, "measured")},
        "feasible": True,
    }
    return Row(**(fields | more))  # type: ignore[arg-type]


@pytest.fixture
def result() -> SearchResult:
    return SearchResult(
        study="demo",
        description="a study",
        objectives=(
            Objective("score", "maximize", "", 1.0, 0.0),
            Objective("latency_ms", "minimize", "ms", 0.0, 10.0),
        ),
        budgets=(Limit("latency_ms", "<=", 6.0, "ms", "<= 6", False, 0), 
            Limit("params", "<=", 3e5, "count", "<= 300k", True, 2)),
        tasks=(TaskInfo("copy", "copy", "accuracy", {"n_max": 12}),
            TaskInfo("parity", "parity", "accuracy", {})),
        aggregate="min",
        target={"device": "cpu", "phase": "prefill"},
        rows=(
            row(0, 0.95, 3.0, on_front=True, rank=0, hybrid=True, spec_file="front/000000000000.yaml"),
            row(1, 0.40, 1.0, on_front=True, rank=0, strip=(("mamba2", "none"),)),
            row(2, 0.35, 4.0, rank=1),
            row(3, 0.52, 5.0, baseline="all_attention", strip=(("attention", "swiglu"),) * 2),
            row(4, 0.96, 9.0, feasible=False, violations=("latency_ms 9 is not <= 6",)),
            Row(5, "5" * 64, "5" * 12, "refused", reason="params 1.2M is not <= 300k"),
            Row(6, "6" * 64, "6" * 12, "failed", reason=f"worker died {HOSTILE}"),
        ),
        hypervolume=(HypervolumePoint(1, 0, 1.0, 0.3), HypervolumePoint(5, 4, 9.0, 0.6)),
        text_baselines=(TextBaseline("text_lm", "xz", "validation", 2.31),),
        verdict=Verdict("A hybrid leads.", 0, 3, 0, True, 0.6, 0.2),
        refusals={"params": 1},
        failures={"worker died": 1},
        fronts_by_aggregate={"mean": (0, 1), "min": (0,)},
        space_size=(4096, True),
        seed=0,
        complete=True,
        stopped="5 candidates trained",
        provenance={"python": "3.11"},
    )  # fmt: skip


def test_every_trained_candidate_is_in_the_picture_and_in_the_table(result: SearchResult) -> None:
    page = render(result)
    for trained in result.trained:
        assert page.count(f'aria-label="trial {trained.trial}:') == 1
        assert f'data-trial="{trained.trial}"' in page


def test_refusals_failures_duplicates_and_budgets_are_counted(result: SearchResult) -> None:
    page = render(result)
    assert "refused: params" in page
    assert "failed: worker died" in page
    assert "params 1.2M is not &lt;= 300k" in page
    assert "turned away 2" in page
    assert "5 trained, 0 answered as duplicates, 1 refused before training, 1 failed" in page


def test_the_front_is_joined_by_a_step_line_and_baselines_are_named(result: SearchResult) -> None:
    picture = svg(front_chart(result))
    assert "all_attention" in picture
    assert "latency_ms &lt;= 6" in picture
    line = re.search(
        r'<path aria-label="[^"]*" role="graphics-symbol" aria-roledescription="line mark" d="([^"]+)"',
        picture,
    )
    assert line is not None
    points = [tuple(map(float, pair.split(","))) for pair in re.findall(r"-?[\d.]+,-?[\d.]+", line[1])]
    assert all(a[0] == b[0] or a[1] == b[1] for a, b in pairwise(points)), "steps are horizontal or vertical"
    assert len(points) >= 3


def test_hostile_text_stays_text(result: SearchResult) -> None:
    hostile = replace(
        result,
        study=HOSTILE,
        description=HOSTILE,
        rows=(*result.rows, row(9, 0.5, 2.0, name=HOSTILE, strip=((HOSTILE, "none"),), baseline=HOSTILE)),
        provenance={"space": HOSTILE},
    )

    class Tags(html.parser.HTMLParser):
        seen: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.seen.append(tag)
            assert not any(name.startswith("on") for name, _ in attrs)

    parser = Tags()
    parser.seen = []
    parser.feed(render(hostile))
    assert "img" not in parser.seen
    assert parser.seen.count("script") == 1


def test_the_page_loads_nothing(result: SearchResult) -> None:
    page = render(result)
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src &#39;none&#39;")
    assert "unsafe-eval" not in page
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)


def test_an_empty_search_still_has_a_page(result: SearchResult, tmp_path: Path) -> None:
    empty = replace(
        result, rows=(), hypervolume=(), verdict=replace(result.verdict, best=None, best_hybrid=None)
    )
    assert write(empty, tmp_path).is_file()
    assert "No candidate has been trained." in (tmp_path / "report.html").read_text()


def test_the_png_is_the_same_chart(result: SearchResult, tmp_path: Path) -> None:
    write(result, tmp_path)
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.png"]


@pytest.mark.chromium
def test_the_page_works_in_a_browser(result: SearchResult, tmp_path: Path) -> None:
    """The script runs under the page's own policy: it gives every point a tooltip."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no system Chromium: install the package 'chromium' to run this test")
    page = write(result, tmp_path)
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    shown = subprocess.run(
        [chromium, *options, "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert shown.stdout.count("<title>trial ") == len(result.trained)
