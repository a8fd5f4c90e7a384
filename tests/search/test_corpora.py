"""Texts: what is in them, how they are cut, and what is said when one cannot be read."""

from __future__ import annotations

import os
import platform
import re
import sysconfig
from pathlib import Path

import pytest

from archspec import SpecError
from search.corpora import load_corpus


def test_python_docs_are_cut_by_position() -> None:
    from pydoc_data.topics import topics

    corpus = load_corpus("python_docs")
    whole = "".join(topics[key] for key in sorted(topics)).encode()
    assert corpus.train + corpus.validation + corpus.test == whole
    assert len(corpus.train) == len(whole) * 8 // 10
    assert corpus.record()["python"] == platform.python_version()


def test_python_stdlib_is_cut_by_module() -> None:
    corpus = load_corpus("python_stdlib")
    parts = (corpus.train, corpus.validation, corpus.test)
    assert len(corpus.train) > 5_000_000
    assert min(len(corpus.validation), len(corpus.test)) > 300_000
    root = Path(sysconfig.get_paths()["stdlib"])
    for package in ("json", "email", "asyncio", "encodings", "logging"):
        texts = [file.read_bytes() for file in sorted((root / package).glob("*.py"))]
        homes = {i for i, part in enumerate(parts) if any(text in part for text in texts if len(text) > 500)}
        assert len(homes) == 1, f"{package} is in {len(homes)} parts"


def test_python_stdlib_has_no_tests_and_nothing_of_this_machine() -> None:
    corpus = load_corpus("python_stdlib")
    whole = corpus.train + corpus.validation + corpus.test
    assert b"class TestCase(object):" in whole  # unittest itself is there
    assert not re.search(rb"^from test import support", whole, re.MULTILINE)
    root = Path(sysconfig.get_paths()["stdlib"])
    for file in root.glob("_sysconfigdata*.py"):
        assert file.read_bytes() not in whole


def test_a_folder_is_read_in_order_without_hidden_files_and_links(tmp_path: Path) -> None:
    for name, text in {"b.txt": "B" * 50, "a/x.txt": "A" * 50, ".hidden": "H" * 50, ".git/c": "G"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "link.txt").symlink_to(tmp_path / "b.txt")
    corpus = load_corpus("path", path=str(tmp_path))
    assert corpus.train + corpus.validation + corpus.test == b"A" * 50 + b"B" * 50
    assert [len(corpus.train), len(corpus.validation), len(corpus.test)] == [80, 10, 10]


def test_sha256_follows_the_text_and_its_cut(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x" * 100)
    (tmp_path / "b").write_text("x" * 99 + "y")
    a, b = (load_corpus("path", path=str(tmp_path / name)).sha256 for name in "ab")
    assert a != b
    assert re.fullmatch("[0-9a-f]{64}", a)


@pytest.mark.parametrize("kind", ["missing", "not_utf8", "empty_folder", "pipe", "no_path"])
def test_a_text_that_cannot_be_read_is_named(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "there" / "text.txt"
    file.parent.mkdir()
    path: str | None = str(file)
    match kind:
        case "missing":
            words = f"no file or folder '{file}'"
        case "not_utf8":
            file.write_bytes(b"gr\xfc\xdfe")
            words = f"'{file}' is not UTF-8 text: byte 2 is 0xfc"
        case "empty_folder":
            path, words = str(file.parent), f"'{file.parent}' holds no file"
        case "pipe":
            os.mkfifo(file)
            words = f"'{file}' is neither a file nor a folder"
        case _:
            path, words = None, "needs a path"
    with pytest.raises(SpecError, match=re.escape(words)) as error:
        load_corpus("path", path=path)
    assert error.value.path == "path"


def test_a_text_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text").write_text("x" * 101)
    monkeypatch.setattr("search.corpora.MAX_BYTES", 100)
    with pytest.raises(SpecError, match="more than 0 MiB"):
        load_corpus("path", path=str(tmp_path / "text"))
