"""archspec check."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
SPEC = """archspec: 1
name: small
input: {kind: tokens, vocab_size: 64, seq_len: 32}
causal: true
d_model: 32
stem: embedding
layers:
  - {token_mixer: {kind: attention, n_heads: 4}, channel_mixer: swiglu}
head: lm
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "x.yaml"
    path.write_text(SPEC)
    return path


def test_a_good_spec(run: Run, file: Path) -> None:
    ran = run("check", str(file))
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith(f"ok  spec   {file}  (small, ")


def test_a_wrong_spec_is_told_on_stderr_with_exit_code_1(run: Run, file: Path) -> None:
    file.write_text(SPEC.replace("n_heads", "n_head"))
    ran = run("check", str(file))
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == (
        f"error: {file}:8:36: layers[0].token_mixer.n_head: unknown field 'n_head'\n"
        "   8 |   - {token_mixer: {kind: attention, n_head: 4}, channel_mixer: swiglu}\n"
        "     |                                     ^^^^^^\n"
        "  hint: did you mean 'n_heads'?\n"
    ).replace(":8:36", ":8:37")


def test_json_has_the_stable_keys(run: Run, file: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(SPEC.replace("d_model: 32", "d_model: 0"))
    ran = run("check", "--json", str(file), str(wrong))
    document = json.loads(ran.out)
    assert (ran.code, document["ok"]) == (1, False)
    good, bad = document["files"]
    assert (good["file"], good["ok"], good["errors"], good["warnings"]) == (str(file), True, [], [])
    assert len(good["hash"]) == 64
    assert bad["errors"] == [
        {
            "file": str(wrong),
            "line": 5,
            "column": 10,
            "path": "d_model",
            "message": "must be at least 1, got 0",
            "hint": None,
        }
    ]


def test_what_only_the_graph_shows_has_its_place_too(run: Run, file: Path) -> None:
    file.write_text(SPEC.replace("n_heads: 4", "n_heads: 5"))
    ran = run("check", str(file))
    assert ran.code == 1
    assert f"error: {file}:8:19: layers[0].token_mixer: " in ran.err
    assert "n_heads 5" in ran.err
    assert "d_model 32" in ran.err


def test_warnings_do_not_fail(run: Run, file: Path) -> None:
    file.write_text(SPEC.replace("n_heads: 4", "n_heads: 4, window: 64"))
    ran = run("check", "--json", str(file))
    (report,) = json.loads(ran.out)["files"]
    assert ran.code == 0
    assert "full attention in disguise" in report["warnings"][0]["message"]
    assert report["warnings"][0]["line"] == 8
    assert "warning: " in run("check", str(file)).err


def test_overrides_are_checked_where_they_stand(run: Run, file: Path) -> None:
    ran = run("check", str(file), "--set", "layers[0].token_mixer.n_heads=0")
    assert ran.code == 1
    assert "error: (command line):1:31: layers[0].token_mixer.n_heads: must be at least 1, got 0" in ran.err
    assert run("check", str(file), "--set", "d_model=64").code == 0


def test_a_folder_is_checked_whole_and_what_is_not_ours_is_named(run: Run, file: Path) -> None:
    (file.parent / "sub").mkdir()
    (file.parent / "sub" / "broken.yml").write_text("a: [\n")
    (file.parent / "other.yaml").write_text("services: {}\n")
    ran = run("check", "--json", str(file.parent))
    document = json.loads(ran.out)
    assert [Path(report["file"]).name for report in document["files"]] == ["broken.yml", "x.yaml"]
    assert document["skipped"] == [str(file.parent / "other.yaml")]
    assert ran.code == 1
    assert "it has no 'archspec:' key" in run("check", str(file.parent)).err


def test_a_folder_without_yaml_and_a_file_that_is_not_there(run: Run, tmp_path: Path) -> None:
    assert "no YAML file in this folder" in run("check", str(tmp_path)).err
    ran = run("check", str(tmp_path / "absent.yaml"))
    assert (ran.code, ran.err) == (1, f"error: {tmp_path / 'absent.yaml'}: no such file\n")


def test_a_space_is_counted_and_each_option_is_tried(run: Run, file: Path) -> None:
    file.write_text(SPEC.replace("n_heads: 4", "n_heads: {choice: [1, 2, 4]}"))
    ran = run("check", "--json", str(file))
    (report,) = json.loads(ran.out)["files"]
    assert (report["kind"], report["holes"], report["fillings"], report["fillings_exact"]) == (
        "space",
        1,
        3,
        True,
    )
    assert (report["tried"], report["valid"], report["architectures"]) == (3, 3, 3)
    assert "3 fillings; all tried: 3 valid, 3 different architectures" in run("check", str(file)).out


def test_an_option_that_fits_nowhere_is_named_where_it_stands(run: Run, file: Path) -> None:
    file.write_text(SPEC.replace("n_heads: 4", "n_heads: {choice: [1, 5, 4]}"))
    ran = run("check", str(file))
    assert ran.code == 1
    assert f"{file}:8:59: layers[0].token_mixer.n_heads: no filling with 5 here is valid" in ran.err
    assert "hint: for one, layers[0].token_mixer: " in ran.err


def test_an_empty_choice(run: Run, file: Path) -> None:
    file.write_text(SPEC.replace("n_heads: 4", "n_heads: {choice: []}"))
    ran = run("check", str(file))
    assert ran.code == 1
    assert f"{file}:8:55: layers[0].token_mixer.n_heads: a choice needs at least one option" in ran.err


def test_a_study_is_checked_with_its_space(run: Run, file: Path, tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(
        "archspec: 1\nstudy: s\nspace: x.yaml\ntasks: [{kind: copy, n_max: 8}]\n"
        "objectives: {score: maximize}\n"
    )
    file.write_text(SPEC.replace("n_heads: 4", "n_heads: {choice: [1, 2]}"))
    assert run("check", str(study)).code == 0
    study.write_text(study.read_text().replace("score: maximize", "scor: maximize"))
    ran = run("check", str(study))
    assert ran.code == 1
    assert f"error: {study}:5:14" in ran.err


def test_usage_errors_have_exit_code_2(run: Run) -> None:
    assert run("check").code == 2
    assert run("check", "--nonsense").code == 2
    assert run("chekc").code == 2


def test_debug_shows_the_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from archspec import SpecError
    from archspec.commands import main

    monkeypatch.setattr("sys.argv", ["archspec", "show", "/nowhere.yaml", "--debug"])
    with pytest.raises(SpecError, match="no such file"):
        main()
    assert run("show", "/nowhere.yaml").err == "error: /nowhere.yaml: no such file\n"


def test_ctrl_c_exits_with_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("archspec.commands.check._files", interrupt)
    ran = run("check", "x.yaml")
    assert ran.code == 130
    assert "Traceback" not in ran.err
