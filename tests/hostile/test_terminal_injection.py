"""Names and values that would steer a terminal, forge lines of output, or pass as rich's markup."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from archspec import Problem, SpecError
from archspec.commands import main, print_problems
from archspec.source import parse_source

ESCAPES = {
    "colour": "\\e[31mred",
    "title": "\\e]0;pwned\\a",
    "clear": "\\e[2J\\e[H",
    "c1": "\\x9b31m",
    "carriage return": "x\\rok  spec  all good",
    "backspace": "abc\\b\\b\\b",
    "line": "x\\nok  spec  all good",
    "right to left": "abc\\u202Egnirts",
    "zero width": "a\\u200Bb",
    "line separator": "a\\u2028b",
}
SPEC = """archspec: 1
name: NAME
input: {kind: tokens, vocab_size: 64, seq_len: 32}
causal: true
d_model: 32
stem: embedding
layers: [{token_mixer: KIND}]
head: lm
"""


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[str, str]:
    monkeypatch.setattr("sys.argv", ["archspec", *arguments])
    with pytest.raises(SystemExit):
        main()
    streams = capsys.readouterr()
    return streams.out, streams.err


@pytest.mark.parametrize("escape", ESCAPES.values(), ids=ESCAPES.keys())
@pytest.mark.parametrize("where", ["KIND", "NAME", "key", "value"])
def test_control_characters_do_not_reach_the_terminal(
    escape: str,
    where: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    written = f'"{escape}"'
    text = SPEC.replace("KIND", written if where == "KIND" else "attention")
    text = text.replace("NAME", written if where == "NAME" else "x")
    text += {"key": f"{written}: 1\n", "value": f"causal_: {written}\n"}.get(where, "")
    file = tmp_path / "x.yaml"
    file.write_text(text)
    out, err = run(capsys, monkeypatch, "check", str(file))
    assert err.startswith("error: ")
    for line in (out + err).split("\n"):
        assert not set(line) & set("\x1b\x07\x08\r\x9b\u202e\u200b\u2028"), repr(line)
        assert not line.startswith("ok")
    document = run(capsys, monkeypatch, "check", str(file), "--json")[0]
    assert "\x1b" not in document
    assert not json.loads(document)["ok"]


MARKUP = [
    "[red]x[/red]",
    "[/]",
    "[/red]",
    "[link=https://example.org]x[/link]",
    "[bold",
    "\\[",
    ":smile:",
    "[@click=x]",
]


@pytest.mark.parametrize("text", MARKUP)
def test_markup_is_shown_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_problems(SpecError(problems=[Problem(text, text, text, 1, 1, text, text)]))
    assert capsys.readouterr().err.count(text) == 5


@pytest.mark.parametrize("text", MARKUP)
def test_markup_in_arguments_and_files(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(SPEC.replace("NAME", "x").replace("KIND", json.dumps(text)))
    assert f"unknown token mixer '{text}'" in run(capsys, monkeypatch, "check", str(file))[1]
    assert f"error: {text}: no such file" in run(capsys, monkeypatch, "check", text)[1]
    assert "Error" in run(capsys, monkeypatch, text)[1]  # an unknown verb
    assert "Error" in run(capsys, monkeypatch, "check", "x", f"--{text}")[1]  # an unknown option


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    print_problems(SpecError("wrong"))
    assert "\x1b[31m" not in capsys.readouterr().err
    monkeypatch.delenv("NO_COLOR")
    print_problems(SpecError("wrong"))
    assert "\x1b[" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["\x1b[31mred.yaml", "a\rb.yaml", "a\nok  spec.yaml"])
def test_file_names_are_text_too(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_text("a: [\n")
    out, err = run(capsys, monkeypatch, "check", str(tmp_path))
    assert not set(out + err) & set("\x1b\r")
    assert not any(line.startswith("ok") for line in (out + err).split("\n"))


def test_a_very_long_line_is_not_printed_whole() -> None:
    with pytest.raises(SpecError) as caught:
        parse_source("a: [" + "x" * 500_000)
    assert len(str(caught.value)) < 1000
