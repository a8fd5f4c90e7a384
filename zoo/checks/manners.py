"""How a component presents itself: configuration, examples, docstring, hints, initialisation, state dict."""

from __future__ import annotations

import re
import sys
from dataclasses import replace

import torch

from archspec import Site
from zoo.checks.case import Case, cases, expect
from zoo.contract import Mixer
from zoo.masks import PACKED


def check_examples(case: Case) -> None:
    """Enough examples (two for a token mixer with anything to configure), each fit for some site."""
    options = set(type(case.config).model_fields) - {"kind"}
    wanted = 2 if case.role == "token_mixer" and options else 1
    n_examples = len(case.cls.examples)
    expect(n_examples >= wanted, f"{n_examples} examples, at least {wanted} are needed")
    fit = {c.number for d_model in (32, 48) for c in cases(case.role, case.cls, d_model=d_model)}
    unfit = sorted(set(range(n_examples)) - fit)
    expect(not unfit, f"examples {unfit} fit no site of width 32 or 48")


def check_config(case: Case) -> None:
    """The configuration survives a round trip through plain data, and every field says what it is."""
    again = type(case.config).model_validate(case.config.model_dump())
    expect(again == case.config, f"{case.config!r} comes back from plain data as {again!r}")
    for name, field in type(case.config).model_fields.items():
        expect(name == "kind" or bool(field.description), f"field '{name}' has no description")


def check_identity(case: Case) -> None:
    """What the hash takes for the same configuration computes the same, bit by bit."""
    same = case.config.canonical_at(case.d_model)
    again = same.canonical_at(case.d_model)
    expect(again == same, f"{same!r} is not canonical: it becomes {again!r}")
    if same != case.config:
        x = case.arguments(case.lengths[-1], dtype=torch.float32)
        one, other = (c.build(seed=1).eval() for c in (case, replace(case, config=same)))
        shapes = [[p.shape for p in module.parameters()] for module in (one, other)]
        expect(
            shapes[0] == shapes[1] and torch.equal(case.call(one, x)[0], case.call(other, x)[0]),
            f"{case.config!r} and {same!r} have one hash and compute different things",
        )


def check_docstring(case: Case) -> None:
    """The module has a docstring, and it names the papers that ``Config.paper`` names."""
    text = sys.modules[case.cls.__module__].__doc__ or ""
    expect(bool(text.strip()), f"{case.cls.__module__} has no docstring")
    for arxiv in re.findall(r"\d{4}\.\d{4,5}", type(case.config).paper):
        expect(arxiv in text, f"the docstring of {case.cls.__module__} does not name {arxiv}")


def check_hints(case: Case) -> None:
    """``param_hints`` names parameters that exist."""
    module = case.build()
    unknown = set(module.param_hints()) - {name for name, _ in module.named_parameters()}
    expect(not unknown, f"param_hints names {sorted(unknown)}, which are no parameters")


def check_initialisation(case: Case) -> None:
    """Built twice from one seed, it is the same; no value is uninitialised."""
    one, two, other = case.build(seed=1), case.build(seed=1), case.build(seed=2)
    for (name, a), b in zip(one.state_dict().items(), two.state_dict().values()):
        expect(torch.equal(a, b), f"two builds from one seed differ in '{name}'")
        expect(bool(a.isfinite().all()), f"'{name}' is not finite at the start")
    for (name, a), b in zip(one.named_parameters(), other.parameters()):
        calm = a.numel() == 0 or float(a.detach().abs().amax()) < 1e4
        expect(calm and float(b.detach().abs().amax()) < 1e4, f"'{name}' starts with huge values")


def check_state_dict(case: Case) -> None:
    """Another instance that loads the state dict computes the same, bit by bit."""
    source = case.build(seed=1).eval()
    target = case.build(seed=2).eval()
    target.load_state_dict(source.state_dict())
    x = case.arguments(case.lengths[-1], dtype=torch.float32)
    same = torch.equal(case.call(source, x)[0], case.call(target, x)[0])
    expect(same, "an instance that loads the state dict computes something else")


def check_sites(case: Case) -> None:
    """A mixer stands at sites of other lengths too, with the same parameters unless its length is bounded."""
    assert issubclass(case.cls, Mixer)
    for seq_len in (1, 1000 * case.can.length_multiple_of):
        site = Site(case.d_model, seq_len, case.causal)
        if case.can.length_at_most is None and case.config.misfit(site) is None:
            built = case.cls(case.config, site)  # type: ignore[arg-type]
            shapes = {name: p.shape for name, p in built.named_parameters()}
            here = {name: p.shape for name, p in case.build().named_parameters()}
            expect(shapes == here, f"at length {seq_len} the parameters have other shapes")


def check_odd_masks(case: Case) -> None:
    """Only a boolean (B, L) is a mask: numbers of documents, masks of pairs and other lengths are refused."""
    module, length = case.build(), 7
    arguments = case.arguments(length, dtype=torch.float32)
    B, L = arguments[-1].shape[:2]
    odd = {
        "numbers of documents": torch.zeros(B, L, dtype=torch.long),
        "a mask of zeros and ones": torch.ones(B, L),
        "a mask of pairs": torch.ones(B, L, L, dtype=torch.bool),
        "a mask of another length": torch.ones(B, L + 1, dtype=torch.bool),
        "a mask for one row": torch.ones(L, dtype=torch.bool),
    }
    for what, mask in odd.items():
        try:
            case.call(module, arguments, mask)
        except ValueError as error:
            expect(PACKED in str(error), f"{what}: '{error}' does not say that packing is not supported")
        else:
            expect(False, f"{what} is taken for a mask")
