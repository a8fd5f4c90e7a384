"""What a user is told when an input is wrong: what, where, and what to do about it."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from archspec.nodes import Place

# Words of other dialects (Hugging Face, Megatron, x-transformers, mamba_ssm) and ours for the same thing.
SYNONYMS = {
    "hidden_size": "d_model", "n_embd": "d_model", "dim": "d_model", "model_dim": "d_model",
    "embed_dim": "d_model", "width": "d_model",
    "num_layers": "n_layers", "n_layer": "n_layers", "num_hidden_layers": "n_layers", "depth": "n_layers",
    "num_heads": "n_heads", "n_head": "n_heads", "heads": "n_heads", "num_attention_heads": "n_heads",
    "num_kv_heads": "n_kv_heads", "num_key_value_heads": "n_kv_heads", "num_query_groups": "n_kv_heads",
    "n_groups_kv": "n_kv_heads", "kv_heads": "n_kv_heads",
    "head_dim": "d_head", "headdim": "d_head", "dim_head": "d_head", "kv_channels": "d_head",
    "state_size": "d_state", "ssm_state_size": "d_state", "dstate": "d_state", "state_dim": "d_state",
    "conv_kernel": "d_conv", "conv_size": "d_conv", "kernel_size": "d_conv",
    "intermediate_size": "d_ff", "ffn_hidden_size": "d_ff", "ffn_dim": "d_ff", "d_inner": "d_ff",
    "mlp_dim": "d_ff", "hidden_dim": "d_ff", "n_inner": "d_ff",
    "max_seq_len": "seq_len", "max_position_embeddings": "seq_len", "n_positions": "seq_len",
    "block_size": "seq_len", "context_length": "seq_len", "n_ctx": "seq_len", "max_length": "seq_len",
    "sliding_window": "window", "window_size": "window",
    "vocab": "vocab_size", "padded_vocab_size": "vocab_size", "n_vocab": "vocab_size",
    "mixer": "token_mixer", "sequence_mixer": "token_mixer", "attn": "token_mixer",
    "ffn": "channel_mixer", "feed_forward": "channel_mixer",
    "is_causal": "causal", "tie_embeddings": "tied", "tie_word_embeddings": "tied", "tie_weights": "tied",
    "batch": "batch_size", "type": "kind", "_target_": "kind",
    "hybrid_override_pattern": "pattern", "blocks": "layers",
}  # fmt: skip


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: a message, the spec path, and its place in the text (1-based)."""

    message: str
    path: str = ""
    file: str | None = None
    line: int | None = None
    column: int | None = None
    hint: str | None = None
    excerpt: str | None = None  # the source line
    width: int = 1  # how many characters the caret line underlines

    @classmethod
    def at(cls, place: Place, message: str, *, path: str = "", hint: str | None = None) -> Problem:
        """A problem with the place of a node or key."""
        return cls(message, path, place.file, place.line, place.column, hint, place.excerpt, place.width)

    def render(self, severity: str = "error") -> str:
        """``error: file:line:column: path: message``, then the source line with a caret, then the hint."""
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        head = ": ".join(part for part in (severity, place, self.path, self.message) if part)
        lines = [printable(head)]
        if self.excerpt is not None and self.line is not None and self.column is not None:
            before, marked, after = _cropped(self.excerpt, self.column - 1, max(1, self.width))
            gutter = f"{self.line:4} | "
            margin = " " * (len(gutter) - 2) + "| "
            caret = " " * _cells(before) + "^" * max(1, _cells(marked))
            lines += [gutter + before + marked + after, margin + caret]
        if self.hint:
            lines.append(printable(f"  hint: {self.hint}"))
        return "\n".join(lines)

    def as_json(self) -> dict[str, object]:
        """The stable keys of ``check --json``."""
        return {
            "line": self.line, "column": self.column, "path": self.path,
            "message": self.message, "hint": self.hint,
        }  # fmt: skip


class SpecError(Exception):
    """A user's input is wrong; carries every problem found, each with its place where it has one."""

    def __init__(
        self,
        message: str | None = None,
        *,
        path: str = "",
        file: str | None = None,
        line: int | None = None,
        column: int | None = None,
        hint: str | None = None,
        problems: Iterable[Problem] = (),
    ):
        self.problems = tuple(problems)
        if message is not None:
            self.problems = (Problem(message, path, file, line, column, hint), *self.problems)
        assert self.problems, "a SpecError says at least one thing"
        super().__init__("\n".join(problem.render() for problem in self.problems))

    @classmethod
    def at(cls, place: Place, message: str, *, path: str = "", hint: str | None = None) -> SpecError:
        """One problem at the place of a node or key."""
        return cls(problems=[Problem.at(place, message, path=path, hint=hint)])

    @property
    def message(self) -> str:
        return self.problems[0].message

    @property
    def path(self) -> str:
        return self.problems[0].path

    def located(self, file: str) -> SpecError:
        """The same error with ``file`` filled in wherever a problem names none."""
        return SpecError(problems=[replace(p, file=p.file or file) for p in self.problems])


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A hint for an unknown ``word``: another dialect's name for a known one, or the closest spelling."""
    known = list(known)
    word = word[:100]
    ours = SYNONYMS.get(word)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if ours in known and close != [ours]:
        return f"here it is '{ours}'"
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known here: {', '.join(sorted(known))}" if 0 < len(known) <= 24 else None


def shown(value: Any, limit: int = 60) -> str:
    """A value as a message shows it: as YAML would write it, shortened, and without control characters."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    text = printable(f"'{value}'" if isinstance(value, str) else str(value))
    return text if len(text) <= limit else f"{text[: limit - 4]}...{text[-1]}"


def printable(text: str) -> str:
    """``text`` on one line, with what could steer a terminal or reorder the line spelt out as an escape."""
    return "".join(f"\\x{ord(c):02x}" if unicodedata.category(c) in _STEERING else c for c in text)


_STEERING = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # controls, bidirectional and zero-width marks, lone surrogates
_EXCERPT_WIDTH = 100


def _cropped(line: str, start: int, width: int) -> tuple[str, str, str]:
    """The source line before, at and after the underlined part, cut down to what a terminal shows."""
    line = "".join(
        " " if c == "\t" else "\ufffd" if unicodedata.category(c) in _STEERING else c for c in line
    )
    cut = max(0, start - _EXCERPT_WIDTH // 2) if len(line) > _EXCERPT_WIDTH else 0
    before = ("..." if cut else "") + line[cut:start]
    marked = line[start : start + min(width, _EXCERPT_WIDTH // 2)]
    rest = line[start + len(marked) :]
    room = max(0, _EXCERPT_WIDTH - len(before) - len(marked))
    return before, marked, rest[:room] + ("..." if len(rest) > room else "")


def _cells(text: str) -> int:
    """Terminal cells that ``text`` takes: wide characters take two, combining ones none."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text
    )
