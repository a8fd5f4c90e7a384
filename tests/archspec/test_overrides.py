"""--set path=value."""

from __future__ import annotations

from typing import Any

import pytest

from archspec import SpecError
from archspec.source import parse_source

TEXT = """
d_model: 64
stem: embedding
layers:
  - token_mixer: {kind: mamba2, d_state: 16}
  - {token_mixer: attention}
"""


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("d_model=128", ("d_model",), 128),
        ("layers[0].token_mixer.d_state=64", ("layers", 0, "token_mixer", "d_state"), 64),
        ("layers[0].token_mixer=attention", ("layers", 0, "token_mixer"), "attention"),
        ("layers[1]={token_mixer: none}", ("layers", 1), {"token_mixer": "none"}),
        ("stem.positions=learned", ("stem",), {"kind": "embedding", "positions": "learned"}),
        ("norm.eps=1e-6", ("norm", "eps"), 1e-6),
        ("layers=[]", ("layers",), []),
        ("name=a=b", ("name",), "a=b"),
        ("name=null", ("name",), None),
    ],
)
def test_a_value_is_replaced_or_added(text: str, path: tuple[Any, ...], value: Any) -> None:
    found = parse_source(TEXT, overrides=[text]).tree
    for part in path:
        found = found[part]
    assert (type(found), found) == (type(value), value)


def test_later_overrides_win_and_the_rest_stays() -> None:
    tree = parse_source(TEXT, overrides=["d_model=1", "d_model=2"]).tree
    assert tree == parse_source(TEXT.replace("64", "2")).tree


def test_a_value_is_placed_in_the_override() -> None:
    source = parse_source(TEXT, overrides=["layers[0].token_mixer.d_state={a: 1}"])
    place = source.place(("layers", 0, "token_mixer", "d_state", "a"))
    assert (place.file, place.line, place.column) == ("(command line)", 1, 35)
    assert place.excerpt == "layers[0].token_mixer.d_state={a: 1}"
    key = source.place(("layers", 0, "token_mixer", "d_state"), of_key=True)
    assert (key.file, key.column) == ("(command line)", 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("d_model", "an override has the form path=value"),
        ("d_model=", "no value after the '='"),
        ("=3", "an override has the form path=value"),
        ("layers[5].token_mixer=none", "layers has 2 items, so no [5]"),
        ("stem[0]=1", "stem is no list"),
        ("layers.token_mixer=1", "layers has no fields, so no 'token_mixer'"),
        ("d_model.x=1", "d_model has no fields, so no 'x'"),
        ("layers[x]=1", "not a path"),
        ("layers[0]token_mixer=1", "a '.' is missing here"),
        (".d_model=1", "not a path"),
        ("a..b=1", "not a path"),
        ("d_model=[1", "not valid YAML"),
        ("d_model=!!python/object:os.system 1", "the tag"),
        ("a=1\nb=2", "an override is one line"),
        ("layers[" + "9" * 5000 + "]=1", "not a path"),
        (".".join(["a"] * 100) + "=1", "an override has the form"),
    ],
)
def test_what_is_no_override(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_source(TEXT, overrides=[text])
    assert message in caught.value.message
    assert caught.value.problems[0].file == "(command line)"
