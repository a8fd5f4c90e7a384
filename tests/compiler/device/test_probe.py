"""The probe's figures and its profile; series side by side, and what is left out of them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from archspec import SpecError
from archspec.commands import command_line
from compiler.device import interleaved as interleaving
from compiler.device import probe as probing
from compiler.device.device_profile import read_profile
from compiler.device.gpu_state import GpuState, parse_state
from compiler.device.interleaved import estimate, interleaved, interval
from compiler.device.timers import clock_of, thread_times, wall_times


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command_line(), ["device", *map(str, arguments)])


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = dict.fromkeys(("float64", "float32", "bfloat16", "float16"), 16)
    monkeypatch.setattr(probing, "_N_MATMUL", {"cpu": sizes})
    monkeypatch.setattr(probing, "_COPY_BYTES", {"cpu": 1 << 12})


@pytest.mark.usefixtures("_quick")
def test_a_probe_writes_a_profile_that_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "here.yaml"
    done = run("probe", "--device", "cpu", "--seconds", 1, "--clock", "cpu", "--json", "--out", file)
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["matmul_tflops"].keys() == {"float64", "float32", "bfloat16", "float16"}
    ms = document["matmul_ms"]["float32"]["value"]
    assert document["matmul_tflops"]["float32"] == pytest.approx(2 * 16**3 / (ms / 1e3) / 1e12)
    assert document["copy_gb_s"] == pytest.approx(2 * 4096 / (document["copy_ms"]["value"] / 1e3) / 1e9)
    profile = read_profile(file)
    assert profile.measured is not None
    assert profile.measured.clock == "cpu"
    assert profile.measured.matmul_tflops["float32"] == pytest.approx(
        document["matmul_tflops"]["float32"], rel=1e-3
    )
    assert profile.measured.launch_us == pytest.approx(document["launch_us"], rel=1e-2)
    assert run("show", file).exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cuda:7"], "is not there"),
        (["--device", "tpu"], "device 'tpu'"),
        (["--device", "cpu", "--clock", "sun"], "unknown clock 'sun'"),
        (["--device", "cpu", "--out", "here.txt"], "is a YAML file"),
        (["--device", "cpu", "--threads", 2, "--clock", "cpu"], "one thread"),
    ],
)
def test_a_probe_that_cannot_be_is_a_users_error(arguments: list[object], message: str) -> None:
    try:
        error = run("probe", *arguments).exception
    finally:
        torch.set_num_threads(1)
    assert isinstance(error, SpecError)
    assert message in str(error)


def test_profiles_are_listed() -> None:
    assert "nvidia_h200" in run("list").stdout
    names = {profile["device"] for profile in json.loads(run("list", "--json").stdout)}
    assert {"nvidia_h100_sxm", "nvidia_l4", "jetson_agx_orin_64gb", "cpu_amd_epyc_zen4"} <= names
    shown = json.loads(run("show", "nvidia_l4", "--json").stdout)
    assert shown["bandwidth_gb_s"] == 300


def test_every_round_runs_everything_once() -> None:
    calls: list[str] = []
    runs = [lambda: calls.append("a"), lambda: calls.append("b")]
    found = interleaved(runs, device=torch.device("cpu"), min_rounds=12, min_seconds=0.0, warm_up_seconds=0.0)
    assert found.n_rounds == 12
    timed = calls[-24:]
    assert all(set(timed[i : i + 2]) == {"a", "b"} for i in range(0, 24, 2))
    assert len({tuple(timed[i : i + 2]) for i in range(0, 24, 2)}) == 2  # both orders


def test_a_window_with_other_clocks_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interleaving, "_WINDOW_SECONDS", 0.0)  # a reading after every round
    clocks = iter([1980.0, 1980.0, 1500.0, 1979.0, 1980.0])
    found = interleaving._rounds(
        [lambda: None],
        wall_times,
        lambda: GpuState(next(clocks), 2600.0, None, None),
        interleaving._Effort(5, 0.0, 9.0, 0.0),
        seed=0,
    )
    assert (found.n_rounds, found.n_rejected) == (4, 1)
    assert [state.sm_mhz for state in found.gpu] == [1980.0, 1980.0, 1500.0, 1979.0, 1980.0]


def test_what_nvidia_smi_prints() -> None:
    assert parse_state("1980, 2619, 512.30, 44\n") == GpuState(1980, 2619, 512.3, 44)
    assert parse_state("1300, 3199, [N/A], 51\n") == GpuState(1300, 3199, None, 51)
    assert parse_state("No devices were found\n") is None


def test_statistics() -> None:
    assert estimate([4.0, 1.0, 2.0, 3.0, 5.0], "median") == 3.0
    assert estimate([4.0, 1.0, 2.0, 3.0, 5.0], "lower_quartile") == 2.0
    times = np.arange(101.0)
    low, high = interval(lambda rounds: float(np.median(times[rounds])), 101)
    assert 25 < low < 50 < high < 75


def test_the_clocks_of_a_cpu() -> None:
    cpu = torch.device("cpu")
    assert (clock_of(cpu, "wall"), clock_of(cpu, "cpu")) == ("wall", "cpu")
    assert clock_of(torch.device("cuda"), "cpu") == "events"


def test_thread_times_read_the_threads_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    own = iter([1.0, 1.5, 2.0, 2.25])
    monkeypatch.setattr(time, "thread_time", lambda: next(own))
    assert thread_times(lambda: None, 2) == [0.5, 0.25]


@pytest.mark.gpu
def test_a_cuda_probe() -> None:
    found = probing.probe("cuda", seconds=5.0)
    assert found.clock == "events"
    assert found.matmul.keys() >= {"float32", "bfloat16"}
    assert found.tflops("bfloat16") > found.tflops("float32")
    assert found.profile().kind == "cuda"
