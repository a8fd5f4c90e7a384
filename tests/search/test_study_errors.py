"""Wrong studies end in one clear message with its place, exit code 1, and nothing half-written."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tiny_space import SPACE

from archspec.commands import main
from archspec.errors import SpecError
from search.load import LoadedStudy, load_study

ROOT = Path(__file__).parents[2]
STUDY = """\
archspec: 1
study: tiny
space: space.yaml
tasks: [{kind: copy, n_min: 2, n_max: 4, alphabet: 8}, {kind: parity, length: 8}]
objectives: {score: maximize, latency_ms: minimize}
budgets: {params: "<= 20k"}
target: {device: cpu}
recipe:
  {learning_rates: [5e-3], steps: 4, curve_points: 1, batch_size: 4, validation_examples: 8, final_examples: 8}
trials: 3
batch: 2
baselines: {all_attention: {token_mixer: attention}}
"""


def write(folder: Path, *, study: str = STUDY, space: str = SPACE) -> Path:
    (folder / "space.yaml").write_text(space)
    (folder / "study.yaml").write_text(study)
    return folder / "study.yaml"


def changed(old: str, new: str, text: str = STUDY) -> str:
    assert old in text
    return text.replace(old, new)


def all_pool(*, vocab_size: int) -> str:
    """A spec beside the space."""
    return f"""\
archspec: 1
input: {{kind: tokens, vocab_size: {vocab_size}, seq_len: 32}}
causal: true
d_model: 16
stem: embedding
layers: [{{token_mixer: pool}}]
head: {{kind: lm, tied: true}}
"""


@dataclass(frozen=True)
class Done:
    """What a command came to."""

    code: int
    out: str
    err: str


Command = Callable[..., Done]


@pytest.fixture
def archspec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command line, run in this process inside ``tmp_path``; its workers are processes of their own."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["archspec", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        streams = capsys.readouterr()
        return Done(int(ended.value.code or 0), streams.out, streams.err)

    return run


def test_a_good_study_is_loaded_with_its_space_and_baselines(tmp_path: Path) -> None:
    loaded = load_study(write(tmp_path))
    assert isinstance(loaded, LoadedStudy)
    assert loaded.baselines["all_attention"] == {
        "layers[0].token_mixer": "attention",
        "layers[0].channel_mixer": "none",
        "layers[1].token_mixer": "attention",
    }


@pytest.mark.parametrize(
    ("old", "new", "line", "path", "message"),
    [
        ("space.yaml", "nowhere.yaml", 3, "space", "no such file: 'nowhere.yaml'"),
        ("space: space.yaml", "space: /etc/passwd", 3, "space", "must be the path of a YAML file relative"),
        ("alphabet: 8", "alphabet: 60", 4, "tasks[0]", "uses 64 token ids, but input.vocab_size is 32"),
        ("length: 8", "length: 64", 4, "tasks[1]", "examples of 64 positions, but input.seq_len is 32"),
        ("{token_mixer: attention}", "{token_mixr: attention}", 12, "baselines", "the space has no gene"),
        ("{token_mixer: attention}", "{token_mixer: hydra}", 12, "baselines", "'hydra' is no value of"),
        ("{token_mixer: attention}", "nowhere.yaml", 12, "baselines", "no such file"),
        ("latency_ms: minimize", "energy_j: minimize", 5, "objectives", "the device cpu reports no energy"),
        ("params:", "peak_memory:", 6, "budgets", "inference_peak and train_peak are closed forms"),
    ],
)
def test_what_a_study_names_must_be_there_and_fit(
    old: str, new: str, line: int, path: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(SpecError) as caught:
        load_study(
            write(
                tmp_path, study=changed(old, new).replace('peak_memory: "<= 20k"', 'peak_memory: "<= 2 GiB"')
            )
        )
    (problem,) = caught.value.problems
    assert message in problem.message
    assert problem.line == line
    assert problem.path.startswith(path)
    assert problem.file is not None
    assert problem.file.endswith("study.yaml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{choice: [none, {kind: swiglu, d_ff: 16}]}", "{choice: []}", "a choice needs at least one option"),
        ("kind: mamba2", "kind: mamba9", "unknown token mixer 'mamba9'"),
        ("causal: true", "causal: true\ncausal: false", "duplicate"),
    ],
)
def test_a_space_that_is_wrong_is_told_in_its_own_file(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    space = changed(old, new, SPACE)
    if "mamba9" in new:  # one good option would do: a candidate that is wrong is refused in the search
        space = changed("{kind: attention, n_heads: 2}, {kind", "{kind", space)
    with pytest.raises(SpecError) as caught:
        load_study(write(tmp_path, space=space))
    assert message in str(caught.value).lower() or message in str(caught.value)
    assert str(caught.value.problems[0].file).endswith("space.yaml")


def test_a_space_without_holes_is_no_search(tmp_path: Path) -> None:
    space = "\n".join(line for line in SPACE.splitlines() if "choice" not in line) + "\n"
    space = space.replace("layers:", "layers:\n  - {token_mixer: {kind: attention, n_heads: 2}}")
    with pytest.raises(SpecError, match="one architecture and no search"):
        load_study(write(tmp_path, space=space))


def test_a_baseline_may_be_a_spec_file(tmp_path: Path) -> None:
    (tmp_path / "pool.yaml").write_text(all_pool(vocab_size=32))
    loaded = load_study(write(tmp_path, study=changed("{token_mixer: attention}", "pool.yaml")))
    assert not isinstance(loaded.baselines["all_attention"], dict)


def test_a_baseline_that_does_not_fit_a_task_is_told(tmp_path: Path) -> None:
    (tmp_path / "pool.yaml").write_text(all_pool(vocab_size=4))
    with pytest.raises(SpecError, match=r"input\.vocab_size is 4") as caught:
        load_study(write(tmp_path, study=changed("{token_mixer: attention}", "pool.yaml")))
    assert caught.value.path == "baselines.all_attention"


class TestTheCommand:
    def test_an_impossible_budget_ends_before_any_training(self, archspec: Command, tmp_path: Path) -> None:
        write(tmp_path, study=changed("<= 20k", "<= 100"))
        done = archspec("search", "study.yaml", "--out", "out")
        assert done.code == 1
        assert "study.yaml:6:19: budgets.params: no candidate meets 'params <= 100'" in done.err
        assert "the cheapest candidate" in done.err
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ('"<= 20k"', '">= 30k, <= 20k"', "study.yaml:6:19: budgets.params: the budgets contradict each other"),
            ('"<= 20k"', "300k", "study.yaml:6:19: budgets.params: a budget is '<= number' or '>= number'"),
            ('"<= 20k"', '"<= 20k parameters"', "params has no unit 'k parameters'"),
            ("latency_ms: minimize", "latency: minimize", "unknown quantity 'latency'"),
            ("latency_ms: minimize", "params_embedding: minimize", "every candidate has params_embedding 512"),
            ("kind: copy", "kind: coppy", "study.yaml:4:9: tasks[0]: unknown task 'coppy'"),
            ("trials: 3", "trials: 0", "study.yaml:10"),
            ("{device: cpu}", "{device: gpu}", "study.yaml:7"),
            ("{device: cpu}", "{device: cpu, seq_len: 4096}", "target.seq_len 4096 is more than input.seq_len 32"),
            ("batch: 2", "proposer: tpee", "unknown proposer 'tpee'"),
            ("batch: 2", "reuse: runs/old", "study.yaml:11"),
            ("batch: 2", "warm_start: [a.yaml]", "study.yaml:11"),
            ("space: space.yaml", "space: study.yaml", "study.yaml"),
            ("budgets:", "budget:", "study.yaml:6:1"),
        ],
    )  # fmt: skip
    def test_a_slip_is_one_message_and_nothing_is_written(
        self, old: str, new: str, message: str, archspec: Command, tmp_path: Path
    ) -> None:
        write(tmp_path, study=changed(old, new))
        done = archspec("search", "study.yaml", "--out", "out")
        assert done.code == 1
        assert message in done.err
        assert done.err.count("error:") == 1, done.err
        assert "Traceback" not in done.err
        assert not (tmp_path / "out").exists()

    def test_an_objective_that_its_budget_fixes_is_told(self, archspec: Command, tmp_path: Path) -> None:
        study = changed("latency_ms: minimize", "params: minimize").replace("<= 20k", "<= 20k, >= 20k")
        write(tmp_path, study=study)
        done = archspec("search", "study.yaml", "--out", "out")
        assert done.code == 1
        assert "'params' is fixed by its budget '<= 20k, >= 20k'" in done.err

    def test_a_space_whose_fillings_are_one_architecture_is_told(
        self, archspec: Command, tmp_path: Path
    ) -> None:
        mixer = "{choice: {a: {kind: pool}, b: {kind: pool}}}"
        space = "\n".join(line for line in SPACE.splitlines() if "choice" not in line)
        space = space.replace("layers:", f"layers:\n  - token_mixer: {mixer}") + "\n"
        study = "\n".join(line for line in STUDY.splitlines() if "baselines" not in line) + "\n"
        write(tmp_path, study=study, space=space)
        done = archspec("search", "study.yaml", "--out", "out")
        assert done.code == 1
        assert "study.yaml:3:8: space: all 2 fillings are one architecture" in done.err

    @pytest.mark.parametrize("url", ["sqlite:////nowhere/at/all.db", "not a url", "redis+x://here"])
    def test_a_storage_that_is_not_there_is_told_before_anything_runs(
        self, url: str, archspec: Command, tmp_path: Path
    ) -> None:
        write(tmp_path)
        done = archspec("search", "study.yaml", "--out", "out", "--storage", url)
        assert done.code == 1
        assert "--storage" in done.err
        assert "cannot be used" in done.err or "is no URL" in done.err
        assert not (tmp_path / "out" / "workers.log").exists()

    def test_a_ledger_of_a_newer_version_is_told(self, archspec: Command, tmp_path: Path) -> None:
        write(tmp_path)
        (tmp_path / "out").mkdir()
        db = sqlite3.connect(tmp_path / "out" / "ledger.sqlite")
        db.execute("PRAGMA user_version = 99")
        db.execute("CREATE TABLE later (a)")
        db.close()
        for arguments in (("search", "study.yaml", "--out", "out"), ("front", "out")):
            done = archspec(*arguments)
            assert done.code == 1
            assert "written by a newer archspec (ledger 99" in done.err

    def test_a_missing_corpus_is_told_before_anything_is_written(
        self, archspec: Command, tmp_path: Path
    ) -> None:
        corpus = "{kind: text_lm, source: path, path: gone.txt, seq_len: 16}"
        text = changed("{kind: parity, length: 8}", corpus)
        write(tmp_path, study=text, space=changed("vocab_size: 32", "vocab_size: 256", SPACE))
        done = archspec("search", "study.yaml", "--out", "out")
        assert done.code == 1
        assert "gone.txt" in done.err
        assert not (tmp_path / "out").exists()

    def test_an_output_that_is_a_file_is_told(self, archspec: Command, tmp_path: Path) -> None:
        write(tmp_path)
        (tmp_path / "out").write_text("in the way")
        done = archspec("search", "study.yaml", "--out", "out")
        assert done.code == 1
        assert "out cannot be written: File exists" in done.err
        assert (tmp_path / "out").read_text() == "in the way"

    def test_a_folder_without_a_search_has_no_front(self, archspec: Command) -> None:
        done = archspec("front", ".")
        assert done.code == 1
        assert "holds no search" in done.err

    @pytest.mark.parametrize("arguments", [("search", "study.yaml", "--out", "out"), ("front", "out")])
    def test_a_corrupt_ledger_is_one_message(
        self, arguments: tuple[str, ...], archspec: Command, tmp_path: Path
    ) -> None:
        write(tmp_path)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "ledger.sqlite").write_bytes(b"garbage" * 1000)
        done = archspec(*arguments)
        assert done.code == 1
        assert "ledger.sqlite is corrupt" in done.err

    @pytest.mark.slow
    def test_search_front_resume_and_dry_run(self, archspec: Command, tmp_path: Path) -> None:
        """The whole job with the real trainer: run, run again, look at the front, ask what is left."""
        write(tmp_path)
        first = archspec("search", "study.yaml", "--out", "out", "--workers", "1", "--json")
        assert first.code == 0, first.err
        rows = json.loads(first.out)
        assert rows
        assert {"spec", "hash", "objectives", "measured", "trial"} <= rows[0].keys()
        assert all(row["causality"] == "passed" and row["test_scores"] for row in rows)
        names = {file.name for file in (tmp_path / "out").iterdir()}
        assert names >= {
            "front", "front.csv", "front.json", "ledger.sqlite", "provenance.json", "report.html",
            "report.png", "trials.csv",
        }  # fmt: skip
        checked = archspec("check", *(row["spec"] for row in rows))
        assert checked.code == 0, checked.out + checked.err

        again = archspec("search", "study.yaml", "--out", "out", "--workers", "1", "--json")
        assert json.loads(again.out) == rows
        assert "trial 0" not in again.err, "nothing was trained again"
        assert json.loads(archspec("front", "out", "--json").out) == rows
        assert "Pareto front" in archspec("front", "out").out

        left = archspec("search", "study.yaml", "--out", "out", "--trials", "5", "--dry-run")
        assert "3 candidates are trained, 2 are left" in left.out
        assert "from 4 candidates that are trained already" in left.out
        fresh = json.loads(archspec("search", "study.yaml", "--out", "new", "--dry-run", "--json").out)
        assert fresh["n_left"] == 4
        assert fresh["survey"]["fillings"] == 8
        assert "measured on" in fresh["how"]
        assert not (tmp_path / "new").exists()

        write(tmp_path, study=changed("n_max: 4", "n_max: 5"))
        refused = archspec("search", "study.yaml", "--out", "out")
        assert refused.code == 1
        assert "holds a search with other tasks or other data" in refused.err

    @pytest.mark.slow
    def test_ctrl_c_says_how_to_go_on_and_exits_130(self, tmp_path: Path) -> None:
        write(tmp_path, study=changed("steps: 4", "steps: 100000"))
        process = subprocess.Popen(
            [sys.executable, "-m", "archspec", "search", "study.yaml", "--out", "out"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("out/weights/*/*/training.json")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "Go on with" in err
        assert "archspec search study.yaml --out out" in err
        assert "Traceback" not in err
        assert out == ""
