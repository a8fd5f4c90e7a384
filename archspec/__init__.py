"""The language: model specs, search spaces and studies as YAML, with errors that name their place."""

from archspec.closed import Closed
from archspec.config import (
    ROLES,
    Capabilities,
    ComponentConfig,
    MixerConfig,
    NormConfig,
    Role,
)
from archspec.cost import DTYPE_BYTES, Cost, CostContext, Dtype, Phase, Site
from archspec.errors import Problem, SpecError, did_you_mean
from archspec.inputs import FeatureInput, ImageInput, Input, TokenInput
from archspec.spec import ModelSpec

__all__ = [
    "DTYPE_BYTES",
    "ROLES",
    "Capabilities",
    "Closed",
    "ComponentConfig",
    "Cost",
    "CostContext",
    "Dtype",
    "FeatureInput",
    "ImageInput",
    "Input",
    "MixerConfig",
    "ModelSpec",
    "NormConfig",
    "Phase",
    "Problem",
    "Role",
    "Site",
    "SpecError",
    "TokenInput",
    "did_you_mean",
]
