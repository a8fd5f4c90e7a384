"""Weights & Biases: offline in the folder ``wandb`` of the search, unless WANDB_MODE says otherwise."""

from __future__ import annotations

import os
from pathlib import Path

from search.callbacks import Tracker, library, scalars, words
from search.front import Row, SearchResult


class WeightsAndBiases(Tracker):
    """One run per search, one step per trial."""

    kind = "wandb"

    def __init__(self, folder: Path, study: str):
        wandb = library("wandb", self.kind)
        folder.mkdir(parents=True, exist_ok=True)
        mode = os.environ.get("WANDB_MODE", "offline")
        settings = wandb.Settings(silent=True, console="off")
        self._run = wandb.init(project="archspec", name=study, dir=str(folder), mode=mode, settings=settings)

    def trial(self, row: Row, result: SearchResult) -> None:
        """Figures and words of a trial."""
        self._run.log({**scalars(row, result), **words(row)})

    def close(self) -> None:
        """Write the rest."""
        self._run.finish()
