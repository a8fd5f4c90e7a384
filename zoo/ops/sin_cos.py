"""Fixed position codes of FIT: sines and cosines of coordinates from 0 to 1000 (arXiv:2305.12689, its code).

A row of n places has coordinates 0, 1000 / (n - 1), ..., 1000 (one place alone has 0). In D channels the
code of coordinate c is sin(c / 10000^(2 j / D)) for j = 0, 1, ..., then the cosines; an odd D drops the last
cosine. A grid's code is that of the row in the first half of the channels and that of the column in the
second, so D must be even.

Shapes: n places, or R rows and C columns; D channels. All in float64, which an angle of many turns needs.
"""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 1000.0


def line_codes(n: int, d_model: int, *, device: torch.device | str = "cpu") -> Tensor:
    """(n, D), one code per place."""
    coordinates = torch.arange(n, device=device, dtype=torch.float64) * (LARGEST / max(n - 1, 1))
    n_sines = (d_model + 1) // 2
    exponents = torch.arange(n_sines, device=device, dtype=torch.float64) * (-2 / d_model)
    angles = coordinates[:, None] * 10_000.0**exponents  # (n, D / 2)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)[:, :d_model]


def grid_codes(n_rows: int, n_columns: int, d_model: int, *, device: torch.device | str = "cpu") -> Tensor:
    """(R C, D), row by row."""
    assert d_model % 2 == 0, f"a grid needs an even width, got {d_model}"
    rows = line_codes(n_rows, d_model // 2, device=device).repeat_interleave(n_columns, dim=0)
    columns = line_codes(n_columns, d_model // 2, device=device).repeat(n_rows, 1)
    return torch.cat([rows, columns], dim=-1)
