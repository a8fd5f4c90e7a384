"""FIT's write: the tokens of a group attend to latents (Chen & Li 2023, arXiv:2305.12689).

    update = Wo attention(Wq LN(tokens), Wk LN(latents), Wv LN(latents)) + bo

The queries are the tokens and the source the latents: those of their own group, or in a causal model those
of the group before. See ``zoo/ops/cross.py`` for the attention. The residual is the graph's, and no MLP
follows.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from zoo.ops.cross import CrossConfig, SoftmaxTransfer


class Write(SoftmaxTransfer):
    class Config(CrossConfig):
        kind: Literal["write"] = "write"

    config: Config
    examples: ClassVar = (Config(n_heads=2), Config(n_heads=1, eps=1e-3), Config(n_heads=4))
