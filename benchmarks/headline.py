"""The headline mixers beside what they stand against, in one run: time, memory and decoding.

    python benchmarks/headline.py [--peers DIR] [--lengths 1024,...] [--threads 1,2] [--rounds 15] [--save]

Cores without projections: causal routing beside routing-transformer's k-means attention, Hydra's matrix
beside two SSD passes and a flip, Combiner beside causal SDPA; FIT's memory on 16,384 tokens; decoding of
every causal mixer. Each pair is checked against a definition first.

A ratio is the baseline's time over ours: the median of ratios within rounds, its 95 % bootstrap interval
beside it, by the clock on the wall and, on a CPU, by the CPU time of the process, which other programs
disturb less. A bar is met ("yes") if the whole interval is past it, missed ("no") if none of it is, else
"open". Memory is the greatest that one run holds beyond its inputs.

On CUDA, runs are timed eagerly and as a captured graph, and each core stands beside the flash kernel and
FlexAttention too. With more threads than idle cores, ``OMP_WAIT_POLICY=passive`` before the command keeps
threads that wait from taking the time of those that work.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import statistics
import sys
from collections.abc import Iterator
from typing import Any

import headline_decode
import headline_fit
import torch
from headline_pairs import Case, Pair, Setting, missing_peer, pairs
from paired import Ratio, Run, together
from peak import peak_bytes
from record import provenance, save

from compiler.device.info import device_info, resolve_device
from compiler.device.runs import captured

ENVIRONMENT = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def main() -> None:
    arguments = _arguments()
    sys.path[:0] = [arguments.peers] if arguments.peers else []
    device = resolve_device(arguments.device)
    dtype = DTYPES[arguments.dtype or ("bfloat16" if device.type == "cuda" else "float32")]
    on = device_info(device)
    document = {
        **provenance(), "device": on.name, "cuda": on.driver, "dtype": str(dtype),
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        "notes": _notes(),
    }  # fmt: skip
    if arguments.peers:
        document["command"] = document["command"].replace(arguments.peers, "DIR")
    print(*document["notes"], end="\n\n", flush=True)
    tables, parts = [*document["notes"]], arguments.parts.split(",")
    if "pairs" in parts:
        document["rows"] = list(beside(arguments, device, dtype))
        tables.append(_told(pair_table(document["rows"]), document, tables, arguments))
    torch.set_num_threads(1)
    if "fit" in parts:
        log("fit")
        document["fit"] = headline_fit.measured(device)
        tables.append(_told(headline_fit.table(document["fit"]), document, tables, arguments))
    if "decode" in parts:
        contexts = numbers(arguments.contexts)
        document["decode"] = list(headline_decode.measured(contexts, arguments.steps, device, dtype, log))
        tables.append(_told(headline_decode.table(document["decode"]), document, tables, arguments))


def _told(table: str, document: dict[str, Any], before: list[str], arguments: argparse.Namespace) -> str:
    """A part's table, printed; what there is so far is saved, since a whole run takes its time."""
    print(table, end="\n\n", flush=True)
    if arguments.save:
        save("headline", document, "\n\n".join([*before, table]))
    return table


def beside(
    arguments: argparse.Namespace, device: torch.device, dtype: torch.dtype
) -> Iterator[dict[str, Any]]:
    """A row for each pair, number of threads, phase, length and way to run."""
    every = list(pairs(device))
    for check in dict.fromkeys(pair.check for pair in every):
        check(device)
    on_cuda = device.type == "cuda"
    for n_threads in [1] if on_cuda else numbers(arguments.threads):
        torch.set_num_threads(n_threads)
        for pair in every:
            for training in (False, True):
                for length in numbers(arguments.lengths) if pair.lengths is None else pair.lengths:
                    setting = Setting(length, device, dtype, training)
                    for mode in ("eager", "CUDA graph") if on_cuda else ("eager",):
                        row = {
                            "threads": n_threads,
                            "mode": mode,
                            **_measured(pair, setting, mode, arguments),
                        }
                        log(row)
                        yield row


def _measured(pair: Pair, setting: Setting, mode: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Both of a pair; ``note`` says why there are no times, where there are none."""
    torch.manual_seed(0)
    phase = "forward+backward" if setting.training else "forward"
    row: dict[str, Any] = {
        "ours": pair.name,
        "baseline": pair.baseline,
        "phase": phase,
        "length": setting.length,
    }
    try:
        eager = ours, theirs = tuple(_run(case, setting.training) for case in pair.cases(setting))
        if mode == "CUDA graph":
            ours, theirs = captured(ours, setting.device), captured(theirs, setting.device)
        times = together(
            ours, theirs, rounds=arguments.rounds, device=setting.device, limit_s=arguments.seconds
        )
        if isinstance(times, float):
            return row | {"note": f"left out: one round takes {times:.0f} s"}
        peaks = [peak_bytes(run, setting.device) for run in eager]
    except (RuntimeError, NotImplementedError) as error:  # a kernel or capture that this device does not have
        if setting.device.type != "cuda":
            raise
        return row | {"note": f"does not run: {str(error).splitlines()[0]}"}
    ratio = Ratio.of(times.wall[1], times.wall[0])
    bar = pair.bar if pair.judged(setting) else None
    row |= {
        "rounds": len(times.wall[0]),
        "ours_ms": round(1e3 * statistics.median(times.wall[0]), 2),
        "baseline_ms": round(1e3 * statistics.median(times.wall[1]), 2),
        "ratio": _rounded(ratio), "by_cpu_time": None,
        "ours_peak_mib": round(peaks[0] / 2**20, 1), "baseline_peak_mib": round(peaks[1] / 2**20, 1),
        "bar": bar, "met": _met(bar, ratio),
    }  # fmt: skip
    if times.cpu is not None:
        by_cpu = Ratio.of(times.cpu[1], times.cpu[0])
        row |= {"by_cpu_time": _rounded(by_cpu), "met_by_cpu_time": _met(bar, by_cpu)}
    return row


def _rounded(ratio: Ratio) -> dict[str, float]:
    return {name: round(value, 3) for name, value in ratio._asdict().items()}


def _met(bar: float | None, ratio: Ratio) -> str:
    if bar is None:
        return ""
    return "yes" if ratio.low >= bar else "no" if ratio.high < bar else "open"


def _run(case: Case, training: bool) -> Run:
    if not training:
        return case.forward
    gradients: dict[tuple[int, ...], torch.Tensor] = {}
    return lambda: case.forward_backward(gradients)


def pair_table(rows: list[dict[str, Any]]) -> str:
    """As Markdown."""
    lines = [
        "| threads | ours | beside | phase | L | ours ms | beside ms | ratio | 95 % | by CPU time | 95 % | "
        "peak MiB, ours | beside | bar |",
        "|---" * 14 + "|",
    ]
    for r in rows:
        mode = "" if r["mode"] == "eager" else f", {r['mode']}"
        head = f"| {r['threads']} | {r['ours']}{mode} | {r['baseline']} | {r['phase']} | {r['length']} | "
        if "note" in r:
            lines.append(f"{head}{r['note']} |" + " |" * 8)
            continue
        by_cpu = _cells(r["by_cpu_time"]) if r["by_cpu_time"] else " | "
        bar = ""
        if r["bar"] is not None:
            bar = f">= {r['bar']:g}: {r['met']}"
            bar += f", by CPU time {r['met_by_cpu_time']}" if r["by_cpu_time"] else ""
        lines.append(
            f"{head}{r['ours_ms']:.1f} | {r['baseline_ms']:.1f} | {_cells(r['ratio'])} | {by_cpu} | "
            f"{r['ours_peak_mib']:.1f} | {r['baseline_peak_mib']:.1f} | {bar} |"
        )
    return "\n".join(lines)


def _cells(ratio: dict[str, float]) -> str:
    return f"{ratio['value']:.2f} | {ratio['low']:.2f} to {ratio['high']:.2f}"


def _notes() -> list[str]:
    if install := missing_peer():
        return [f"No rows beside routing-transformer, which is not installed: {install}"]
    version = importlib.metadata.version("routing-transformer")
    return [
        f"routing-transformer {version}: its clusters pick their tokens from the whole sequence, ours do not."
    ]


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def log(message: object) -> None:
    print(message, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--lengths", default="1024,2048,4096,8192,16384")
    parser.add_argument("--threads", default="1,2", help="on a CPU")
    parser.add_argument("--rounds", type=int, default=15, help="at most, after those that do not count")
    parser.add_argument("--seconds", type=float, default=60, help="most time for a pair at one length")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--dtype", choices=DTYPES, help="default: float32 on a CPU, bfloat16 on CUDA")
    parser.add_argument("--contexts", default="1024,4096,16384,65536", help="of decoding")
    parser.add_argument("--steps", type=int, default=64, help="decoded around each context")
    parser.add_argument("--parts", default="pairs,fit,decode")
    parser.add_argument("--peers", help="the folder with routing_transformer in it")
    parser.add_argument("--save", action="store_true", help="write into benchmarks/results/")
    return parser.parse_args()


if __name__ == "__main__":
    main()
