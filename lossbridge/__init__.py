"""Write a loss once, as mathematics; get the same function in PyTorch, Keras and JAX.

The front doors are ``lossbridge.torch``, ``lossbridge.keras`` and ``lossbridge.jax``. What stands
here is the language: specifications as data, and the means to write and read them.
"""

# This module imports nothing, and the names below arrive when they are first used: a tool that
# only asks for the version pays neither for NumPy (80 ms) nor for any framework. For the same
# reason TYPE_CHECKING is a plain constant, which both type checkers know, instead of the one in
# `typing`.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from lossbridge.ir import Expr
    from lossbridge.migrate.judge import assert_equivalent, compare
    from lossbridge.migrate.live import from_native
    from lossbridge.migrate.record import record
    from lossbridge.spec import Spec, dump, dumps, load, loads
    from lossbridge.trace import define

__version__ = "0.1.0"

__all__ = [
    "Expr",
    "Spec",
    "__version__",
    "assert_equivalent",
    "compare",
    "define",
    "dump",
    "dumps",
    "from_native",
    "load",
    "loads",
    "record",
]

_HOMES = {
    "Expr": "lossbridge.ir",
    "Spec": "lossbridge.spec",
    "assert_equivalent": "lossbridge.migrate.judge",
    "compare": "lossbridge.migrate.judge",
    "define": "lossbridge.trace",
    "dump": "lossbridge.spec",
    "dumps": "lossbridge.spec",
    "from_native": "lossbridge.migrate.live",
    "load": "lossbridge.spec",
    "loads": "lossbridge.spec",
    "record": "lossbridge.migrate.record",
}

if not TYPE_CHECKING:  # a type checker that saw this would accept every misspelt name

    def __getattr__(name: str) -> object:
        home = _HOMES.get(name)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(home), name)
        globals()[name] = value  # so that the next use costs nothing
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOMES})
