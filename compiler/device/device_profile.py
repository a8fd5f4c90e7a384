"""A device profile: dense peak rates, bandwidth and memory with their sources, and what was measured.

A profile is a YAML file, one of those shipped beside this module or one that ``archspec device probe``
wrote. Peaks are those of dense kernels: vendors like to print the rate with 2:4 sparsity, twice as high.
Units: TFLOP/s are 1e12 FLOPs a second at 2 FLOPs per multiply-add, GB are 1e9 bytes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from archspec import Dtype, SpecError, did_you_mean
from archspec.closed import Closed
from archspec.components import spec_problem
from archspec.document import Version
from archspec.source import load_source
from archspec.validate import validate

Rate = Annotated[float, Field(gt=0, le=1e9)]
PeakKind = Dtype | Literal["tfloat32"]  # tfloat32: what float32 matmuls run in where torch is told so
Basis = Literal["peak", "measured"]
_FOLDER = Path(__file__).parent / "profiles"


class FromSource(Closed):
    """Where figures come from: fields of the profile, the document, and how they were read."""

    fields: Annotated[tuple[str, ...], Field(min_length=1)]
    title: str
    url: str = ""
    note: str = ""


class Measured(Closed):
    """What a device was seen to do: by ``archspec device probe``, or by hand where ``by`` says so."""

    date: str = Field(description="year, or ISO date")
    by: str = Field(description="the command that measured, or who saw it")
    matmul_tflops: dict[PeakKind, Rate] = Field(
        default_factory=dict, description="large square matmuls on random data, by dtype"
    )
    copy_gb_s: Rate | None = Field(None, description="bytes read plus bytes written, a second")
    launch_us: Rate | None = Field(None, description="microseconds of the smallest operation, eager")
    memory_gb: Rate | None = Field(None, description="as torch or the system counts it")
    noise: float | None = Field(
        None, ge=0, description="A/A: how far two series of the same matmul differ, as a share"
    )
    clock: str = Field("", description="wall, cpu (of the thread), or events on CUDA")
    threads: int | None = Field(None, ge=1)
    versions: dict[str, str] = Field(default_factory=dict)
    conditions: str = ""


class DeviceProfile(Closed):
    """One kind of device."""

    archspec: Version
    device: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,99}$")] = Field(
        description="its name here, that of the file"
    )
    name: Annotated[str, Field(min_length=1, max_length=200)]
    kind: Literal["cpu", "cuda"]
    reported: tuple[str, ...] = Field((), description="names by which drivers know it, compared as a whole")
    peak_tflops: dict[PeakKind, Rate] = Field(default_factory=dict, description="dense, by dtype")
    bandwidth_gb_s: Rate | None = Field(None, description="of the main memory, peak")
    memory_gb: Rate | None = None
    sources: tuple[FromSource, ...] = ()
    measured: Measured | None = None
    note: str = ""

    @model_validator(mode="after")
    def _peaks_have_sources(self) -> DeviceProfile:
        """A peak, a bandwidth or a memory without a source is a rumour."""
        sourced = {field for source in self.sources for field in source.fields}
        known = {*DeviceProfile.model_fields} - {"archspec", "sources"}
        if unknown := sorted(sourced - known):
            raise spec_problem(f"sources: '{unknown[0]}' is no field", did_you_mean(unknown[0], known))
        given = {
            name
            for name, value in (
                ("peak_tflops", self.peak_tflops),
                ("bandwidth_gb_s", self.bandwidth_gb_s),
                ("memory_gb", self.memory_gb),
            )
            if value
        }
        if missing := sorted(given - sourced):
            raise spec_problem(f"'{missing[0]}' has no source", "name it under 'sources', or leave it out")
        return self

    def flops_per_second(self, dtype: PeakKind, basis: Basis = "peak") -> float | None:
        """FLOP/s of dense matmuls in ``dtype``, None where nobody knows."""
        rates = self.peak_tflops if basis == "peak" else self.measured.matmul_tflops if self.measured else {}
        return 1e12 * rates[dtype] if dtype in rates else None

    def bytes_per_second(self, basis: Basis = "peak") -> float | None:
        """Bytes a second between main memory and the processor."""
        rate = self.bandwidth_gb_s if basis == "peak" else self.measured.copy_gb_s if self.measured else None
        return None if rate is None else 1e9 * rate


def shipped() -> dict[str, DeviceProfile]:
    """The profiles that come with the package, by name."""
    return {file.stem: read_profile(file) for file in sorted(_FOLDER.glob("*.yaml"))}


def find_profile(name: str | os.PathLike[str]) -> DeviceProfile:
    """A shipped profile by its name, or that of a YAML file."""
    text = os.fspath(name)
    if text.endswith((".yaml", ".yml")):
        if not Path(text).is_file():
            raise SpecError(
                f"no such device profile: {text}", hint="'archspec device probe --out' writes one"
            )
        return read_profile(Path(text))
    known = [file.stem for file in _FOLDER.glob("*.yaml")]
    if text not in known:
        raise SpecError(f"unknown device profile '{text}'", hint=f"shipped: {', '.join(sorted(known))}")
    return read_profile(_FOLDER / f"{text}.yaml")


def profile_reported_as(name: str) -> DeviceProfile | None:
    """The shipped profile of the device that its driver calls ``name``, None if there is none."""
    return next((profile for profile in shipped().values() if name in profile.reported), None)


def read_profile(file: Path) -> DeviceProfile:
    """A YAML file as a profile; SpecError with places if it is none."""
    return validate(DeviceProfile, load_source(file))
