"""ModelSpec -> Profile: what a model costs, before any weight exists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast, get_args

from archspec import DTYPE_BYTES, Cost, Dtype, ModelSpec, Phase, Problem, SpecError, did_you_mean
from compiler.build import build_graph, compile_spec
from compiler.cost.closed_form import CostPlan, total
from compiler.cost.memory import Memory, fused_bytes, model_memory
from compiler.decode import decode_obstacles
from compiler.device.info import device_info, resolve_device
from compiler.device.latency import Latency
from compiler.device.model_latency import measure_model
from compiler.graph import Graph, spec_of
from compiler.recompute import is_recomputed
from zoo import Zoo, load_zoo

if TYPE_CHECKING:
    from compiler.cost.training_step import Step
    from compiler.cost.verification import Verification
    from compiler.device.prediction import Prediction
    from compiler.traced_profile import TracedProfile

PHASES: tuple[Phase, ...] = get_args(Phase)
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
Flops = dict[Phase, int | None]


@dataclass(frozen=True)
class Row:
    """One node's share: FLOPs by phase, None where the model does not decode."""

    path: str
    kind: str
    cost: Cost  # of a forward pass in phase train
    flops: Flops
    flops_needed: Flops

    def as_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "kind": self.kind,
            "params": self.cost.params,
            "flops": self.flops,
            "flops_needed": self.flops_needed,
            "flops_elementwise": self.cost.flops_elementwise,
            "activation_bytes": self.cost.activation_bytes,
            "kv_bytes_per_token": self.cost.kv_bytes_per_token,
            "state_bytes": self.cost.state_bytes,
        }


@dataclass(frozen=True)
class Profile:
    """What a model costs for one batch. FLOPs count 2 per multiply-add, matmul-class operations only.

    ``flops`` is what dense kernels do, ``flops_needed`` the same with masks and windows exact. Phase
    ``prefill`` is a forward pass over ``seq_len`` tokens; ``decode`` the last of these tokens alone, the
    others being in the caches; ``train`` a forward and a backward pass, without the loss and without what a
    fused attention kernel or gradient checkpointing forms again (``backward_flops`` of a configuration). An
    encoder reads ``source_len`` more in a forward pass, and nothing while decoding.
    """

    name: str
    seq_len: int
    batch_size: int
    dtype: Dtype
    phase: Phase
    params: int
    params_active: int
    params_embedding: int
    flops: Flops
    flops_needed: Flops
    memory: Memory
    rows: tuple[Row, ...]
    flops_recomputed: int  # what checkpointing every layer adds to training, at most
    bytes_fused: int  # moved in a forward pass by one ideal kernel per component,
    bytes_unfused: int  # and by every operation for itself
    source_len: int | None = None  # of what an encoder reads; None without one
    latency: Latency | None = None
    device: str | None = None
    backend: str = "eager"  # of the latency
    verify: Verification | None = None
    prediction: Prediction | None = None  # from a latency table
    traced: TracedProfile | None = None

    def as_json(self) -> dict[str, Any]:
        """The stable keys of ``profile --json``."""
        return {
            "name": self.name,
            "seq_len": self.seq_len,
            "source_len": self.source_len,
            "batch_size": self.batch_size,
            "dtype": self.dtype,
            "phase": self.phase,
            "params": self.params,
            "params_active": self.params_active,
            "params_embedding": self.params_embedding,
            "flops": self.flops,
            "flops_needed": self.flops_needed,
            "flops_recomputed": self.flops_recomputed,
            "bytes_moved": {"fused": self.bytes_fused, "unfused": self.bytes_unfused},
            "memory": {**self.memory.as_json(), "source": "closed form"},
            "latency_ms": self._latency_json(),
            "layers": [row.as_json() for row in self.rows],
            "verify": self.verify.as_json() if self.verify else None,
            "traced": self.traced.as_json() if self.traced else None,
        }

    def _latency_json(self) -> dict[str, Any]:
        """What was measured; else what a latency table says, with all of its parts."""
        found = self.prediction
        if self.latency is None and found is not None:
            tier = {"source": "table", "n": None, "tier": found.backend, "device": self.device}
            return {**found.as_json(), **tier, "weakest": found.source}
        latency = self.latency
        return {
            "value": latency.median_ms if latency else None,
            "low": latency.low_ms if latency else None,
            "high": latency.high_ms if latency else None,
            "source": "measured" if latency else None,
            "n": latency.n if latency else None,
            "tier": self.backend if latency else None,
            "device": self.device,
        }

    def _repr_html_(self) -> str:
        from compiler.profile_view import to_html

        return to_html(self)


def profile(
    spec: ModelSpec,
    *,
    seq_len: int | None = None,
    source_len: int | None = None,
    batch_size: int = 1,
    dtype: str = "float32",
    phase: str = "prefill",
    verify: bool = False,
    trace: Step | None = None,
    measure: bool = False,
    device: str = "cpu",
    backend: str = "eager",
    clock: str = "wall",
    zoo: Zoo | None = None,
) -> Profile:
    """The profile of ``spec``; weights come into being only for ``verify`` and ``measure``.

    ``verify`` counts every unique component with fvcore and others, ``trace`` follows a forward pass and that
    training step without data, ``measure`` times ``phase`` on ``device``, with
    ``backend`` and ``clock`` (see ``compiler.device.runs`` and ``timers``). Wrong arguments are one SpecError
    that names them all.
    """
    zoo = zoo or load_zoo()
    length, checked_dtype, checked_phase = _checked(
        spec, seq_len, source_len, batch_size, dtype, phase, device
    )
    graph = build_graph(spec, zoo=zoo)
    found = closed_profile(
        graph, seq_len=length, source_len=source_len, batch_size=batch_size, dtype=checked_dtype,
        phase=checked_phase,
    )  # fmt: skip
    if verify:
        from compiler.cost.verify import verify_costs  # imports fvcore

        found = replace(found, verify=verify_costs(graph, zoo))
    if trace is not None:
        from compiler.traced_profile import traced_profile

        found = replace(
            found,
            traced=traced_profile(
                graph, zoo, seq_len=length, source_len=source_len, batch_size=batch_size,
                dtype=checked_dtype, step=trace,
            ),
        )  # fmt: skip
    if measure:
        latency = measure_model(
            compile_spec(spec, gate=False, zoo=zoo),
            batch_size=batch_size, seq_len=length, source_len=source_len, phase=checked_phase,
            dtype=checked_dtype, device=device, backend=backend, clock=clock,
        )  # fmt: skip
        name = device_info(resolve_device(device)).name
        found = replace(found, latency=latency, device=name, backend=backend)
    return found


def closed_profile(
    graph: Graph,
    *,
    seq_len: int,
    batch_size: int,
    dtype: Dtype,
    phase: Phase = "prefill",
    source_len: int | None = None,
) -> Profile:
    """The part of a profile that needs no weights, from a checked graph."""
    obstacles = list(decode_obstacles(graph))
    if phase == "decode" and obstacles:
        raise SpecError(problems=obstacles)
    plan = CostPlan(graph, seq_len, source_len)
    encoder = spec_of(graph).encoder
    prefill, train = (plan.costs(batch_size=batch_size, dtype=dtype, phase=p) for p in ("prefill", "train"))
    decode: dict[str, Cost] = {}
    if not obstacles:
        decode = plan.costs(batch_size=batch_size, dtype=dtype, phase="decode", context_len=seq_len - 1)
    whole = total(train.values())
    whole_decode = total(decode.values()) if decode else None
    forward = total(prefill.values())
    flops, flops_needed = _flops(forward, whole_decode, whole)
    moved = fused_bytes(plan, prefill, batch_size=batch_size, item_bytes=DTYPE_BYTES[dtype])
    return Profile(
        name=spec_of(graph).name,
        seq_len=seq_len,
        source_len=None if encoder is None else source_len or encoder.input.seq_len,
        batch_size=batch_size,
        dtype=dtype,
        phase=phase,
        params=whole.params,
        params_active=whole.params_active,
        params_embedding=whole.params_embedding,
        flops=flops,
        flops_needed=flops_needed,
        memory=model_memory(
            plan, forward=prefill, train=train, batch_size=batch_size, dtype=dtype, decodes=bool(decode)
        ),
        rows=tuple(_rows(plan, prefill, decode, train)),
        flops_recomputed=total(cost for name, cost in train.items() if is_recomputed(name)).flops,
        bytes_fused=sum(moved.values()),
        bytes_unfused=forward.bytes_moved,
    )


def _rows(
    plan: CostPlan, prefill: dict[str, Cost], decode: dict[str, Cost], train: dict[str, Cost]
) -> Iterator[Row]:
    """Every component and addition; parts that are alike share their figures."""
    shared: dict[tuple[int, int], tuple[Flops, Flops]] = {}
    for name, op in plan.ops.items():
        if op.config is None and op.kind != "add":
            continue
        key = (id(prefill[name]), id(train[name]))
        if key not in shared:
            shared[key] = _flops(prefill[name], decode.get(name), train[name])
        kind = op.kind if op.config is None else op.config.kind
        yield Row(name, kind, train[name], *shared[key])


def _flops(prefill: Cost, decode: Cost | None, train: Cost) -> tuple[Flops, Flops]:
    """FLOPs and needed FLOPs by phase."""
    return (
        {
            "prefill": prefill.flops,
            "decode": decode.flops if decode else None,
            "train": train.flops + train.flops_backward,
        },
        {
            "prefill": prefill.flops_needed,
            "decode": decode.flops_needed if decode else None,
            "train": train.flops_needed + train.flops_backward_needed,
        },
    )


def _checked(
    spec: ModelSpec,
    seq_len: int | None,
    source_len: int | None,
    batch_size: int,
    dtype: str,
    phase: str,
    device: str,
) -> tuple[int, Dtype, Phase]:
    """The arguments as what they are, or one SpecError with everything that is wrong with them."""
    greatest, problems = spec.input.seq_len, []
    if seq_len is not None and not 1 <= seq_len <= greatest:
        problems.append(Problem(f"seq_len {seq_len} is not in 1..{greatest}, what '{spec.name}' takes"))
    if source_len is not None and spec.encoder is None:
        problems.append(Problem(f"source_len {source_len}: '{spec.name}' has no encoder"))
    longest = spec.encoder.input.seq_len if spec.encoder else 0
    if source_len is not None and spec.encoder is not None and not 1 <= source_len <= longest:
        problems.append(Problem(f"source_len {source_len} is not in 1..{longest}, what the encoder takes"))
    if batch_size < 1:
        problems.append(Problem(f"batch_size {batch_size} is not at least 1"))
    if dtype not in DTYPES:
        problems.append(Problem(f"unknown dtype '{dtype}'", hint=did_you_mean(dtype, DTYPES)))
    if phase not in PHASES:
        problems.append(Problem(f"unknown phase '{phase}'", hint=did_you_mean(phase, PHASES)))
    try:
        resolve_device(device)
    except SpecError as error:
        problems += error.problems
    if problems:
        raise SpecError(problems=problems)
    return seq_len or greatest, cast(Dtype, dtype), cast(Phase, phase)
