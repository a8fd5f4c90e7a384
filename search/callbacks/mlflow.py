"""MLflow: an experiment in ``mlflow.db`` of the search, or where MLFLOW_TRACKING_URI says."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from search.callbacks import Tracker, library, scalars, words
from search.front import Row, SearchResult


class MLflow(Tracker):
    """One run per trial."""

    kind = "mlflow"

    def __init__(self, folder: Path, study: str):
        mlflow = library("mlflow", self.kind)
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # it tells of every table that it creates
        folder.mkdir(parents=True, exist_ok=True)
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.absolute() / 'mlflow.db'}"
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        known = self._client.get_experiment_by_name(study)
        self._experiment = self._client.create_experiment(study) if known is None else known.experiment_id

    def trial(self, row: Row, result: SearchResult) -> None:
        """A finished run; a failed trial is a failed one."""
        run = self._client.create_run(self._experiment, run_name=f"trial {row.trial}").info.run_id
        for name, word in words(row).items():
            self._client.log_param(run, _key(name), word[:500])
        for name, value in scalars(row, result).items():
            self._client.log_metric(run, _key(name), value)
        self._client.set_terminated(run, "FINISHED" if row.status == "done" else "FAILED")

    def close(self) -> None:
        """Every run is closed already."""


def _key(name: str) -> str:
    """``name`` as MLflow allows it: it takes no brackets, so ``layers[0].d_ff`` is ``layers.0.d_ff``."""
    return re.sub(r"[^\w\-. :/]", "_", re.sub(r"\[(\w+)\]", r".\1", name), flags=re.ASCII)
