"""Decoding: token by token equals all at once, and the state is as large as the cost says."""

from __future__ import annotations

import torch
from torch import Tensor

from archspec import Dtype
from zoo.checks.case import Case, expect
from zoo.checks.values import expect_close
from zoo.contract import Head, HeadConfig, Mixer, Norm, Stem


def check_decoding(case: Case) -> None:
    """``step`` gives what ``forward`` gives, from a fresh state and after ``prefill`` of a prefix."""
    module = case.twin().eval()
    if isinstance(module, Mixer):
        _check_mixer(case, module)
        return
    length = 7
    x = case.inputs(length)
    whole = case.call(module, (x,))[0]
    for t in range(length):
        what = f"position {t} decoded alone and in the sequence"
        if isinstance(module, Stem):
            expect_close(module.step(x[:, t], torch.tensor(t)), whole[:, t], what)
        elif (
            isinstance(module, Head) and isinstance(case.config, HeadConfig) and not case.config.per_position
        ):
            expect_close(module(x[:, t]), module(x[:, : t + 1]), what)
        elif isinstance(module, (Head, Norm)):
            expect_close(module(x[:, t]), whole[:, t], what)


def check_state_bytes(case: Case) -> None:
    """The cost's decode caches are the state's bytes.

    After n tokens of one sequence, in fp32 or bf16, the tensors of the state hold exactly ``state_bytes + n
    * kv_bytes_per_token`` bytes, where the cost is asked in phase ``decode`` with ``context_len = n``. A
    state that grows otherwise than by a constant per token says so through a ``state_bytes`` that depends
    on ``context_len``.
    """
    dtypes: dict[Dtype, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    for name, dtype in dtypes.items():
        module = case.build().eval().to(dtype)
        assert isinstance(module, Mixer)
        for n in (1, 7, 16, 33):
            state = module.init_state(1, dtype=dtype, device="cpu")
            with torch.no_grad():
                _, state = module.prefill(case.inputs(n, batch_size=1, dtype=dtype), state)
            held = sum(x.numel() * x.element_size() for x in state.values())
            cost = case.cost(1, batch_size=1, phase="decode", context_len=n, dtype=name)
            said = cost.state_bytes + n * cost.kv_bytes_per_token
            what = f"after {n} tokens in {name} the state holds {held} bytes, the cost says {said}"
            expect(held == said, what)
            if case.can.decode == "constant":
                expect(
                    cost.kv_bytes_per_token == 0, "decode is 'constant', but the cost has kv_bytes_per_token"
                )


def _check_mixer(case: Case, module: Mixer) -> None:
    length = 19
    x = case.inputs(length)
    whole = case.call(module, (x,))[0]
    for n in (0, 1, 7, 16, length):
        state = module.init_state(2, dtype=x.dtype, device="cpu")
        ys: list[Tensor] = []
        if n:
            y, state = module.prefill(x[:, :n], state)
            expect(
                list(y.shape) == [2, n, case.d_model], f"prefill of {n} tokens gives shape {list(y.shape)}"
            )
            ys += y.unbind(1)
        for t in range(n, length):
            y, state = module.step(x[:, t], state)
            ys.append(y)
        for name, tensor in state.items():
            expect(
                tensor.shape[0] == 2, f"state '{name}' has shape {list(tensor.shape)}: the batch is not first"
            )
        what = f"steps after a prefill of {n} tokens, and forward,"
        expect_close(torch.stack(ys, dim=1), whole, what)
