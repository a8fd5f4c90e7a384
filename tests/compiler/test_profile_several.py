"""Specs drawn and compared: what the curves and the difference say, the files, and what is refused."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

import compiler
from archspec import SpecError
from archspec.commands import command_line
from archspec.spec import ModelSpec
from compiler.device.device_profile import find_profile
from compiler.profile_chart import curve, write_chart
from compiler.profile_diff import diff
from zoo import Zoo

SpecMaker = Callable[..., ModelSpec]
HYBRIDS = Path(__file__).parents[2] / "specs" / "hybrids"
ATTENTION = "- {token_mixer: {kind: attention, n_heads: 4}, channel_mixer: mlp}"
POOL = "- {token_mixer: pool, channel_mixer: mlp}"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command_line(), ["profile", *map(str, arguments)])


def compared(before: ModelSpec, after: ModelSpec) -> dict[str, object]:
    return diff(before, after, (compiler.profile(before), compiler.profile(after))).as_json()


def test_a_curve_is_the_profile_at_every_length(make_spec: SpecMaker, zoo: Zoo) -> None:
    spec = make_spec(ATTENTION, "input.seq_len=100")
    device = find_profile("nvidia_l4")
    found = curve(spec, batch_size=2, dtype="bfloat16", phase="train", zoo=zoo, device=device)
    assert [point.profile.seq_len for point in found.points] == [16, 32, 64, 100]
    for point in found.points:
        asked = compiler.profile(
            spec, seq_len=point.profile.seq_len, batch_size=2, dtype="bfloat16", phase="train"
        )
        document = point.as_json()
        assert sum(document["flops"].values()) == asked.flops["train"]
        assert document["train_peak"] == asked.memory.train_peak
        assert document["cache_bytes"] == 2 * asked.memory.kv_bytes_per_token * asked.seq_len
        assert document["roofline_ms"]["bound"] >= document["roofline_ms"]["compute"] > 0


@pytest.mark.parametrize("suffix", [".html", ".png"])
def test_a_drawing_is_a_file_that_runs_nothing(
    make_spec: SpecMaker, zoo: Zoo, tmp_path: Path, suffix: str
) -> None:
    spec = make_spec(ATTENTION).model_copy(update={"name": "a<script>b"})
    device = find_profile("nvidia_l4")
    curves = [curve(spec, batch_size=1, dtype="float32", phase="prefill", zoo=zoo, device=device)]
    file = tmp_path / f"drawing{suffix}"
    write_chart(file, curves, device=device)
    if suffix == ".png":
        assert file.read_bytes().startswith(b"\x89PNG\r\n")
        return
    text = file.read_text()
    assert "<script" not in text
    assert "a&lt;script&gt;b" in text
    assert "nvidia_l4" in text
    assert "attention" in text
    assert "Content-Security-Policy" in text


def test_bands_are_stacked(make_spec: SpecMaker, zoo: Zoo) -> None:
    from compiler.profile_chart import chart

    found = curve(make_spec(ATTENTION), batch_size=1, dtype="float32", phase="prefill", zoo=zoo)
    bands = next(rows for rows in data_in(chart([found]).to_dict()) if "kind" in rows[0])
    at_end = [band for band in bands if band["L"] == 24]
    assert [band["kind"] for band in at_end] == ["attention", "mlp", "lm"]
    assert [band["low"] for band in at_end[1:]] == [band["high"] for band in at_end[:-1]]
    assert at_end[-1]["high"] == compiler.profile(make_spec(ATTENTION)).flops["prefill"]


def data_in(part: object) -> Iterator[list[dict[str, object]]]:
    """Every table of values in a chart, wherever altair put it."""
    if isinstance(part, dict):
        if isinstance(part.get("values"), list):
            yield part["values"]
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from data_in(inner)


def test_a_spec_does_not_differ_from_itself(make_spec: SpecMaker) -> None:
    document = compared(make_spec(ATTENTION), make_spec(ATTENTION, "name=other"))
    assert document["changes"] == document["by_kind"] == []


def test_fields_of_the_model_and_of_layers(make_spec: SpecMaker) -> None:
    before = make_spec("\n".join([POOL, ATTENTION, POOL]))
    after = make_spec("\n".join([POOL, ATTENTION, POOL]), "d_model=32", "layers[1].token_mixer.window=8")
    assert compared(before, after)["changes"] == [
        {"what": "field", "where": "d_model", "before": 16, "after": 32, "n": 1},
        {"what": "changed", "where": "parts[2].token_mixer.window", "before": None, "after": 8, "n": 1},
    ]


def test_layers_that_came_and_went(make_spec: SpecMaker) -> None:
    before = make_spec(f"- repeat: 4\n  layers:\n    {POOL}")
    after = make_spec(f"- repeat: 3\n  layers:\n    {POOL}\n{ATTENTION}\n{POOL}")
    changes = compared(before, after)["changes"]
    assert isinstance(changes, list)
    assert [(c["what"], c["where"]) for c in changes] == [("added", "parts[6]"), ("added", "parts[7]")]
    assert changes[0]["after"]["token_mixer"]["kind"] == "attention"
    back = compared(after, before)["changes"]
    assert isinstance(back, list)
    assert [c["what"] for c in back] == ["removed", "removed"]


def test_copies_that_changed_alike_are_told_once(make_spec: SpecMaker) -> None:
    before = make_spec("- repeat: 5\n  layers: [{token_mixer: pool, channel_mixer: none}]")
    after = make_spec("- repeat: 5\n  layers: [{token_mixer: {kind: pool, size: 5}, channel_mixer: none}]")
    (change,) = compared(before, after)["changes"]  # type: ignore[misc, attr-defined]
    assert (change["where"], change["n"]) == ("parts[0..4].token_mixer.size", 5)


def test_encoders_are_compared_part_by_part(zoo: Zoo) -> None:
    before = compiler.load_spec(HYBRIDS / "encoder_decoder.yaml")
    after = compiler.load_spec(
        HYBRIDS / "encoder_decoder.yaml",
        overrides=["encoder.layers[0].repeat=3", "encoder.input.seq_len=1024"],
    )
    changes = compared(before, after)["changes"]
    assert isinstance(changes, list)
    assert [(c["what"], c["where"]) for c in changes] == [
        ("field", "encoder.input.seq_len"),
        ("removed", "encoder.parts[3]"),
    ]


def test_what_a_change_costs_is_the_kinds_that_changed(make_spec: SpecMaker) -> None:
    before, after = make_spec(POOL), make_spec(f"{POOL}\n{ATTENTION}")
    document = compared(before, after)
    by_kind, costs = document["by_kind"], document["costs"]
    assert isinstance(by_kind, list)
    assert isinstance(costs, list)
    assert {row["kind"] for row in by_kind} == {"attention", "mlp", "rmsnorm"}
    whole = {row["quantity"]: row["difference"] for row in costs}
    for quantity, name in (("params", "params"), ("flops", "flops prefill")):
        assert sum(row["difference"] for row in by_kind if row["quantity"] == quantity) == whole[name] > 0


def test_a_difference_is_shown(make_spec: SpecMaker) -> None:
    before, after = make_spec(POOL), make_spec(f"{POOL}\n{ATTENTION}")
    found = diff(before, after, (compiler.profile(before), compiler.profile(after)))
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(found.render())
    text = console.export_text()
    assert "+ parts[2]: token_mixer attention" in text
    assert "+" in text
    assert "kv_bytes_per_token" in text


def test_the_commands(tmp_path: Path) -> None:
    one, two = HYBRIDS / "mamba2_attention_1_to_7.yaml", HYBRIDS / "negative_decay_attention.yaml"
    file = tmp_path / "both.svg"
    drawn = json.loads(run(one, two, "--plot", file, "--json").stdout)
    assert file.is_file()
    assert [found["name"] for found in drawn["curves"]] == [one.stem, two.stem]
    found = json.loads(run(one, two, "--diff", "--json").stdout)
    assert (found["before"], found["after"]) == (one.stem, two.stem)
    assert run(one, two, "--diff").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["A", "B"], "say --plot FILE to draw them"),
        (["A", "--diff"], "compares two specs, got 1"),
        (["A", "B", "S", "--diff"], "compares two specs, got 3"),
        (["A", "S", "--diff"], "this is a space, not a spec"),
        (["A", "B", "--diff", "--plot", "x.svg"], "--diff and --plot do not go together"),
        (["A", "--plot", "x.gif"], "written as .png, .svg, .html, got x.gif"),
        (["A", "--plot", "no/such/x.png"], "no such folder"),
        (["A", "--plot", "x.svg", "--device-profile", "abacus"], "unknown device profile 'abacus'"),
        (["A", "--plot", "x.svg", "--seq-len", "3"], "takes no --seq-len"),
        (["A", "B", "--diff", "--verify"], "--verify and --plot or --diff or several specs"),
        (["A", "B", "--diff", "--dtype", "int8"], "unknown dtype 'int8'"),
        (["A", "B", "--diff", "--seq-len", "99999999"], "seq_len 99999999 is not in"),
    ],
)
def test_what_cannot_be_drawn_or_compared_is_one_message(arguments: list[str], message: str) -> None:
    names = {
        "A": HYBRIDS / "mamba2_attention_1_to_7.yaml",
        "B": HYBRIDS / "negative_decay_attention.yaml",
        "S": HYBRIDS.parent / "spaces" / "demo.yaml",
    }
    error = run(*(names.get(argument, argument) for argument in arguments)).exception
    assert isinstance(error, SpecError)
    assert message in str(error)
