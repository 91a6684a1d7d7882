"""A front door without its framework says what to install; any other failure stays itself."""

import re
import subprocess
import sys

import pytest


def import_without(hidden, platform):
    """Import a front door where some modules are missing; return what the interpreter printed."""
    program = f"""
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {set(hidden)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
try:
    import lossbridge.{platform}
except ImportError as error:
    print(type(error).__module__, type(error).__name__, error.name, error, sep="|")
else:
    print("imported")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("platform", "hidden", "packages"),
    [
        ("torch", "torch", ["torch"]),
        ("keras", "keras", ["keras", "tensorflow"]),
        ("keras", "tensorflow", ["keras", "tensorflow"]),
        ("jax", "jax", ["jax", "optax"]),
    ],
)
def test_a_missing_framework_names_what_the_index_has(platform, hidden, packages):
    # lossbridge[torch] is not there yet: whoever typed that was told that there is no such thing.
    kind, name, missing, message = import_without({hidden}, platform).split("|")
    assert (kind, name) == ("lossbridge.errors", "BackendUnavailable")
    assert missing == hidden
    assert f"lossbridge.{platform} needs" in message
    command = message.partition("pip install ")[2]
    assert re.findall('"([a-z]+)>=[0-9.]+"', command) == packages


@pytest.mark.parametrize("platform", ["torch", "keras", "jax"])
def test_a_missing_backend_is_not_blamed_on_the_framework(platform):
    answer = import_without({f"lossbridge_{platform}"}, platform)
    assert answer.startswith(f"builtins|ModuleNotFoundError|lossbridge_{platform}|")
