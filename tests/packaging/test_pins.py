"""The promised lower bounds are versions that an environment of ours installs."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# The bounds of `dev` are for developers, who install the pins; `all` only names other extras.
RUNTIME = PROJECT["dependencies"] + [
    line for name, lines in EXTRAS.items() if name not in ("all", "dev") for line in lines
]


def pins(name):
    """Return a constraints file as {canonical name: version}."""
    found = {}
    for line in (ROOT / "constraints" / name).read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", line
            package = canonicalize_name(requirement.name)
            assert package not in found, line
            found[package] = Version(specifier.version)
    return found


def pinned(name, requirement):
    """Return the pin of a requirement; either TensorFlow wheel stands for the other."""
    package = canonicalize_name(requirement.name)
    return pins(name)["tensorflow-cpu" if package == "tensorflow" else package]


@pytest.mark.parametrize("line", RUNTIME)
def test_a_lower_bound_is_the_floor(line):
    requirement = Requirement(line)
    (bound,) = requirement.specifier
    assert bound.operator == ">="
    floor = pinned("floor-py311.txt", requirement)
    release = Version(bound.version).release
    assert floor.release[: len(release)] == release


@pytest.mark.parametrize("name", ["newest-py311.txt", "floor-py311.txt"])
@pytest.mark.parametrize("line", RUNTIME + EXTRAS["dev"])
def test_every_requirement_is_pinned_within_its_bounds(name, line):
    requirement = Requirement(line)
    assert pinned(name, requirement) in requirement.specifier


@pytest.mark.parametrize("name", ["newest-py311.txt", "floor-py311.txt"])
def test_torch_is_the_release_whose_cpu_wheel_is_at_hand(name):
    assert pins(name)["torch"] == Version("2.13.0")


def test_all_takes_every_extra_but_the_second_tensorflow():
    (line,) = EXTRAS["all"]
    assert Requirement(line).extras == set(EXTRAS) - {"all", "dev", "tensorflow"}
