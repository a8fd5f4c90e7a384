"""Searches that repeat byte for byte, and results that are derived from their ledger again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_space import SPACE

from archspec.commands import main
from archspec.errors import SpecError
from search.determinism import check_repeatable, is_measured
from search.load import load_study
from search.replay import replay
from search.start import run

STUDY = """\
archspec: 1
study: tiny
space: space.yaml
tasks: [{kind: copy, n_min: 2, n_max: 4, alphabet: 8}, {kind: parity, length: 8}]
objectives: {score: maximize, params: minimize}
budgets: {params: "<= 20k"}
target: {device: cpu}
recipe:
  {learning_rates: [5e-3], steps: 6, curve_points: 1, batch_size: 4, validation_examples: 8, final_examples: 8}
proposer: evolution
trials: 4
batch: 2
baselines: {all_attention: {token_mixer: attention}}
search_baselines: [random]
"""
FILES = ("front.json", "front.csv", "trials.csv")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two folders of one deterministic search, with its real worker process."""
    at = tmp_path_factory.mktemp("study")
    (at / "space.yaml").write_text(SPACE)
    (at / "study.yaml").write_text(STUDY)
    for name in ("one", "two"):
        run(at / "study.yaml", out=at / name, deterministic=True)
    return at / "one", at / "two"


def contents(folder: Path) -> dict[str, bytes]:
    specs = sorted([*folder.glob("front/*.yaml"), *folder.glob("baselines/*.yaml")])
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in [*(folder / f for f in FILES), *specs]
    }


def test_two_deterministic_searches_are_the_same_byte_for_byte(folders: tuple[Path, Path]) -> None:
    one, two = map(contents, folders)
    assert one == two
    assert any(name.startswith("front/") for name in one)
    assert b"training_s" not in one["trials.csv"], "no clock"


@pytest.mark.parametrize("where", ["objectives", "budgets"])
def test_what_is_measured_cannot_repeat(where: str, tmp_path: Path) -> None:
    text = STUDY.replace("params: minimize", "latency_ms: minimize")
    if where == "budgets":
        text = STUDY.replace('params: "<= 20k"', 'latency_ms: "<= 9"')
    (tmp_path / "space.yaml").write_text(SPACE)
    (tmp_path / "study.yaml").write_text(text)
    with pytest.raises(SpecError, match="latency_ms is measured, and no measurement repeats") as caught:
        run(tmp_path / "study.yaml", out=tmp_path / "out", deterministic=True)
    assert caught.value.problems[0].line == (5 if where == "objectives" else 6)
    assert not (tmp_path / "out").exists()


def test_a_deterministic_search_has_no_clock_and_one_worker(folders: tuple[Path, Path]) -> None:
    loaded = load_study(folders[0].parent / "study.yaml")
    with pytest.raises(SpecError, match="no time limit"):
        check_repeatable(loaded.study, timeout=3.0, workers=None, locate=loaded.error)
    with pytest.raises(SpecError, match="one worker, not 2"):
        check_repeatable(loaded.study, timeout=None, workers=2, locate=loaded.error)
    with pytest.raises(SpecError, match="this machine alone, not through 'ray'"):
        check_repeatable(loaded.study, timeout=None, workers=None, executor="ray", locate=loaded.error)
    check_repeatable(loaded.study, timeout=None, workers=1, locate=loaded.error)


def test_scores_repeat_and_latency_does_not() -> None:
    assert [is_measured(name) for name in ("score", "score.copy", "loss", "params", "latency_ms")] == [
        False, False, False, False, True,
    ]  # fmt: skip


@pytest.fixture
def folder(folders: tuple[Path, Path], tmp_path: Path) -> Path:
    """A folder to spoil."""
    return Path(shutil.copytree(folders[0], tmp_path / "copy"))


def test_a_folder_that_nobody_touched_replays_without_a_difference(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = replay(folder)
    assert found.differences == ()
    assert found.n_compiled == len(found.result.trained) > 0
    main_ends(0, ["search", "--replay", str(folder)])
    assert "everything is as it was" in capsys.readouterr().out


def test_what_was_changed_on_disk_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads((folder / "front.json").read_text())
    rows[0]["objectives"]["score"] = 0.999
    (folder / "front.json").write_text(json.dumps(rows))
    member = folder / rows[0]["spec"]
    member.write_text(member.read_text().replace("d_model: 16", "d_model: 32"))
    (folder / "front" / "stranger.yaml").write_text("archspec: 1\n")
    (folder / "front.csv").unlink()
    told = "\n".join(map(str, replay(folder).differences))
    assert f"front.json, trial {rows[0]['trial']}: objectives.score is 0.999" in told
    assert f"{rows[0]['spec']}: hash is" in told
    assert "front/stranger.yaml: does not belong there" in told
    assert "front.csv: is missing" in told
    main_ends(1, ["search", "--replay", str(folder), "--json"])
    document = json.loads(capsys.readouterr().out)
    assert document["same"] is False
    assert len(document["differences"]) == 4


def test_a_cost_that_the_code_counts_otherwise_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from search.costing import Costing

    honest = Costing.costs
    monkeypatch.setattr(Costing, "costs", lambda self, spec: honest(self, spec) | {"params": 1})
    found = replay(folder).differences
    assert {d.what for d in found} == {"params"}
    assert len(found) == len(replay(folder).result.trained)


def main_ends(code: int, arguments: list[str]) -> None:
    """The command line ends with ``code``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["archspec", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    assert (ended.value.code or 0) == code
