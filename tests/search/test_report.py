"""The report: complete, self-contained, and safe with hostile text in it."""

from __future__ import annotations

import html.parser
import re
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from browser import browser

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


def test_a_search_of_thousands_stays_a_small_page(result: SearchResult) -> None:
    """The table and the picture leave out who is far behind, and say so."""
    layers = (("mamba2", "swiglu"), ("attention", "swiglu")) * 6
    many = tuple(
        row(10 + i, 0.1 + i / 1e5, 2.0 + i / 1e3, rank=1 + i % 40, strip=layers) for i in range(4_000)
    )
    page = render(replace(result, rows=(*result.rows, *many)))
    assert len(page.encode()) < 1_500_000
    assert "more are in trials.csv" in page
    assert all(f'data-trial="{trial}"' in page for trial in (0, 1, 3)), "front and baselines always"


def test_the_table_is_one_for_screen_readers(result: SearchResult) -> None:
    page = render(result)
    table = page[page.index('<table id="candidates">') : page.index("</table>")]
    assert "<caption>" in table
    assert table.count('<th scope="row">') == len(result.trained)
    headings = re.findall(r"<th [^>]*>", table.split("</thead>")[0])
    assert headings
    assert all('scope="col"' in heading for heading in headings)
    assert table.count('aria-sort="none"') == table.count("<button")
    assert all('scope="' in cell for cell in re.findall(r"<th[ >][^>]*", page)), (
        "every heading of every table"
    )


def test_the_study_s_missing_baselines_are_named(result: SearchResult) -> None:
    page = render(result)
    rows = re.findall(r"<tr><th scope=\"row\">([^<]+)</th><td colspan=\"3\">missing: ([^<]+)", page)
    assert [name for name, _ in rows] == [
        "random search",
        "all state space",
        "1 attention to 3 state space",
        "1 attention to 7 state space",
    ]
    assert "--with-random" in rows[0][1]


def test_every_member_of_the_front_has_a_card(result: SearchResult) -> None:
    page = render(result)
    assert re.findall(r'<article id="card-(\d+)"', page) == ["0", "1"]
    assert "layer 1: mamba2 → attention+swiglu" in page
    assert page.count('href="#card-') == 2


def test_what_was_proved_before_any_training_is_told(result: SearchResult) -> None:
    never = {"gene": "layers[0]", "value": "<b>wide</b>", "why": "params is 9M at least", "how": "bounds"}
    seen = {"distinct": 7, "seen": 9, "feasible": 5, "proof": "bounds", "never": [never], "doubts": {}}
    page = render(replace(result, survey=seen))
    assert "7 distinct candidates of 9 fillings seen, 5 within" in page
    assert "&lt;b&gt;wide&lt;/b&gt;" in page
    assert "params is 9M at least" in page
    assert "Before any training" not in render(result)


def test_importances_are_not_told_from_a_handful_of_trials(result: SearchResult) -> None:
    assert "importances need 24 trained candidates with genes, and there are 0" in render(result)


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no system Chromium: install the package 'chromium' to run this test")
    return found


@pytest.mark.chromium
def test_the_page_works_in_a_browser(chromium: str, result: SearchResult, tmp_path: Path) -> None:
    """From disk, without a request or a complaint; the script runs under the page's own policy."""
    page = write(result, tmp_path)
    assert page.stat().st_size < 1_500_000
    with browser(chromium, tmp_path / "profile") as tab:
        tab.open(page)
        assert tab.run("document.querySelectorAll('#scatter title').length") >= len(result.trained)
        assert tab.problems() == []
        assert tab.requests() == [page.as_uri()]


@pytest.mark.chromium
def test_the_keyboard_reaches_the_table_sorts_it_and_walks_its_rows(
    chromium: str, result: SearchResult, tmp_path: Path
) -> None:
    shown = "[...document.querySelectorAll('#candidates tbody tr')].map(r => Number(r.dataset.trial))"
    with browser(chromium, tmp_path / "profile") as tab:
        tab.open(write(result, tmp_path))
        seen = []
        for _ in range(40):
            tab.press("Tab")
            seen.append(tab.run("document.activeElement.textContent.trim().slice(0, 20)"))
            if tab.run("document.activeElement.tagName") == "BUTTON" and seen[-1] == "latency_ms":
                break
        assert seen[-1] == "latency_ms", seen
        tab.press("Enter")
        latency = {row.trial: row.objectives["latency_ms"] for row in result.trained}
        assert tab.run(shown) == sorted(latency, key=lambda trial: latency[trial])
        heading = "document.activeElement.closest('th').getAttribute('aria-sort')"
        assert tab.run(heading) == "ascending"
        tab.press("Enter")
        assert tab.run(shown) == sorted(latency, key=lambda trial: -latency[trial])
        assert tab.run(heading) == "descending"
        for _ in range(20):
            tab.press("Tab")
            if tab.run("document.activeElement.tagName") == "TR":
                break
        first = tab.run("document.activeElement.rowIndex")
        tab.press("ArrowUp" if first > 1 else "ArrowDown")
        assert tab.run("document.activeElement.rowIndex") == (first - 1 if first > 1 else first + 1)
        assert tab.run("document.querySelectorAll('#candidates tr.lit').length") == 1
        assert tab.problems() == []


@pytest.mark.chromium
def test_a_screen_reader_is_given_the_table_with_its_headings(
    chromium: str, result: SearchResult, tmp_path: Path
) -> None:
    with browser(chromium, tmp_path / "profile") as tab:
        tab.open(write(result, tmp_path))
        caption = tab.run("document.querySelector('#candidates caption').textContent.trim()")
        heads = tab.run("[...document.querySelectorAll('#candidates thead th')].map(h => h.innerText.trim())")
        names = tab.run("[...document.querySelectorAll('#candidates tbody th')].map(h => h.innerText.trim())")
        told = tab.accessible()
    assert ("table", caption) in told
    begin = told.index(("table", caption))
    within = told[begin + 1 :]
    assert [name.strip() for role, name in within if role == "columnheader"][: len(heads)] == heads
    assert [name.strip() for role, name in within if role == "rowheader"][: len(names)] == names
    assert len(names) == len(result.trained)
    nameless = [role for role, name in told if role in ("button", "link", "image", "heading") and not name]
    assert not nameless, "every control, picture and heading says what it is"


@pytest.mark.chromium
def test_a_hostile_name_does_no_harm_in_a_browser(
    chromium: str, result: SearchResult, tmp_path: Path
) -> None:
    evil = row(
        9, 0.99, 0.5, on_front=True, rank=0, name=HOSTILE, baseline=HOSTILE, strip=((HOSTILE, HOSTILE),),
        spec_file=f"front/{HOSTILE}.yaml",
    )  # fmt: skip
    hostile = replace(result, study=HOSTILE, description=HOSTILE, rows=(*result.rows, evil))
    with browser(chromium, tmp_path / "profile") as tab:
        tab.open(write(hostile, tmp_path))
        assert tab.run("document.title").startswith(HOSTILE)
        assert tab.run("document.images.length + document.scripts.length") == 1
        assert tab.run("document.querySelectorAll('article').length") == 3
        assert not any(event["method"] == "Page.javascriptDialogOpening" for event in tab.events)
        assert tab.problems() == []
        assert len(tab.requests()) == 1
