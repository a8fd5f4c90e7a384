"""What a model costs: in closed form, in memory, and by fvcore as the independent witness."""

from compiler.cost.handles import Handle, fvcore_handles

__all__ = ["Handle", "fvcore_handles"]
