"""Stems: tables, positions, cls tokens, patches; the sizes of published models."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from archspec import CostContext, FeatureInput, ImageInput, Input, Site, TokenInput
from zoo.contract import StemConfig
from zoo.norms import LayerNorm
from zoo.ops.positions import sinusoidal
from zoo.stems.embedding import Embedding
from zoo.stems.linear import Linear
from zoo.stems.patch import Patch

TOKENS = TokenInput(vocab_size=11, seq_len=8)
FEATURES = FeatureInput(d_input=3, seq_len=8)
SITE = Site(6, 8, causal=False)


def params(config: StemConfig, d_model: int, input: Input) -> int:
    length = config.out_length(input)
    return config.cost(CostContext(d_model, length, input=input, max_len=length)).params


def test_embedding_is_a_table() -> None:
    stem = Embedding(Embedding.Config(), SITE, TOKENS)
    ids = torch.tensor([[3, 0, 3]])
    assert torch.equal(stem(ids)[0], stem.tokens.weight[ids[0]])
    assert stem.table() is stem.tokens.weight


def test_hydra_bert_embeddings() -> None:
    config = Embedding.Config(n_token_types=2, norm=LayerNorm.Config(eps=1e-12))
    assert params(config, 768, TokenInput(vocab_size=30528, seq_len=128)) == 30528 * 768 + 2 * 768 + 1536


def test_routing_transformer_embeddings_on_pg19() -> None:
    """A table of the model's own width, and a dense map behind it all the same."""
    config = Embedding.Config(d_embed=1032)
    assert params(config, 1032, TokenInput(vocab_size=98304, seq_len=8192)) == 98304 * 1032 + 1032**2 + 1032


def test_learned_positions_have_one_row_per_position() -> None:
    config = Embedding.Config(positions="learned")
    assert params(config, 768, TokenInput(vocab_size=32000, seq_len=2048)) == (32000 + 2048) * 768
    cost = config.cost(CostContext(768, 2048, input=TokenInput(vocab_size=32000, seq_len=2048)))
    assert cost.params_embedding == cost.params


def test_positions_on_axes_are_sums_by_coordinate() -> None:
    """2 x 2 x 2: the last axis runs fastest; one past the last place is an error, not a wrap."""
    config = Embedding.Config(positions="learned", axes=(2, 2, 2))
    stem = Embedding(config, SITE, TOKENS)
    assert stem.positions is not None
    assert stem.positions.weight is not None
    row, column, channel = stem.positions.weight.split(2)
    ids = torch.zeros(1, 8, dtype=torch.long)
    at_five = stem(ids)[0, 5] - stem.tokens.weight[0]  # 5 = 1 * 4 + 0 * 2 + 1
    torch.testing.assert_close(at_five, row[1] + column[0] + channel[1])
    torch.testing.assert_close(stem.step(ids[:, 0], torch.tensor(5))[0], stem(ids)[0, 5])
    with pytest.raises(IndexError):
        stem.step(ids[:, 0], torch.tensor(8))
    assert params(config, 6, TOKENS) == 11 * 6 + (2 + 2 + 2) * 6


def test_tables_are_taken_in_turn() -> None:
    config = Embedding.Config(n_tables=3)
    stem = Embedding(config, SITE, TOKENS)
    ids = torch.tensor([[4, 4, 4, 4]])
    want = stem.tokens.weight[torch.tensor([4, 15, 26, 4])]
    assert torch.equal(stem(ids)[0], want)
    assert torch.equal(stem.step(ids[:, 1], torch.tensor(1))[0], want[1])
    assert config.table_width(6) is None, "no one table, so none to share"
    assert params(config, 6, TOKENS) == 3 * 11 * 6


def test_axes_and_positions_must_fit() -> None:
    assert Embedding.Config(positions="learned", axes=(2, 3)).input_misfit(TOKENS) == (
        "'axes' 2 x 3 have fewer places than the stream's 8 positions"
    )
    with pytest.raises(ValidationError, match="'axes' are those of learned positions"):
        Embedding.Config(axes=(2, 4))


def test_positions_tell_places_apart() -> None:
    ids = torch.zeros(1, 8, dtype=torch.long)
    for kind in ("learned", "sinusoidal"):
        x = Embedding(Embedding.Config(positions=kind), SITE, TOKENS)(ids)[0]
        assert torch.unique(x, dim=0).shape[0] == 8, kind
    assert torch.unique(Embedding(Embedding.Config(), SITE, TOKENS)(ids)[0], dim=0).shape[0] == 1


def test_sinusoids() -> None:
    table = sinusoidal(torch.arange(50), 8)
    assert torch.equal(table[0], torch.tensor([0.0, 0, 0, 0, 1, 1, 1, 1], dtype=torch.float64))
    assert table[3, 0].item() == pytest.approx(0.14112000805986721)  # sin 3
    assert table[3, 5].item() == pytest.approx(0.9553364891256060)  # cos 0.3
    products = table @ table.T
    for lag in (1, 7):
        assert torch.allclose(products.diagonal(lag), products[0, lag].expand(50 - lag))
    assert sinusoidal(torch.arange(5), 7).shape == (5, 7)
    assert torch.equal(sinusoidal(torch.tensor([30]), 8)[0], table[30])


def test_scale_goes_with_sinusoids_unless_said_otherwise() -> None:
    assert Embedding.Config(positions="sinusoidal").scale == "sqrt_d_model"
    assert Embedding.Config(positions="sinusoidal", scale="none").scale == "none"
    assert Embedding.Config(positions="learned").scale == "none"
    scaled = Embedding(Embedding.Config(scale="sqrt_d_model"), SITE, TOKENS)
    torch.testing.assert_close(scaled(torch.tensor([[4]]))[0, 0], 6**0.5 * scaled.tokens.weight[4])


def test_all_tokens_are_of_type_zero() -> None:
    stem = Embedding(Embedding.Config(n_token_types=2), SITE, TOKENS)
    assert stem.types is not None
    torch.testing.assert_close(stem(torch.tensor([[4]]))[0, 0], stem.tokens.weight[4] + stem.types.weight[0])


@pytest.mark.parametrize("std", [0.02, 1.0])
def test_initial_spread(std: float) -> None:
    config = Embedding.Config(init_std=std, positions="learned")
    stem = Embedding(config, Site(64, 512, causal=True), TokenInput(vocab_size=500, seq_len=512))
    assert stem.positions is not None
    assert stem.positions.weight is not None
    for weight in (stem.tokens.weight, stem.positions.weight):
        assert weight.std().item() == pytest.approx(std, rel=0.05)


@pytest.mark.parametrize(
    ("config", "input"),
    [
        (Embedding.Config(cls_token=True, positions="learned"), TOKENS),
        (Linear.Config(cls_token=True, positions="learned"), FEATURES),
        (Patch.Config(size=2, cls_token=True, positions="learned"), FEATURES),
    ],
    ids=["embedding", "linear", "patch"],
)
def test_cls_stands_first_and_counts(config: StemConfig, input: Input) -> None:
    site = Site(6, config.out_length(input), causal=False)
    classes = {"embedding": Embedding, "linear": Linear, "patch": Patch}
    stem = classes[config.kind](config, site, input)
    x = torch.randint(11, (2, 8)) if isinstance(input, TokenInput) else torch.randn(2, 8, 3)
    y = stem(x)
    assert config.has_cls
    assert y.shape[1] == config.out_length(input)
    assert torch.equal(y[0, 0], y[1, 0])
    mask = torch.tensor([[True] * 8, [True] * 3 + [False] * 5])
    out_mask = stem.out_mask(mask)
    assert out_mask.shape == y.shape[:2]
    assert out_mask[:, 0].all()
    assert config.capabilities().decode == "none"


def test_linear_norm_comes_before_positions() -> None:
    config = Linear.Config(norm=LayerNorm.Config(), positions="learned", init_std=5.0)
    stem = Linear(config, SITE, FEATURES)
    assert stem.positions is not None
    assert stem.positions.weight is not None
    normed = stem(torch.randn(2, 8, 3)) - stem.positions.weight
    torch.testing.assert_close(normed.mean(-1), torch.zeros(2, 8), atol=1e-5, rtol=0)
    assert params(config, 6, FEATURES) == 3 * 6 + 3 * 6 + 8 * 6  # FIT's stem: c dx + 3 dx, and positions


def test_image_patches_run_row_by_row() -> None:
    """Each output sees its own square alone: a single lit pixel lights one patch, in reading order."""
    input = ImageInput(height=4, width=6, n_channels=1)
    config = Patch.Config(size=2, bias=False)
    stem = Patch(config, Site(6, config.out_length(input), causal=False), input)
    assert config.out_length(input) == 6
    for row, column, patch in ((0, 0, 0), (1, 3, 1), (0, 5, 2), (2, 0, 3), (3, 5, 5)):
        image = torch.zeros(1, 1, 4, 6)
        image[0, 0, row, column] = 1
        lit = stem(image)[0].abs().sum(-1).nonzero().flatten().tolist()
        assert lit == [patch]
        place = row % 2 * 2 + column % 2
        torch.testing.assert_close(stem(image)[0, patch], stem.project.weight[:, place])


def test_the_last_run_of_features_is_filled_with_zeros() -> None:
    config = Patch.Config(size=3)
    stem = Patch(config, Site(6, 3, causal=False), FEATURES)
    x = torch.randn(2, 8, 3)
    assert config.out_length(FEATURES) == stem(x).shape[1] == 3
    filled = torch.cat([x, torch.zeros(2, 1, 3)], dim=1)
    torch.testing.assert_close(stem(x), stem(filled))


def test_a_run_is_real_where_any_of_its_vectors_is() -> None:
    stem = Patch(Patch.Config(size=3), Site(6, 3, causal=False), FEATURES)
    mask = torch.arange(8) < torch.tensor([[8], [4], [3], [0]])
    assert stem.out_mask(mask).tolist() == [
        [True, True, True], [True, True, False], [True, False, False], [False, False, False],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("config", "input", "message"),
    [
        (Embedding.Config(), FEATURES, "'tokens', not 'features'"),
        (Linear.Config(), TOKENS, "'features', not 'tokens'"),
        (Patch.Config(), TOKENS, "'image' or 'features', not 'tokens'"),
        (Patch.Config(size=5), ImageInput(height=10, width=12), r"'size' (5) must divide"),
    ],
    ids=["embedding", "linear", "patch", "patch size"],
)
def test_what_does_not_fit_is_said(config: StemConfig, input: Input, message: str) -> None:
    assert message in (config.input_misfit(input) or "")
