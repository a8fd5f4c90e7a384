"""Specs that name Python: a kind is looked up in a table, never imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import compiler
from archspec import SpecError

SPEC = """archspec: 1
input: {kind: tokens, vocab_size: 64, seq_len: 32}
causal: true
d_model: 32
stem: embedding
layers: [{token_mixer: ATTACK}]
head: lm
"""
KINDS = [
    "os.system", "logging.os.system", "builtins.eval", "__import__('os')", "evil_module_for_a_test",
    "evil_module_for_a_test.Mixer", "zoo.token_mixers.attention", "../token_mixers/attention", "__init__", "",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_is_no_word_of_the_zoo(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil_module_for_a_test.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = tmp_path / "x.yaml"
    for written in (f'"{kind}"', f'{{kind: "{kind}"}}', f'{{kind: "{kind}", command: ls}}'):
        spec.write_text(SPEC.replace("ATTACK", written))
        with pytest.raises(SpecError) as caught:
            compiler.load_spec(spec)
        assert "token mixer" in caught.value.message
        assert caught.value.problems[0].line == 6
    assert "evil_module_for_a_test" not in sys.modules


@pytest.mark.parametrize("field", ["_target_", "module", "__class__", "import", "plugin", "plugins"])
def test_a_field_that_other_tools_import_from(field: str, tmp_path: Path) -> None:
    spec = tmp_path / "x.yaml"
    for text in (
        SPEC.replace("ATTACK", f'{{kind: attention, {field}: "os.system"}}'),
        SPEC.replace("ATTACK", "attention") + f"{field}: os.system\n",
    ):
        spec.write_text(text)
        with pytest.raises(SpecError) as caught:
            compiler.load_spec(spec)
        assert f"unknown field '{field}'" in caught.value.message


def test_a_file_named_in_a_spec_is_not_opened(tmp_path: Path) -> None:
    """``${env:HOME}`` and the like are plain text, and no name."""
    spec = tmp_path / "x.yaml"
    spec.write_text(SPEC.replace("ATTACK", "attention") + 'name: "${env:HOME}"\n')
    with pytest.raises(SpecError) as caught:
        compiler.load_spec(spec)
    assert "${env:HOME}" in caught.value.message
