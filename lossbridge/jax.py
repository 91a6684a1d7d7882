"""Native JAX losses: ``import lossbridge.jax as L``."""

TYPE_CHECKING = False

try:
    import lossbridge_jax as _backend
    from lossbridge_jax import *
    from lossbridge_jax import __all__ as __all__
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in {"jax", "jaxlib"}:
        raise  # not the framework itself is missing, but something inside it or inside us
    from lossbridge.errors import BackendUnavailable
    from lossbridge.versions import install

    raise BackendUnavailable(
        "lossbridge.jax needs JAX, and there is no module named "
        f"{error.name!r} here; install it with: {install('jax')}",
        name=error.name,
    ) from error

if not TYPE_CHECKING:  # a type checker that saw this would accept every misspelt name

    def __getattr__(name: str) -> object:
        if name.startswith("_"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(_backend, name)
