"""What a model costs: in closed form, by a trace without data, in memory, and by witnesses from outside.

``fvcore_handles`` serves people who use fvcore alone. It counts what fvcore leaves out or gets wrong: fused
attention, FFTs, broadcast and batched products, matrix-vector products, einsums, all convolutions.

    from fvcore.nn import FlopCountAnalysis
    from compiler.cost import fvcore_handles

    analysis = FlopCountAnalysis(model, inputs)
    analysis.clear_op_handles()                     # or fvcore's own count for norms goes on
    analysis.set_op_handle(**fvcore_handles())
    flops = 2 * analysis.total()                    # fvcore counts a multiply-add as one

Trace real tensors: fvcore loses convolutions on the meta device. What remains unsupported is in
``analysis.unsupported_ops()``; elementwise work is meant to be there.
"""

from compiler.cost.handles import Handle, fvcore_handles

__all__ = ["Handle", "fvcore_handles"]
