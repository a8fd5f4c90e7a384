"""A result's specs -> their closed-form costs, as the search counted them: same target, same plug-ins."""

from __future__ import annotations

from dataclasses import dataclass

from archspec import ModelSpec, SpecError
from archspec.study import Target
from compiler import build_graph
from compiler.profiling import Profile, closed_profile
from search.front import SearchResult
from zoo import Zoo, load_zoo


@dataclass(frozen=True)
class Costing:
    """What costs depend on beside the spec."""

    target: Target
    zoo: Zoo

    def costs(self, spec: ModelSpec) -> dict[str, float]:
        """Every closed-form quantity by name; a SpecError where the spec does not compile."""
        profile = closed_profile(
            build_graph(spec, zoo=self.zoo),
            seq_len=self.target.seq_len or spec.input.seq_len,
            batch_size=self.target.batch_size,
            dtype=self.target.dtype,
            phase=self.target.phase,
        )
        return closed_costs(profile, self.target)


def closed_costs(profile: Profile, target: Target) -> dict[str, float]:
    """The quantities of a profile that budgets and objectives are made of."""
    flops, needed = profile.flops[target.phase], profile.flops_needed[target.phase]
    if flops is None or needed is None:
        raise SpecError(f"the model has no phase '{target.phase}'")
    return {
        "params": profile.params,
        "params_active": profile.params_active,
        "params_embedding": profile.params_embedding,
        "flops": flops,
        "flops_needed": needed,
        **profile.memory.as_json(),
    }


def costing_of(result: SearchResult) -> Costing:
    """From what the search wrote of itself."""
    fields = Target.model_fields.keys() - {"device"}  # a resolved one, which costs do not depend on
    known = {name: result.target[name] for name in fields if name in result.target}
    return Costing(Target.model_validate(known), load_zoo(tuple(result.provenance.get("plugins", ()))))
