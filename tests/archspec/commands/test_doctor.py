"""archspec doctor."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from typing import Any

import pytest

Run = Callable[..., Any]


def test_versions_device_and_threads(run: Run) -> None:
    ran = run("doctor", "--json")
    document = json.loads(ran.out)
    assert document["torch"]
    assert document["threads"] >= 1
    assert document["device"].startswith(("cpu", "cuda"))
    assert (ran.code == 0) is document["ok"]
    assert "torch" in run("doctor").out


def test_what_is_missing_or_too_old_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ["torch>=2", "no-such-thing>=1", "pydantic>=99", "extra-thing; extra == 'test'"]
    monkeypatch.setattr(metadata, "requires", lambda _: needed)
    ran = run("doctor", "--json")
    document = json.loads(ran.out)
    assert ran.code == 1
    assert [(row["name"], row["ok"]) for row in document["packages"]] == [
        ("torch", True), ("no-such-thing", False), ("pydantic", False),
    ]  # fmt: skip
    assert "missing no-such-thing" in run("doctor").out
