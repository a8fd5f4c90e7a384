"""Few bytes that expand to many nodes."""

from __future__ import annotations

import pytest

from archspec import SpecError
from archspec.nodes import MAX_ALIASES, MAX_NODES
from archspec.source import parse_source


def bomb(levels: int, fan_out: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * fan_out)}]" for i in range(1, levels)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(("levels", "fan_out"), [(9, 6), (40, 2), (25, 2), (3, 60)])
def test_a_bomb_is_refused_before_it_goes_off(levels: int, fan_out: int) -> None:
    with pytest.raises(SpecError) as caught:
        parse_source(bomb(levels, fan_out))
    problem = caught.value.problems[0]
    assert "nodes once its aliases are expanded" in problem.message or "aliases" in problem.message
    assert problem.line is not None
    assert problem.line > 1


def test_merge_keys_are_counted_too() -> None:
    text = "a0: &a0 {" + ", ".join(f"k{i}: 1" for i in range(5000)) + "}\n"
    text += "".join(f"b{i}: {{<<: *a0}}\n" for i in range(30))
    with pytest.raises(SpecError, match="nodes once its aliases are expanded"):
        parse_source(text)


def test_the_limits_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_NODES == 100_000
    monkeypatch.setattr("archspec.yaml_text.MAX_NODES", 1000)
    fits = "[" + ",".join(["1"] * 997) + "]"  # the mapping, its key and the list are nodes as well
    assert len(parse_source(f"a: {fits}").tree["a"]) == 997
    with pytest.raises(SpecError, match="more than 1,000 nodes"):
        parse_source(f"a: [1, {fits[1:]}")
    aliases = "a: &a 1\nb: [" + ", ".join(["*a"] * MAX_ALIASES) + "]\n"
    assert len(parse_source(aliases).tree["b"]) == MAX_ALIASES
    with pytest.raises(SpecError, match=f"more than {MAX_ALIASES} aliases"):
        parse_source(aliases.replace("[*a", "[*a, *a"))
