"""The JSON Schemas: fresh, and at one with the grammar about what is right and what is wrong."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from archspec import ModelSpec, SpecError
from archspec.components import Components
from archspec.schema import NAMES, Name, committed, generated, spec_schema
from archspec.source import load_source, parse_source
from archspec.validate import validate
from search.tasks import load_tasks
from zoo import load_zoo

ROOT = Path(__file__).parents[2]
FILES: dict[Name, list[Path]] = {
    "spec": [
        path for folder in ("papers", "hybrids") for path in sorted(ROOT.glob(f"specs/{folder}/*.yaml"))
    ],
    "space": sorted(ROOT.glob("specs/spaces/*.yaml")),
    "study": sorted(ROOT.glob("specs/studies/*.yaml")),
}
CASES = [(name, path) for name in NAMES for path in FILES[name]]


def validator(name: Name) -> Draft202012Validator:
    return Draft202012Validator(json.loads(committed(name)))


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_schema_is_fresh(name: Name) -> None:
    fresh = generated(name, load_zoo().components, load_tasks().configs)
    assert committed(name) == fresh, "run: archspec schema --write"


@pytest.mark.parametrize("name", NAMES)
def test_the_schema_is_a_schema_and_every_reference_leads_somewhere(name: Name) -> None:
    schema = json.loads(committed(name))
    Draft202012Validator.check_schema(schema)

    def references(part: Any) -> set[str]:
        if isinstance(part, dict):
            own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
            return own.union(*(references(value) for value in part.values()))
        return set().union(*(references(value) for value in part)) if isinstance(part, list) else set()

    assert {ref.removeprefix("#/$defs/") for ref in references(schema)} <= schema["$defs"].keys()
    assert '"slot"' not in committed(name)


@pytest.mark.parametrize(("name", "path"), CASES, ids=lambda value: getattr(value, "stem", value))
def test_shipped_files_fit_their_schema(name: Name, path: Path) -> None:
    validator(name).validate(load_source(path).tree)


@pytest.mark.parametrize("path", FILES["spec"], ids=lambda path: path.stem)
def test_a_spec_is_a_space_too(path: Path) -> None:
    validator("space").validate(load_source(path).tree)


def test_every_value_of_a_spec_may_be_a_hole_in_a_space() -> None:
    tree = load_source(ROOT / "specs/hybrids/parallel_heads.yaml").tree
    hole = {"choice": [1, 2]}
    checked = validator("space")

    def holed(part: Any) -> Any:
        """Each copy of the tree with one value replaced."""
        if isinstance(part, dict):
            for key in part:
                yield from ({**part, key: inner} for inner in holed(part[key]))
            yield hole
        elif isinstance(part, list):
            for index in range(len(part)):
                yield from ([*part[:index], inner, *part[index + 1 :]] for inner in holed(part[index]))
            yield hole
        else:
            yield hole

    copies = [
        {**tree, key: inner} for key in tree if key not in {"archspec", "name"} for inner in holed(tree[key])
    ]
    assert len(copies) > 15
    for copy in copies:
        assert checked.is_valid(copy), copy
        assert not validator("spec").is_valid(copy), copy


BASE: dict[str, Any] = {
    "archspec": 1,
    "input": {"kind": "tokens", "vocab_size": 64, "seq_len": 32},
    "causal": True,
    "d_model": 32,
    "stem": "embedding",
    "layers": [{"token_mixer": "attention", "channel_mixer": "swiglu"}],
    "head": "lm",
}
VALUES = [
    0,
    1,
    -1,
    1.5,
    "attention",
    "x",
    True,
    None,
    [],
    {},
    {"kind": "attention"},
    {"kind": "x"},
    [{"repeat": 1}],
]
FIELDS = ["archspec", "input", "causal", "d_model", "norm", "residual", "stem", "layers", "head", "bogus"]


def test_grammar_and_schema_agree_about_small_specs(components: Components) -> None:
    """Random specs near the border between right and wrong, judged by both."""
    checked = Draft202012Validator(spec_schema(components))
    rng = random.Random(7)
    verdicts = set()
    for _ in range(600):
        tree = json.loads(json.dumps(BASE))
        layer = tree["layers"][0]
        target, keys = rng.choice(
            [
                (tree, FIELDS),
                (layer, ["token_mixer", "channel_mixer", "norm", "residual", "bogus", "repeat"]),
                (tree["input"], ["kind", "vocab_size", "seq_len", "bogus"]),
            ]
        )
        key = rng.choice(keys)
        if rng.random() < 0.3:
            target.pop(key, None)
        else:
            target[key] = rng.choice(VALUES)
        try:
            validate(ModelSpec, parse_source(json.dumps(tree)), components)
            is_right = True
        except SpecError:
            is_right = False
        assert checked.is_valid(tree) is is_right, tree
        verdicts.add(is_right)
    assert verdicts == {True, False}


def test_a_field_s_description_reaches_the_editor() -> None:
    schema = json.loads(committed("spec"))
    window = schema["$defs"]["token_mixer.attention"]["properties"]["window"]
    assert "last `window` positions" in window["description"]
    kind = schema["$defs"]["token_mixer.attention"]["properties"]["kind"]
    assert kind["const"] == "attention"
    assert kind["description"]
