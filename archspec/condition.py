"""What a denoiser is conditioned on, beside its noisy input: vectors, the diffusion time, or both."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from archspec.closed import Closed
from archspec.components import spec_problem
from archspec.inputs import Width


class Condition(Closed):
    """Vectors (B, seq_len, d_input), the time (B,), or both.

    They become tokens of one width, which latents read. All of them are real: a condition has no mask.
    """

    seq_len: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        0, description="vectors at most, such as a text encoder's"
    )
    d_input: Width | None = Field(None, description="width of one vector")
    d_token: Width | None = Field(
        None, description="width of a token; without it vectors are taken as they are"
    )
    time: bool = Field(
        False, description="one more token, first of all, made of the diffusion time in [0, 1]"
    )

    @model_validator(mode="after")
    def _has_tokens(self) -> Condition:
        if (self.seq_len > 0) != (self.d_input is not None):
            raise spec_problem(
                f"'seq_len' ({self.seq_len}) and 'd_input' ({self.d_input}) go together",
                "give both for vectors, or neither for the time alone",
            )
        if not self.n_tokens:
            raise spec_problem("a condition has vectors ('seq_len', 'd_input'), or 'time: true', or both")
        if self.d_input is None and self.d_token is None:
            raise spec_problem("the time alone has no width", "give 'd_token'")
        if self.time and self.width % 8:
            raise spec_problem(f"'time' needs tokens whose width is a multiple of 8, not {self.width}")
        return self

    @property
    def n_tokens(self) -> int:
        return self.seq_len + self.time

    @property
    def width(self) -> int:
        """Of one token."""
        width = self.d_token or self.d_input
        assert width is not None
        return width
