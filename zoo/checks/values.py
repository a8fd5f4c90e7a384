"""What a component computes: its definition, row by row of a batch, whatever stands in padded positions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zoo.checks.case import Case, ContractError, expect
from zoo.contract import HeadConfig, MixerOutput, StemConfig


def check_output(case: Case) -> None:
    """Right shape, right type, finite, as initialised and at every length."""
    module = case.build()
    for length in case.lengths:
        x = case.arguments(length, dtype=torch.float32)
        y = case.call(module, x)[0]
        shape = list(x[0].shape)
        if isinstance(case.config, StemConfig):
            shape = [2, case.context(length).seq_len, case.d_model]
        elif isinstance(case.config, HeadConfig):
            width = case.config.output_width(case.input)
            shape = [2, length, width] if case.config.per_position else [2, width]
        expect(list(y.shape) == shape, f"length {length}: output has shape {list(y.shape)}, not {shape}")
        expect(y.dtype == torch.float32, f"length {length}: output has type {y.dtype}, not float32")
        expect(bool(y.isfinite().all()), f"length {length}: output is not finite")


def check_reference(case: Case) -> None:
    """``forward`` equals ``reference`` in float64: values, and gradients of inputs and parameters."""
    module = case.twin().train()
    for length in case.lengths:
        masks = [None, case.mask(length)] if case.takes_mask else [None]
        for mask in masks:
            where = f"length {length}" + ("" if mask is None else " with padding")
            arguments = case.arguments(length, batch_size=3)
            fast = _values_and_gradients(case, module, arguments, mask, reference=False)
            slow = _values_and_gradients(case, module, arguments, mask, reference=True)
            expect(fast.keys() == slow.keys(), f"{where}: forward gives {[*fast]}, reference {[*slow]}")
            for name, value in fast.items():
                expect_close(
                    value, slow[name], f"{where}: {name} of forward and of reference", tolerance=1e-8
                )


def check_batch(case: Case) -> None:
    """No row of a batch depends on another one, in train and eval mode."""
    module = case.twin()
    for length in case.lengths:
        arguments = case.arguments(length, batch_size=3)
        for mode in (True, False):
            module.train(mode)
            together = case.call(module, arguments)[0]
            for row in range(3):
                alone = case.call(module, tuple(x[row : row + 1] for x in arguments))[0]
                expect_close(
                    together[row : row + 1], alone, f"length {length}: row {row} with and without others"
                )


def check_padding(case: Case) -> None:
    """Real positions come out as without the padding, whatever it holds; an empty row stays finite."""
    module = case.twin()
    masked = -1  # the argument that the mask describes: the stream, or a transfer's source
    for length in case.lengths:
        mask = case.mask(length)
        arguments = case.arguments(length, batch_size=3)
        firsts: dict[bool, tuple[Tensor, ...]] = {}  # by mode: a mixer's auxiliary loss is of training only
        for scale in (1.0, 100.0):
            pads = case.arguments(length, batch_size=3, seed=7)[masked]
            pads = pads * scale if pads.is_floating_point() else pads
            wide = mask.view(*mask.shape, *(1,) * (pads.ndim - 2))
            filled = (*arguments[:masked], torch.where(wide, arguments[masked], pads))
            for mode in (True, False):
                module.train(mode)
                padded = case.call(module, filled, mask)
                first = padded if scale == 1.0 else firsts[mode]
                firsts[mode] = first
                for name, a, b in zip(("output", "aux_loss", "statistics"), first, padded):
                    a, b = (case.real(module, v, mask) if name == "output" else v for v in (a, b))
                    expect_close(b, a, f"length {length}: {name} when the values of the padding change")
                for row in range(3):
                    n = int(mask[row].sum())
                    alone = [x[row : row + 1] for x in arguments]
                    alone[masked] = alone[masked][:, :n]
                    y = case.call(module, tuple(alone))[0]
                    kept = padded[0][row : row + 1]
                    kept = kept[:, : y.shape[1]] if y.ndim > 2 else kept
                    what = f"length {length}, {n} of {mask.shape[1]} real: outputs with and without padding"
                    expect_close(kept, y, what)
    _check_empty_row(case, module)


def _check_empty_row(case: Case, module: nn.Module) -> None:
    arguments = case.arguments(7, batch_size=3)
    mask = case.mask(7)
    mask[1] = False
    x = tuple(a.requires_grad_(a.is_floating_point()) for a in arguments)
    y = case.call(module, x, mask)[0]
    expect(bool(y.isfinite().all()), "a row without any real position: output is not finite")
    if y.requires_grad:
        wanted = [a for a in x if a.requires_grad] + [p for p in module.parameters()]
        for gradient in torch.autograd.grad(y.sum(), wanted, allow_unused=True):
            if gradient is not None:
                expect(
                    bool(gradient.isfinite().all()),
                    "a row without any real position: gradients are not finite",
                )


def check_determinism(case: Case) -> None:
    """In eval mode the same input gives the same output, bit by bit."""
    module = case.build().eval()
    x = case.arguments(case.lengths[-1], dtype=torch.float32)
    once, twice = case.call(module, x)[0], case.call(module, x)[0]
    expect(torch.equal(once, twice), "two forward passes in eval mode differ")


def check_purity(case: Case) -> None:
    """``forward`` changes neither its inputs nor any buffer or parameter."""
    module = case.twin()
    arguments = case.arguments(case.lengths[-1])
    for mode in (True, False):
        module.train(mode)
        before = {name: value.clone() for name, value in module.state_dict(keep_vars=True).items()}
        kept = [x.clone() for x in arguments]
        case.call(module, arguments)
        for x, old in zip(arguments, kept):
            expect(torch.equal(x, old), "forward changes its input in place")
        for name, value in module.state_dict(keep_vars=True).items():
            expect(torch.equal(value, before[name]), f"forward changes '{name}' in place")


def check_side_products(case: Case) -> None:
    """``MixerOutput`` comes exactly from mixers that declare it; applied statistics reach the buffers."""
    module = case.twin().train()
    output = module(*case.arguments(case.lengths[-1]))
    declared = case.can.aux_loss or case.can.updates_buffers
    got = type(output).__name__
    expect(
        isinstance(output, MixerOutput) == declared, f"capabilities say {declared=}, forward returns {got}"
    )
    if not isinstance(output, MixerOutput):
        return
    expect(output.aux_loss.ndim == 0 and bool(output.aux_loss.isfinite()), "aux_loss is not a finite scalar")
    expect(not output.statistics.requires_grad, "statistics carry a gradient")
    if case.can.updates_buffers:
        before = {name: value.clone() for name, value in module.named_buffers()}
        module.get_submodule("").apply_statistics(output.statistics)  # type: ignore[operator]
        moved = [name for name, value in module.named_buffers() if not torch.equal(value, before[name])]
        expect(bool(moved), "apply_statistics changes no buffer")


def check_autocast(case: Case) -> None:
    """Under bf16 autocast outputs are finite, nine in ten within 10 % of their spread from the fp32 ones."""
    module = case.build().eval()
    x = case.arguments(case.lengths[-1], dtype=torch.float32)
    exact = case.call(module, x)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = case.call(module, x)[0]
    expect(bool(rounded.isfinite().all()), "outputs under bf16 autocast are not finite")
    allowed = 0.1 * exact.square().mean().sqrt() + 1e-6
    far = float(((rounded.float() - exact).abs() > allowed).float().mean())
    expect(
        far <= 0.1, f"under bf16 autocast {far:.0%} of the outputs are off by more than 10 % of their spread"
    )


def check_export(case: Case) -> None:
    """``torch.export`` accepts the module, with and without a mask, and gives the same outputs."""
    module = case.build().eval()
    x = case.arguments(case.lengths[-1], dtype=torch.float32)
    x = tuple(a[:1].repeat(3, *(1,) * (a.ndim - 1)) for a in x)
    for mask in [None, case.mask(case.lengths[-1])] if case.takes_mask else [None]:
        given = {} if mask is None else {"mask": mask}
        exported = torch.export.export(module, x, given).module()
        got = exported(*x, **given)
        got = got if isinstance(got, Tensor) else got[0]
        expect_close(got, case.call(module, x, mask)[0], "exported module and module", tolerance=1e-5)


def expect_close(got: Tensor, wanted: Tensor, what: str, *, tolerance: float = 1e-9) -> None:
    """Equal up to ``tolerance``, relative to the greatest entry and to 1."""
    if got.shape != wanted.shape:
        raise ContractError(f"{what}: shapes {list(got.shape)} and {list(wanted.shape)} differ")
    if not got.numel():
        return
    got, wanted = got.detach().double(), wanted.detach().double()
    apart = float((got - wanted).abs().amax())
    allowed = tolerance * max(1.0, float(wanted.abs().amax()))
    expect(apart <= allowed, f"{what} differ by {apart:.3g} (allowed {allowed:.1g})")


def _values_and_gradients(
    case: Case, module: nn.Module, arguments: tuple[Tensor, ...], mask: Tensor | None, *, reference: bool
) -> dict[str, Tensor]:
    """Outputs by name, and gradients of one fixed random projection of them."""
    given = tuple(x.detach().clone().requires_grad_(x.is_floating_point()) for x in arguments)
    y, *rest = case.call(module, given, mask, reference=reference)
    y = case.real(module, y, mask)
    values = {"output": y} | dict(zip(("aux_loss", "statistics"), rest))
    if not y.requires_grad:
        return values
    draw = torch.Generator().manual_seed(3)
    total = (y * torch.randn(y.shape, generator=draw, dtype=y.dtype)).sum()
    if rest:
        total = total + 10 * rest[0]
    names = [f"gradient of input {i}" for i, x in enumerate(given) if x.requires_grad]
    wanted = [x for x in given if x.requires_grad]
    for name, parameter in module.named_parameters():
        names.append(f"gradient of {name}")
        wanted.append(parameter)
    gradients = torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True)
    return values | dict(zip(names, gradients))
