"""Heads: tying, pooling, the masked-LM transform; the sizes of published models."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from archspec import CostContext, FeatureInput, Site, TokenInput
from zoo.channel_mixers.mlp import MLP
from zoo.contract import HeadConfig
from zoo.heads.classifier import Classifier
from zoo.heads.lm import LMHead
from zoo.heads.masked_lm import MaskedLMHead
from zoo.norms import LayerNorm, RMSNorm
from zoo.stems.embedding import Embedding
from zoo.stems.linear import Linear

TOKENS = TokenInput(vocab_size=11, seq_len=8)
SITE = Site(6, 8, causal=False)
HYDRA_LAYER = 3_825_224 + 1_536  # the mixer and its post-norm


def test_hydra_bert_totals() -> None:
    """30528-word table, types and embedding norm, 23 or 12 layers, the head's transform and bias."""
    ctx = CostContext(768, 128, input=TokenInput(vocab_size=30528, seq_len=128))
    head = MaskedLMHead.Config().cost(ctx).params
    assert head == 768**2 + 768 + 1536 + 30528
    stem = Embedding.Config(n_token_types=2, norm=LayerNorm.Config(eps=1e-12)).cost(ctx).params
    assert stem + 23 * HYDRA_LAYER + head == 112_086_712
    assert stem + 12 * HYDRA_LAYER + head == 69_992_352


def test_combiner_lm_total() -> None:
    """12 pre-norm layers of attention and mlp with biases, learned positions, tied output with bias."""
    d = 768
    ctx = CostContext(d, 2048, input=TokenInput(vocab_size=32000, seq_len=2048), max_len=2048)
    norm = LayerNorm.Config().cost(ctx).params
    mlp = MLP.Config(activation="gelu_tanh").cost(ctx).params
    attention = 4 * d**2 + 4 * d
    stem = Embedding.Config(positions="learned").cost(ctx).params
    head = LMHead.Config(tied=True, bias=True).cost(ctx).params
    assert stem + 12 * (attention + mlp + 2 * norm) + norm + head == 111_236_864


def test_untied_output_of_routing_transformer() -> None:
    ctx = CostContext(1032, 8192, input=TokenInput(vocab_size=98304, seq_len=8192))
    assert LMHead.Config(bias=True).cost(ctx).params == 98304 * 1032 + 98304


@pytest.mark.parametrize("cls", [LMHead, MaskedLMHead])
def test_tying_shares_one_parameter(cls: type[LMHead | MaskedLMHead]) -> None:
    stem = Embedding(Embedding.Config(), SITE, TOKENS)
    head = cls(cls.Config(tied=True), SITE, TOKENS)
    with pytest.raises(AssertionError, match="before tie"):
        head(torch.randn(1, 2, 6))
    head.tie(stem)
    assert head.weight is stem.tokens.weight
    head(stem(torch.tensor([[3]]))).sum().backward()
    assert stem.tokens.weight.grad is not None
    assert stem.tokens.weight.grad[5].any()  # an id that was not read: its gradient comes from the head


@pytest.mark.parametrize(
    ("head", "stem", "message"),
    [
        (LMHead.Config(tied=True), Embedding.Config(), None),
        (
            LMHead.Config(tied=True),
            Embedding.Config(d_embed=4),
            "tied at width 6, the stem's table has width 4",
        ),
        (LMHead.Config(tied=True, d_embed=4), Embedding.Config(d_embed=4), None),
        (LMHead.Config(), Embedding.Config(d_embed=4), None),
        (LMHead.Config(tied=True), Linear.Config(), "stem 'linear' has no token table"),
        (LMHead.Config(), Embedding.Config(cls_token=True), "the stem's 'cls_token' adds a position"),
        (MaskedLMHead.Config(), Embedding.Config(d_embed=4), "table has width 4"),
        (Classifier.Config(n_classes=2, pool="cls"), Embedding.Config(), "the stem has no cls position"),
        (Classifier.Config(n_classes=2, pool="cls"), Embedding.Config(cls_token=True), None),
        (Classifier.Config(n_classes=2), Embedding.Config(), None),
    ],
)
def test_what_fits_a_stem(
    head: HeadConfig, stem: Embedding.Config | Linear.Config, message: str | None
) -> None:
    misfit = head.stem_misfit(stem, 6)
    assert misfit is None if message is None else message in (misfit or "")


def test_token_heads_need_tokens() -> None:
    features = FeatureInput(d_input=3, seq_len=8)
    for config in (LMHead.Config(), MaskedLMHead.Config()):
        assert "'tokens', not 'features'" in (config.input_misfit(features) or "")
    assert Classifier.Config(n_classes=2).input_misfit(features) is None


def classifier(pool: str) -> Classifier:
    """Its scores are the pooled vector itself."""
    head = Classifier(Classifier.Config(n_classes=6, pool=pool, bias=False), SITE, TOKENS)
    with torch.no_grad():
        head.scores.weight.copy_(torch.eye(6))
    return head


def test_pooling() -> None:
    x = torch.randn(4, 5, 6)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 0]]).bool()
    mean, last = classifier("mean")(x, mask), classifier("last")(x, mask)
    torch.testing.assert_close(mean[:3], torch.stack([x[0].mean(0), x[1, :2].mean(0), x[2, 2:4].mean(0)]))
    torch.testing.assert_close(last[:3], torch.stack([x[0, 4], x[1, 1], x[2, 3]]))
    assert not mean[3].any()
    assert last[3].isfinite().all()
    torch.testing.assert_close(classifier("cls")(x, mask), x[:, 0])
    torch.testing.assert_close(classifier("mean")(x), x.mean(1))
    torch.testing.assert_close(classifier("last")(x), x[:, -1])


def test_padding_may_hold_anything() -> None:
    x = torch.randn(1, 5, 6)
    x[0, 3:] = float("nan")
    mask = torch.tensor([[True] * 3 + [False] * 2])
    for pool in ("mean", "last", "cls"):
        assert classifier(pool)(x, mask).isfinite().all(), pool


def test_cls_in_a_causal_model_is_refused() -> None:
    config = Classifier.Config(n_classes=2, pool="cls")
    assert "sees no other token" in (config.misfit(Site(6, 8, causal=True)) or "")
    assert config.misfit(SITE) is None


def test_one_output_per_sequence_or_per_position() -> None:
    assert Classifier.Config(n_classes=7).output_width(TOKENS) == 7
    assert not Classifier.Config(n_classes=7).per_position
    assert LMHead.Config().output_width(TOKENS) == 11
    assert LMHead.Config().per_position


def test_masked_lm_transform() -> None:
    head = MaskedLMHead(MaskedLMHead.Config(tied=False, bias=False), SITE, TOKENS)
    x = torch.randn(2, 3, 6)
    assert head.dense is not None
    assert head.norm is not None
    assert head.weight is not None
    hidden = head.norm(torch.nn.functional.gelu(head.dense(x)))
    torch.testing.assert_close(head(x), hidden @ head.weight.T)
    plain = MaskedLMHead(MaskedLMHead.Config(tied=False, transform=False), SITE, TOKENS)
    assert plain.dense is None
    assert plain.norm is None


def test_a_norm_without_the_transform_is_refused() -> None:
    with pytest.raises(ValidationError, match="'transform' is false"):
        MaskedLMHead.Config(transform=False, norm=RMSNorm.Config())


def test_masked_lm_under_causal_smells() -> None:
    assert MaskedLMHead.Config().smells(Site(6, 8, causal=True))
    assert not MaskedLMHead.Config().smells(SITE)
