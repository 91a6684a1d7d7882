"""What the wheel holds, built the way an index would build it: from the sdist."""

import importlib.util
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PACKAGES = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return the built wheel as {path inside: content}."""
    out = tmp_path_factory.mktemp("dist")
    # Without isolation, so that nothing is fetched: hatchling is among the development tools.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_every_file_of_every_package_is_inside(wheel):
    expected = {
        path.relative_to((ROOT / package).parent).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    inside = {name for name in wheel if ".dist-info/" not in name}
    assert inside == expected


def test_every_package_of_the_source_roots_is_listed():
    found = {
        path.parent.relative_to(ROOT).as_posix() for path in ROOT.glob("*/lossbridge_*/__init__.py")
    }
    assert set(PACKAGES) == found | {"lossbridge"}


def test_only_our_own_names_are_taken(wheel):
    tops = {name.partition("/")[0] for name in wheel if ".dist-info/" not in name}
    assert tops == {Path(package).name for package in PACKAGES}


@pytest.mark.parametrize("package", [Path(package).name for package in PACKAGES])
def test_every_package_is_typed(wheel, package):
    assert f"{package}/py.typed" in wheel


def test_generated_files_of_packages_are_inside_and_as_committed(wheel):
    spec = importlib.util.spec_from_file_location("regen", ROOT / "tools" / "regen.py")
    regen = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(regen)
    for path, _ in regen.GENERATED:
        for package in PACKAGES:
            if path.startswith(f"{package}/"):
                inside = Path(path).relative_to(Path(package).parent).as_posix()
                assert wheel[inside] == (ROOT / path).read_bytes()


def test_metadata(wheel):
    import lossbridge

    (name,) = (name for name in wheel if name.endswith(".dist-info/METADATA"))
    assert f"\nVersion: {lossbridge.__version__}\n" in wheel[name].decode()
    assert "\nLicense-Expression: Apache-2.0\n" in wheel[name].decode()
    assert name.replace("METADATA", "licenses/LICENSE") in wheel
    points = wheel[name.replace("METADATA", "entry_points.txt")].decode()
    assert "[console_scripts]\nlossbridge = lossbridge.cli:main" in points
    for platform in ("torch", "keras", "jax"):
        assert f"\n{platform} = lossbridge_{platform}.probe:PROBE" in points
