"""The slots of the grammar where a component stands: a kind or a mapping, looked up in a table.

The language knows no component by name. Whoever validates a spec passes a ``Components`` table as pydantic's
validation context; the compiler passes the zoo's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationInfo, WithJsonSchema
from pydantic_core import PydanticCustomError

from archspec.closed import Closed
from archspec.config import ComponentConfig, MixerConfig, NormConfig, Role
from archspec.errors import did_you_mean, shown


@dataclass(frozen=True)
class Components:
    """For each role, the configuration class of every known kind."""

    configs: Mapping[Role, Mapping[str, type[ComponentConfig]]]

    def of(self, role: Role) -> Mapping[str, type[ComponentConfig]]:
        return self.configs.get(role, {})


def spec_problem(message: str, hint: str | None = None) -> PydanticCustomError:
    """A validation error whose message is shown as it is, with a hint of its own."""
    return PydanticCustomError("spec", "{message}", {"message": message, "hint": hint})


def _slot(role: Role) -> BeforeValidator:
    def look_up(value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, ComponentConfig):
            return value
        table = info.context.of(role) if isinstance(info.context, Components) else {}
        fields = {"kind": value} if isinstance(value, str) else value
        what = role.replace("_", " ")
        if not isinstance(fields, Mapping):
            raise spec_problem(f"a {what} is a kind or a mapping with 'kind', got {shown(value)}")
        kind = fields.get("kind")
        if not isinstance(kind, str):
            raise spec_problem(f"a {what} needs a 'kind'", _kind_hint(fields, table))
        if kind not in table:
            raise spec_problem(f"unknown {what} {shown(kind)}", did_you_mean(kind, table))
        return table[kind].model_validate(dict(fields), context=info.context)

    return BeforeValidator(look_up)


def _schema(slot: str) -> WithJsonSchema:
    """In a JSON Schema a slot is only named; ``archspec.schema`` spells out what may stand in it."""
    return WithJsonSchema({"slot": slot})


def _kind_hint(fields: Mapping[str, Any], table: Mapping[str, Any]) -> str | None:
    if "parallel" in fields:
        return "'parallel' stands alone with 'combine', without 'kind'"
    return f"known here: {', '.join(sorted(table))}" if table else None


class Parallel(Closed):
    """Token mixers side by side on one input; their outputs are combined (Falcon-H1, Hymba)."""

    parallel: Annotated[
        tuple[Annotated[SerializeAsAny[MixerConfig], _slot("token_mixer"), _schema("branch")], ...],
        Field(min_length=2),
    ]
    combine: Literal["mean", "sum", "concat", "gated"] = Field(
        "mean",
        description="concat adds a linear map from n*d_model to d_model; gated one learned weight per branch",
    )


def _token_mixer(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, Parallel):
        return value
    if isinstance(value, Mapping) and "parallel" in value and "kind" not in value:
        return Parallel.model_validate(dict(value), context=info.context)
    return _slot("token_mixer").func(value, info)  # type: ignore[call-arg]


TokenMixerSlot = Annotated[
    SerializeAsAny[MixerConfig] | Parallel, BeforeValidator(_token_mixer), _schema("token_mixer")
]
ChannelMixerSlot = Annotated[SerializeAsAny[MixerConfig], _slot("channel_mixer"), _schema("channel_mixer")]
NormSlot = Annotated[SerializeAsAny[NormConfig], _slot("norm"), _schema("norm")]
StemSlot = Annotated[SerializeAsAny[ComponentConfig], _slot("stem"), _schema("stem")]
HeadSlot = Annotated[SerializeAsAny[ComponentConfig], _slot("head"), _schema("head")]
TransferSlot = Annotated[SerializeAsAny[ComponentConfig], _slot("transfer"), _schema("transfer")]

__all__ = [
    "ChannelMixerSlot", "Components", "HeadSlot", "NormSlot", "Parallel", "StemSlot", "TokenMixerSlot",
    "TransferSlot", "spec_problem",
]  # fmt: skip
