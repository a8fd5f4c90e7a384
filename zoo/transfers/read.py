"""FIT's read: latents attend to the tokens of their group (Chen & Li 2023, arXiv:2305.12689).

    update = Wo attention(Wq LN(latents), Wk LN(tokens), Wv LN(tokens)) + bo

The queries are the latents and the source the tokens; see ``zoo/ops/cross.py`` for the attention. The
residual is the graph's, and no MLP follows.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from zoo.ops.cross import CrossConfig, SoftmaxTransfer


class Read(SoftmaxTransfer):
    class Config(CrossConfig):
        kind: Literal["read"] = "read"

    config: Config
    examples: ClassVar = (Config(n_heads=2), Config(n_heads=1, eps=1e-3), Config(n_heads=4))
