"""FIT blocks -> nodes: tokens in groups, latents, and what passes between them (arXiv:2305.12689)."""

from __future__ import annotations

from dataclasses import dataclass

from archspec.nodes import Path
from archspec.schedule import parse_schedule
from archspec.spec import Fit
from compiler.graph_builder import GraphBuilder
from zoo.condition import SelfCondition
from zoo.fit import GroupPositions, Latents


@dataclass(frozen=True)
class FitExpansion:
    """A FIT block under construction: its module path and origin, and the nodes that say shapes and masks.

    Inside the block tokens stand as (batch * groups, positions, width), beside the latents. ``condition`` are
    the model's condition tokens, and ``earlier`` the latents of an earlier pass, if it has them.
    """

    build: GraphBuilder
    fit: Fit
    path: str
    origin: Path
    tokens: str  # the ungrouped tokens
    group_mask: str
    latent_mask: str
    condition: str | None
    earlier: str | None

    def nodes(self) -> tuple[str, str]:
        """The tokens after the block, ungrouped, and its latents (empty if it has none)."""
        build, fit, schedule = self.build, self.fit, parse_schedule(self.fit.schedule)
        g = build.add("group", f"{self.path}.group", self.tokens, origin=self.origin, n_groups=fit.n_groups)
        if fit.positions != "none":
            config = GroupPositions.Config(positions=fit.positions)
            at = (*self.origin, "positions")
            g = build.add("group_positions", f"{self.path}.positions", g, config=config, origin=at)
        z = self.latents() if len(schedule) > 1 or self.earlier is not None else ""
        for i, (n_local, n_global) in enumerate(schedule):
            for j in range(n_local):
                where = f"{self.path}.blocks.{i}.local_layers.{j}"
                g = build.layer(
                    g, fit.local, path=where, mask=self.group_mask, origin=(*self.origin, "local")
                )
            if i < len(schedule) - 1:
                z = self.compute(g, z, index=i, n_global=n_global)
                g = self.write(g, z, index=i)
            elif n_global and self.earlier is not None:  # for the next pass
                z = self.compute(g, z, index=i, n_global=n_global)
            elif n_global:
                build.warn(
                    (*self.origin, "schedule"),
                    f"the last {n_global} global layer(s) of schedule '{fit.schedule}' have no effect on the "
                    "logits (nothing is written after them) and are left out",
                    f"end with local layers: '{fit.schedule}(1)'",
                )
        return build.add("ungroup", f"{self.path}.ungroup", g, self.tokens, origin=self.origin), z

    def latents(self) -> str:
        fit = self.fit
        config = Latents.Config(n_latents=fit.n_latents, positions=fit.latent_positions)
        z = self.build.add(
            "latents", f"{self.path}.latents", self.tokens, config=config, origin=self.origin,
            n_groups=fit.n_groups, n_latents=fit.n_latents, width=fit.d_latent,
        )  # fmt: skip
        if self.earlier is None:
            return z
        at = (*self.origin, "self_conditioning")
        path = f"{self.path}.self_condition"
        return self.build.add(
            "self_condition", path, z, self.earlier, config=SelfCondition.Config(), origin=at
        )

    def compute(self, g: str, z: str, *, index: int, n_global: int) -> str:
        """Latents take from their group's tokens and from the condition, then mix: the latents after it."""
        build, fit, origin, m = self.build, self.fit, self.origin, self.fit.n_latents
        at = f"{self.path}.blocks.{index}"
        own = build.add("group", f"{at}.read_group", z, origin=origin, length=m)
        y = build.add(
            "read", f"{at}.read", own, g, self.group_mask, config=fit.read, origin=(*origin, "read")
        )
        own = build.add("add", f"{at}.read_add", own, y, origin=origin)
        z = build.add("ungroup", f"{at}.read_ungroup", own, z, origin=origin)
        z = self.exchange_mixer(z, path=f"{at}.after_read", mask=self.latent_mask)
        if self.condition is not None and (read := fit.condition_read) is not None:
            y = build.add(
                "read",
                f"{at}.condition_read",
                z,
                self.condition,
                config=read,
                origin=(*origin, "condition_read"),
            )
            z = build.add("add", f"{at}.condition_add", z, y, origin=origin)
        for j in range(n_global):
            where = f"{at}.global_layers.{j}"
            z = build.layer(z, fit.global_, path=where, mask=self.latent_mask, origin=(*origin, "global"))
        return z

    def write(self, g: str, z: str, *, index: int) -> str:
        """The tokens after they were given latents.

        In a causal model a group is given the latents of the group before it (zeros for the first): its own
        have seen all of its tokens.
        """
        build, fit, origin, m = self.build, self.fit, self.origin, self.fit.n_latents
        at = f"{self.path}.blocks.{index}"
        given = build.add("shift", f"{at}.shift", z, origin=origin, length=m) if build.part.causal else z
        given = build.add("group", f"{at}.write_group", given, origin=origin, length=m)
        y = build.add("write", f"{at}.write", g, given, config=fit.write, origin=(*origin, "write"))
        g = build.add("add", f"{at}.write_add", g, y, origin=origin)
        return self.exchange_mixer(g, path=f"{at}.after_write", mask=self.group_mask)

    def exchange_mixer(self, x: str, *, path: str, mask: str) -> str:
        origin = (*self.origin, "exchange_mixer")
        return self.build.channel_mixer(x, self.fit.exchange_mixer, path=path, mask=mask, origin=origin)
