"""Real text as bytes, cut into train, validation and a sealed test part.

``python_docs`` is CPython's own reference documentation (``pydoc_data.topics``), ``python_stdlib`` the source
of its standard library without tests; both come with every Python and differ between its versions, hence the
sha256. ``path`` is the user's own UTF-8 file or folder.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import platform
import stat
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from archspec import SpecError

Source = Literal["python_docs", "python_stdlib", "path"]
MAX_BYTES = 1 << 30
_NOT_STDLIB = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "pydoc_data"}
_MADE_BY_BUILD = ("_sysconfigdata", "sitecustomize", "usercustomize")


@dataclass(frozen=True)
class Corpus:
    """The three parts of a text, and what identifies it."""

    name: str
    train: bytes
    validation: bytes
    test: bytes

    @functools.cached_property
    def sha256(self) -> str:
        """Of the three parts with their lengths."""
        digest = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            digest.update(len(part).to_bytes(8, "big") + part)
        return digest.hexdigest()

    def record(self) -> dict[str, object]:
        """JSON-able identity: sha256, sizes and, for text that comes with Python, the Python version."""
        sizes = {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}
        return {"name": self.name, "sha256": self.sha256, "bytes": sizes, "python": platform.python_version()}


def load_corpus(source: Source, *, path: str | None = None) -> Corpus:
    """Read a text once per process; a missing or unfit ``path`` is a SpecError that names it."""
    if source == "python_docs":
        return _python_docs()
    if source == "python_stdlib":
        return _python_stdlib()
    if path is None:
        raise SpecError("source 'path' needs a path", path="path", hint="a UTF-8 file, or a folder of them")
    return _user_text(Path(path).expanduser().absolute())


@functools.cache
def _python_docs() -> Corpus:
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    return _by_position("python_docs", "".join(topics[key] for key in sorted(topics)).encode())


@functools.cache
def _python_stdlib() -> Corpus:
    """Whole modules go to one part by the hash of their name: 1 in 10 to validation, 1 in 10 to test."""
    root = Path(sysconfig.get_paths()["stdlib"])
    parts: tuple[list[bytes], list[bytes], list[bytes]] = ([], [], [])
    for file in _stdlib_files(root):
        module = file.relative_to(root).parts[0].removesuffix(".py")
        digit = hashlib.sha256(module.encode()).digest()[0] % 10
        parts[{0: 1, 1: 2}.get(digit, 0)].append(file.read_bytes())
    if not parts[0]:
        raise SpecError(
            f"this Python has no standard library in source form at {root}",
            path="source",
            hint="use source: python_docs, or source: path with a text of your own",
        )
    return Corpus("python_stdlib", *(b"".join(part) for part in parts))


def _stdlib_files(root: Path) -> list[Path]:
    """Source files that are the same wherever this Python version is installed."""
    found = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _NOT_STDLIB and not name.startswith("config-")]
        found += [
            Path(folder, name)
            for name in files
            if name.endswith(".py") and not name.startswith(("test_", *_MADE_BY_BUILD))
        ]
    return sorted(found)


@functools.cache
def _user_text(path: Path) -> Corpus:
    if not path.exists():
        hint = f"a relative path starts at {os.getcwd()}"
        raise SpecError(f"there is no file or folder '{path}'", path="path", hint=hint)
    files = [path] if not path.is_dir() else _files_below(path)
    if not files:
        raise SpecError(f"folder '{path}' holds no file", path="path", hint="hidden files are not read")
    total, texts = 0, []
    for file in files:
        total += _size(file)
        if total > MAX_BYTES:
            raise SpecError(f"'{path}' holds more than {MAX_BYTES >> 20} MiB of text", path="path")
        texts.append(_utf8(file))
    return _by_position(path.name, b"".join(texts))


def _files_below(folder: Path) -> list[Path]:
    """Every file under a folder in the order of its path, hidden ones and links to other places left out."""
    return sorted(
        file
        for file in folder.rglob("*")
        if not file.is_symlink()
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )


def _size(file: Path) -> int:
    try:
        status = file.stat()
    except OSError as error:
        raise SpecError(f"cannot read '{file}': {error.strerror}", path="path") from error
    if not stat.S_ISREG(status.st_mode):
        raise SpecError(f"'{file}' is neither a file nor a folder", path="path")
    return status.st_size


def _utf8(file: Path) -> bytes:
    try:
        text = file.read_bytes()
        text.decode()
    except OSError as error:
        raise SpecError(f"cannot read '{file}': {error.strerror}", path="path") from error
    except UnicodeDecodeError as error:
        raise SpecError(
            f"'{file}' is not UTF-8 text: byte {error.start} is 0x{error.object[error.start]:02x}",
            path="path",
            hint="convert it, or name a folder that holds only UTF-8 text",
        ) from error
    return text


def _by_position(name: str, text: bytes) -> Corpus:
    """The first 80 % train, the next 10 % validate, the last 10 % are the test."""
    a, b = len(text) * 8 // 10, len(text) * 9 // 10
    return Corpus(name, text[:a], text[a:b], text[b:])
