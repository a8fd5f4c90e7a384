"""Combiner's models in formulas: what ``test_papers.py`` and ``test_papers_combiner.py`` compare with."""

from __future__ import annotations


def language(*, L: int, projects: bool = False) -> int:
    """A GPT-2 of 12 layers with biases, learned positions, one shared table and a bias on the output.

    Where rows' summaries are projected: an output and a key matrix with biases, and a LayerNorm between.
    """
    d, V = 768, 32000
    attention = 4 * d**2 + 4 * d + projects * (2 * (d**2 + d) + 2 * d)
    mlp, norms = 8 * d**2 + 5 * d, 4 * d
    return 12 * (attention + mlp + norms) + V * d + L * d + 2 * d + V


def image(*, n_layers: int) -> int:
    """Attention without biases, an MLP with them, sinusoids; a table of 256 bytes, and 256 logits with bias."""
    d, d_ff = 512, 2048
    layer = 4 * d**2 + 2 * d * d_ff + d_ff + d + 4 * d
    return n_layers * layer + 256 * d + 2 * d + 256 * d + 256


# No count is published. The first figure is that of the spec, the second that of the published configuration.
COMBINER = {
    "combiner_fixed_lm": (111_236_864, language(L=2048)),
    "combiner_mixture_lm": (111_236_864, language(L=2048)),
    "combiner_axial_lm": (125_429_504, language(L=2048, projects=True)),
    "combiner_fixed_lm_8k": (115_955_456, language(L=8192)),
    "combiner_axial_lm_8k": (130_148_096, language(L=8192, projects=True)),
    "combiner_cifar10_fixed": (19_165_440, image(n_layers=6)),
    "combiner_cifar10_logsparse": (19_165_440, image(n_layers=6)),
    "combiner_cifar10_axial": (19_165_440, image(n_layers=6)),
    "combiner_cifar10_mixture": (19_165_440, image(n_layers=6)),
    "combiner_cifar10_mixture_12_layers": (38_067_456, image(n_layers=12)),
}
