"""TensorBoard: event files in the folder ``tensorboard`` of the search."""

from __future__ import annotations

import json
from pathlib import Path

from search.callbacks import Tracker, library, scalars, words
from search.front import Row, SearchResult


class TensorBoard(Tracker):
    """One step per trial."""

    kind = "tensorboard"

    def __init__(self, folder: Path, study: str):
        library("tensorboard", self.kind)
        writer = library("torch.utils.tensorboard", self.kind).SummaryWriter
        self._writer = writer(log_dir=str(folder / "tensorboard"))

    def trial(self, row: Row, result: SearchResult) -> None:
        """Figures as scalars, the rest as a text."""
        for name, value in scalars(row, result).items():
            self._writer.add_scalar(name.replace(".", "/", 1), value, row.trial)
        self._writer.add_text("trial", json.dumps(words(row)), row.trial)
        self._writer.flush()

    def close(self) -> None:
        """Write the rest."""
        self._writer.close()
