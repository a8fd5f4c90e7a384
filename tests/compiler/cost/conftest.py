"""Fixtures: the small models, and their graphs."""

from __future__ import annotations

import pytest
from small_models import MODELS, Make, spec_text

import compiler
from archspec.source import parse_source
from archspec.spec import ModelSpec
from compiler import Graph, resolve
from zoo import Zoo, load_zoo


@pytest.fixture(scope="session")
def zoo() -> Zoo:
    return load_zoo()


@pytest.fixture(scope="session")
def make(zoo: Zoo) -> Make:
    """A spec from the lines that differ from a small language model."""
    return lambda text: resolve(parse_source(spec_text(text)), zoo)


@pytest.fixture(params=MODELS)
def spec(request: pytest.FixtureRequest, make: Make) -> ModelSpec:
    return make(MODELS[request.param])


@pytest.fixture
def graph(spec: ModelSpec, zoo: Zoo) -> Graph:
    return compiler.build_graph(spec, zoo=zoo)
