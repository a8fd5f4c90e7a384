"""archspec zoo."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
PLUGIN = '''"""Halves its input: a mixer to test plug-ins with."""

from typing import Literal

from archspec import Capabilities, Cost, CostContext, MixerConfig
from zoo.contract import Mixer


class Half(Mixer):
    class Config(MixerConfig):
        kind: Literal["half_test"] = "half_test"

        def cost(self, ctx: CostContext) -> Cost:
            return Cost(params=PARAMS)

        def capabilities(self) -> Capabilities:
            return Capabilities(causal="always", decode="none", mixes_tokens=False)

    examples = (Config(), Config())

    def forward(self, x, mask=None):
        return x / 2

    def reference(self, x, mask=None):
        return x * 0.5
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for mixers in a package of its own: a package that was loaded once is remembered."""
    folder = tmp_path / f"half_package_{tmp_path.name}" / "token_mixers"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    yield folder
    for name in [name for name in sys.modules if name.startswith(folder.parent.name)]:
        del sys.modules[name]


def test_every_component_is_listed_with_the_stable_keys(run: Run) -> None:
    rows = json.loads(run("zoo", "--json").out)
    keys = {"kind", "role", "paper", "causal", "decode", "length", "complexity"}
    assert all(row.keys() >= keys for row in rows)
    (attention,) = (row for row in rows if (row["role"], row["kind"]) == ("token_mixer", "attention"))
    assert attention["role"] == "token_mixer"
    assert (attention["causal"], attention["decode"], attention["complexity"]) == ("switch", "growing", "L^2")
    assert {row["role"] for row in rows} == {
        "token_mixer",
        "channel_mixer",
        "stem",
        "head",
        "norm",
        "transfer",
    }
    assert "attention" in run("zoo").out


def test_a_plug_in_is_listed_and_checked(run: Run, package: Path) -> None:
    (package / "half_test.py").write_text(PLUGIN.replace("PARAMS", "0"))
    rows = json.loads(run("zoo", "--json", "--plugin", package.parent.name).out)
    assert "half_test" in {row["kind"] for row in rows}
    ran = run("zoo", "check", package.parent.name, "--json")
    document = json.loads(ran.out)
    failing = {failure["check"] for failure in document["failures"]}
    assert "parameters" not in failing
    assert document["checks"] > 10


def test_a_plug_in_that_breaks_the_contract_fails_with_the_check_s_name(run: Run, package: Path) -> None:
    (package / "half_test.py").write_text(PLUGIN.replace("PARAMS", "1"))
    ran = run("zoo", "check", package.parent.name)
    assert ran.code == 1
    assert "parameters: " in ran.out
    assert "fail  token_mixer-half_test" in ran.out


def test_a_plug_in_that_is_not_there(run: Run) -> None:
    ran = run("zoo", "check", "no_such_package")
    assert ran.code == 1
    assert "plug-in 'no_such_package' cannot be imported" in ran.err
