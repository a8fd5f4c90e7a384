"""FIT's models: the formula's example, and Snap Video's denoisers by what the paper prints (arXiv:2402.14797)."""

from __future__ import annotations

from pathlib import Path

import pytest
from papers_fit import EXAMPLE, FIT

import compiler
from archspec.schedule import parse_schedule
from archspec.spec import FitBlock, ModelSpec
from zoo.token_mixers.attention import Attention
from zoo.transfers.read import Read

PAPERS = Path(__file__).parents[2] / "specs" / "papers"
PRINTED = {  # millions in the name; width and head of tokens; latents, their width and head
    "fit_snap_video_500m": ("500M", 768, 48, 512, 1024, 64),
    "fit_snap_video_3_9b": ("3.9B", 1024, 64, 768, 3072, 128),
}


def spec_of(name: str) -> ModelSpec:
    return compiler.load_spec(PAPERS / f"{name}.yaml")


def test_every_model_is_listed() -> None:
    assert set(FIT) == {path.stem for path in PAPERS.glob("fit_*.yaml")}


def test_numel_formula_of_the_example() -> None:
    """Layers (2)4(2), 16 groups of 64 tokens of width 512 and of 16 latents of width 768, 48 inputs."""
    figure, formula = EXAMPLE
    assert figure == formula
    latent_norm, classifier = 2 * 768, 1000 * 512 + 1000
    assert compiler.profile(spec_of("fit_encoder")).params == figure - latent_norm + classifier


@pytest.mark.parametrize("name", PRINTED)
def test_snap_video_has_the_sizes_in_print(name: str) -> None:
    spec = spec_of(name)
    (entry,) = spec.layers
    assert isinstance(entry, FitBlock)
    fit, (_, width, head, n_latents, d_latent, latent_head) = entry.fit, PRINTED[name]
    assert isinstance(fit.global_.token_mixer, Attention.Config)
    assert isinstance(fit.read, Read.Config)
    assert (spec.d_model, spec.d_model // fit.read.n_heads) == (width, head)
    assert fit.n_groups * fit.n_latents == n_latents
    assert (fit.d_latent, fit.d_latent // fit.global_.token_mixer.n_heads) == (d_latent, latent_head)
    assert parse_schedule(fit.schedule) == (*6 * [(0, 4)], (0, 0))
    assert (spec.input.seq_len, spec.input.seq_len // fit.n_groups) == (2560, 16 * 5 * 4)
    assert fit.self_conditioning
    assert fit.exchange_mixer.kind == "mlp"
    assert spec.condition is not None
    assert spec.condition.width == 768


@pytest.mark.parametrize("name", PRINTED)
def test_snap_videos_figure_is_near_the_one_in_its_name(name: str) -> None:
    """What makes the condition is not in it; the comment says both figures."""
    comment = (PAPERS / f"{name}.yaml").read_text("utf-8").partition("\narchspec:")[0]
    said, params = PRINTED[name][0], FIT[name][0]
    millions = float(said[:-1]) * (1000 if said.endswith("B") else 1)
    assert said in comment
    assert f"{params:,}" in comment
    assert 0.87 < params / 1e6 / millions < 1
