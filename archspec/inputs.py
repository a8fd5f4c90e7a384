"""What a model takes in: token ids, feature vectors or images."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from archspec.closed import Closed

Width = Annotated[int, Field(ge=1, le=1_000_000)]
Length = Annotated[int, Field(ge=1, le=100_000_000)]


class TokenInput(Closed):
    """Integer ids (B, seq_len) in [0, vocab_size)."""

    kind: Literal["tokens"] = "tokens"
    vocab_size: Annotated[int, Field(ge=2, le=10_000_000, description="number of distinct ids")]
    seq_len: Length = Field(description="the longest sequence the model takes")


class FeatureInput(Closed):
    """Real vectors (B, seq_len, d_input)."""

    kind: Literal["features"] = "features"
    d_input: Width = Field(description="width of one input vector")
    seq_len: Length = Field(description="the longest sequence the model takes")


class ImageInput(Closed):
    """Images (B, n_channels, height, width); the stem makes a sequence of them."""

    kind: Literal["image"] = "image"
    height: Length
    width: Length
    n_channels: Width = 3

    @property
    def seq_len(self) -> int:
        """Pixels."""
        return self.height * self.width


Input = Annotated[TokenInput | FeatureInput | ImageInput, Field(discriminator="kind")]
