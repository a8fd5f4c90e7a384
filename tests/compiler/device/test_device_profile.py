"""Device profiles say where their figures come from, and what is wrong with one has a place; the roofline."""

from __future__ import annotations

from pathlib import Path

import pytest

from archspec import Cost, SpecError
from compiler.device.device_profile import find_profile, profile_reported_as, read_profile, shipped
from compiler.device.roofline import roofline

PROFILE = """\
archspec: 1
device: toy
name: A toy
kind: cpu
peak_tflops: {float32: 2, bfloat16: 4}
bandwidth_gb_s: 100
sources: [{fields: [peak_tflops, bandwidth_gb_s], title: made up}]
measured: {date: "2026", by: nobody, matmul_tflops: {float32: 1}, copy_gb_s: 50}
"""


def written(tmp_path: Path, *changes: tuple[str, str]) -> Path:
    text = PROFILE
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    file = tmp_path / "toy.yaml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("name", sorted(shipped()))
def test_a_shipped_profile_is_called_as_its_file(name: str) -> None:
    profile = find_profile(name)
    assert profile.device == name
    assert profile.peak_tflops or profile.measured
    for source in profile.sources:
        assert source.title


@pytest.mark.parametrize("name", [n for n, p in shipped().items() if "bfloat16" in p.peak_tflops])
def test_peaks_are_dense(name: str) -> None:
    """A rate with 2:4 sparsity would be twice that of the data type with half the bits' usual ratio."""
    peaks = find_profile(name).peak_tflops
    assert peaks["bfloat16"] == peaks["float16"]
    assert peaks["bfloat16"] == pytest.approx(2 * peaks["tfloat32"], rel=0.02)


def test_a_device_is_found_by_what_its_driver_calls_it() -> None:
    found = profile_reported_as("NVIDIA H100 80GB HBM3")
    assert found is not None
    assert found.device == "nvidia_h100_sxm"
    assert profile_reported_as("NVIDIA H100") is None
    reported = [name for profile in shipped().values() for name in profile.reported]
    assert len(set(reported)) == len(reported)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("bandwidth_gb_s: 100", "bandwith_gb_s: 100"), "toy.yaml:6:1: bandwith_gb_s: unknown field"),
        (("float32: 2", "float23: 2"), "toy.yaml:5"),
        (("float32: 2", "float32: -2"), "greater than 0"),
        (("[peak_tflops, bandwidth_gb_s]", "[peak_tflops]"), "'bandwidth_gb_s' has no source"),
        (("[peak_tflops, bandwidth_gb_s]", "[peak_tflops, speed]"), "'speed' is no field"),
        (("archspec: 1", "archspec: 2"), "version 1"),
    ],
)
def test_what_is_wrong_has_a_place(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        read_profile(written(tmp_path, change))
    assert message in str(caught.value)


def test_an_unknown_profile_gets_a_hint(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="unknown device profile 'nvidia_h100'") as caught:
        find_profile("nvidia_h100")
    assert "nvidia_h100_sxm" in (caught.value.problems[0].hint or "")
    with pytest.raises(SpecError, match="no such device profile"):
        find_profile(tmp_path / "none.yaml")


def test_roofline_of_each_node_is_the_slower_of_its_two_sides(tmp_path: Path) -> None:
    profile = read_profile(written(tmp_path))
    matmul = Cost(flops=8 * 10**9, flops_needed=4 * 10**9, bytes_moved=10**8)  # 2 ms and 1 ms
    norm = Cost(flops_elementwise=10**9, bytes_moved=3 * 10**8)  # 3 ms
    found = roofline([matmul, norm], profile, dtype="float32", phase="prefill")
    assert (found.compute_ms, found.memory_ms, found.bound_ms) == pytest.approx((2.0, 4.0, 5.0))
    assert found.bound_by == "memory"
    halved = roofline([matmul], profile, dtype="bfloat16", phase="prefill")
    assert halved.compute_ms == pytest.approx(1.0)
    measured = roofline([matmul, norm], profile, dtype="float32", phase="prefill", basis="measured")
    assert measured.bound_ms == pytest.approx(2 * found.bound_ms)


def test_training_passes_three_times_and_over_the_weights_seven(tmp_path: Path) -> None:
    profile = read_profile(written(tmp_path))
    cost = Cost(params=10**6, params_active=10**6, flops=2 * 10**9, flops_needed=2 * 10**9, bytes_moved=10**8)
    found = roofline([cost], profile, dtype="float32", phase="train")
    assert found.compute_ms == pytest.approx(3.0)
    assert found.memory_ms == pytest.approx(3.0 + 7 * 4 * 1e6 / 100e9 * 1e3)


def test_a_profile_without_a_rate_has_no_roofline(tmp_path: Path) -> None:
    profile = read_profile(written(tmp_path))
    with pytest.raises(SpecError, match="no peak rate of float64 matmuls"):
        roofline([Cost()], profile, dtype="float64", phase="prefill")
