"""A model with an encoder: (source, target) -> logits; what it reads, what it costs, how it decodes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from encoder_cases import HEAD, LAYERS, ROUTED, SOURCE, SOURCE_MASK, TARGET
from torch import Tensor

import compiler
from archspec import SpecError
from archspec.dump import dump_spec
from archspec.identity import spec_hash
from archspec.source import parse_source
from archspec.spec import ModelSpec
from archspec.strip import strip
from archspec.validate import validate
from compiler import CompiledModel, build_graph, compile_spec
from compiler.passes.lower import encoder_of
from zoo import Zoo, load_zoo
from zoo.causality import randomised
from zoo.transfers.attention import CrossAttention

SpecMaker = Callable[..., ModelSpec]
CLOSE = {"rtol": 0.0, "atol": 1e-10}


@pytest.fixture
def spec(make_spec: SpecMaker) -> ModelSpec:
    return make_spec(LAYERS, head=HEAD)


def compiled(spec: ModelSpec) -> CompiledModel:
    model = compile_spec(spec, gate=False)
    model.module = randomised(model.module, 0)  # type: ignore[assignment]
    return model.eval()


def test_the_code_reads_as_written_by_hand(make_spec: SpecMaker) -> None:
    layers = "- {token_mixer: attention, cross: attention, channel_mixer: mlp}"
    encoder = "encoder.layers=[{token_mixer: attention}]"
    model = compile_spec(make_spec(layers, encoder, "residual=post", head=HEAD), gate=False)
    assert model.code == (
        "def forward(self, source, inputs, source_mask = None, mask = None):\n"
        "    s = self.encoder.stem(source)\n"
        "    y = self.encoder.layers[0].token_mixer(s, mask=source_mask)\n"
        "    s_1 = s + y\n"
        "    h = self.encoder.layers[0].token_norm(s_1)\n"
        "    x = self.stem(inputs)\n"
        "    y_1 = self.layers[0].token_mixer(x, mask=mask)\n"
        "    x_1 = x + y_1\n"
        "    h_1 = self.layers[0].token_norm(x_1)\n"
        "    y_2 = self.layers[0].cross(h_1, h, mask=source_mask)\n"
        "    x_2 = h_1 + y_2\n"
        "    h_2 = self.layers[0].cross_norm(x_2)\n"
        "    y_3 = self.layers[0].channel_mixer(h_2)\n"
        "    x_3 = h_2 + y_3\n"
        "    h_3 = self.layers[0].channel_norm(x_3)\n"
        "    logits = self.head(h_3)\n"
        "    return logits\n"
    )


def test_the_target_reads_all_of_the_source_and_its_own_past(spec: ModelSpec) -> None:
    model = compiled(spec)
    before = model(SOURCE, TARGET)
    assert before.shape == (3, 21, 31)
    later = TARGET.clone()
    later[:, 10:] = (later[:, 10:] + 1) % 31
    torch.testing.assert_close(model(SOURCE, later)[:, :10], before[:, :10], **CLOSE)
    source = SOURCE.clone()
    source[:, -1] = (source[:, -1] + 1) % 37
    moved = (model(source, TARGET) - before).abs().amax(-1)
    assert (moved > 1e-6).all(), "full attention across reads all of the source"
    encoder = encoder_of(model.graph, model.module)
    (was, _), (now, _) = encoder(SOURCE, None), encoder(source, None)
    assert ((now - was)[:, 0].abs().amax(-1) > 1e-6).all(), "the encoder looks ahead"


def test_padding_of_either_side_changes_nothing(spec: ModelSpec) -> None:
    model = compiled(spec)
    mask = torch.arange(21) < torch.tensor([[21], [4], [21]])
    padded = model(SOURCE, TARGET, source_mask=SOURCE_MASK, mask=mask)
    for row in range(3):
        n_source, n = int(SOURCE_MASK[row].sum()), int(mask[row].sum())
        alone = model(SOURCE[row : row + 1, :n_source], TARGET[row : row + 1, :n])
        torch.testing.assert_close(padded[row, :n], alone[0], **CLOSE)


@pytest.mark.parametrize("mask", [None, SOURCE_MASK], ids=["whole", "padded"])
@pytest.mark.parametrize("n_prefilled", [0, 1, 9])
def test_steps_equal_the_forward_pass(spec: ModelSpec, n_prefilled: int, mask: Tensor | None) -> None:
    model = compiled(spec)
    decoder = model.decoder()
    state, rows = decoder.init_state(3, SOURCE, mask), []
    with torch.no_grad():
        if n_prefilled:
            y, state = decoder.prefill(TARGET[:, :n_prefilled], state)
            rows += y.unbind(1)
        for t in range(n_prefilled, 21):
            y, state = decoder.step(TARGET[:, t], state)
            rows.append(y)
        want = model(SOURCE, TARGET, source_mask=mask)
    torch.testing.assert_close(torch.stack(rows, dim=1), want, **CLOSE)


def test_the_encoder_runs_once(spec: ModelSpec) -> None:
    model, calls = compiled(spec), []
    model.module.get_submodule("encoder.stem").register_forward_hook(lambda *_: calls.append(1))
    decoder = model.decoder()
    state = decoder.init_state(3, SOURCE)
    for t in range(3):
        _, state = decoder.step(TARGET[:, t], state)
    assert len(calls) == 1


def test_the_gate_passes_and_catches_a_cross_that_leaks(make_spec: SpecMaker) -> None:
    """The published selection, where centroids pick their nearest queries, would be such a one."""
    compile_spec(make_spec(LAYERS, head=HEAD))

    class Leaky(CrossAttention):
        def forward(self, queries: Tensor, source: Tensor, mask: Tensor | None = None) -> Tensor:
            return super().forward(queries + 1e-3 * queries.mean(1, keepdim=True), source, mask)

    transfers = {**load_zoo().classes["transfer"], "attention": Leaky}
    zoo = Zoo({**load_zoo().classes, "transfer": transfers})
    with pytest.raises(SpecError, match=r"layers\.0\.cross \('attention'\) breaks 'causal: true'"):
        compile_spec(make_spec("- {token_mixer: attention, cross: attention}", head=HEAD), zoo=zoo)


def test_a_model_without_promises_has_an_encoder_too(make_spec: SpecMaker) -> None:
    model = compiled(make_spec("- {token_mixer: attention, cross: attention}", "causal=false", head=HEAD))
    later = TARGET.clone()
    later[:, -1] = (later[:, -1] + 1) % 31
    assert not torch.allclose(model(SOURCE, later)[:, 0], model(SOURCE, TARGET)[:, 0])
    with pytest.raises(SpecError, match="a bidirectional model does not decode"):
        model.decoder()


def test_an_encoder_of_images_and_one_with_latents(make_spec: SpecMaker) -> None:
    image = "encoder.input={kind: image, height: 8, width: 8, n_channels: 3}"
    patches = "encoder.stem={kind: patch, size: 4, positions: learned}"
    layers = "- {token_mixer: attention, cross: attention}"
    model = compiled(
        make_spec(layers, image, patches, "encoder.layers=[{token_mixer: attention}]", head=HEAD)
    )
    source = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    assert model(source, TARGET).shape == (3, 21, 31)
    with pytest.raises(SpecError, match="images take no mask"):
        model(source, TARGET, source_mask=SOURCE_MASK)
    fit = (
        "encoder.layers=[{fit: {n_groups: 5, n_latents: 2, d_latent: 12, schedule: '(1)1(1)', "
        "local: {token_mixer: attention}, global: {token_mixer: {kind: attention, n_heads: 2}}}}]"
    )
    spec = make_spec(layers, fit, head=HEAD)
    model = compiled(spec)
    assert "shift" not in model.code, "an encoder's latents may see their own group"
    _, state = model.decoder().prefill(TARGET[:, :4], model.decoder().init_state(3, SOURCE, SOURCE_MASK))
    y, _ = model.decoder().step(TARGET[:, 4], state)
    torch.testing.assert_close(y, model(SOURCE, TARGET[:, :5], source_mask=SOURCE_MASK)[:, 4], **CLOSE)
    assert compiler.profile(spec, verify=True).verify.exact is True  # type: ignore[union-attr]


def test_training_takes_losses_and_statistics_of_all_parts(spec: ModelSpec) -> None:
    model = compile_spec(spec, gate=False).train()
    out = model.outputs(SOURCE, TARGET)
    names = ["encoder.layers.1.token_mixer", "layers.1.token_mixer", "layers.1.cross"]
    assert [name for name in out.statistics if "@" not in name] == names
    assert len(out.statistics) == 5  # the loop's second turn
    assert out.aux_loss is not None
    (out.logits.square().sum() + out.aux_loss).backward()
    assert all(p.grad is not None for p in model.parameters())
    before = model.module.get_buffer("layers.1.cross.centroids").clone()
    model.apply_statistics(out.statistics)
    assert not torch.equal(model.module.get_buffer("layers.1.cross.centroids"), before)
    assert sum(len(group["params"]) for group in model.param_groups(lr=1e-3, weight_decay=0.1)) == len(
        list(model.parameters())
    )


def test_it_is_saved_and_loaded(spec: ModelSpec, tmp_path: Path) -> None:
    model = compile_spec(spec, gate=False).eval()
    model.save(tmp_path / "model")
    loaded = compiler.load(tmp_path / "model").eval()
    assert torch.equal(loaded(SOURCE, TARGET), model(SOURCE, TARGET))
    assert loaded.hash == model.hash


def test_it_exports(make_spec: SpecMaker) -> None:
    few = "encoder.layers=[{token_mixer: attention}]"
    model = compiled(make_spec(f"- {{token_mixer: attention, cross: {ROUTED}}}", few, head=HEAD))
    given = (SOURCE, TARGET, SOURCE_MASK)
    exported = torch.export.export(model.module, given).module()
    torch.testing.assert_close(
        exported(*given)[0], model.outputs(*given[:2], source_mask=SOURCE_MASK)[0], **CLOSE
    )


def test_dump_schema_hash_and_strip(spec: ModelSpec, zoo: Zoo) -> None:
    again = validate(ModelSpec, parse_source(dump_spec(spec), file="dumped.yaml"), zoo.components)
    assert again == spec
    assert spec_hash(again) == spec_hash(spec)
    full = dump_spec(spec, defaults=True)
    assert spec_hash(validate(ModelSpec, parse_source(full, file="full.yaml"), zoo.components)) == spec_hash(
        spec
    )
    assert strip(spec) == (
        "attention+mlp | routing => attention+cross:attention+mlp | 2 turns of routing+cross:routing"
        " | cross:attention"
    )


def test_the_hash_tells_encoders_and_crosses_apart(make_spec: SpecMaker) -> None:
    layers = "- {token_mixer: attention, cross: attention}"
    hashes = {
        spec_hash(make_spec(layers, *change, head=HEAD))
        for change in (
            (),
            ("encoder.d_model=12",),
            ("encoder.input.vocab_size=38",),
            ("encoder.residual=post",),
            ("encoder.norm=layernorm",),
            ("encoder.layers=[{token_mixer: attention}]",),
            ("layers[0].cross={kind: attention, n_heads: 2}",),
            ("layers[0].cross=read",),
        )
    }
    assert len(hashes) == 8
    assert spec_hash(make_spec(layers, "encoder.norm=rmsnorm", "encoder.residual=pre", head=HEAD)) in hashes


@pytest.mark.parametrize(
    ("layers", "changes", "place", "words"),
    [
        ("- {token_mixer: attention, cross: attention}", ("encoder=null",), "layers[0].cross", "no encoder to read"),
        ("- {token_mixer: attention}", (), "encoder", "nothing reads the encoder"),
        (
            "- {token_mixer: attention, cross: attention}",
            ("encoder.layers=[{token_mixer: attention, cross: attention}]",),
            "encoder.layers[0].cross",
            "the encoder has nothing to read",
        ),
        (
            "- {cross: attention}\n- fit:\n    n_groups: 4\n    n_latents: 2\n    d_latent: 12\n    schedule: (1)\n"
            "    local: {cross: attention}\n    global: {token_mixer: attention}",
            (),
            "layers[1].fit.local.cross",
            "a layer inside 'fit' cannot read the encoder",
        ),
        (
            "- {token_mixer: attention, cross: {kind: attention, n_heads: 3}}",
            (),
            "layers[0].cross",
            "d_model 16 is not a multiple of n_heads 3",
        ),
        ("- {cross: {kind: read, n_heads: 5}}", (), "layers[0].cross", "'n_heads' (5) must divide"),
        (
            "- {token_mixer: attention, cross: attention}",
            ("encoder.stem={kind: patch, size: 4}",),
            "encoder.stem",
            "patch",
        ),
    ],
    ids=["no encoder", "unread", "in the encoder", "in fit", "heads", "transfer's widths", "encoder's stem"],
)  # fmt: skip
def test_what_does_not_fit_is_told_with_its_place(
    make_spec: SpecMaker, layers: str, changes: tuple[str, ...], place: str, words: str
) -> None:
    with pytest.raises(SpecError) as caught:
        build_graph(make_spec(layers, *changes, head=HEAD))
    problem = caught.value.problems[0]
    assert problem.path == place
    assert words in problem.message
    assert problem.line
    assert problem.column


def test_an_order_blind_encoder_is_warned_of(make_spec: SpecMaker) -> None:
    blind = "encoder.layers=[{token_mixer: {kind: attention, rope: false}}]"
    layers = "- {token_mixer: attention, cross: attention}"
    graph = build_graph(make_spec(layers, blind, "encoder.stem=embedding", head=HEAD))
    (warning,) = graph.graph["warnings"]
    assert warning.message == "nothing tells this encoder the order of its tokens"


def test_calls_that_are_not_the_models(spec: ModelSpec, make_spec: SpecMaker) -> None:
    model = compiled(spec)
    with pytest.raises(ValueError, match=r"call it as model\(source, target"):
        model(TARGET)
    with pytest.raises(ValueError, match=r"decoding starts with init_state\(batch_size, source\)"):
        model.decoder().init_state(3)
    plain = compiled(make_spec("- {token_mixer: attention}"))
    with pytest.raises(ValueError, match="no encoder, and takes no source"):
        plain.decoder().init_state(3, SOURCE)
    with pytest.raises(ValueError, match=r"call it as model\(inputs, mask\)"):
        plain(TARGET, source_mask=SOURCE_MASK)
