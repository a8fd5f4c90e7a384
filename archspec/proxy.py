"""The grammar of a proxy: by how much a candidate's twin is smaller than the candidate."""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    model_validator,
)

from archspec.closed import Closed
from archspec.components import spec_problem
from archspec.errors import shown


def _share(value: Any) -> Any:
    """``keep``, ``1/8`` or ``0.125``."""
    if value == "keep":
        return "1"
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise spec_problem(f"a share is 'keep', 1/8 or 0.125, got {shown(value)}")
    return str(value)


def _in_range(text: str) -> str:
    try:
        share = Fraction(text)
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if not Fraction(1, 1024) <= share <= 1:
        raise spec_problem(f"a share is 'keep' or between 1/1024 and 1, got {text!r}")
    return str(share)


_SHARE = {"anyOf": [{"type": "string", "pattern": r"^(keep|\d+(/\d+)?|0?\.\d+)$"}, {"type": "number"}]}
Share = Annotated[str, BeforeValidator(_share), AfterValidator(_in_range), WithJsonSchema(_SHARE)]


class Shrink(Closed):
    """Shares of a spec's sizes that its twin keeps. Heads keep their number and get narrower."""

    d_model: Share = Field("keep", description="of every width: d_model, d_latent, d_ff, d_head, d_embed")
    d_state: Share = Field("keep", description="of the states of recurrent mixers: d_state, d_qk")
    n_layers: Share = Field(
        "keep", description="of the layers; each kind keeps its share of them and its order"
    )


class Proxy(Closed):
    """Candidates are scored by a smaller twin; budgets, latency and the front are those of the full spec."""

    shrink: Shrink = Shrink()
    seq_len: Share = Field(
        "keep", description="of the length, of windows, spans and groups, and of the tasks' examples"
    )

    @model_validator(mode="after")
    def _something_shrinks(self) -> Proxy:
        if self.is_identity:
            raise spec_problem("this proxy shrinks nothing", "write proxy: none, or a share below 1")
        return self

    @property
    def is_identity(self) -> bool:
        return all(share == "1" for share in (*self.shrink.model_dump().values(), self.seq_len))


def _form(value: Any) -> str:
    """The tag of what is written, in brackets so that no field is called so."""
    return "<proxy>" if isinstance(value, dict | Proxy) else "<none>"


ProxySlot = Annotated[
    Annotated[Literal["none"], Tag("<none>")] | Annotated[Proxy, Tag("<proxy>")], Discriminator(_form)
]
