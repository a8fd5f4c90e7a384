"""A task of the user's own: one short file in a package; a wrong package is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from task_specs import byte_model

from archspec import SpecError
from search.tasks import load_tasks
from search.tasks.contract import IGNORE

PLUGIN = Path(__file__).parent / "plugin_example"


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(str(PLUGIN))
    yield "my_tasks"
    for name in [name for name in sys.modules if name.startswith("my_tasks")]:
        del sys.modules[name]
    load_tasks.cache_clear()


def test_a_users_task_is_one_short_file(plugin: str) -> None:
    assert len((PLUGIN / "my_tasks" / "tasks" / "reverse.py").read_text().splitlines()) <= 40
    tasks = load_tasks((plugin,))
    config = tasks.configs["reverse"].model_validate({"kind": "reverse", "n": 4})
    batch = tasks.build(config, causal=True).batch("train", 0, 8)
    for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist()):
        assert targets == [IGNORE] * 4 + inputs[3::-1]
    assert config.misfit(byte_model()) is None
    assert "causal: true" in str(config.misfit(byte_model(causal=False)))


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"late.py": "x = 1"}, "exactly one Task, found none"),
        (
            {"other.py": "from my_base import Parity as P\nclass Parity(P):\n    pass"},
            "kind 'parity' is not the file's",
        ),
        (
            {"parity.py": "from my_base import Parity as P\nclass Parity(P):\n    pass"},
            "'parity' exists already",
        ),
    ],
    ids=["none", "kind", "twice"],
)
def test_a_wrong_plugin_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files, words) -> None:
    package = f"foreign_{abs(hash(words))}"
    folder = tmp_path / package / "tasks"
    folder.mkdir(parents=True)
    (tmp_path / package / "__init__.py").touch()
    (tmp_path / "my_base.py").write_text("from search.tasks.parity import Parity\n")
    for name, text in files.items():
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SpecError, match=words):
        load_tasks((package,))
    sys.modules.pop("my_base", None)


def test_a_missing_plugin_is_named() -> None:
    with pytest.raises(SpecError, match="'no_such_package' cannot be imported"):
        load_tasks(("no_such_package",))
