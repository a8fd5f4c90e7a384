"""JSON Schemas (2020-12) of specs, spaces and studies: completion, types and help in an editor."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from typing import Any, Literal, get_args

from archspec.closed import Closed
from archspec.components import Components, Parallel
from archspec.config import ROLES
from archspec.spec import ModelSpec
from archspec.study import Study

Schema = dict[str, Any]
Name = Literal["spec", "space", "study"]
NAMES: tuple[Name, ...] = get_args(Name)
_DRAFT = "https://json-schema.org/draft/2020-12/schema"


def committed(name: Name) -> str:
    """The text of the schema that ships with this version."""
    return resources.files("archspec.schemas").joinpath(f"{name}.schema.json").read_text(encoding="utf-8")


def generated(name: Name, components: Components, tasks: Mapping[str, type[Closed]]) -> str:
    """The text of the schema, made from the grammar and what is known to stand in its slots."""
    match name:
        case "spec":
            schema = spec_schema(components)
        case "space":
            schema = space_schema(components)
        case "study":
            schema = study_schema(tasks)
    return json.dumps({"$schema": _DRAFT, **schema}, indent=1, ensure_ascii=False) + "\n"


def spec_schema(components: Components) -> Schema:
    """The grammar, with every component's configuration under its slots."""
    schema = ModelSpec.model_json_schema()
    parallel = Parallel.model_json_schema(ref_template="#/$defs/{model}")
    definitions = schema["$defs"] | {"Parallel": parallel}
    for name in ("TokenInput", "FeatureInput", "ImageInput"):  # told apart by their kind
        definitions[name]["required"] = ["kind", *definitions[name]["required"]]
    layer = definitions["Layer"]
    layer.pop("required")
    layer["anyOf"] = [{"required": [part]} for part in ("token_mixer", "cross", "channel_mixer")]
    symbols = definitions["Pattern"]["properties"]["symbols"]
    mixers = [{"slot": "token_mixer"}, {"slot": "channel_mixer"}]
    symbols["additionalProperties"] = {"anyOf": [{"$ref": "#/$defs/Layer"}, *mixers]}
    for role in ROLES:
        definitions |= _definitions(role, components.of(role))
    branches = definitions["token_mixer"]
    definitions["branch"] = branches
    definitions["token_mixer"] = {"anyOf": [*branches["anyOf"], {"$ref": "#/$defs/Parallel"}]}
    schema["$defs"] = dict(sorted(definitions.items()))
    _edit(schema, _plainer)
    return schema | {"title": "archspec model spec"}


def space_schema(components: Components) -> Schema:
    """The schema of a spec in which any value may be a hole."""
    schema = spec_schema(components)
    _edit(schema, _with_holes)
    _with_holes(schema)
    schema["$defs"] |= _HOLES
    return schema | {"title": "archspec search space"}


def study_schema(tasks: Mapping[str, type[Closed]]) -> Schema:
    """The grammar of a study, with every task's configuration."""
    schema = Study.model_json_schema()
    definitions = schema.setdefault("$defs", {})
    definitions |= _definitions("task", tasks)
    schema["properties"]["tasks"]["items"] = {"$ref": "#/$defs/task"}
    _edit(schema, _plainer)
    return schema | {"title": "archspec study"}


def _definitions(slot: str, table: Mapping[str, type[Closed]]) -> Schema:
    """``slot``: the bare kinds that need no field, or one of the configurations ``slot.kind``."""
    definitions: Schema = {}
    bare = []
    for kind, config in sorted(table.items()):
        name = f"{slot}.{kind}"
        schema = config.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
        for inner, inner_schema in schema.pop("$defs", {}).items():
            definitions[f"{name}.{inner}"] = inner_schema
        schema["properties"]["kind"] = {"const": kind, "description": _described(config)}
        if not schema.get("required"):
            bare.append(kind)
        schema["required"] = ["kind", *schema.get("required", ())]
        definitions[name] = schema
    references = [{"$ref": f"#/$defs/{slot}.{kind}"} for kind in sorted(table)]
    return definitions | {slot: {"anyOf": [{"enum": bare}, *references] if bare else references}}


def _described(config: type[Closed]) -> str:
    """The first line of the component's docstring, or of its file's."""
    text = config.__doc__ or sys.modules[config.__module__].__doc__ or ""
    return text.strip().split("\n")[0]


def _edit(schema: Schema, edit: Callable[[Schema], Schema]) -> None:
    """Replace every schema below ``schema`` by what ``edit`` makes of it, innermost first."""
    for holder, key in list(_below(schema)):
        if isinstance(holder[key], dict):
            _edit(holder[key], edit)
            holder[key] = edit(holder[key])


def _below(schema: Schema) -> Iterator[tuple[Any, Any]]:
    """Where the schemas directly below stand: a container and the key in it."""
    for key in ("properties", "$defs", "patternProperties"):
        for name in schema.get(key, {}):
            yield schema[key], name
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        for index in range(len(schema.get(key, ()))):
            yield schema[key], index
    for key in ("items", "additionalProperties"):
        if key in schema:
            yield schema, key


def _plainer(schema: Schema) -> Schema:
    """Slots become references; titles made up from names go; a choice among alternatives is ``anyOf``."""
    schema.pop("title", None)
    schema.pop("discriminator", None)
    if "slot" in schema:
        schema["$ref"] = f"#/$defs/{schema.pop('slot')}"
    if "oneOf" in schema:
        schema["anyOf"] = schema.pop("oneOf")
    return schema


_HOLE = {"$ref": "#/$defs/hole"}


def _with_holes(schema: Schema) -> Schema:
    """Every property, item and mapping value may be a hole."""
    for name, value in schema.get("properties", {}).items():
        if name not in {"archspec", "name", "description"}:
            schema["properties"][name] = _or_hole(value)
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            schema[key] = _or_hole(schema[key])
    return schema


def _or_hole(schema: Schema) -> Schema:
    described = {"description": schema.pop("description")} if "description" in schema else {}
    return described | {"anyOf": [schema, _HOLE]}


def _range(kind: str, **beside: Schema) -> Schema:
    ends = {"type": "array", "items": {"type": "integer" if kind == "int" else "number"}}
    return {
        "type": "object",
        "properties": {
            kind: {**ends, "minItems": 2, "maxItems": 2, "description": "[low, high], both included"},
            **beside,
            "share": {"$ref": "#/$defs/share"},
        },
        "required": [kind],
        "additionalProperties": False,
    }


_LOG = {"type": "boolean", "description": "sample the logarithm uniformly"}
_HOLES: Schema = {
    "hole": {"anyOf": [{"$ref": f"#/$defs/hole.{kind}"} for kind in ("choice", "int", "float", "share")]},
    "hole.choice": {
        "type": "object",
        "properties": {
            "choice": {
                "description": "options: scalars, kinds, mappings with a kind, or anything under a label",
                "anyOf": [{"type": "array", "minItems": 1}, {"type": "object", "minProperties": 1}],
            },
            "share": {"$ref": "#/$defs/share"},
        },
        "required": ["choice"],
        "additionalProperties": False,
    },
    "hole.int": _range("int", log=_LOG, step={"type": "integer", "minimum": 1}),
    "hole.float": _range("float", log=_LOG),
    "hole.share": {
        "type": "object",
        "properties": {"share": {"$ref": "#/$defs/share"}},
        "required": ["share"],
        "additionalProperties": False,
    },
    "share": {"type": "string", "description": "holes of one name take one value"},
}
