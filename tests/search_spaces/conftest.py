"""Spaces as a run builds them: the shipped file with a few fields overridden."""

from pathlib import Path

import pytest
import yaml

from nas.architecture import read_architecture
from search_spaces import build_space

CONF = Path(__file__).resolve().parents[2] / "conf"


@pytest.fixture
def make_space():
    """`make_space("hybrid", num_layers=12)`: the shipped space with overrides."""

    def make(name, **overrides):
        settings = yaml.safe_load((CONF / f"search_space/{name}.yaml").read_text())
        return build_space(name, settings | overrides, vocab_size=256)

    return make


@pytest.fixture(scope="session")
def designs():
    """The designs that the default search begins with, by name."""
    names = yaml.safe_load((CONF / "config.yaml").read_text())["references"]
    found = [read_architecture(CONF / f"designs/{name}.yaml") for name in sorted(names)]
    return {design.name: design for design in found}
