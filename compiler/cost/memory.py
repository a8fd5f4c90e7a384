"""Peak memory of a model in closed form: a walk over the graph with every tensor's first and last use.

Inference: weights and buffers, the tensors alive while a node runs, its output, and its workspace; the peak
over all nodes of one forward pass without caches. The caches of a sequence are reported beside it.

Training is one AdamW step in the type of the weights, with a cross-entropy loss over the output:

    always         weights, buffers, two optimizer states per weight
    at the loss    + everything saved, + 4 times the output (itself, log-probabilities, both gradients)
    at node i      + what nodes up to i saved, + gradients of the weights from i on, + gradients of i's input
                   and output, + i's workspace
    at the update  + gradients of all weights, + 2 times the largest component's weights

and the peak is the greatest of these. Sizes are those of tensors: an allocator rounds up, and a process holds
more than its tensors.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from archspec import DTYPE_BYTES, Cost, Dtype
from compiler.cost.closed_form import CostPlan, total
from compiler.graph import input_of

_VIEWS = ("group", "ungroup", "mask_view", "output")
_ADAMW_STATES = 2
_LOSS_TENSORS = 4


@dataclass(frozen=True)
class Memory:
    """Bytes of a batch, but for the last two: the caches of one sequence, 0 if the model does not decode."""

    weights: int
    activations: int
    train_peak: int
    inference_peak: int
    kv_bytes_per_token: int
    state_bytes: int

    def as_json(self) -> dict[str, int]:
        return asdict(self)


def model_memory(
    plan: CostPlan,
    *,
    forward: dict[str, Cost],
    train: dict[str, Cost],
    batch_size: int,
    dtype: Dtype,
    decodes: bool,
) -> Memory:
    """The memory of ``plan``'s model, whose costs are given: phases prefill and train."""
    item_bytes = DTYPE_BYTES[dtype]
    sizes = output_bytes(plan, batch_size=batch_size, item_bytes=item_bytes)
    weights = sum(cost.params * item_bytes + cost.buffer_bytes for cost in train.values())
    caches = total(forward.values()) if decodes else Cost()
    return Memory(
        weights=weights,
        activations=sum(cost.activation_bytes for cost in train.values()),
        train_peak=weights + _train_extra(plan, train, sizes, item_bytes),
        inference_peak=weights + _forward_extra(plan, forward, sizes),
        kv_bytes_per_token=caches.kv_bytes_per_token,
        state_bytes=caches.state_bytes,
    )


def output_bytes(plan: CostPlan, *, batch_size: int, item_bytes: int) -> dict[str, int]:
    """Bytes of every node's output; token ids are 8 bytes each."""
    sizes = {}
    for name, op in plan.ops.items():
        assert op.stream is not None
        ids = op.kind == "input" and input_of(plan.graph, op).kind == "tokens"
        extent = plan.extents[name]
        elements = batch_size * extent.fold * extent.length * op.stream.width
        sizes[name] = elements * (8 if ids else item_bytes) if op.kind != "mask" else 0
    return sizes


def fused_bytes(
    plan: CostPlan, costs: dict[str, Cost], *, batch_size: int, item_bytes: int
) -> dict[str, int]:
    """Bytes by node that a forward pass moves at least: weights, inputs and output once, in one kernel.

    ``Cost.bytes_moved`` is the same without fusion, every operation reading and writing what it takes.
    """
    sizes = output_bytes(plan, batch_size=batch_size, item_bytes=item_bytes)
    found = {}
    for name, cost in costs.items():
        streams = sizes[name] + sum(sizes[source] for source in plan.sources[name])
        found[name] = min(cost.bytes_moved, cost.params * item_bytes + cost.buffer_bytes + streams)
    return found


def _forward_extra(plan: CostPlan, costs: dict[str, Cost], sizes: dict[str, int]) -> int:
    """The most that is alive at once in a forward pass, beyond the weights; a view is its source."""
    storage: dict[str, str] = {}
    last_use: dict[str, str] = {}
    for name, op in plan.ops.items():
        sources = plan.sources[name]
        storage[name] = storage[sources[0]] if op.kind in _VIEWS else name
        for source in sources:
            last_use[storage[source]] = name
    freed = dict.fromkeys(plan.ops, 0)  # bytes that end with a node
    for tensor, name in last_use.items():
        freed[name] += sizes[tensor]
    alive = peak = 0
    for name, end in freed.items():
        if storage[name] == name:
            alive += sizes[name]
        peak = max(peak, alive + costs[name].workspace_bytes)
        alive -= end
    return peak


def _train_extra(plan: CostPlan, costs: dict[str, Cost], sizes: dict[str, int], item_bytes: int) -> int:
    """The peak of a training step beyond weights and buffers: walk the graph backwards."""
    gradients, saved = 0, sum(cost.activation_bytes for cost in costs.values())
    peak = saved + _LOSS_TENSORS * next(reversed(sizes.values()))
    for name in reversed(plan.nodes):
        cost = costs[name]
        gradients += cost.params * item_bytes
        streams = sizes[name] + max([sizes[source] for source in plan.sources[name]], default=0)
        peak = max(peak, saved + gradients + streams + cost.workspace_bytes)
        saved -= cost.activation_bytes
    update = gradients + 2 * item_bytes * max(cost.params for cost in costs.values())
    return _ADAMW_STATES * gradients + max(peak, update)
