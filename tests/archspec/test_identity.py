"""One architecture, one hash: whatever does not change what is computed does not change it."""

from __future__ import annotations

import json

import pytest

from archspec import ModelSpec
from archspec.components import Components
from archspec.dump import dump_spec
from archspec.identity import canonical, spec_hash
from archspec.source import parse_source
from archspec.validate import validate

HEAD = """archspec: 1
input: {kind: tokens, vocab_size: 64, seq_len: 32}
causal: true
d_model: 32
stem: embedding
head: lm
"""
M = "{token_mixer: mamba2}"
A = "{token_mixer: attention}"
S = "{channel_mixer: swiglu}"


def spec(layers: str, components: Components, head: str = HEAD) -> ModelSpec:
    return validate(ModelSpec, parse_source(f"{head}layers: {layers}\n"), components)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("[{token_mixer: mamba2, channel_mixer: swiglu}]", f"[{M}, {S}]"),
        ("[{token_mixer: {kind: mamba2, d_state: 64}}]", f"[{M}]"),
        (f"[{{repeat: 3, layers: [{M}]}}]", f"[{M}, {M}, {M}]"),
        (f"[{{repeat: 2, layers: [{M}, {A}]}}]", f"[{M}, {A}, {M}, {A}]"),
        (f"[{{repeat: 2, layers: [{{repeat: 2, layers: [{M}]}}]}}]", f"[{{repeat: 4, layers: [{M}]}}]"),
        ("[{pattern: MAM-, symbols: {M: mamba2, A: attention, '-': swiglu}}]", f"[{M}, {A}, {M}, {S}]"),
        (f"[{{loop: 1, layers: [{M}, {A}]}}]", f"[{M}, {A}]"),
        (f"[{{loop: 2, layers: [{{loop: 3, layers: [{M}]}}]}}]", f"[{{loop: 6, layers: [{M}]}}]"),
        (f"[{{loop: 2, layers: [{{token_mixer: mamba2, channel_mixer: swiglu}}]}}]",  # noqa: F541
         f"[{{loop: 2, layers: [{M}, {S}]}}]"),
        (f"[{M}, {{token_mixer: none}}, {A}]", f"[{M}, {A}]"),
        ("[{token_mixer: mamba2, norm: rmsnorm, residual: pre}]", f"[{M}]"),
        ("[{token_mixer: mamba2, norm: {kind: rmsnorm, eps: 1e-5}}]", f"[{M}]"),
    ],
)  # fmt: skip
def test_two_ways_to_write_one_architecture(one: str, other: str, components: Components) -> None:
    assert canonical(spec(one, components)) == canonical(spec(other, components))
    assert spec_hash(spec(one, components)) == spec_hash(spec(other, components))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"[{M}]", f"[{A}]"),
        (f"[{M}, {A}]", f"[{A}, {M}]"),
        (f"[{M}]", f"[{M}, {M}]"),
        ("[{token_mixer: {kind: mamba2, d_state: 32}}]", f"[{M}]"),
        ("[{token_mixer: mamba2, norm: layernorm}]", f"[{M}]"),
        ("[{token_mixer: mamba2, residual: none}]", f"[{M}]"),
        (f"[{{loop: 2, layers: [{M}]}}]", f"[{{repeat: 2, layers: [{M}]}}]"),
        (f"[{{loop: 2, layers: [{M}, {A}]}}]", f"[{{loop: 2, layers: [{M}]}}, {{loop: 2, layers: [{A}]}}]"),
        ("[{token_mixer: {parallel: [mamba2, attention]}}]",
         "[{token_mixer: {parallel: [mamba2, attention], combine: sum}}]"),
        ("[{token_mixer: {parallel: [mamba2, attention]}}]", f"[{M}, {A}]"),
    ],
)  # fmt: skip
def test_two_architectures(one: str, other: str, components: Components) -> None:
    assert spec_hash(spec(one, components)) != spec_hash(spec(other, components))


@pytest.mark.parametrize(
    ("replaced", "by", "is_same"),
    [
        ("archspec: 1", "archspec: 1\nname: other\ndescription: text", True),
        ("stem: embedding", "stem: {kind: embedding, positions: none}", True),
        ("head: lm", "residual: pre\nnorm: {kind: rmsnorm}\nhead: {kind: lm, tied: false}", True),
        ("stem: embedding", "stem: {kind: embedding, positions: learned}", False),
        ("head: lm", "head: {kind: lm, tied: true}", False),
        ("d_model: 32", "d_model: 64", False),
        ("causal: true", "causal: false", False),
        ("vocab_size: 64", "vocab_size: 65", False),
        ("head: lm", "head: lm\nnorm: layernorm", False),
        ("head: lm", "head: lm\nresidual: post", False),
    ],
)
def test_what_surrounds_the_layers(replaced: str, by: str, is_same: bool, components: Components) -> None:
    one, other = spec(f"[{M}]", components), spec(f"[{M}]", components, HEAD.replace(replaced, by))
    assert (spec_hash(one) == spec_hash(other)) is is_same


def test_overridden_norms_leave_only_the_final_norm_of_the_model(components: Components) -> None:
    """Every layer has its own norm; with post-norm residuals the model's norm is then used nowhere."""
    layers = "[{token_mixer: mamba2, norm: layernorm, residual: post}]"
    post = HEAD + "residual: post\n"
    same = [
        spec_hash(spec(layers, components, post + norm)) for norm in ("", "norm: {kind: rmsnorm, eps: 1}\n")
    ]
    assert same[0] == same[1]
    pre = [
        spec_hash(spec(layers, components, HEAD + norm)) for norm in ("", "norm: {kind: rmsnorm, eps: 1}\n")
    ]
    assert pre[0] != pre[1]


def test_fit_schedules_mean_their_numbers(components: Components) -> None:
    def fit(schedule: str, read: str = "") -> str:
        inside = "local: {token_mixer: attention, channel_mixer: none}, global: {token_mixer: attention}"
        return (
            f"[{{fit: {{n_groups: 2, n_latents: 2, d_latent: 8, schedule: '{schedule}', {inside}{read}}}}}]"
        )

    def hash_of(*args: str) -> str:
        return spec_hash(spec(fit(*args), components))

    assert (
        hash_of("(1)2(1)") == hash_of(" (1)2(1)0") == hash_of("(1)2(1)", ", read: {kind: read, n_heads: 4}")
    )
    assert hash_of("(1)2(1)") != hash_of("(1)2(2)")
    assert hash_of("(1)2(1)") != hash_of("(1)2(1)", ", read: {kind: read, n_heads: 2}")


@pytest.mark.parametrize(
    ("more", "is_same"),
    [
        ("exchange_mixer: none, self_conditioning: false, latent_positions: learned, positions: none", True),
        ("exchange_mixer: mlp", False),
        ("latent_positions: sin_cos", False),
        ("self_conditioning: true", False),
        ("condition_read: read", False),
        ("condition_read: {kind: read, n_heads: 2}", False),
    ],
)
def test_what_a_fit_block_may_have_more(more: str, is_same: bool, components: Components) -> None:
    """And it is written out again as it was."""
    plain = (
        "{n_groups: 2, n_latents: 2, d_latent: 8, schedule: '(1)2(1)', "
        "local: {token_mixer: attention}, global: {token_mixer: attention}"
    )
    one = spec(f"[{{fit: {plain}}}}}]", components)
    other = spec(f"[{{fit: {plain}, {more}}}}}]", components)
    assert (spec_hash(one) == spec_hash(other)) is is_same
    assert "exchange_mixer" not in canonical(one)["layers"][0]["fit"]
    again = validate(ModelSpec, parse_source(dump_spec(other)), components)
    assert again == other


def test_a_condition_is_part_of_the_architecture(components: Components) -> None:
    text = "condition: {seq_len: 3, d_input: 16, time: true}\n"
    one, other = spec(f"[{M}]", components), spec(f"[{M}]", components, HEAD + text)
    assert spec_hash(one) != spec_hash(other)
    assert validate(ModelSpec, parse_source(dump_spec(other)), components) == other


def test_a_new_version_of_a_component_is_another_architecture(
    components: Components, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = spec(f"[{M}]", components)
    before = spec_hash(one)
    monkeypatch.setattr(components.of("token_mixer")["mamba2"], "version", 2)
    assert spec_hash(one) != before


def test_the_canonical_form_is_json_and_the_hash_is_sha256_of_it(components: Components) -> None:
    one = spec(f"[{M}]", components)
    assert json.loads(json.dumps(canonical(one))) == canonical(one)
    assert len(spec_hash(one)) == 64
    assert set(spec_hash(one)) <= set("0123456789abcdef")
