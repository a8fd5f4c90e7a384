"""The meaning of a spec: a graph, a torch module, and what it costs."""

from compiler.build import PASSES, Watch, build_graph, compile_spec
from compiler.decode import Decoder, DecodeState
from compiler.graph import Graph, Op, Stream
from compiler.load import load
from compiler.model import CompiledModel, ModelOutput
from compiler.passes.resolve import load_spec, resolve
from compiler.profiling import Profile, profile
from compiler.recompute import recomputing

__all__ = [
    "PASSES",
    "CompiledModel",
    "DecodeState",
    "Decoder",
    "Graph",
    "ModelOutput",
    "Op",
    "Profile",
    "Stream",
    "Watch",
    "build_graph",
    "compile_spec",
    "load",
    "load_spec",
    "profile",
    "recomputing",
    "resolve",
]
