"""Matrix mixers: what makes each structure one, its bounds and its refusals (the contract is tested elsewhere)."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from archspec import Site, SpecError
from compiler import build_graph, load_spec
from zoo.token_mixers.matrix import Matrix

Config = Matrix.Config
L, D, H = 24, 8, 2


def build(structure: str, *, causal: bool = False, data_dependent: bool = True, **fields: object) -> Matrix:
    torch.manual_seed(0)
    given = {"structure": structure, "data_dependent": data_dependent, "d_head": 8, "max_len": L} | fields
    mixer = Matrix(Config.model_validate(given), Site(D, L, causal)).double()
    with torch.no_grad():
        for name, parameter in mixer.named_parameters():
            if name != "structure.log_shift":
                parameter.add_(0.3 * torch.randn_like(parameter))
    return mixer


def tokens(length: int = L) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.randn(2, length, D, generator=generator, dtype=torch.float64)


def matrix_of(mixer: Matrix, x: Tensor) -> Tensor:
    """M without the residual, (B or 1, H, L, L)."""
    _, _, inputs, steps = mixer._inputs(x, None)
    return mixer.structure.matrix(inputs, steps, None)


BOTH = pytest.mark.parametrize("data_dependent", [True, False], ids=["of tokens", "of tables"])


FORMS = [
    pytest.param(structure, of_tokens, id=f"{structure}-{'of tokens' if of_tokens else 'of tables'}")
    for structure in Config.model_fields["structure"].annotation.__args__  # type: ignore[union-attr]
    for of_tokens in (True, False)
    if not (of_tokens and structure in ("dense", "dft"))
]


@pytest.mark.parametrize(("structure", "data_dependent"), FORMS)
def test_structure_of_the_beginning(structure: str, data_dependent: bool) -> None:
    """Further tokens do not change the block of those before them (the paper's sequence alignment).

    Softmax divides a row by the sum over all tokens, so attention's rows are the same up to a factor.
    """
    mixer, x = build(structure, data_dependent=data_dependent, d_conv=1), tokens()
    m, short = matrix_of(mixer, x)[..., :15, :15], matrix_of(mixer, x[:, :15])
    if structure == "attention":
        m = m / m.sum(-1, keepdim=True)
    torch.testing.assert_close(short, m)


def test_structure_dense() -> None:
    """Every entry is free."""
    mixer = build("dense", data_dependent=False)
    m = matrix_of(mixer, tokens())
    torch.testing.assert_close(m[0], mixer.structure.weight * L**-0.5)
    assert (torch.linalg.matrix_rank(m) == L).all()


@BOTH
@pytest.mark.parametrize("causal", [False, True])
def test_structure_toeplitz(data_dependent: bool, causal: bool) -> None:
    """Constant diagonals, and none above the main one if causal."""
    m = matrix_of(build("toeplitz", causal=causal, data_dependent=data_dependent), tokens())
    torch.testing.assert_close(m[..., 1:, 1:], m[..., :-1, :-1])
    assert m[..., -1, 0].abs().min() > 0
    assert bool((m[..., 0, 1:] == 0).all()) == causal


def test_toeplitz_lags_stand_where_they_belong() -> None:
    """Token l supplies the lags l and -l; the main diagonal is what the first token supplies."""
    mixer = build("toeplitz")
    _, _, inputs, _ = mixer._inputs(tokens(), None)
    m = matrix_of(mixer, tokens()) / (0.5 * L**-0.5)
    torch.testing.assert_close(m[:, :, 5, 5], inputs[:, 0, :H])
    torch.testing.assert_close(m[:, :, 9, 2], inputs[:, 7, :H])
    torch.testing.assert_close(m[:, :, 2, 9], inputs[:, 7, H:])


@pytest.mark.parametrize("length", [9, L])
def test_toeplitz_tables_run_from_the_lowest_lag_to_the_highest(length: int) -> None:
    mixer = build("toeplitz", data_dependent=False)
    table = mixer.structure.lags * 0.5 * L**-0.5  # lag l stands at L - 1 + l
    m = matrix_of(mixer, tokens(length))[0]
    for i, j in ((0, 0), (7, 2), (2, 7), (8, 0), (0, 8)):
        torch.testing.assert_close(m[:, i, j], table[:, L - 1 + i - j])


def test_structure_dft() -> None:
    """The real part of the discrete Fourier transform."""
    m = matrix_of(build("dft", data_dependent=False), tokens())[0, 0]
    eye = torch.eye(L, dtype=torch.float64)
    torch.testing.assert_close(m, torch.fft.fft(eye, dim=0, norm="ortho").real)


@BOTH
def test_structure_low_rank(data_dependent: bool) -> None:
    """The rank is that of the queries."""
    m = matrix_of(build("low_rank", data_dependent=data_dependent, d_qk=3), tokens())
    assert (torch.linalg.matrix_rank(m, rtol=1e-9) == 3).all()


@BOTH
def test_structure_cauchy(data_dependent: bool) -> None:
    """With one query channel, diag(a) M + M diag(b) is constant."""
    mixer = build("cauchy", data_dependent=data_dependent, d_qk=1)
    _, _, inputs, _ = mixer._inputs(tokens(), None)
    a, b = mixer.structure._nodes(inputs)  # type: ignore[operator]
    m = matrix_of(mixer, tokens())
    torch.testing.assert_close(a * m + m * b.transpose(-1, -2), torch.full_like(m, L**-0.5))


@BOTH
@pytest.mark.parametrize("causal", [False, True])
def test_structure_attention(data_dependent: bool, causal: bool) -> None:
    """Rows sum to one, before the residual."""
    m = matrix_of(build("attention", data_dependent=data_dependent, causal=causal), tokens())
    torch.testing.assert_close(m.sum(-1), torch.ones_like(m.sum(-1)))
    assert bool((m.triu(1) == 0).all()) == causal


@BOTH
def test_structure_quasiseparable(data_dependent: bool) -> None:
    """Blocks off the diagonal have the rank of the state at most; the diagonal is the residual's."""
    m = matrix_of(build("quasiseparable", data_dependent=data_dependent, d_qk=1), tokens())
    for row in range(1, L):
        for block in (m[..., row:, :row], m[..., :row, row:]):
            assert int(torch.linalg.matrix_rank(block, rtol=1e-9).max()) <= H
    assert (m.diagonal(dim1=-2, dim2=-1) == 0).all()


def test_structure_vandermonde() -> None:
    """An entry by hand."""
    mixer = build("vandermonde", d_qk=2)
    _, _, inputs, _ = mixer._inputs(tokens(), None)
    q, k = (t.view(2, L, H, 2) for t in inputs.chunk(2, -1))
    by_hand = (6.283185307179586e-3 * q[1, 4, 1] * 9).cos() - (6.283185307179586e-3 * k[1, 9, 1] * 4).cos()
    torch.testing.assert_close(matrix_of(mixer, tokens())[1, 1, 4, 9], by_hand.sum() * (4 * L) ** -0.5)


@pytest.mark.parametrize("structure", ["vandermonde", "cauchy"])
def test_tables_learn_from_their_start(structure: str) -> None:
    mixer = Matrix(Config(structure=structure, data_dependent=False, d_head=8), Site(D, L, causal=False))
    mixer(tokens().float()).square().sum().backward()
    for table in (mixer.structure.queries, mixer.structure.keys):
        assert table.grad is not None
        assert table.grad[1:L].abs().max() > 0


@BOTH
def test_decays_stay_in_float32(data_dependent: bool) -> None:
    mixer, x = build("quasiseparable", data_dependent=data_dependent).float(), tokens().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        _, _, inputs, steps = mixer._inputs(x, None)
        ways = mixer.structure._ways(inputs, steps, None)  # type: ignore[operator]
    assert {t.dtype for way in ways for t in (way.dt, way.log_decay)} == {torch.float32}


@pytest.mark.parametrize(("structure", "data_dependent"), FORMS)
def test_runs_in_bfloat16(structure: str, data_dependent: bool) -> None:
    mixer, x = build(structure, data_dependent=data_dependent).float(), tokens().float()
    exact = mixer(x)
    y = mixer.bfloat16()(x.bfloat16())
    assert y.dtype == torch.bfloat16
    assert (y.float() - exact).norm() < 0.05 * exact.norm()


def test_di_length_guard() -> None:
    """A matrix of tables is bound to their length."""
    config = Config(structure="cauchy", data_dependent=False, max_len=16)
    assert config.capabilities().length_at_most == 16
    assert Config(structure="cauchy").capabilities().length_at_most is None
    with pytest.raises(ValueError, match="at most max_len 24 positions, got 25"):
        build("dense", data_dependent=False)(tokens(25))


@pytest.mark.parametrize("structure", ["toeplitz", "attention", "low_rank"])
def test_a_table_ends_in_decoding_too(structure: str) -> None:
    mixer = build(structure, causal=True, data_dependent=False)
    _, state = mixer.prefill(tokens(L), mixer.init_state(2, dtype=torch.float64, device="cpu"))
    with pytest.raises((ValueError, IndexError), match=f"at most max_len {L}|out of bounds"):
        mixer.step(tokens(1)[:, 0], state)


def test_a_low_rank_state_does_not_grow() -> None:
    mixer = build("low_rank", causal=True, d_qk=3)
    state = mixer.init_state(2, dtype=torch.float64, device="cpu")
    for n in (1, 20):
        _, state = mixer.prefill(tokens(n), mixer.init_state(2, dtype=torch.float64, device="cpu"))
        assert state["sum"].shape == (2, H, 3, 8)
    assert mixer.config.capabilities().decode == "constant"
    assert Config(structure="attention").capabilities().decode == "growing"
    assert Config(structure="cauchy").capabilities().decode == "none"


def _spec(mixer: str, *, causal: bool) -> str:
    return (
        f"archspec: 1\nname: m\ninput: {{kind: tokens, vocab_size: 16, seq_len: 32}}\ncausal: {str(causal).lower()}\n"
        f"d_model: 64\nstem: embedding\nlayers:\n  - token_mixer: {mixer}\nhead: lm\n"
    )


@pytest.mark.parametrize("structure", ["dense", "dft", "vandermonde", "cauchy", "quasiseparable"])
def test_causal_refusal(tmp_path: object, structure: str) -> None:
    mixer = f"{{kind: matrix, structure: {structure}, data_dependent: false}}"
    _refused(tmp_path, mixer, True, "looks at the whole sequence")


def test_di_length_guard_of_the_compiler(tmp_path: object) -> None:
    _refused(
        tmp_path, "{kind: matrix, structure: dft, data_dependent: false, max_len: 16}", False, "at most 16"
    )


def _refused(tmp_path: object, mixer: str, causal: bool, message: str) -> None:
    path = tmp_path / "m.yaml"  # type: ignore[operator]
    path.write_text(_spec(mixer, causal=causal), "utf-8")
    with pytest.raises(SpecError, match=message):
        build_graph(load_spec(path))


def test_what_a_structure_lacks_is_refused() -> None:
    for structure in ("dense", "dft"):
        with pytest.raises(ValidationError, match="no data-dependent form"):
            Config(structure=structure)
    with pytest.raises(ValidationError, match="no queries and keys, got d_qk 4"):
        Config(structure="toeplitz", d_qk=4)
    assert "odd number of taps" in (Config(d_conv=4).misfit(Site(64, 8, causal=False)) or "")
