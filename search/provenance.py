"""What a result says of where it comes from: versions, device, seeds, and the texts of study and space."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from compiler.device.info import device_info, resolve_device
from search.load import LoadedStudy
from search.trainings import Place, Trainings


def provenance(
    loaded: LoadedStudy, place: Place, target: dict[str, Any], trainings: Trainings
) -> dict[str, Any]:
    """JSON; ``target`` is resolved for the device of ``place``."""
    info = device_info(resolve_device(place.device))
    return {
        "versions": {
            "python": platform.python_version(),
            "archspec": own_version(),
            "torch": torch.__version__,
            "optuna": metadata.version("optuna"),
        },
        "system": platform.platform(),
        "code": trainings.versions,
        "plugins": list(loaded.plugins),
        "device": {"device": info.device, "name": info.name, "memory_bytes": info.memory_bytes},
        "target": target,
        "training_seeds": trainings.seeds,
        "recipe": loaded.recipe.model_dump(mode="json"),
        "study_file": Path(loaded.source.file).name,
        "study": loaded.source.tree,
        "space": loaded.space.source.tree,
    }


def own_version() -> str:
    """That of this package, also from a checkout that is not installed."""
    try:
        return metadata.version("archspec-compiler")
    except metadata.PackageNotFoundError:
        return "unknown"
