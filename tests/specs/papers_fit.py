"""FIT's models in formulas (arXiv:2305.12689, the authors' code): what ``test_papers.py`` compares with."""

from __future__ import annotations


def layer(d: int) -> int:
    """Pre-norm attention and MLP of ratio 4, biases throughout."""
    return 12 * d**2 + 13 * d


def mlp(d: int) -> int:
    """The MLP of a layer alone, with its norm."""
    return 8 * d**2 + 7 * d


def transfer(d_query: int, d_source: int) -> int:
    """Four maps with bias and two norms; the inner width is that of the narrower stream."""
    a = min(d_query, d_source)
    return 2 * d_query * a + 2 * d_source * a + 3 * a + d_query + 2 * d_query + 2 * d_source


def exchange(dx: int, dl: int) -> int:
    """A read and a write."""
    return transfer(dl, dx) + transfer(dx, dl)


def encoder(*, c: int, n: int, dx: int, dl: int, n_latents: int, n_local: int, n_global: int) -> int:
    """One exchange: stem with a norm, positions of a group, latents, the norm of each stream."""
    streams = c * dx + 3 * dx + n * dx + n_latents * dl
    return streams + n_local * layer(dx) + n_global * layer(dl) + exchange(dx, dl) + 2 * dx + 2 * dl


def classified(encoder: int, *, dx: int, dl: int) -> int:
    """With a classifier of the tokens, which is ours, and without the norm of latents that nothing reads."""
    return encoder - 2 * dl + 1000 * dx + 1000


def decoder() -> int:
    dx, dl, V, n, n_latents = 512, 768, 16384, 64, 32 * 8
    streams = V * dx + V + n * dx + n_latents * dl + 2 * dx
    return streams + 6 * layer(dx) + 6 * layer(dl) + 2 * exchange(dx, dl)


def snap_video(*, dx: int, dl: int, n_latents: int, d_condition: int = 768) -> int:
    """Six rounds of read, MLP, condition, four global layers, write, MLP; 48 values per patch, groups of 320."""
    c, n = 48, 320
    streams = c * dx + 3 * dx + n * dx + n_latents * dl + 2 * dx + dx * c + c
    time = d_condition**2 // 4 + d_condition**2 + 2 * d_condition
    self_conditioning = mlp(dl) + 2 * dl
    rounds = exchange(dx, dl) + mlp(dx) + mlp(dl) + transfer(dl, d_condition) + 4 * layer(dl)
    return streams + time + self_conditioning + 6 * rounds


# The encoder that section 6 of the formula describes, before our classifier: (2)4(2), 16 groups of 64, 16 latents each.
SHAPE = {"c": 48, "n": 64, "dx": 512, "dl": 768, "n_latents": 16 * 16, "n_local": 4, "n_global": 4}
EXAMPLE = (43_849_984, encoder(**SHAPE))

FIT = {
    "fit_encoder": (44_361_448, classified(EXAMPLE[1], dx=512, dl=768)),
    "fit_image_encoder": (44_402_408, classified(encoder(**SHAPE | {"c": 192, "n": 0}), dx=512, dl=768)),
    "fit_ar_decoder": (75_338_752, decoder()),
    "fit_snap_video_500m": (440_680_240, snap_video(dx=768, dl=1024, n_latents=512)),
    "fit_snap_video_3_9b": (3_437_701_168, snap_video(dx=1024, dl=3072, n_latents=768)),
}
