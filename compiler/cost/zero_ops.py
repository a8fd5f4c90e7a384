"""Traced operations that do no matmul-class work: they move data, compare, reduce or act on each element.

The list is explicit: what is neither here nor among the handles is unknown, and an unknown operation is an
error.
"""

from __future__ import annotations


def is_zero_cost(op: str) -> bool:
    """Whether a traced operation is known to hold no multiply-add that we count; in-place forms too."""
    return _is_in(op, _ZERO_COST)


def acts_on_elements(op: str) -> bool:
    """Whether it computes on each element or reduces them, rather than move or make data."""
    return _is_in(op, _ON_ELEMENTS)


def _is_in(op: str, names: frozenset[str]) -> bool:
    namespace, _, name = op.partition("::")
    return namespace in ("aten", "prim", "prims", "profiler") and (
        name in names or name.removesuffix("_") in names
    )


_ELEMENTWISE = """
    abs add addcdiv addcmul angle atan atan2 ceil celu clamp clamp_max clamp_min complex conj conj_physical
    cos cosh deg2rad div elu erf erfc exp exp2 expm1 floor floor_divide fmod frac gelu glu hardsigmoid
    hardswish hardtanh imag isfinite isinf isnan leaky_relu lerp log log10 log1p log2 log_sigmoid logaddexp
    logit maximum minimum mish mul multiply nan_to_num neg negative outer polar pow prelu real reciprocal
    relu relu6 remainder resolve_conj resolve_neg round rsqrt rsub selu sgn sigmoid sign silu sin sinc sinh
    softplus sqrt square sub subtract tan tanh threshold true_divide trunc view_as_complex view_as_real
    where xlogy divide absolute fill eq ne lt le gt ge equal greater greater_equal less less_equal not_equal
    isclose logical_and logical_not logical_or logical_xor bitwise_and bitwise_left_shift bitwise_not
    bitwise_or bitwise_right_shift bitwise_xor __and__ __or__ __xor__ __lshift__ __rshift__ dropout
    alpha_dropout feature_dropout native_dropout bernoulli
"""
_REDUCTIONS = """
    all amax amin aminmax any argmax argmin bincount count_nonzero cummax cummin cumprod cumsum linalg_norm
    linalg_vector_norm log_softmax logcumsumexp logsumexp max mean median min nansum norm prod softmax std
    std_mean sum trace var var_mean batch_norm group_norm instance_norm layer_norm native_layer_norm
    rms_norm adaptive_avg_pool1d adaptive_avg_pool2d adaptive_max_pool1d avg_pool1d avg_pool2d max_pool1d
    max_pool2d cross_entropy_loss nll_loss mse_loss
"""
_MOVEMENT = """
    H T adjoint mH mT matrix_H numpy_T
    alias as_strided atleast_1d atleast_2d broadcast_tensors broadcast_to cat chunk clone column_stack
    concat concatenate constant_pad_nd contiguous copy detach diag diag_embed diagonal dsplit embedding
    expand expand_as flatten flip fliplr gather hsplit hstack im2col index index_add index_copy index_fill
    index_put index_reduce index_select lift_fresh masked_fill masked_scatter masked_select meshgrid movedim
    moveaxis narrow one_hot pad permute pixel_shuffle ravel repeat repeat_interleave reshape reshape_as
    resolve_neg roll rot90 scatter scatter_add scatter_reduce select slice slice_scatter select_scatter sort
    argsort msort searchsorted bucketize split split_with_sizes squeeze stack swapaxes swapdims t take
    take_along_dim tensor_split tile to topk transpose tril triu tril_indices triu_indices type_as unbind
    unflatten unfold unique unsqueeze upsample_nearest1d upsample_nearest2d view view_as vstack
"""
_CREATION = """
    arange empty empty_like empty_strided eye full full_like linspace logspace new_empty new_full new_ones
    new_tensor new_zeros normal ones ones_like rand rand_like randint randint_like randn randn_like randperm
    scalar_tensor tensor uniform zero zeros zeros_like
"""
_SCALARS = """
    Bool BoolImplicit Float FloatImplicit Int IntImplicit ScalarImplicit __contains__ __getitem__ __is__
    __isnot__ __not__ _set_item append device dim format item is_floating_point len list numel size sym_size
    warn
"""
# What torch's dispatcher calls by another name than a traced program does, and backward passes.
_DISPATCHED_ELEMENTWISE = """
    _softmax _log_softmax _safe_softmax _softmax_backward_data _log_softmax_backward_data
    native_layer_norm_backward native_group_norm native_group_norm_backward native_batch_norm
    native_batch_norm_backward _fused_rms_norm _fused_rms_norm_backward nll_loss_forward nll_loss_backward
    nll_loss2d_forward nll_loss2d_backward mse_loss_backward elu_backward gelu_backward glu_backward
    hardsigmoid_backward hardswish_backward hardtanh_backward leaky_relu_backward log_sigmoid_forward
    log_sigmoid_backward mish_backward sigmoid_backward silu_backward softplus_backward tanh_backward
    threshold_backward logit_backward native_dropout_backward avg_pool2d_backward
    max_pool2d_with_indices max_pool2d_with_indices_backward _adaptive_avg_pool2d
    _adaptive_avg_pool2d_backward embedding_dense_backward _prelu_kernel
    _prelu_kernel_backward _cummax_helper _cummin_helper _logcumsumexp cumsum_backward _foreach_add
    _foreach_addcdiv _foreach_addcmul _foreach_div _foreach_lerp _foreach_maximum _foreach_mul _foreach_neg
    _foreach_norm _foreach_pow _foreach_reciprocal _foreach_sqrt _foreach_sub _fused_adam _fused_adamw
    _fused_sgd _amp_foreach_non_finite_check_and_unscale rsub
"""
_DISPATCHED_MOVEMENT = """
    _to_copy _unsafe_view _reshape_alias _conj _neg_view _local_scalar_dense _unsafe_index
    _unsafe_index_put _index_put_impl lift lift_fresh_copy slice_backward select_backward
    unfold_backward diagonal_backward index_select_backward value_selecting_reduction_backward
    select_copy slice_copy unbind_copy squeeze_copy unsqueeze_copy
    slice_inverse split_copy view_copy expand_copy t_copy _foreach_copy _foreach_zero set resize
    promote_types result_type convert_element_type empty_permuted new_empty_strided broadcast_in_dim
    _efficientzerotensor zero _record_function_enter_new _record_function_exit
"""
_ON_ELEMENTS = frozenset((_ELEMENTWISE + _REDUCTIONS + _DISPATCHED_ELEMENTWISE).split())
_ZERO_COST = _ON_ELEMENTS | frozenset((_MOVEMENT + _CREATION + _SCALARS + _DISPATCHED_MOVEMENT).split())
