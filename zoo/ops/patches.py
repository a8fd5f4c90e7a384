"""Images to patches and back: squares row by row, or tile by tile and row by row inside each.

Invariant: ``image_of(patches_of(images, ...), ...)`` is ``images``.

Shapes: B batch, C channels, image of H x W, patches of P x P, N = H W / P^2 of them, tiles of T x T patches.
"""

from __future__ import annotations

from torch import Tensor


def patches_of(images: Tensor, *, size: int, tile: int | None = None) -> Tensor:
    """(B, C, H, W) -> (B, N, C P P), channels outermost inside a patch."""
    B, C, H, W = images.shape
    if tile is None:
        squares = images.view(B, C, H // size, size, W // size, size).permute(0, 2, 4, 1, 3, 5)
    else:
        rows, columns = H // (tile * size), W // (tile * size)
        squares = images.view(B, C, rows, tile, size, columns, tile, size).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return squares.reshape(B, (H // size) * (W // size), C * size * size)


def image_of(
    patches: Tensor, *, height: int, width: int, n_channels: int, size: int, tile: int | None = None
) -> Tensor:
    """(B, N, C P P) -> (B, C, H, W)."""
    B = patches.shape[0]
    if tile is None:
        squares = patches.view(B, height // size, width // size, n_channels, size, size)
        return squares.permute(0, 3, 1, 4, 2, 5).reshape(B, n_channels, height, width)
    rows, columns = height // (tile * size), width // (tile * size)
    squares = patches.view(B, rows, columns, tile, tile, n_channels, size, size)
    return squares.permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(B, n_channels, height, width)
