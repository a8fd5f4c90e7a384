"""The headline benchmark at small sizes: what it compares is equal, what it counts is right. Times are not tested."""

from __future__ import annotations

import sys

import headline
import headline_decode
import headline_pairs
import pytest
import torch
from headline_pairs import Setting
from paired import Ratio, together
from peak import peak_bytes
from torch import Tensor

from zoo import load_zoo

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "check", [headline_pairs._check_hydra, headline_pairs._check_combiner, headline_pairs._check_routing]
)
def test_cores_equal_their_definitions(check) -> None:
    torch.manual_seed(0)
    check(CPU)


def test_a_baseline_of_another_matrix_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_the_way_back(x: Tensor, dt: Tensor, *b_c: Tensor) -> headline_pairs.Case:
        return headline_pairs.Case(lambda: (torch.zeros_like(x) + x * 0,), (x, dt, *b_c))

    monkeypatch.setattr(headline_pairs, "_two_passes", without_the_way_back)
    with pytest.raises(AssertionError, match="not close"):
        headline_pairs._check_hydra(CPU)


def test_every_pair_runs_both_ways() -> None:
    for pair in headline_pairs.pairs(CPU):
        for training in (False, True):
            for case in pair.cases(Setting(128, CPU, torch.float32, training)):
                headline._run(case, training)()


def test_peak_is_what_is_held_at_once() -> None:
    def run() -> None:
        a = torch.empty(1 << 20)
        del a
        b, c = torch.empty(1 << 19), torch.empty(1 << 19)
        del b, c

    assert peak_bytes(run, CPU) == 4 << 20


def test_ratio_is_within_rounds() -> None:
    """A machine that slows down for a while does not move it."""
    slow = [1.0, 1.0, 9.0, 9.0, 1.0]
    assert Ratio.of([2 * s for s in slow], slow) == Ratio(2.0, 2.0, 2.0)


def test_rounds_are_common_and_few_where_they_are_long() -> None:
    counts = {"a": 0, "b": 0}

    def run(name: str) -> None:
        counts[name] += 1

    times = together(lambda: run("a"), lambda: run("b"), rounds=4, device=CPU, limit_s=60)
    assert not isinstance(times, float)
    assert times.cpu is not None
    assert [len(series) for series in (*times.wall, *times.cpu)] == [4] * 4
    assert counts["a"] == counts["b"]
    assert isinstance(together(lambda: run("a"), lambda: run("b"), rounds=4, device=CPU, limit_s=-1), float)


@pytest.mark.parametrize(("low", "high", "met"), [(1.2, 1.4, "yes"), (1.0, 1.4, "open"), (0.9, 1.05, "no")])
def test_bar_is_met_by_the_whole_interval(low: float, high: float, met: str) -> None:
    assert headline._met(1.1, Ratio(1.2, low, high)) == met


def test_every_causal_mixer_that_decodes_is_among_them() -> None:
    site = headline_decode.Site(headline_decode.D_MODEL, 64, causal=True)
    told = {fields["kind"] for fields in headline_decode.CASES.values()}
    names = {case.name for case in headline_decode.decodings(64, CPU, torch.float32)}
    for kind, cls in load_zoo().classes["token_mixer"].items():
        can = [c.capabilities() for c in cls.examples if c.misfit(site) is None]
        if any(c.decode != "none" and c.causal != "never" and c.mixes_tokens for c in can):
            assert kind in told | names


def test_decoding_tells_the_bytes_of_the_state() -> None:
    with torch.no_grad():
        for case in headline_decode.decodings(64, CPU, torch.float32):
            short, long = (headline_decode.state_bytes(case.start(n)) for n in (16, 48))
            if case.grows == "constant":
                assert short == long, case.name
            elif case.name == "attention":  # keys and values of every token in fp32
                assert (short, long) == tuple(n * 2 * headline_decode.D_MODEL * 4 for n in (16, 48))


def test_missing_peer_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(headline, "missing_peer", lambda: "pip install it")
    assert headline._notes() == ["No rows beside routing-transformer, which is not installed: pip install it"]


def test_the_whole_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = "headline.py --lengths 64 --threads 1 --rounds 3 --parts pairs,decode --contexts 8,16 --steps 4"
    monkeypatch.setattr(sys, "argv", words.split())
    monkeypatch.setattr(
        headline, "pairs", lambda device: [p for p in headline_pairs.pairs(device) if not p.lengths]
    )
    headline.main()
    printed = capsys.readouterr().out
    assert "| 1 | hydra core | two SSD passes and a flip | forward+backward | 64 |" in printed
    assert "| mamba2 | constant | 16 |" in printed
