"""The base of everything a user writes: frozen, closed to unknown keys, and literal about scalars."""

from __future__ import annotations

from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    ModelWrapValidatorHandler,
    ValidationError,
    model_validator,
)
from pydantic_core import CoreSchema, ErrorDetails, InitErrorDetails, PydanticCustomError, PydanticKnownError

from archspec.errors import did_you_mean, shown


def _make_scalars_strict(schema: Any) -> None:
    if isinstance(schema, dict):
        if schema.get("type") in {"int", "float", "bool"}:
            schema["strict"] = True
        for key, part in schema.items():
            if key not in {"metadata", "cls", "default", "serialization"}:
                _make_scalars_strict(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            _make_scalars_strict(part)


class Closed(BaseModel):
    """A frozen part of the language that accepts no key it does not know.

    Numbers and truth values are taken as they are written: '64' is no integer and true is no number.
    Lists become tuples.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        _make_scalars_strict(schema)
        return schema

    @model_validator(mode="wrap")
    @classmethod
    def _name_unknown_fields(cls, value: Any, handler: ModelWrapValidatorHandler[Any]) -> Any:
        """Pydantic says of an unknown field not which fields exist; that is known here."""
        try:
            return handler(value)
        except ValidationError as error:
            own = error.errors(include_url=False)
            if not any(_is_own(line) for line in own):
                raise
            lines = [_retold(line, cls) for line in own]
            raise ValidationError.from_exception_data(error.title, lines) from None


def field_names(model: type[BaseModel]) -> list[str]:
    """The keys a user may write for ``model``."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _is_own(line: ErrorDetails) -> bool:
    return len(line["loc"]) == 1 and line["type"] in {"extra_forbidden", "missing"}


def _retold(line: ErrorDetails, cls: type[BaseModel]) -> InitErrorDetails:
    """The same error as pydantic takes it; an unknown or missing field gets a message and hint of ours."""
    context = line.get("ctx", {})
    name = str(line["loc"][-1]) if line["loc"] else ""
    error: PydanticCustomError | PydanticKnownError | str
    if not _is_own(line):
        error = line["type"]
        if error in {"spec", "unknown_field", "missing_field"}:
            error = PydanticCustomError(error, "{message}", context)
    elif line["type"] == "extra_forbidden":
        facts = {"message": f"unknown field {shown(name)}", "hint": did_you_mean(name, field_names(cls))}
        error = PydanticCustomError("unknown_field", "{message}", facts)
    else:
        field = next((f for n, f in cls.model_fields.items() if name in (n, f.alias)), None)
        facts = {"message": f"missing field '{name}'", "hint": field.description if field else None}
        error = PydanticCustomError("missing_field", "{message}", facts)
    return InitErrorDetails(type=error, loc=line["loc"], input=line["input"], ctx=context)
