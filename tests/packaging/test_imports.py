"""What an import loads, each seen from a fresh interpreter."""

import importlib.util
import json
import subprocess
import sys

import pytest

FRAMEWORKS = {"jax", "jaxlib", "keras", "optax", "tensorflow", "torch"}
BACKENDS = {"lossbridge_jax", "lossbridge_keras", "lossbridge_torch"}


def loaded_by(statement):
    """Return the top-level modules that a fresh interpreter holds after a statement."""
    report = (
        "import json, sys; print(json.dumps(sorted({m.partition('.')[0] for m in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}\n{report}"], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_bare_import_loads_nothing_heavy():
    loaded = loaded_by("import lossbridge")
    assert "lossbridge" in loaded
    assert not loaded & (FRAMEWORKS | BACKENDS | {"lossbridge_conformance", "msgspec", "numpy"})


def test_bare_import_adds_no_module_but_itself():
    # Every module costs start-up time; whatever the standard library needs more is seen here.
    assert loaded_by("import lossbridge") - loaded_by("pass") == {"lossbridge"}


def test_the_language_loads_no_framework():
    loaded = loaded_by("from lossbridge import *")
    assert "msgspec" in loaded  # so the names really came
    assert not loaded & (FRAMEWORKS | BACKENDS)


@pytest.mark.parametrize(
    ("platform", "own", "foreign"),
    [
        ("torch", {"torch"}, {"jax", "jaxlib", "keras", "tensorflow"}),
        ("jax", {"jax"}, {"keras", "tensorflow", "torch"}),
        # TensorFlow itself imports JAX where it finds it, and Keras asks for torch; what counts
        # there is that ours do not.
        pytest.param("keras", {"keras", "tensorflow"}, set(), marks=pytest.mark.slow),
    ],
)
def test_a_front_door_loads_its_own_platform_only(platform, own, foreign):
    for framework in own:
        if importlib.util.find_spec(framework) is None:  # importorskip would load it here
            pytest.skip(f"{framework} is not installed")
    loaded = loaded_by(f"import lossbridge.{platform}")
    assert loaded >= own | {f"lossbridge_{platform}"}
    assert not loaded & (foreign | BACKENDS - {f"lossbridge_{platform}"})


@pytest.mark.parametrize("module", ["numpy", "msgspec", "lossbridge_torch"])
def test_the_check_above_can_fail(module):
    """Companion: a module that is loaded is seen, also when something else loads it."""
    assert module in loaded_by(f"import lossbridge, {module}")


def test_public_names_arrive_on_first_use():
    import lossbridge

    assert set(lossbridge.__all__) <= set(dir(lossbridge))
    for name in lossbridge.__all__:
        assert getattr(lossbridge, name) is not None


def test_an_unknown_public_name_is_an_attribute_error():
    import lossbridge

    with pytest.raises(AttributeError, match="'lossbridge' has no attribute 'Spek'"):
        _ = lossbridge.Spek
