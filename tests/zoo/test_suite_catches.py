"""The contract suite catches what it is for: planted faults fail their checks, the sound mixer passes all."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import planted
import planted_counts
import pytest

from archspec import SpecError
from compiler.cost.fvcore_check import count_macs
from zoo import load_zoo
from zoo.checks import CHECKS, Case, ContractError, cases, run_checks
from zoo.contract import Mixer

BY_NAME = {check.name: check for check in CHECKS}

FAULTS: list[tuple[type[Mixer], str]] = [
    (planted.Leaky, "causality"),
    (planted.Leaky, "causality_gradient"),
    (planted.Leaky, "block_causality"),
    (planted.GatedLeak, "causality"),
    (planted.Selecting, "causality"),
    (planted.TrainingLeak, "causality"),
    (planted.BatchCoupled, "batch"),
    (planted.BatchCoupled, "causality"),
    (planted.SilentlyCausal, "liveness"),
    (planted.Deaf, "liveness"),
    (planted.WrongForward, "reference"),
    (planted.WrongGradient, "reference"),
    (planted.WrongGradient, "gradient"),
    (planted.MaskIgnored, "padding"),
    (planted.EmptyRowNaN, "padding"),
    (planted.AnyMask, "odd_masks"),
    (planted.WrongStep, "decoding"),
    (planted.InPlace, "purity"),
    (planted.Counting, "purity"),
    (planted.Noisy, "determinism"),
    (planted.HalfPrecision, "autocast"),
    (planted.Fickle, "checkpointing"),
    (planted.Undeclared, "side_products"),
    (planted.WrongHints, "hints"),
    (planted.Uninitialised, "initialisation"),
    (planted.Forgetful, "state_dict"),
    (planted.WrongShape, "output"),
    (planted.LengthBound, "sites"),
    (planted.OneHash, "identity"),
    (planted_counts.WrongParameters, "parameters"),
    (planted.LengthBound, "parameters"),
    (planted_counts.WrongFlops, "flops"),
    (planted_counts.WrongDecodeFlops, "decode_flops"),
    (planted_counts.WrongState, "state_bytes"),
    (planted_counts.Overneeding, "cost"),
    (planted.Apart, "positions_apart"),
    (planted.OneExample, "examples"),
    (planted.Undescribed, "config"),
    (planted.PaperUnnamed, "docstring"),
]


def fails(cls: type[Mixer], name: str) -> list[str]:
    """What the check says of those cases of the mixer that break it."""
    said = []
    for case in cases("token_mixer", cls, d_model=32):
        if BY_NAME[name].applies(case):
            try:
                BY_NAME[name].run(case, count_macs)
            except ContractError as error:
                said.append(str(error))
    return said


@pytest.mark.parametrize(("cls", "name"), [pytest.param(c, n, id=f"{c.__name__}-{n}") for c, n in FAULTS])
def test_planted_fault_is_caught(cls: type[Mixer], name: str) -> None:
    assert fails(cls, name), f"{cls.__name__} passes '{name}'"


def test_every_check_has_a_fault_that_it_catches() -> None:
    assert {name for _, name in FAULTS} | {"export", "compile"} == set(BY_NAME)


@pytest.mark.parametrize("name", ["export", "compile"])
def test_control_flow_on_values_is_caught(name: str) -> None:
    case = next(cases("token_mixer", planted.Branching, d_model=32))
    with pytest.raises(Exception, match=r"(?i)data-dependent|could not guard|control flow"):
        BY_NAME[name].run(case, count_macs)


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.id) for c in cases("token_mixer", planted.Mean, d_model=32)]
)
def test_the_sound_mixer_passes(case: Case) -> None:
    for check in CHECKS:
        if check.applies(case):
            check.run(case, count_macs)


def test_selection_leak_passes_the_gradient_test() -> None:
    """Why perturbation: a choice made by looking ahead has no gradient."""
    assert not fails(planted.Selecting, "causality_gradient")
    assert "depend on inputs after" in fails(planted.Selecting, "causality")[0]


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An importable package with one sound token mixer, to be spoilt by the test."""
    folder = tmp_path / "planted_plugin" / "token_mixers"
    folder.mkdir(parents=True)
    for package in (folder.parent, folder):
        (package / "__init__.py").write_text('"""A plug-in."""\n')
    source = Path(planted.__file__).read_text()
    (folder / "mean.py").write_text(source[: source.index("class Leaky")])
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.startswith("planted_plugin")]:
        del sys.modules[name]
    load_zoo.cache_clear()


def broken(folder: Path) -> dict[str, str]:
    """Failed checks of the plug-in's components, with what they say."""
    zoo = load_zoo((folder.parent.name,))
    outcomes = list(run_checks(zoo, folder.parent.name, count_macs=count_macs))
    assert {outcome.component for outcome in outcomes} == {"token_mixer 'mean'"}
    return {outcome.check: str(outcome.error) for outcome in outcomes if outcome.error is not None}


def test_sound_plugin_passes(plugin: Path) -> None:
    assert broken(plugin) == {}


def test_plugin_that_raises_is_an_outcome(plugin: Path) -> None:
    file = plugin / "mean.py"
    file.write_text(file.read_text().replace("D = ctx.d_model", "D = 1 // 0"))
    assert "division" in broken(plugin)["parameters"]


def test_plugin_without_examples_is_an_outcome(plugin: Path) -> None:
    file = plugin / "mean.py"
    file.write_text(file.read_text().replace("(Config(), Config(scale=0.5))", "()"))
    assert broken(plugin) == {"examples": "no example fits a site of width 32"}


def test_kind_unlike_its_file_name(plugin: Path) -> None:
    (plugin / "mean.py").rename(plugin / "average.py")
    with pytest.raises(SpecError, match="kind 'mean' is not the file's name 'average'"):
        load_zoo(("planted_plugin",))


def test_two_components_in_one_file(plugin: Path) -> None:
    file = plugin / "mean.py"
    file.write_text(file.read_text() + "\n\nclass Second(Mean):\n    pass\n")
    with pytest.raises(SpecError, match="must define exactly one Mixer, found Mean, Second"):
        load_zoo(("planted_plugin",))


def test_kind_that_exists(plugin: Path) -> None:
    text = (plugin / "mean.py").read_text().replace('Literal["mean"] = "mean"', 'Literal["pool"] = "pool"')
    (plugin / "mean.py").rename(plugin / "pool.py").write_text(text)
    with pytest.raises(SpecError, match="brings a token_mixer 'pool', but 'pool' exists already"):
        load_zoo(("planted_plugin",))


def test_plugin_that_does_not_parse(plugin: Path) -> None:
    (plugin / "mean.py").write_text("def")
    with pytest.raises(SpecError, match=r"token_mixers.mean' cannot be imported: SyntaxError"):
        load_zoo(("planted_plugin",))


def test_plugin_of_one_file_brings_no_components(plugin: Path) -> None:
    (plugin.parent.parent / "planted_plugin_task.py").write_text('"""A task."""\n')
    assert load_zoo(("planted_plugin_task",)).classes == load_zoo().classes


def test_plugin_that_is_not_there() -> None:
    with pytest.raises(SpecError, match="plug-in 'no_such_package' cannot be imported"):
        load_zoo(("no_such_package",))
