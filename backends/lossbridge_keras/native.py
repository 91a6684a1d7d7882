"""The wrapper: what makes emitted functions Keras losses and layers.

A loss of exactly (y_true, y_pred), without weights, ports or a step, is a ``keras.losses.Loss``;
every other is an endpoint ``keras.layers.Layer``, which :func:`with_loss` wires to a model. Both
hand their calls to an :class:`Engine`.
"""

from __future__ import annotations

import dataclasses
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from lossbridge import frontdoor, slips
from lossbridge.combine import (
    Combination,
    CombinedCall,
    bind_combined,
    coefficient_inputs,
    combination_text,
    of_values,
)
from lossbridge.dtypes import family, promotion
from lossbridge.errors import ArgumentError, BackendUnavailable, ShapeError, listed, shown
from lossbridge.frontdoor import Bound, Call, Form
from lossbridge.hf import hf_function, settings_for_hf
from lossbridge.ir import is_star
from lossbridge.spec import Spec, dumps, loads
from lossbridge_keras.attached import all_of, layer_mask
from lossbridge_keras.engine import (
    BACKEND,
    PACKAGE,
    Eager,
    Engine,
    Tensor,
    as_it_is,
    cast,
    check_values,
    gradient_types,
    kernel,
    refuse_activated,
    rules_of,
    same_rank,
)

if BACKEND == "tensorflow":
    import tensorflow as tf


# --- what the two kinds of object share ----------------------------------------------------------

_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_EXTRA = tuple(inspect.Parameter(name, _KEYWORD, default=None) for name in ("name", "dtype"))


def is_loss(form: Form) -> bool:
    """Whether a form is a ``keras.losses.Loss``: (y_true, y_pred), and nothing more."""
    d: Any = form.definitions[0]
    more = d.weights or d.ports or d.settings["step"] or d.settings["uses"]
    return len(d.inputs) == 2 and not more and frontdoor.has_target(d)


class _Compiled:
    """The part of a native loss that is the same for Loss and Layer."""

    form: Form | None = None
    _engine: Any
    _settings: dict[str, Any]
    _dtype_given: str | None

    def _settle(
        self, form: Form, args: Sequence[Any], settings: dict[str, Any], dtype: Any
    ) -> None:
        settings = frontdoor.by_name(form, args, settings, "keras")
        bound = frontdoor.bind(form, "keras", settings)
        lists = {
            n: np.asarray(x, keras.config.floatx() if np.asarray(x).dtype.kind == "f" else None)
            for n, x in bound.arrays.items()
            if isinstance(bound.given.get(n), list | tuple)
        }
        bound = dataclasses.replace(bound, arrays={**bound.arrays, **lists})
        if dtype is not None and not isinstance(dtype, str):
            dtype = getattr(dtype, "compute_dtype", None) or keras.backend.standardize_dtype(dtype)
        self._settings, self._dtype_given, self._bound = settings, dtype, bound
        self._engine = _engine(bound, dtype)

    def __getattr__(self, name: str) -> Any:
        """A setting, as it was given to the constructor."""
        bound = self.__dict__.get("_bound")
        if bound is not None and name in (known := frontdoor.settings_of(bound)):
            return known[name]
        above = getattr(super(), "__getattr__", None)  # a layer on PyTorch has one
        if above is not None:
            return above(name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if "_made" in self.__dict__ and name in frontdoor.settings_of(self._bound):
            frontdoor.refuse_setting(self._bound.form.name, name, getattr(self, name), value)
        super().__setattr__(name, value)

    @property
    def bound(self) -> Bound:
        """The loss with its settings."""
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
        arrays = {n: _numbers(x).tolist() for n, x in self._bound.arrays.items()}
        return frontdoor.settled(self._bound, arrays, which)

    def terms(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The values of the losses in a combination; one loss has none."""
        raise ArgumentError(frontdoor.no_terms(self._bound.form.name, "terms"))

    def term_coefficients(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What the terms of a combination are multiplied with; one loss has none."""
        raise ArgumentError(frontdoor.no_terms(self._bound.form.name, "term_coefficients"))

    @property
    def source(self) -> str:
        """The emitted function: the value, and its gradient in the inputs."""
        if BACKEND != "tensorflow":
            return str(self._engine.inner.source)
        bound = self._bound
        found = kernel(bound.specs[0], bound.numbers[0], self._engine.options(True, False, False))
        wrt = tuple(n for n in found.names if n in found.real)[:1]
        return found.source("fused" if wrt else "plain", wrt)

    def __repr__(self) -> str:
        arrays = {n: (_numbers(x).tolist(), _dtype_name(x)) for n, x in self._bound.arrays.items()}
        dtype = {} if self._dtype_given is None else {"dtype": self._dtype_given}
        return frontdoor.constructor_text(self._bound, arrays, **dtype)

    def _config(self) -> dict[str, Any]:
        """The whole specification and every setting, as JSON holds them."""
        settings = {k: _plain(v) for k, v in self._settings.items()}
        return {
            "name": self.name,  # type: ignore[attr-defined]
            "dtype": self._dtype_given,
            "class_name": self._bound.form.name,
            "specs": [dumps(spec, indent=None) for spec in self._bound.form.specs],
            "settings": settings,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """The object again, from the specification as it was saved."""
        config = dict(config)
        texts, name = config.pop("specs"), config.pop("class_name")
        settings = {k: _restored(v) for k, v in config.pop("settings").items()}
        specs = tuple(loads(text) for text in texts)
        make: Any = cls
        if cls.form is not None and cls.form.specs == specs:
            return make(**settings, **config)
        definitions = tuple(d for spec in specs for d in frontdoor.as_form(spec).definitions)
        return make(**settings, **config, _form=Form(name, definitions))


def _numbers(x: Any) -> Any:
    """An array of any framework as NumPy's, wide enough to be exact."""
    return np.asarray(keras.ops.convert_to_numpy(x), np.float64)


def _dtype_name(x: Any) -> str:
    return str(keras.backend.standardize_dtype(x.dtype)) if hasattr(x, "dtype") else "float64"


def _plain(value: Any) -> Any:
    """A setting as JSON holds it; arrays with their dtype, exactly."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    array = keras.ops.convert_to_numpy(value)
    if array.ndim == 0:
        return array.item()
    return {"array": array.astype(np.float64).tolist(), "dtype": str(array.dtype)}


def _restored(value: Any) -> Any:
    if isinstance(value, Mapping) and "array" in value:
        wide = np.asarray(value["array"], np.float64)
        return keras.ops.convert_to_tensor(wide, dtype=value["dtype"])
    return value


def _calls(form: Form, combined: bool) -> inspect.Signature:
    """The signature of a layer's call: every input by name; of a combination all in one."""
    if combined:
        return inspect.Signature(
            [
                inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD)
                for n in ("self", "given")
            ]
        )
    d = form.definitions[0]
    names = [*d.inputs, *d.ports, "sample_weight", "mask", "normalizer_count"]
    if d.settings["step"]:
        names.append("step")
    parameters = [inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    parameters += [
        inspect.Parameter(
            n, _KEYWORD, default=inspect.Parameter.empty if n in d.inputs or n in d.ports else None
        )
        for n in names
    ]
    return inspect.Signature(parameters)


# --- losses of (y_true, y_pred) ------------------------------------------------------------------


class Loss(_Compiled, keras.losses.Loss):
    """A loss of (y_true, y_pred): everything ``keras.losses.Loss`` is, with our own ``__call__``.

    The base class casts labels and masks to the loss's dtype (in bfloat16 class 257 becomes 256)
    and reduces outside; this one does neither, and costs a tenth of it on a small batch.
    """

    def __init__(
        self,
        *args: Any,
        name: str | None = None,
        dtype: Any = None,
        _form: Form | None = None,
        **settings: Any,
    ) -> None:
        form = _form or type(self).form
        if form is None:
            raise ArgumentError("write lossbridge.keras.compile(spec), or use one of the classes")
        self._settle(form, args, settings, dtype)
        reduction = settings.get("reduction", form.reduction.kind)
        super().__init__(
            name=name or _snake(form.name),
            reduction="none",
            dtype=dtype or self.bound.specs[0].numerics.dtype,
        )
        self.reduction = reduction
        self._fast: dict[Any, Any] = {}
        self.__dict__["_made"] = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 2 and not kwargs:
            y_true, y_pred = args
            # Nothing that a layer left on them: no mask, no remembered logits.
            if (
                type(y_pred) is Eager
                and type(y_true) is Eager
                and not y_pred.__dict__
                and not y_true.__dict__
            ):
                key = (y_pred.dtype, y_true.dtype, y_pred.shape, y_true.shape)
                fast = self._fast.get(key)
                if fast is not None:
                    run, direct, rules, names, numbers, narrow, compute, out, options = fast
                    if rules:
                        given = dict(zip(names, (y_pred, y_true), strict=True))
                        if not check_values(self.bound.form.name, rules, given, numbers):
                            return self._slow(args, kwargs)
                    if narrow:
                        y_true = tf.raw_ops.Cast(x=y_true, DstT=tf.int64)
                    if direct is not None and not gradient_types((y_pred, y_true)):
                        (value,) = direct(y_pred, y_true)
                    else:
                        value = run((y_pred, y_true), compute, out)
                    return self._engine.scaled(value, options)
                self._remember(key, y_pred, y_true)
        return self._slow(args, kwargs)

    def _remember(self, key: Any, y_pred: Tensor, y_true: Tensor) -> None:
        """What a later call with these shapes may skip, if this one turns out to need nothing."""
        engine, bound = self._engine, self.bound
        if bound.arrays or bound.axis not in (None, -1) or bound.normalizer == "external":
            return
        names = tuple(bound.specs[0].inputs)
        raw = {names[0]: y_pred, names[1]: y_true}
        which = bound.select(engine._dtype_kinds(raw), [x.shape.rank for x in raw.values()])
        spec, numbers = bound.specs[which], bound.numbers[which]
        if not y_pred.dtype.is_floating:
            return
        given = frontdoor.rename_inputs(bound, which, raw)
        same = same_rank(spec, given)
        seen = cast(spec, given)
        if any(same[n] is not given[n] or seen[n].dtype != given[n].dtype for n in given):
            return
        compute, out = engine._precision(which, given)
        _, second = spec.inputs.values()
        if second.dtype == "int" and (y_true.dtype == tf.uint64 or not y_true.dtype.is_integer):
            return
        if second.dtype == "real" and not y_true.dtype.is_floating:
            return
        shapes = {n: tuple(x.shape) for n, x in given.items()}
        try:
            lengths = frontdoor.axis_lengths(dict(spec.inputs), shapes, engine.name)
        except ShapeError:
            return  # for the call itself to say, with what would fit
        options = engine.options(True, False, False)
        found = kernel(spec, numbers, options)
        if found.plan.calls or found.names != tuple(spec.inputs):
            return
        # Nothing to cast, and few enough ops: where nobody differentiates, the emitted function.
        wide = {y_pred.dtype, compute, out, y_true.dtype if second.dtype == "real" else compute}
        small = len(wide) == 1 and found.small("plain", (), (y_pred, y_true))
        direct = found.function("plain", (), True) if small else None
        if len(self._fast) > 64:  # every shape of a long run of ragged batches
            self._fast.clear()
        rules = rules_of(bound, which, lengths)
        names, narrow = tuple(spec.inputs), second.dtype == "int" and y_true.dtype != tf.int64
        self._fast[key] = (
            *(found, direct, rules, names, dict(numbers), narrow),
            *(compute, out, options),
        )

    @as_it_is
    def _slow(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if len(args) == 3 and "sample_weight" not in kwargs:  # as Keras's own trainer calls it
            args, kwargs = args[:2], {**kwargs, "sample_weight": args[2]}
        call = frontdoor.bind_call(self.bound, "keras", args, kwargs)
        if BACKEND != "tensorflow":
            return self._engine.run(call, {})
        if tf.executing_eagerly():
            return self._engine.run(call, {})
        if self.bound.reduction != "none" and _rehearsed():
            return tf.zeros((), self._engine.dtype or tf.float32)
        with tf.name_scope(self.name):
            return self._engine.run(call, {})

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """The values, unreduced."""
        call = frontdoor.bind_call(self._bound_unreduced(), "keras", (y_true, y_pred), {})
        return self._engine.run(call, {}, reduce=False)

    def _bound_unreduced(self) -> Bound:
        return dataclasses.replace(self.bound, reduction="none")

    def get_config(self) -> dict[str, Any]:
        return self._config()


def _rehearsed() -> bool:
    """Whether Keras only builds its metrics, on stand-ins for a batch.

    Under ``tf.distribute`` the stand-ins are means over the replicas, so that labels are floats.
    """
    name = getattr(tf.compat.v1.get_default_graph(), "name", "")
    return tf.distribute.has_strategy() and str(name).startswith("scratch_graph")


def _snake(name: str) -> str:
    return "".join(
        f"_{c.lower()}" if c.isupper() and k and not name[k - 1].isupper() else c.lower()
        for k, c in enumerate(name)
    )


# --- every other loss ----------------------------------------------------------------------------


class LossLayer(_Compiled, keras.layers.Layer):
    """An endpoint layer: a loss with weights, ports, a schedule, or other inputs than two.

    Call it with its inputs by name. It returns the loss, and with ``add_loss=True`` adds it to the
    model's losses too; :func:`with_loss` does the wiring for a model that is trained by ``fit``.
    """

    def __init__(
        self,
        *args: Any,
        name: str | None = None,
        dtype: Any = None,
        add_loss: bool = False,
        _form: Form | None = None,
        trainable: bool = True,
        **settings: Any,
    ) -> None:
        form = _form or type(self).form
        if form is None:
            raise ArgumentError("write lossbridge.keras.compile(spec), or use one of the classes")
        signature = _calls(form, isinstance(self, CombinedLayer))

        def call(self: Any, **kwargs: Any) -> Any:
            return self._evaluate(kwargs)

        call.__signature__ = signature  # type: ignore[attr-defined]
        object.__setattr__(self, "_call_form", form)
        # Keras reads the signature of `call` when a layer is made.
        self.__dict__["call"] = call.__get__(self)
        super().__init__(
            name=name, autocast=False, trainable=trainable, dtype=_variable_dtype(dtype)
        )
        self._settle(form, args, settings, dtype)
        self._adds_loss = add_loss
        # The mask is an argument of ours; without this Keras warns that the layer destroys it.
        self.supports_masking = True
        self._step: Any = None
        self._convert_input_args = False
        self._allow_non_tensor_positional_args = True
        for key, weight in self.bound.specs[0].weights.items():
            shape = [_size(self.bound, size) for size in weight.sizes.values()]
            self._weight(key, shape, weight.init)
        self.built = True
        self.__dict__["_made"] = True

    def _weight(self, key: str, shape: Sequence[int], init: str | float) -> None:
        variable = self.add_weight(
            name=key, shape=tuple(shape), initializer=_initial(init), trainable=True
        )
        setattr(self, f"weight_{key}", variable)

    def weight(self, name: str) -> Any:
        """The trainable variable of that name."""
        return getattr(self, f"weight_{name}")

    def bind_step(self, iterations: Any) -> LossLayer:
        """Take the step of a schedule from a counter, such as ``optimizer.iterations``."""
        self._step = _Held(iterations)
        return self

    def build(self, *shapes: Any, **named: Any) -> None:
        """Nothing: the weights' sizes are constructor arguments."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if args and _called_by_keras():
            raise _not_for_compile(self.bound.form.name)
        if "training" not in self.bound.specs[0].inputs:
            kwargs.pop("training", None)  # a functional model tells every layer
        call = frontdoor.bind_call(self.bound, "keras", args, kwargs)
        given: dict[str, Any] = {**call.inputs, **call.ports}
        for key in ("sample_weight", "mask", "normalizer_count", "step"):
            if getattr(call, key) is not None:
                given[key] = getattr(call, key)
        for key, kind in self.bound.specs[0].inputs.items():
            if kind.name == "tree":
                self._check_tree(key, call.inputs[key])
        return super().__call__(**given)

    def _check_tree(self, key: str, tree: Any) -> None:
        """Keras takes no nest that mixes tensors with functions and text."""
        leaves = keras.tree.flatten(getattr(tree, "trainable_variables", tree))
        wrong = [leaf for leaf in leaves if not slips.is_array(leaf)]
        if wrong:
            raise ArgumentError(
                f"{self.bound.form.name}: {key} is a model or a nest of tensors, but holds "
                f"{shown(type(wrong[0]).__name__)}; pass model, or model.trainable_variables"
            )

    def _evaluate(self, given: Mapping[str, Any]) -> Any:
        spec = self.bound.specs[0]
        call = Call(
            {n: given[n] for n in spec.inputs},
            given.get("sample_weight"),
            given.get("mask"),
            given.get("normalizer_count"),
            given.get("step"),
            {n: given[n] for n in spec.ports},
        )
        if isinstance(call.mask, list | tuple | dict):  # the masks that Keras found on a nest
            call.mask = all_of(m for m in keras.tree.flatten(call.mask) if m is not None)
        if call.step is None and self._step is not None:
            call.step = self._step.value
        weights = {name: self.weight(name) for name in spec.weights}
        value = self._engine.run(call, weights)
        if self._adds_loss:
            self.add_loss(value)
        return value

    def compute_mask(self, *inputs: Any, **masks: Any) -> None:
        """None: a loss has used up the mask of what it was given."""

    def compute_output_shape(self, *shapes: Any, **named: Any) -> Any:
        """A number, unless the values are wanted one by one."""
        if self.bound.reduction != "none":
            return ()
        return super().compute_output_shape(*shapes, **named)

    def get_config(self) -> dict[str, Any]:
        return {**self._config(), "add_loss": self._adds_loss, "trainable": self.trainable}


class _Held:
    """Something a layer may read but must not own: Keras would track and save it."""

    def __init__(self, value: Any) -> None:
        self.value = value


def _not_for_compile(name: str) -> ArgumentError:
    return ArgumentError(
        f"{name} is a layer with inputs, weights or functions of its own, which compile(loss=...) "
        "would neither feed nor train; write model = lossbridge.keras.with_loss(model, loss), then "
        "compile and fit that"
    )


def _called_by_keras() -> bool:
    """Whether Keras's wrapper of ``compile(loss=...)`` is calling."""
    return str(sys._getframe(2).f_globals.get("__name__", "")).startswith("keras.src.losses")


def _variable_dtype(dtype: Any) -> Any:
    """Weights are kept in at least float32, whatever the policy in force computes in."""
    return "float64" if dtype == "float64" else "float32"


def _size(bound: Bound, size: str | int) -> int:
    return bound.sizes[size] if isinstance(size, str) else size


def _initial(rule: str | float) -> Any:
    initializers = keras.initializers
    known: dict[str, Callable[[], Any]] = {
        "zeros": initializers.Zeros,
        "ones": initializers.Ones,
        "normal": lambda: initializers.RandomNormal(0.0, 1.0),
        "uniform": lambda: initializers.RandomUniform(0.0, 1.0),
        "glorot_normal": initializers.GlorotNormal,
        "glorot_uniform": initializers.GlorotUniform,
    }
    return known[rule]() if isinstance(rule, str) else initializers.Constant(rule)


class CombinedLayer(LossLayer):
    """A loss made of named losses: each is computed as the object it is, then they are combined.

    Its inputs are given per loss, ``depth=(y_true, y_pred)`` as that loss is called, or one by one
    under their own names, ``depth_prediction=...``.
    """

    combination: Combination

    def __init__(
        self,
        *args: Any,
        name: str | None = None,
        dtype: Any = None,
        add_loss: bool = False,
        trainable: bool = True,
        **settings: Any,
    ) -> None:
        made = type(self).combination
        given = made.settings(args, settings)
        bound = made.build(**given)
        losses = dict(given.pop("losses"))
        self.__dict__["_combined"] = bound.combined
        super().__init__(
            name=name,
            dtype=dtype,
            add_loss=add_loss,
            trainable=trainable,
            _form=bound.form,
            **bound.given,
        )
        self._settings = given
        outer, self._places = of_values(bound)
        self._outer = _engine(outer, self._dtype_given)
        self._children = _Held(losses)
        # Layers among them are tracked, so that their weights are trained and saved.
        self._layers_below = [x for x in losses.values() if isinstance(x, keras.layers.Layer)]

    @property
    def bound(self) -> Bound:
        """The loss with its settings."""
        return dataclasses.replace(self._bound, combined=self.__dict__["_combined"])

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        if args and _called_by_keras():
            raise _not_for_compile(type(self).__name__)
        children = self._children.value
        if "training" not in children:
            kwargs.pop("training", None)  # a functional model tells every layer
        given = self._flat(args, kwargs)
        whole = all(
            keras.ops.is_tensor(x) or isinstance(x, keras.KerasTensor)
            for x in keras.tree.flatten(given)
        )
        # Keras takes no nest that mixes tensors with numbers and functions.
        return keras.layers.Layer.__call__(self, given=given if whole else _Held(given))

    def _flat(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """A call as one nest: the losses' inputs by their names, and the combination's own."""
        call = self._bound_call(args, kwargs)
        given: dict[str, Any] = {"losses": {}, "own": call.own}
        for name in self._children.value:
            places, named = call.places.get(name, ()), call.named[name]
            given["losses"][name] = {"places": places, "named": named}
        if call.step is not None:
            given["step"] = call.step
        return given

    def _bound_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> CombinedCall:
        children = {name: child.bound for name, child in self._children.value.items()}
        return bind_combined(type(self).__name__, self.bound, children, "keras", args, kwargs)

    def _evaluate(self, given: Mapping[str, Any]) -> Any:
        found = given["given"]
        value = self._evaluated(found.value if isinstance(found, _Held) else found, None)
        if self._adds_loss:
            self.add_loss(value)
        return value

    def _step_of(self, given: Mapping[str, Any]) -> Any:
        step = given.get("step")
        if step is None and self._step is not None:
            step = self._step.value
        if step is None and self.bound.specs[0].step:
            raise ArgumentError(
                f"{type(self).__name__} follows a schedule; give it step=step, or write "
                "loss.bind_step(optimizer.iterations)"
            )
        return step

    def _evaluated(self, given: Mapping[str, Any], terms: dict[str, Any] | None) -> Any:
        """The value; ``terms``, where it is given, is filled with the value of each loss."""
        spec, combined = self.bound.specs[0], self.bound.combined
        assert combined is not None
        parts: dict[str, Any] = {}
        step = self._step_of(given)
        for name, child in self._children.value.items():
            places, named = given["losses"][name]["places"], given["losses"][name]["named"]
            if isinstance(child, CombinedLayer):
                mapping = {**named, **dict(*places)}
                if terms is None:
                    parts[name] = child(mapping)
                else:
                    inner: dict[str, Any] = {}
                    parts[name] = child._evaluated(child._flat((mapping,), {}), inner)
                    terms[name] = parts[name]
                    terms.update((f"{name}/{key}", value) for key, value in inner.items())
                continue
            parts[name] = child(*places, **named)
            if terms is not None:
                terms[name] = parts[name]
        widest = keras.backend.result_type(*(x.dtype for x in parts.values()))
        values = {
            place: keras.ops.cast(parts[combined.uses[used]], widest)
            for used, place in self._places.items()
        }
        call = Call({**values, **given["own"]}, step=step)
        return self._outer.run(call, {n: self.weight(n) for n in spec.weights})

    def terms(self, /, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The value of each loss in a combination, by its name, at the call as ``loss`` takes it.

        The values are reduced, as each loss alone gives them, before its coefficient. The terms of
        a combination inside this one come under its name, as ``outer/inner``, beside ``outer``.
        """
        found: dict[str, Any] = {}
        self._evaluated(self._flat(args, kwargs), found)
        return found

    def term_coefficients(self, /, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What the value multiplies each of ``terms`` with, at the same call, by the same names."""
        spec, flat = self.bound.specs[0], self._flat(args, kwargs)
        own = {**flat["own"], **{n: self.weight(n) for n in spec.weights}}
        if spec.step:
            own["moment"] = keras.ops.cast(self._step_of(flat), "float32")
        found: dict[str, Any] = {}
        for name, child in self._children.value.items():
            coefficient, numbers, given = coefficient_inputs(self.bound, name, own)
            found[name] = (
                compile(coefficient, **dict(numbers))(**given)
                if own
                else next(iter(given.values()))  # fixed when the combination was made
            )
            if isinstance(child, CombinedLayer):
                below = flat["losses"][name]
                mapping = {**below["named"], **dict(*below["places"])}
                for key, inner in child.term_coefficients(mapping).items():
                    found[f"{name}/{key}"] = found[name] * inner
        return found

    def __repr__(self) -> str:
        parts = {"losses": self._children.value, **self._settings}
        return combination_text(type(self).__name__, parts)

    def get_config(self) -> dict[str, Any]:
        save = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "dtype": self._dtype_given,
            "add_loss": self._adds_loss,
            "trainable": self.trainable,
            "specs": [dumps(self.bound.specs[0], indent=None)],
            "losses": {n: save(x) for n, x in self._children.value.items()},
            "settings": dict(self._settings),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        config = dict(config)
        config.pop("specs")
        load = keras.saving.deserialize_keras_object
        losses = {n: load(x) for n, x in config.pop("losses").items()}
        settings = config.pop("settings")
        if "schedules" in settings:
            settings["schedules"] = {k: tuple(v) for k, v in settings["schedules"].items()}
        return cls(losses, **settings, **config)


# --- another framework under Keras ---------------------------------------------------------------


def _engine(bound: Bound, dtype: str | None) -> Any:
    """What computes a loss on this process's backend."""
    return Engine(bound, dtype) if BACKEND == "tensorflow" else _Foreign(bound, dtype)


class _Foreign:
    """Keras on PyTorch or JAX: that framework's own lowering of the same specification."""

    def __init__(self, bound: Bound, dtype: str | None) -> None:
        self.bound = bound
        self.dtype = dtype or bound.specs[0].numerics.dtype
        make: Any
        if BACKEND not in ("torch", "jax"):
            raise BackendUnavailable(
                f"lossbridge.keras runs on TensorFlow, JAX and PyTorch, but KERAS_BACKEND is "
                f"{BACKEND!r}; set KERAS_BACKEND=tensorflow, jax or torch"
            )
        try:
            if BACKEND == "torch":
                from lossbridge_torch.native import compile as make
            else:
                from lossbridge_jax.native import compile as make
        except ImportError as error:
            raise BackendUnavailable(
                f"KERAS_BACKEND is {BACKEND!r}, and lossbridge's backend for it cannot be imported "
                f"({error}); set KERAS_BACKEND=tensorflow, or install it"
            ) from error
        settings = {
            k: v for k, v in bound.given.items() if k not in ("reduction", "normalizer", "axis")
        }
        if bound.form.has_axis:
            settings["axis"] = -1 if bound.axis is None else bound.axis
        self._make = lambda reduction: make(
            bound.form, **settings, reduction=reduction, normalizer=bound.normalizer
        )
        self.inner = self._make(bound.reduction)
        self._unreduced: Any = None

    def run(self, call: Call, weights: Mapping[str, Any], *, reduce: bool = True) -> Any:
        """The value, from the other framework's object."""
        inner = self.inner
        if not reduce:
            inner = self._unreduced = self._unreduced or self._make("none")
        given, out = self._inputs(call)
        given.update(call.ports)
        for key in ("normalizer_count", "step"):
            if (x := getattr(call, key)) is not None:
                given[key] = x.value if isinstance(x, keras.Variable) else x
        if not weights:
            value = inner(**given)
        else:
            # Keras trains and saves its own variables; the other framework's object reads them.
            values = {
                k: w.value if isinstance(w, keras.Variable) else w for k, w in weights.items()
            }
            if BACKEND == "jax":
                value = inner(**given, params=values)
            else:
                import torch

                value = torch.func.functional_call(inner, values, (), given)
        if out is None:
            return value
        return keras.tree.map_structure(lambda x: keras.ops.cast(x, out), value)

    def _inputs(self, call: Call) -> tuple[dict[str, Any], str | None]:
        """What is computed with, and the result's dtype, by Keras's rules on every backend.

        The prediction alone decides the dtype to compute in, at least float32; targets and sample
        weights of any dtype are brought to it. The result of a half-precision prediction is
        float32.
        """
        kinds = self.bound.specs[0].inputs
        if any(kind.name == "tree" for kind in kinds.values()):
            given = {n: self._leaves(x) for n, x in call.inputs.items()}
            given.update(
                (key, getattr(call, key))
                for key in ("sample_weight", "mask")
                if getattr(call, key) is not None
            )
            return given, self.dtype
        for name, x in call.inputs.items():
            wrong = slips.not_an_array(self.bound.form.name, name, x, "keras")
            if wrong is not None:
                raise ArgumentError(wrong)
        refuse_activated(self.bound, call)
        mask = layer_mask(call.inputs.values()) if call.mask is None else call.mask
        given = {n: self._fit(x, kinds[n].dtype) for n, x in call.inputs.items()}
        found = {n: _dtype_name(x) for n, x in given.items()}
        decides = promotion(kinds, package="keras")
        compute = self._precision(found[n] for n in decides.computed)
        for place, name in enumerate(kinds):
            # Integers and truth values stay what they are: the loss itself says what they mean.
            real = any(list(s.inputs.values())[place].dtype == "real" for s in self.bound.specs)
            if real and family(found[name]) == "real":
                given[name] = keras.ops.cast(given[name], compute)
        given = self._ranked(given)
        if call.sample_weight is not None:
            weight = self._fit(call.sample_weight)
            is_complex = family(_dtype_name(weight)) == "complex"
            given["sample_weight"] = weight if is_complex else keras.ops.cast(weight, compute)
        if mask is not None:
            given["mask"] = self._fit(mask)
        if self.dtype not in (None, "float64"):
            return given, self.dtype
        return given, self._precision(found[n] for n in decides.given_back)

    def _precision(self, found: Iterable[str]) -> str:
        """float64 where an array or the loss is of it and this backend has it, else float32."""
        return "float64" if "float64" in (*found, self.dtype) and _has_float64() else "float32"

    def _leaves(self, x: Any) -> Any:
        """The parameters of a model, or of any nest, as the framework's own tensors."""
        leaves = keras.tree.flatten(getattr(x, "trainable_variables", x))
        return [v.value if isinstance(v, keras.Variable) else v for v in leaves]

    def _fit(self, x: Any, wanted: str = "real") -> Any:
        if callable(x) and not hasattr(x, "shape"):
            return x
        if BACKEND == "jax" and wanted == "int" and isinstance(x, np.ndarray):
            return x  # JAX would wrap int64 to int32, where 2**32 + 1 is 1; its losses know better
        return keras.ops.convert_to_tensor(x)

    def _ranked(self, given: dict[str, Any]) -> dict[str, Any]:
        """Keras's trailing 1, which ``fit`` makes of a vector of targets."""
        spec = self.bound.specs[0]
        return given | same_rank(spec, given) if set(spec.inputs) <= set(given) else given


def _has_float64() -> bool:
    """Whether this backend computes in float64 when asked to: JAX does with jax_enable_x64."""
    if BACKEND != "jax":
        return True
    import jax

    return bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]


# --- classes and functions -----------------------------------------------------------------------


def class_of(form: Form) -> type:
    """The public class of a form; nothing is traced or compiled."""
    base: type = Loss if is_loss(form) else LossLayer
    cls = type(
        form.name,
        (base,),
        {
            "form": form,
            "__module__": "lossbridge.keras",
            "__doc__": _Lazy(lambda: frontdoor.docstring(form, "keras")),
            "__signature__": _Lazy(lambda: frontdoor.signature(form, _EXTRA)),
        },
    )
    return keras.saving.register_keras_serializable(PACKAGE, form.name)(cls)  # type: ignore


class _Lazy:
    """A class attribute that is made when it is first read."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make

    def __get__(self, instance: Any, owner: Any) -> Any:
        if instance is not None:  # the signature of an instance is that of its call
            raise AttributeError
        return self.make()


@keras.saving.register_keras_serializable(PACKAGE)
class CompiledLoss(Loss):
    """A loss of (y_true, y_pred) compiled from any specification."""


@keras.saving.register_keras_serializable(PACKAGE)
class CompiledLayer(LossLayer):
    """Any other loss compiled from a specification."""


def combination_of(made: Combination) -> type:
    """The public class of a combination."""
    cls = type(
        made.name,
        (CombinedLayer,),
        {
            "combination": made,
            "__module__": "lossbridge.keras",
            "__doc__": made.doc,
            "__signature__": _Lazy(lambda: made.signature),
        },
    )
    return keras.saving.register_keras_serializable(PACKAGE, made.name)(cls)  # type: ignore


def compile(source: Any, **settings: Any) -> Any:
    """A native loss of a specification, a definition, or the path of a specification file."""
    form = frontdoor.as_form(source)
    frontdoor.check_uses(form)
    cls = CompiledLoss if is_loss(form) else CompiledLayer
    return cls(_form=form, **settings)


def reduce(
    values: Any,
    *,
    mask: Any = None,
    where: Any = None,
    sample_weight: Any = None,
    weights: Any = None,
    reduction: str = "mean",
    normalizer: str | None = None,
    normalizer_count: Any = None,
    denominator: Any = None,
) -> Any:
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
    bound = frontdoor.bind(frontdoor.values_spec(), "keras", settings)
    return _engine(bound, None).run(Call({"values": values}, **call), {})


def as_hf(loss: Any, shift_labels: bool = False) -> Callable[..., Any]:
    """A function ``f(outputs, labels, num_items_in_batch=None)`` as transformers' Trainer calls it.

    ``outputs`` is a model's output with ``logits`` (an object or a dictionary), a tuple that begins
    with them, or the logits, which have the classes last; half-precision ones are computed with in
    float32, and so is the loss that comes back. ``shift_labels`` pairs each position's logits with
    the next position's label.
    """
    bound: Any = getattr(loss, "bound", None)
    settings = settings_for_hf(loss, bound)
    plain = compile(bound.form, **settings, dtype=loss._dtype_given)
    counted = compile(bound.form, **{**settings, "normalizer": "external"}, dtype=loss._dtype_given)

    def rank(x: Any) -> int | None:
        known = keras.ops.is_tensor(x) or isinstance(x, np.ndarray | keras.KerasTensor)
        return len(x.shape) if known else None

    def prepare(logits: Any, labels: Any) -> tuple[Any, Any]:
        logits = keras.ops.convert_to_tensor(logits)
        if keras.backend.standardize_dtype(logits.dtype) in ("float16", "bfloat16"):
            logits = keras.ops.cast(logits, "float32")
        return logits, keras.ops.convert_to_tensor(labels)

    return hf_function(bound, shift_labels, rank, prepare, plain, counted)


# --- models with an endpoint loss ----------------------------------------------------------------


@keras.saving.register_keras_serializable(PACKAGE)
class WithLoss(keras.Model):
    """A model and the endpoint loss that trains it; see :func:`with_loss`."""

    def __init__(
        self, model: keras.Model, loss: Any, ports: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.endpoint = loss
        self._ports = _Held(dict(ports or {}))
        # JAX's trainer hands a loss no optimizer: its iterations would be a constant of the trace.
        self._steps: Any = None
        if loss.bound.specs[0].step and BACKEND == "jax":
            self._steps = self.add_weight(
                name="steps", shape=(), dtype="int32", initializer="zeros", trainable=False
            )
        declared = loss.bound.specs[0].ports
        unknown = [p for p in self._ports.value if p not in declared]
        missing = [p for p in declared if p not in self._ports.value]
        if unknown or missing:
            raise ArgumentError(
                f"{loss.bound.form.name} has the ports {', '.join(declared) or 'none'}, but "
                f"ports={{{', '.join(self._ports.value)}}} was given"
            )

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        return self.model(inputs, training=training)

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The endpoint's loss, with those of ``compile`` and of the layers."""
        given = self._named(y, y_pred)
        if sample_weight is not None:
            given["sample_weight"] = sample_weight
        if self._steps is not None:
            given["step"] = self._steps.value
            if training:
                self._steps.assign(self._steps + 1)
        elif self.endpoint.bound.specs[0].step and self.optimizer is not None:
            given["step"] = self.optimizer.iterations
        own = self.endpoint(**given, **self._ports.value)
        if self._compile_loss is not None or self.losses:
            own = own + super().compute_loss(x, y, y_pred, sample_weight, training)
        return own

    def _named(self, y: Any, y_pred: Any) -> dict[str, Any]:
        """What the model gives and the targets, under the loss's own names."""
        if isinstance(self.endpoint, CombinedLayer):
            return self._for_each(y, y_pred)
        names = list(self.endpoint.bound.specs[0].inputs)
        given: dict[str, Any] = {}
        for value in (y_pred, y):
            if value is None:
                continue
            if isinstance(value, Mapping):
                given.update((k, v) for k, v in value.items() if k in names)
                continue
            for item in value if isinstance(value, list | tuple) else [value]:
                free = [n for n in names if n not in given]
                if not free:
                    raise ArgumentError(
                        f"{self.endpoint.bound.form.name} takes {', '.join(names)}, but the model "
                        "and the targets give more"
                    )
                given[free[0]] = self._targets(free[0], item) if value is y else item
        return given

    def _for_each(self, y: Any, y_pred: Any) -> dict[str, Any]:
        """The outputs and targets of each of the losses in a combination, by its name."""
        children, inputs = self.endpoint._children.value, self.endpoint.bound.specs[0].inputs
        given: dict[str, Any] = {}
        for values in (y, y_pred):  # as Keras's losses take them
            if values is None:
                continue
            if not isinstance(values, Mapping):
                items = values if isinstance(values, list | tuple) else [values]
                if len(items) != len(children):
                    raise ArgumentError(
                        f"{self.endpoint.bound.form.name} is made of {listed(children)}, but was "
                        f"given {len(items)} outputs or targets; give one for each, or a "
                        "dictionary by these names"
                    )
                values = dict(zip(children, items, strict=True))
            for key, value in values.items():
                if key in children:
                    given[key] = (*given.get(key, ()), value)
                elif key in inputs:
                    given[key] = value
                else:
                    raise ArgumentError(
                        f"{self.endpoint.bound.form.name} was given {shown(key)}, which names none "
                        f"of its losses or inputs; they are {listed([*children, *inputs])}"
                    )
        return given

    def _targets(self, name: str, x: Any) -> Any:
        """Without the trailing 1 that ``fit`` adds to vectors."""
        kind = self.endpoint.bound.specs[0].inputs[name]
        fixed = [a for a in kind.axes if not is_star(a)]
        shape = tuple(x.shape)
        if kind.dtype == "int" and shape[1:] == (1,) and len(fixed) <= 1:
            return keras.ops.squeeze(x, -1)
        return x

    def get_config(self) -> dict[str, Any]:
        save = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "model": save(self.model),
            "loss": save(self.endpoint),
            "ports": {k: save(v) for k, v in self._ports.value.items()},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        config = dict(config)
        load = keras.saving.deserialize_keras_object
        config["model"] = load(config["model"], custom_objects)
        config["loss"] = load(config["loss"], custom_objects)
        config["ports"] = {k: load(v, custom_objects) for k, v in config["ports"].items()}
        return cls(**config)


def with_loss(
    model: keras.Model,
    loss: Any,
    *,
    ports: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> keras.Model:
    """A model that is trained by an endpoint loss, whose weights are trained and saved with it.

    The model's outputs become the loss's first inputs, in order (or by name, where the model
    returns a dictionary), and the targets given to ``fit`` the others. A loss made of named losses
    takes an output and a target for each, by these names or in their order::

        model = L.with_loss(network, L.ArcFaceLoss(num_classes=10, embedding_size=8))
        model.compile("adam")
        model.fit(x, labels)
    """
    if isinstance(model, LossLayer | Loss) or not isinstance(loss, LossLayer | Loss):
        raise ArgumentError(
            f"with_loss takes a model and then a loss, but {type(model).__name__} and "
            f"{type(loss).__name__} were given; write with_loss(model, loss)"
        )
    if not isinstance(loss, LossLayer):
        raise ArgumentError(
            f"with_loss wires losses that are layers; {type(loss).__name__} is a keras Loss, so "
            "write model.compile(optimizer, loss=loss)"
        )
    return WithLoss(model, loss, ports, name=name)
