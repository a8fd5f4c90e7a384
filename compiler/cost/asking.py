"""What is asked of every member of a space, and its answers by the names that budgets know."""

from __future__ import annotations

from dataclasses import dataclass

from archspec import Dtype, ModelSpec, Phase, SpecError
from compiler.build import build_graph
from compiler.profiling import Profile, closed_profile
from zoo import Zoo


@dataclass(frozen=True)
class Asking:
    """The question: sizes, dtype and phase as in a study's target; ``seq_len`` None is each member's own."""

    batch_size: int = 1
    seq_len: int | None = None
    dtype: Dtype = "float32"
    phase: Phase = "prefill"

    def profile(self, spec: ModelSpec, zoo: Zoo) -> Profile:
        """The closed forms of one member; SpecError if it cannot be built or is too short."""
        length = self.seq_len or spec.input.seq_len
        if length > spec.input.seq_len:
            raise SpecError(f"seq_len {length} is not in 1..{spec.input.seq_len}, what '{spec.name}' takes")
        return closed_profile(
            build_graph(spec, zoo=zoo),
            seq_len=length,
            batch_size=self.batch_size,
            dtype=self.dtype,
            phase=self.phase,
        )


def quantities(profile: Profile) -> dict[str, int]:
    """The closed-form quantities that budgets know, of the profile's phase."""
    flops, needed = profile.flops[profile.phase], profile.flops_needed[profile.phase]
    assert flops is not None, "a phase that the model lacks is refused before"
    assert needed is not None
    return {
        "params": profile.params,
        "params_active": profile.params_active,
        "params_embedding": profile.params_embedding,
        "flops": flops,
        "flops_needed": needed,
        **profile.memory.as_json(),
    }
