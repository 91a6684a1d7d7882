"""The JAX objects: frozen, hashable callables over pure functions, and their function forms.

What a call does: bind its arguments, choose the loss by the dtypes, move the class axis last, check
the named axes, then run one compiled function. A call outside ``jax.jit`` is compiled too (once for
each set of shapes and dtypes); inside a jit it is inlined. Dispatched one operation at a time it
would cost a hundred times as much.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeAlias, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import checkify

from lossbridge import fitting, frontdoor, slips
from lossbridge.combine import (
    Combination,
    CombinedCall,
    bind_combined,
    coefficient_inputs,
    combination_text,
)
from lossbridge.dtypes import check_mask, check_weight, family, promoted, reading, widest
from lossbridge.errors import (
    ArgumentError,
    DTypeError,
    ShapeError,
    UnsupportedError,
    listed,
    shown,
)
from lossbridge.frontdoor import Bound, Call, Form
from lossbridge.hf import hf_function, settings_for_hf
from lossbridge.integers import identities
from lossbridge.kinds import Interval, Kind
from lossbridge.plan import Options, needed_options, plan
from lossbridge.spec import Spec
from lossbridge.synonyms import setting_hint
from lossbridge.valuecheck import ValueRule, refuse, refuse_mask, value_rules
from lossbridge_jax.ejected import source
from lossbridge_jax.engine import Array, DType, Run, compiled, whole
from lossbridge_jax.lowering import LOWERING

__all__ = [
    "CombinedLoss",
    "Loss",
    "as_hf",
    "checked",
    "class_of",
    "combination_of",
    "compile",
    "functions_of",
    "reduce",
]

Report: TypeAlias = Callable[[str, ValueRule, Any, Interval, dict[str, Any]], bool]

# --- the loss ------------------------------------------------------------------------------------


class _Meta(type):
    """Signature and documentation when somebody asks: both need the loss traced."""

    form: Form | None = None

    @property
    def __signature__(cls) -> inspect.Signature | None:
        if cls.form is None:
            made: Combination | None = getattr(cls, "combination", None)
            return None if made is None else made.signature
        return frontdoor.signature(cls.form)

    @property
    def __doc__(cls) -> str | None:  # type: ignore[override]
        if cls.form is None:
            doc: str | None = cls.__dict__.get("_doc")
            return doc
        return frontdoor.docstring(cls.form, "jax")

    def __setattr__(cls, name: str, value: object) -> None:
        raise AttributeError(f"{cls.__name__} is frozen; construct another loss instead")


class Loss(metaclass=_Meta):
    """A loss: ``loss(prediction, target, *, where=None, sample_weight=None, ...)``."""

    __slots__ = ("__weakref__", "_bound", "_key")
    _doc = "A loss: ``loss(prediction, target, *, where=None, sample_weight=None, ...)``."
    form: Form | None = None
    _bound: Bound
    _key: tuple[Any, ...]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        form = type(self).form
        if form is None:
            raise ArgumentError("Loss has no meaning of its own; write L.compile(spec)")
        self._settle(form, args, kwargs)

    def _settle(self, form: Form, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        given = frontdoor.by_name(form, args, kwargs, "jax")
        settings = {name: _frozen(value) for name, value in given.items()}
        self._keep(frontdoor.bind(form, "jax", settings))

    def _keep(self, bound: Bound, *parts: Any) -> None:
        object.__setattr__(self, "_bound", bound)
        arrays = tuple((name, _identity(value)) for name, value in sorted(bound.arrays.items()))
        numbers = tuple(tuple((n, type(v), v) for n, v in ns) for ns in bound.numbers)
        object.__setattr__(
            self,
            "_key",
            (
                bound.form.name,
                bound.specs,
                numbers,
                arrays,
                bound.reduction,
                bound.normalizer,
                bound.axis,
                tuple(sorted(bound.sizes.items())),
                *parts,
            ),
        )

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{self._bound.form.name} is frozen; construct another loss instead")

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, Loss) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        arrays = {
            name: (None if isinstance(x, jax.core.Tracer) else x.tolist(), str(x.dtype))
            for name, x in self._bound.arrays.items()
        }
        return frontdoor.constructor_text(self._bound, arrays)

    def __reduce__(self) -> tuple[Any, ...]:
        settings = dict(self._bound.given)
        return _restored, (type(self) if type(self).form else self._bound.specs[0], settings)

    def __getattr__(self, name: str) -> Any:
        """A setting, as it was given to the constructor."""
        if not name.startswith("_") and name in (known := frontdoor.settings_of(self._bound)):
            return known[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def bound(self) -> Bound:
        """The settings, as the framework-free part of lossbridge keeps them."""
        return self._bound

    @property
    def spec(self) -> Spec:
        """The loss as data, settings included (the first, where dtypes decide between several)."""
        return self._settled(0)

    @property
    def specs(self) -> tuple[Spec, ...]:
        """All the losses behind the name, as data, settings included."""
        return tuple(self._settled(which) for which in range(len(self._bound.specs)))

    def _settled(self, which: int) -> Spec:
        arrays = {n: np.asarray(x, np.float64).tolist() for n, x in self._bound.arrays.items()}
        return frontdoor.settled(self._bound, arrays, which)

    @property
    def source(self) -> str:
        """The function that a training step runs: value and gradient, as stand-alone Python."""
        return source(self._bound)

    def init(self, key: jax.Array, dtype: DType = jnp.float32) -> dict[str, jax.Array]:
        """Starting values of the trainable weights: ``loss(..., params=loss.init(key))``."""
        found: dict[str, jax.Array] = {}
        for spec in self._bound.specs:
            weights = {n: w for n, w in spec.weights.items() if n not in found}
            keys = jax.random.split(key, max(len(weights), 1))
            for (name, weight), one in zip(weights.items(), keys, strict=False):
                shape = tuple(
                    self._bound.sizes[s] if isinstance(s, str) else s
                    for s in (weight.sizes[a] for a in weight.kind.axes)
                )
                found[name] = _initial(weight.init, one, shape, dtype)
        return found

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._evaluate(frontdoor.bind_call(self._bound, "jax", args, kwargs), _refuse)

    def terms(self, *args: Any, **kwargs: Any) -> dict[str, Array]:
        """The values of the losses in a combination; one loss has none."""
        raise ArgumentError(frontdoor.no_terms(self._bound.form.name, "terms"))

    def term_coefficients(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What the terms of a combination are multiplied with; one loss has none."""
        raise ArgumentError(frontdoor.no_terms(self._bound.form.name, "term_coefficients"))

    def _evaluate(self, call: Call, report: Report) -> Any:
        bound = self._bound
        trees = any(kind.name == "tree" for kind in bound.specs[0].inputs.values())
        for key, x in call.inputs.items():
            wrong = None if trees else slips.not_an_array(bound.form.name, key, x, "jax")
            if wrong is not None:
                raise ArgumentError(wrong)
        which = bound.select(_dtype_kinds(bound, call), _ranks(bound, call))
        frontdoor.refuse_settings(bound, which)
        spec = bound.specs[which]
        if any(kind.name == "tree" for kind in spec.inputs.values()):
            return self._over_tree(spec, call)
        inputs = frontdoor.rename_inputs(bound, which, call.inputs)
        name = bound.form.name
        values: dict[str, Array] = {}
        like: DType = jnp.float32
        for key, kind in spec.inputs.items():
            values[key] = self._input(key, kind, _cast(spec, kind, inputs[key]), call, like)
            like = jnp.float64 if values[key].dtype == jnp.float64 else like
        kinds: dict[str, Kind] = dict(spec.inputs)
        self._take_weights(spec, call, values, kinds)
        shapes = {key: values[key].shape for key in kinds}
        was = {k: np.shape(inputs[k]) for k in spec.inputs}
        lengths = frontdoor.axis_lengths(
            kinds, shapes, name, lambda: fitting.advice(bound, "jax", which, was)
        )
        index = _index(spec, lengths)
        for key, param in spec.params.items():
            if key in bound.arrays:
                values[key] = _hyperparameter(name, key, param.kind, bound.arrays[key], lengths)
        if call.sample_weight is not None:
            weight = _along(name, "sample_weight", call.sample_weight, index)
            check_weight(name, str(weight.dtype))
            values["sample_weight"] = weight
        if call.mask is not None:
            mask = _along(name, "where", call.mask, index)
            check_mask(name, "where", str(mask.dtype))
            if _readable(mask):
                refuse_mask(name, "where", np.asarray(mask))
            values["mask"] = mask if mask.dtype == jnp.bool_ else mask != 0
        if call.normalizer_count is not None:
            values["normalizer_count"] = _scalar(name, "normalizer_count", call.normalizer_count)
        if spec.step:
            if call.step is None:
                raise ArgumentError(
                    f"{name} follows a schedule; write {frontdoor.call_text(spec, 'jax')}"
                )
            values["step"] = _scalar(name, "step", call.step)
        numbers = dict(bound.numbers[which])
        rules = value_rules(spec, bound.numbers[which])
        inside = _look(name, rules, values, numbers, lengths, report)
        integers = {n: values[n] for n, kind in spec.inputs.items() if kind.dtype == "int"}
        values.update(_held(name, spec, integers, numbers))
        compute, out = _precision(bound, which, values)
        options = Options(
            bound.reduction,
            bound.normalizer,
            call.sample_weight is not None,
            call.mask is not None,
            unread=not inside,
        )
        options = needed_options(spec, bound.numbers[which], options)
        run = Run(name, values, lengths, call.ports, compute, out)
        return run(spec, bound.numbers[which], options, out)

    def _input(
        self,
        key: str,
        kind: Kind,
        given: Any,
        call: Call | None = None,
        like: DType = jnp.float32,
    ) -> Array:
        """An array of the dtype kind that is wanted, its class axis last."""
        # Integers stay as they were given until they have been looked at: JAX without x64 would
        # make int64 int32, and wrap.
        x = _as_integers(given) if kind.dtype == "int" else _as_array(given)
        bound = self._bound
        name = bound.form.name

        def advise() -> str:
            found = {} if call is None else call.inputs
            arrays = [_as_array(found[n]) for n in bound.specs[0].inputs if n in found]
            return fitting.swapped(bound, "jax", [_family(a.dtype) for a in arrays])

        how = reading(
            name, key, kind, str(x.dtype), first=key in _first(bound), cast=_written_cast,
            advise=advise,
        )  # fmt: skip
        if how == "bool":
            x = x != 0
        elif how == "int":
            x = x.astype(jnp.int32)
        elif how != "as_is":
            x = x.astype(like)  # such as labels 0 and 1
            x = 2.0 * x - 1.0 if how == "sign" else x
        axis = self._bound.axis
        if axis not in (None, -1) and frontdoor.moved_axis(kind) is not None:
            axis = frontdoor.given_axis(axis, x.ndim)
            if not -x.ndim <= axis < x.ndim:
                raise ShapeError(f"{name}: axis={axis} was given, but {key} has shape {x.shape}")
            x = jnp.moveaxis(x, axis, -1)
        return x

    def _take_weights(
        self, spec: Spec, call: Call, values: dict[str, Array], kinds: dict[str, Kind]
    ) -> None:
        name = self._bound.form.name
        given = call.params
        if not spec.weights:
            if given is not None and given != {}:
                raise ArgumentError(f"{name} has no trainable weights, so it takes no params=")
            return
        if not isinstance(given, Mapping) or set(given) != set(spec.weights):
            what = listed(map(str, given)) if isinstance(given, Mapping) else given
            raise ArgumentError(
                f"{name} has the trainable weights {listed(spec.weights)}, but "
                f"params={shown(what)} was given; write params = loss.init(key), then "
                f"{frontdoor.call_text(spec, 'jax')}"
            )
        for key, weight in spec.weights.items():
            values[key], kinds[key] = _as_array(given[key]), weight.kind

    def _over_tree(self, spec: Spec, call: Call) -> Any:
        """A penalty on parameters: over all leaves of a pytree."""
        bound = self._bound
        (name,) = spec.inputs
        if call.sample_weight is not None or call.mask is not None:
            raise UnsupportedError(
                f"{bound.form.name} runs over parameters, which have no samples "
                "to weigh or mask; pass the leaves that count"
            )
        given, structure = jax.tree.flatten(call.inputs[name])
        # A model of Equinox's holds its activations beside its weights.
        places = [k for k, leaf in enumerate(given) if _is_array(leaf) or np.isscalar(leaf)]
        places = [k for k in places if not isinstance(given[k], str | bytes | bool)]
        if given and not places:
            raise ArgumentError(
                f"{bound.form.name}: {name} holds no array; pass the parameters, such as "
                "nnx.state(model, nnx.Param), or a model of Equinox's as it is"
            )
        leaves = [_as_array(given[k]) for k in places]
        for leaf in leaves:
            if not jnp.issubdtype(leaf.dtype, jnp.floating):
                raise DTypeError(
                    f"{bound.form.name}: a leaf of {name} is {leaf.dtype}; pass the "
                    "trainable leaves only"
                )
        out = jnp.dtype(promoted(str(leaf.dtype) for leaf in leaves) if leaves else jnp.float32)
        compute = np.dtype(widest([str(out)], spec.numerics.compute))
        options = Options(bound.reduction, bound.normalizer)
        count: Array = call.normalizer_count
        if bound.reduction == "mean" and bound.normalizer != "external":
            if bound.normalizer != "elements":
                raise UnsupportedError(
                    f"{bound.form.name} runs over parameters; divide by 'elements' or 'external'"
                )
            options, count = Options("mean", "external"), sum(leaf.size for leaf in leaves)
        arrays = {
            key: _hyperparameter(bound.form.name, key, spec.params[key].kind, value, {})
            for key, value in bound.arrays.items()
        }
        if count is not None:
            arrays["normalizer_count"] = _scalar(bound.form.name, "normalizer_count", count)
        if bound.reduction == "none":
            for place, leaf in zip(places, leaves, strict=True):
                given[place] = Run(
                    bound.form.name, {name: leaf, **arrays}, {}, {}, compute, leaf.dtype
                )(spec, bound.numbers[0], options, leaf.dtype)
            return jax.tree.unflatten(structure, given)
        parts = [
            Run(bound.form.name, {name: leaf, **arrays}, {}, {}, compute, leaf.dtype)(
                spec, bound.numbers[0], options, compute
            )
            for leaf in leaves
        ]
        return functools.reduce(lax.add, parts, jnp.zeros((), compute)).astype(out)


def _first(bound: Bound) -> set[str]:
    """The names of what the losses behind one name are about."""
    return {next(iter(spec.inputs)) for spec in bound.specs}


def _family(dtype: DType) -> str:
    """As messages about exchanged inputs tell dtypes apart."""
    return "real" if family(str(dtype)) == "real" else "int"


def _written_cast(key: str, wanted: str) -> str:
    if wanted == "parts":
        return f"{key}.real or jnp.abs({key})"
    return f"{key}.astype('{({'real': 'float32', 'int': 'int32'}).get(wanted, wanted)}')"


def _precision(bound: Bound, which: int, values: Mapping[str, Array]) -> tuple[DType, DType]:
    """What is computed in, and what is given back. Not by JAX's promotion, which may be strict."""
    computed, given_back = frontdoor.promotion_of(bound, which)
    least = bound.specs[which].numerics.compute
    compute = widest((str(values[n].dtype) for n in computed), least)
    return np.dtype(compute), jnp.dtype(promoted(str(values[n].dtype) for n in given_back))


def _restored(source: Any, settings: Mapping[str, Any]) -> Loss:
    loss: Loss = source(**settings) if isinstance(source, type) else compile(source, **settings)
    return loss


def _as_array(x: Any) -> Array:
    if isinstance(x, jax.Array):
        return x
    if x is None or isinstance(x, str | bytes | Mapping | set):
        raise ArgumentError(f"a loss takes arrays and numbers, but {shown(x)} was given")
    return jnp.asarray(x)


def _as_integers(x: Any) -> Any:
    """As ``_as_array``, but NumPy's as they are, and numbers as NumPy's."""
    if isinstance(x, np.ndarray):
        return x
    if isinstance(x, int | list | tuple | np.generic):
        try:
            return np.asarray(x)
        except (TypeError, ValueError):  # some are traced
            return jnp.asarray(x)
    return _as_array(x)


def _held(
    name: str, spec: Spec, values: Mapping[str, Any], numbers: Mapping[str, Any]
) -> dict[str, Array]:
    """Integer inputs in a dtype that JAX has, in which what was told apart still is."""
    known = identities(spec)
    far = tuple(
        v
        for v in numbers.values()
        if isinstance(v, int) and not isinstance(v, bool) and not -(2**31) <= v < 2**31
    )
    wide = {n: x for n, x in values.items() if n in known.names and not _fits(x, n in known.plain)}
    if not wide:
        return {n: whole(x, n in known.names, far) for n, x in values.items()}
    together = {n: x for n, x in values.items() if n in known.names}
    if not all(n in known.plain and _readable(x) for n, x in together.items()):
        raise DTypeError(
            f"{name}: {listed(wide)} of dtype {next(iter(wide.values())).dtype} is compared, and "
            "does not fit into int32, the widest that JAX has without x64; enable x64 with "
            'jax.config.update("jax_enable_x64", True), or number the labels: '
            "np.unique(labels, return_inverse=True)[1]"
        )
    # Told apart here, since JAX would wrap them: 5000000001 and 705032705 are one int32.
    arrays = {n: np.asarray(x) for n, x in together.items()}
    every = np.concatenate([x.ravel() for x in arrays.values()])
    places = np.unique(every, return_inverse=True)[1].astype(np.int32)
    found = {n: whole(x, False, far) for n, x in values.items() if n not in together}
    for n, x in arrays.items():
        found[n], places = places[: x.size].reshape(x.shape), places[x.size :]
    return found


def _fits(x: Any, plain: bool) -> bool:
    """Whether JAX has a dtype in which these integers stay apart from one another."""
    if jax.dtypes.canonicalize_dtype(np.int64) == np.int64:
        return True
    if x.dtype.itemsize < 4 or x.dtype == np.int32:
        return True
    if plain and x.dtype == np.uint32:
        return True
    if not _readable(x):
        return False
    array = np.asarray(x)
    return bool(array.size == 0 or (array.min() >= -(2**31) and array.max() < 2**31))


def _cast(spec: Spec, kind: Kind, given: Any) -> Any:
    """An input in the dtype that the loss casts it to, where it says so."""
    cast = spec.numerics.cast
    if cast is None:
        return given
    x = _as_array(given)
    floating = jnp.issubdtype(x.dtype, jnp.floating)
    if kind.dtype == "int" and floating:
        return x.astype(jnp.int32)
    if kind.dtype == "real" and (cast != "floating" or not floating):
        return x.astype(jax.dtypes.canonicalize_dtype(spec.numerics.dtype or jnp.float32))
    return given


def _is_array(x: Any) -> bool:
    return hasattr(x, "shape") and hasattr(x, "dtype")


def _frozen(value: Any) -> Any:
    """An array hyperparameter as an array of ours, which nobody changes afterwards."""
    if isinstance(value, jax.Array) or (not _is_array(value) and not isinstance(value, list)):
        return value
    copy = np.array(value)
    if copy.dtype == np.float64:
        copy = copy.astype(jax.dtypes.canonicalize_dtype(np.float64))  # as JAX would hold it
    copy.setflags(write=False)
    return copy


def _identity(value: Any) -> Any:
    """What makes two array hyperparameters the same: their bytes, or being the same tracer."""
    if isinstance(value, jax.core.Tracer):
        return id(value)
    concrete = np.asarray(value)
    return str(concrete.dtype), concrete.shape, concrete.tobytes()


def _dtype_kinds(bound: Bound, call: Call) -> dict[str, str]:
    found: dict[str, str] = {}
    for position, given in enumerate(call.inputs[n] for n in bound.specs[0].inputs):
        if len(bound.specs) == 1:
            break
        kind = family(str(_as_integers(given).dtype))
        found.update((tuple(spec.inputs)[position], kind) for spec in bound.specs)
    return found


def _ranks(bound: Bound, call: Call) -> list[int]:
    if len(bound.specs) == 1:
        return []
    return [np.ndim(call.inputs[n]) for n in bound.specs[0].inputs]


def _index(spec: Spec, lengths: Mapping[str, Sequence[int | None]]) -> tuple[int, ...]:
    return tuple(n for n in frontdoor.index_shape(spec, lengths) if n is not None)


def _along(name: str, what: str, given: Any, index: tuple[int, ...]) -> Array:
    """A weight or mask, repeated to one entry for each value of the loss."""
    x = _as_array(given)
    shape = frontdoor.aligned_shape(name, what, x.shape, index)
    return x if x.shape == index else jnp.broadcast_to(x.reshape(shape), index)


def _scalar(name: str, what: str, given: Any) -> Array:
    x = _as_array(given)
    if x.shape != ():
        raise ShapeError(f"{name}: {what} is a single number, but its shape is {x.shape}")
    return x


def _hyperparameter(
    name: str, key: str, kind: Kind, given: Any, lengths: Mapping[str, Sequence[int | None]]
) -> Array:
    """An array hyperparameter, repeated along the axes of its kind; those broadcast as in NumPy."""
    x = _as_array(given)
    unknown = [axis for axis in kind.axes if axis not in lengths]
    if unknown and x.ndim == len(kind.axes):
        # How many maps a port returns is known only once it has been called.
        lengths = {**lengths, **{a: (x.shape[kind.axes.index(a)],) for a in unknown}}
    wanted = tuple(n for axis in kind.axes for n in lengths.get(axis, (None,)))
    if x.shape == wanted:
        return x
    try:
        fits = np.broadcast_shapes(x.shape, wanted) == wanted  # type: ignore[arg-type]
    except ValueError:
        fits = False
    if not fits:
        raise ShapeError(
            f"{name}: {key} is {kind}, here of shape {wanted}, but its shape is {x.shape}"
        )
    return jnp.broadcast_to(x, wanted)


def _initial(rule: str | float, key: jax.Array, shape: tuple[int, ...], dtype: DType) -> jax.Array:
    if not isinstance(rule, str):
        return jnp.full(shape, rule, dtype)
    initializers = jax.nn.initializers
    known: dict[str, Callable[..., jax.Array]] = {
        "zeros": initializers.zeros,
        "ones": initializers.ones,
        "normal": jax.random.normal,
        "uniform": jax.random.uniform,
        "glorot_normal": initializers.glorot_normal(),
        "glorot_uniform": initializers.glorot_uniform(),
    }
    return known[rule](key, shape, dtype)


# --- labels out of range -------------------------------------------------------------------------


def _look(
    name: str,
    rules: Iterable[ValueRule],
    values: Mapping[str, Any],
    numbers: Mapping[str, Any],
    lengths: Mapping[str, Sequence[int | None]],
    report: Report,
) -> bool:
    """Hand what a rule is about to ``report``; ``numbers`` has the parameters.

    True where all have been read and lie inside.
    """
    inside = True
    for rule in rules:
        interval = rule.interval(lengths)
        if interval is None:
            continue
        known = {**numbers, **values}
        needed = {*rule.exempt, *(end for end, _ in rule.ends), "mask"}
        beside = {n: known[n] for n in needed if n in known}
        inside = report(name, rule, values[rule.name], interval, beside) and inside
    return inside


def _concrete(x: Any) -> Any:
    """The numbers behind what is differentiated outside a ``jit``; what is traced stays itself."""
    find = getattr(x, "to_concrete_value", None) if isinstance(x, jax.core.Tracer) else None
    known = None if find is None else find()
    return x if known is None else known


def _readable(x: Any) -> bool:
    """Whether reading the values waits for nobody: a concrete array of this process, on a CPU."""
    if not isinstance(x, jax.Array):
        return True
    return (
        not isinstance(x, jax.core.Tracer)
        and x.is_fully_addressable
        and all(d.platform == "cpu" for d in x.devices())
    )


def _refuse(name: str, rule: ValueRule, x: Any, interval: Interval, beside: dict[str, Any]) -> bool:
    """Raise, where that costs no synchronisation; elsewhere the loss is NaN there.

    True where all has been read and lies inside.
    """
    x, beside = _concrete(x), {n: _concrete(v) for n, v in beside.items()}
    if not _readable(x):
        return False
    array = np.asarray(x)
    if rule.inside(array, interval):
        return True
    if all(map(_readable, beside.values())):
        arrays = {n: v if isinstance(v, int) else np.asarray(v) for n, v in beside.items()}
        refuse(name, rule, array, interval, arrays)
    return False


def _comparable(x: Any) -> Any:
    """What JAX compares with any other integer: numbers and integers held at the ends of int32."""
    if isinstance(x, int) and not isinstance(x, bool):
        return min(max(x, -(2**31)), 2**31 - 1)
    return whole(x) if _is_array(x) and jnp.issubdtype(x.dtype, jnp.integer) else x


def checked(loss: Loss) -> Callable[..., tuple[Any, Any]]:
    """The loss with its values checked under ``jit`` too: gives ``(error, value)``.

    ``error.throw()`` raises outside the jit if a label names no class, or a number lies outside of
    its domain (JAX cannot raise inside).
    """

    def report(
        name: str, rule: ValueRule, x: Any, interval: Interval, beside: dict[str, Any]
    ) -> bool:
        held = {n: _comparable(v) for n, v in beside.items()}
        wrong = rule.wrong(jnp, _comparable(x), interval, held)
        checkify.check(~jnp.any(wrong), rule.text(name, interval, beside))
        return False

    def run(*args: Any, **kwargs: Any) -> Any:
        call = frontdoor.bind_call(loss._bound, "jax", args, kwargs)
        return loss._evaluate(call, report)

    return checkify.checkify(run, errors=checkify.user_checks)


# --- making classes and functions ----------------------------------------------------------------

MODULE = "lossbridge.jax"


def class_of(form: Form) -> type[Loss]:
    """The public class of a loss."""
    made: Any = _Meta(
        form.name,
        (Loss,),
        {"__slots__": (), "__module__": MODULE, "form": form, "__qualname__": form.name},
    )
    return cast("type[Loss]", made)


class CombinedLoss(Loss):
    """A loss made of named losses: ``loss(depth=(prediction, target), label=(logits, labels))``."""

    __slots__ = ("_children", "_given")
    _doc = "A loss made of named losses: ``loss(depth=(prediction, target), ...)``."
    combination: Combination | None = None
    _children: dict[str, Loss]
    _given: dict[str, Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        made = type(self).combination
        if made is None:
            raise ArgumentError("write L.WeightedLoss(...), or another class of a combination")
        given = made.settings(args, kwargs)
        bound = made.build(**given)
        object.__setattr__(self, "_children", dict(given["losses"]))
        object.__setattr__(self, "_given", given)
        self._keep(bound, tuple(self._children.items()))

    def __repr__(self) -> str:
        return combination_text(type(self).__name__, self._given)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), self._given)

    def init(self, key: jax.Array, dtype: DType = jnp.float32) -> dict[str, Any]:
        """Starting values: its own weights, and those of the named losses under ``children``."""
        own, *keys = jax.random.split(key, len(self._children) + 1)
        found: dict[str, Any] = super().init(own, dtype)
        children = {
            name: child.init(k, dtype)
            for (name, child), k in zip(self._children.items(), keys, strict=True)
            if child.bound.specs[0].weights or isinstance(child, CombinedLoss)
        }
        return {**found, "children": children} if children else found

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self._evaluated(args, kwargs, None)

    def terms(self, /, *args: Any, **kwargs: Any) -> dict[str, Array]:
        """The value of each loss in a combination, by its name, at the call as ``loss`` takes it.

        The values are reduced, as each loss alone gives them, before its coefficient. The terms of
        a combination inside this one come under its name, as ``outer/inner``, beside ``outer``.
        """
        found: dict[str, Array] = {}
        self._evaluated(args, kwargs, found)
        return found

    def term_coefficients(self, /, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What the value multiplies each of ``terms`` with, at the same call, by the same names."""
        call = self._bound_call(args, kwargs)
        own, below = self._own(call)
        if "moment" in own:
            own["moment"] = own["moment"].astype(jnp.float32)
        found: dict[str, Any] = {}
        for name, child in self._children.items():
            spec, numbers, given = coefficient_inputs(self._bound, name, own)
            fixed = not own
            found[name] = (
                next(iter(given.values())) if fixed else _coefficient(spec, numbers)(**given)
            )
            if isinstance(child, CombinedLoss):
                mapping = self._mapping(call, name)
                extra = {"params": below[name]} if name in below else {}
                for key, inner in child.term_coefficients(mapping, **extra).items():
                    found[f"{name}/{key}"] = found[name] * inner
        return found

    def _bound_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> CombinedCall:
        children = {name: child.bound for name, child in self._children.items()}
        return bind_combined(type(self).__name__, self._bound, children, "jax", args, kwargs)

    def _mapping(self, call: CombinedCall, name: str) -> dict[str, Any]:
        """What a combination inside this one is called with."""
        return {**call.named[name], **dict(*call.places.get(name, ()))}

    def _own(self, call: CombinedCall) -> tuple[dict[str, Array], Mapping[str, Any]]:
        """What the combination itself computes with, the step as ``moment``; and the weights of
        its losses."""
        spec, title = self._bound.specs[0], type(self).__name__
        params = dict(call.params or {})
        below: Mapping[str, Any] = params.pop("children", {})
        values: dict[str, Array] = {
            key: self._input(key, spec.inputs[key], value) for key, value in call.own.items()
        }
        kinds = {key: spec.inputs[key] for key in call.own}
        self._take_weights(spec, Call({}, params=params or None), values, kinds)
        frontdoor.axis_lengths(kinds, {k: values[k].shape for k in kinds}, title)
        if spec.step:
            if call.step is None:
                raise ArgumentError(f"{title} follows a schedule; give it step=step")
            values["moment"] = _scalar(title, "step", call.step)
        return values, below

    def _evaluated(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], terms: dict[str, Array] | None
    ) -> Array:
        """The value; ``terms``, where it is given, is filled with the value of each loss."""
        bound, spec = self._bound, self._bound.specs[0]
        combined = bound.combined
        assert combined is not None
        call = self._bound_call(args, kwargs)
        values, below = self._own(call)
        parts: dict[str, Array] = {}
        for name, child in self._children.items():
            extra = {"params": below[name]} if name in below else {}
            inner: dict[str, Array] | None = None if terms is None else {}
            if isinstance(child, CombinedLoss):
                parts[name] = child._evaluated((self._mapping(call, name),), extra, inner)
            else:
                parts[name] = child(*call.places.get(name, ()), **call.named[name], **extra)
            if terms is not None:
                terms[name] = parts[name]
                terms.update((f"{name}/{key}", value) for key, value in (inner or {}).items())
        if spec.step:
            values["step"] = values.pop("moment")
        options = Options(bound.reduction, bound.normalizer)
        prepared = plan(spec, bound.numbers[0], options, LOWERING.native)
        values.update((call.name, parts[combined.uses[call.port]]) for call in prepared.calls)
        out = jnp.dtype(promoted(str(part.dtype) for part in parts.values()))
        compute = np.dtype(widest([str(out)], spec.numerics.compute))
        run = compiled(spec, bound.numbers[0], options, compute, out)
        return run(*(values[n] for n, _ in prepared.stable.inputs()))


@functools.lru_cache(maxsize=256)
def _coefficient(spec: Spec, numbers: tuple[tuple[str, Any], ...]) -> Loss:
    return compile(spec, **dict(numbers))


def combination_of(combination: Combination) -> type[CombinedLoss]:
    """The public class of a combination."""
    made: Any = _Meta(
        combination.name,
        (CombinedLoss,),
        {
            "__slots__": (),
            "__module__": MODULE,
            "combination": combination,
            "__qualname__": combination.name,
            "_doc": combination.doc,
        },
    )
    return cast("type[CombinedLoss]", made)


class _Compiled(Loss):
    """An instance made from a specification; its class has no constructor of its own."""

    __slots__ = ()
    _doc = "An instance made from a specification."


def compile(source: Any, **params: Any) -> Loss:
    """An instance of any loss: a specification, a defined function, or a path to a file."""
    form = frontdoor.as_form(source)
    frontdoor.check_uses(form)
    return _settled(form, **params)


def _settled(form: Form, /, **params: Any) -> Loss:
    loss = object.__new__(_Compiled)
    loss._settle(form, (), params)
    return loss


class _Function:
    """A function form: unreduced unless told, hyperparameters by keyword."""

    def __init__(self, form: Form) -> None:
        self._form = form
        cls = functools.partial(_settled, form)
        self.__name__ = self.__qualname__ = self._form.definitions[0].id.split("@")[0]
        self.__module__ = MODULE
        own = ("reduction", "normalizer", "axis", "empty", *self._form.sizes, *self._form.params)
        self._own = frozenset(own)
        self._fresh = cls
        self._cached = functools.lru_cache(maxsize=256, typed=True)(cls)

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        return frontdoor.docstring(self._form, "jax").replace("Call: loss(", f"{self.__name__}(")

    @property
    def __signature__(self) -> inspect.Signature:
        kinds = inspect.Parameter
        spec = self._form.definitions[0].spec
        parameters = [kinds(name, kinds.POSITIONAL_OR_KEYWORD) for name in spec.inputs]
        parameters += [kinds(name, kinds.KEYWORD_ONLY) for name in spec.ports]
        for name in ("where", "sample_weight", "normalizer_count", "params"):
            if name != "params" or spec.weights:
                parameters.append(kinds(name, kinds.KEYWORD_ONLY, default=None))
        if spec.step:
            parameters.append(kinds("step", kinds.KEYWORD_ONLY))
        for p in frontdoor.signature(self._form).parameters.values():
            default = {"reduction": "none", "axis": -1}.get(p.name, p.default)
            parameters.append(p.replace(kind=kinds.KEYWORD_ONLY, default=default))
        return inspect.Signature(parameters)

    def __repr__(self) -> str:
        return f"<function {MODULE}.{self.__name__}{self.__signature__}>"

    def __reduce__(self) -> str:
        return self.__name__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        settings: dict[str, Any] = {"reduction": "none"}
        if not self._form.has_axis and kwargs.get("axis") == -1:
            kwargs.pop("axis")
        call = {}
        spec = self._form.definitions[0].spec
        known = {
            *spec.inputs,
            *spec.ports,
            *frontdoor.aliases(spec, "jax"),
            *frontdoor.CALL_KEYWORDS,
            "where",
            "params",
        }
        for name, value in kwargs.items():
            if name in self._own:
                settings[name] = value
            elif name in known:
                call[name] = value
            else:
                options = [*self.__signature__.parameters]
                raise ArgumentError(
                    f"{self.__name__} has no argument {shown(name)}; its arguments "
                    f"are {listed(options)}{setting_hint(name, options)}"
                )
        try:
            loss = self._cached(**settings)
        except TypeError as error:
            if isinstance(error, ArgumentError) or "unhashable" not in str(error):
                raise
            loss = self._fresh(**settings)  # an array among them
        return loss(*args, **call)


def functions_of(form: Form) -> list[_Function]:
    """The function forms of a class: one for each of its definitions.

    The first also takes what the others are for, as the class does.
    """
    rest = [Form(form.name, (definition,)) for definition in form.definitions[1:]]
    return [_Function(f) for f in (form, *rest)]


def reduce(
    values: Array,
    *,
    mask: Any = None,
    where: Any = None,
    sample_weight: Any = None,
    weights: Any = None,
    reduction: str = "mean",
    normalizer: str | None = None,
    normalizer_count: Any = None,
    denominator: Any = None,
) -> jax.Array:
    """Reduce values as every loss here does; masked ones neither show nor have a gradient.

    ``mask`` selects; ``sample_weight`` multiplies, and enters the divisor only with
    ``normalizer="weights"``. ``normalizer_count`` is a divisor of your own. ``where``, ``weights``
    and ``denominator`` (a normaliser's name or a number) are other names of these.
    """
    settings, call = frontdoor.reduce_arguments(
        mask=mask,
        where=where,
        sample_weight=sample_weight,
        weights=weights,
        reduction=reduction,
        normalizer=normalizer,
        normalizer_count=normalizer_count,
        denominator=denominator,
    )
    result: jax.Array = compile(frontdoor.values_spec(), **settings)(values, **call)
    return result


def as_hf(loss: Loss, shift_labels: bool = False) -> Callable[..., Any]:
    """A function ``f(outputs, labels, num_items_in_batch=None)`` as transformers' Trainer calls it.

    ``outputs`` is a model's output with ``logits`` (an object or a dictionary), a tuple that begins
    with them, or the logits, which have the classes last; half-precision ones are computed with in
    float32, and so is the loss that comes back. ``shift_labels`` pairs each position's logits with
    the next position's label.
    """
    bound: Any = getattr(loss, "bound", None)
    settings = settings_for_hf(loss, bound)
    own = compile(bound.form, **settings)
    counted = compile(bound.form, **{**settings, "normalizer": "external"})

    def rank(x: Any) -> int | None:
        return np.ndim(x) if _is_array(x) else None

    def prepare(logits: Array, labels: Array) -> tuple[Array, Array]:
        logits = jnp.asarray(logits)
        if logits.dtype in (jnp.float16, jnp.bfloat16):
            logits = logits.astype(jnp.float32)
        return logits, labels if isinstance(labels, np.ndarray) else jnp.asarray(labels)

    return hf_function(bound, shift_labels, rank, prepare, own, counted)
