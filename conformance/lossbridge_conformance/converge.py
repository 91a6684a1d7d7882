"""Convergence: does the same training run need the same number of iterations everywhere?

A :class:`Task` is one training run as plain data: a model's initial values, real data, the order
of the batches, an optimiser and a threshold. Each platform's ``train(task, loss)`` runs it with
that framework and hands back a curve; :func:`verdict` compares the curves. Nothing here imports a
framework. Everything that two platforms could do differently without meaning to (the data, the
batch order, the evaluation of the training loss, the counting) is done here, once.

Tracks
------
``aligned``
    Hyperparameters equal *in meaning*, see :class:`Settings`. This track gates.
``defaults``
    Each framework's own optimiser at the same learning rate. Reported, never gated; the reasons
    are :data:`CAUSES`, and :func:`attribute` measures what each of them is worth.
``defaults:scaled``
    The same with the loss multiplied by :data:`SMALL_LOSS`, as a term of a weighted sum is. It is
    where the epsilons, harmless for a loss near one, decide the run.
``control:order``, ``control:seed``, ``control:ulp``
    The aligned run with another batch order, other initial values, or the initial values moved by
    one unit in the last place. They say how large a difference means nothing.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from lossbridge_conformance.results import cell_id

__all__ = [
    "ALIGNED",
    "CAUSES",
    "CONTROLS",
    "DATASETS",
    "DEFAULTS",
    "EARLY_DIFFERENCE",
    "EARLY_STEPS",
    "OPTIMIZERS",
    "REFERENCE",
    "SMALL_LOSS",
    "TRACKS",
    "Cause",
    "Settings",
    "Task",
    "attribute",
    "reference",
    "summary",
    "tasks",
    "tolerance",
    "verdict",
]

Array: TypeAlias = npt.NDArray[Any]
Curve: TypeAlias = dict[str, Any]
Cell: TypeAlias = dict[str, Any]
Placement: TypeAlias = Literal["outside", "inside", "before_correction"]

OPTIMIZERS: Final = ("sgd", "adam", "rmsprop")
DATASETS: Final = ("digits", "diabetes")
CONTROLS: Final = ("control:order", "control:seed", "control:ulp")
TRACKS: Final = ("aligned", "defaults", "defaults:scaled", *CONTROLS)
REFERENCE: Final = "reference"
"""The platform name of the float64 NumPy run that stands beside the frameworks."""

SMALL_LOSS: Final = 1e-3
"""The weight a loss gets on the ``defaults:scaled`` track."""

EARLY_STEPS: Final = 10
EARLY_DIFFERENCE: Final = 1e-4
"""How far apart aligned curves may lie, relatively, in their first steps.

Rounding grows along a run, so later values prove little; in the first ten steps it stays below
1.1e-6 on the shipped tasks, while a rate that is 1 % off makes 7e-4 and torch's RMSprop decay 0.2.
The count alone would let a moved epsilon pass.
"""

_SEED: Final = 20_240
_VARIANTS: Final = 3


# --- what an optimiser's numbers mean ------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What the numbers of an adaptive optimiser mean, in one notation for every framework.

    With ``v`` the running mean of squared gradients (rate ``decay``) and ``m`` that of gradients
    (rate ``momentum``; Adam only), hats for division by one minus the rate to the power ``t``:

    * ``outside``: RMSprop moves by ``lr g / (sqrt(v) + epsilon)``, Adam by
      ``lr m^ / (sqrt(v^) + epsilon)``;
    * ``inside``: RMSprop moves by ``lr g / sqrt(v + epsilon)``;
    * ``before_correction``: Adam moves by ``lr m^ / (sqrt(v^) + epsilon / sqrt(1 - decay**t))``:
      epsilon is added to the uncorrected root, so it counts for more in the first steps.
    """

    decay: float
    momentum: float
    epsilon: float
    placement: Placement


ALIGNED: Final[Mapping[str, Settings]] = {
    "sgd": Settings(0.0, 0.0, 0.0, "outside"),
    "adam": Settings(0.999, 0.9, 1e-8, "outside"),
    "rmsprop": Settings(0.9, 0.0, 1e-8, "outside"),
}
"""The meaning every platform is brought to on the aligned track."""

DEFAULTS: Final[Mapping[tuple[str, str], Settings]] = {
    ("torch", "sgd"): ALIGNED["sgd"],
    ("keras", "sgd"): ALIGNED["sgd"],
    ("jax", "sgd"): ALIGNED["sgd"],
    ("torch", "adam"): Settings(0.999, 0.9, 1e-8, "outside"),
    ("keras", "adam"): Settings(0.999, 0.9, 1e-7, "before_correction"),
    ("jax", "adam"): Settings(0.999, 0.9, 1e-8, "outside"),
    ("torch", "rmsprop"): Settings(0.99, 0.0, 1e-8, "outside"),
    ("keras", "rmsprop"): Settings(0.9, 0.0, 1e-7, "inside"),
    ("jax", "rmsprop"): Settings(0.9, 0.0, 1e-8, "inside"),
}
"""What each framework's optimiser does when it is given a learning rate and nothing else."""


@dataclass(frozen=True)
class Cause:
    """A reason why the same training script needs another number of iterations elsewhere.

    ``optimizers`` is empty when the reason has nothing to do with the optimiser; ``at_work`` says
    whether it acts on the defaults track. The others are taken out of it (the task gives initial
    values and rate, and no class weights), and stand here because they act in a user's script.
    """

    id: str
    optimizers: tuple[str, ...]
    at_work: bool
    per_platform: Mapping[str, str]
    effect: str


CAUSES: Final[tuple[Cause, ...]] = (
    Cause(
        "rmsprop-decay",
        ("rmsprop",),
        True,
        {"torch": "alpha 0.99", "keras": "rho 0.9", "jax": "decay 0.9"},
        "v starts at zero and is not corrected, so the first steps are too long by up to "
        "1/sqrt(1 - decay): 10 times with 0.99, 3.2 times with 0.9. A slower decay keeps them "
        "long for longer.",
    ),
    Cause(
        "rmsprop-epsilon",
        ("rmsprop",),
        True,
        {
            "torch": "1e-8, outside the root",
            "keras": "1e-7, inside the root",
            "jax": "1e-8, inside the root",
        },
        "Inside the root epsilon is a floor of sqrt(epsilon) under the root, 3.2e-4 in Keras and "
        "1e-4 in optax against 1e-8: gradients below it are no longer normalised, and a loss with "
        "a small weight trains slowly or not at all.",
    ),
    Cause(
        "adam-epsilon",
        ("adam",),
        True,
        {
            "torch": "1e-8 on the corrected root",
            "keras": "1e-7 on the uncorrected root",
            "jax": "1e-8 on the corrected root",
        },
        "Keras's effective epsilon is 1e-7 / sqrt(1 - 0.999**t): 3.2e-6 at step 1, 5.5e-7 at step "
        "33. It is felt where gradients are of that size.",
    ),
    Cause(
        "class-weight-normaliser",
        (),
        False,
        {
            "torch": "sum of the weights of the batch",
            "keras": "number of samples",
            "jax": "number of samples (a plain mean)",
        },
        "Another scale of the loss: a change of the learning rate under SGD, invisible to "
        "optimisers that normalise the gradient.",
    ),
    Cause(
        "default-initialiser",
        (),
        False,
        {
            "torch": "uniform within 1/sqrt(fan_in), biases too",
            "keras": "Glorot uniform, biases zero",
            "jax": "truncated LeCun normal, biases zero (Flax)",
        },
        "Another starting point; of the size of another seed.",
    ),
    Cause(
        "default-learning-rate",
        OPTIMIZERS,
        False,
        {
            "torch": "sgd 1e-3, adam 1e-3, rmsprop 1e-2",
            "keras": "sgd 1e-2, adam 1e-3, rmsprop 1e-3",
            "jax": "none: optax requires one",
        },
        "A factor of ten in the learning rate for SGD and RMSprop.",
    ),
)


# --- the losses this module can evaluate itself --------------------------------------------------


def _cross_entropy(logits: Array, labels: Array) -> tuple[float, Array]:
    """Mean softmax cross-entropy of integer labels, and its gradient."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    exps = np.exp(shifted)
    totals = exps.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    value = float(np.mean(np.log(totals[:, 0]) - shifted[rows, labels]))
    gradient = exps / totals
    gradient[rows, labels] -= 1.0
    return value, gradient / len(labels)


def _mse(prediction: Array, target: Array) -> tuple[float, Array]:
    """Mean squared error, and its gradient."""
    difference = prediction - target
    return float(np.mean(difference * difference)), 2.0 * difference / difference.size


def _huber(prediction: Array, target: Array) -> tuple[float, Array]:
    """Mean Huber loss with delta 1, and its gradient."""
    difference = prediction - target
    clipped = np.clip(difference, -1.0, 1.0)
    value = float(np.mean(clipped * (difference - 0.5 * clipped)))
    return value, clipped / difference.size


_KNOWN: Final[Mapping[str, Callable[[Array, Array], tuple[float, Array]]]] = {
    "CrossEntropyLoss": _cross_entropy,
    "MSELoss": _mse,
    "HuberLoss": _huber,
}


# --- data ----------------------------------------------------------------------------------------


def _frozen(array: Array) -> Array:
    array = np.ascontiguousarray(array)
    array.setflags(write=False)
    return array


def _standardised(columns: Array) -> Array:
    """Columns with mean 0 and deviation 1, on a grid of 2**-12.

    The grid makes the data the same bits whatever order this machine sums in, and exact in
    float32.
    """
    scaled: Array = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    on_grid: Array = np.round(scaled * 4096.0) / 4096.0
    return on_grid.astype(np.float32)


@functools.cache
def _data(dataset: str) -> tuple[Array, Array]:
    """Inputs and targets of one of scikit-learn's shipped data sets, never downloaded."""
    from sklearn import datasets

    if dataset == "digits":
        images, labels = datasets.load_digits(return_X_y=True)
        # Pixels are the integers 0 to 16: a sixteenth of them is exact.
        return _frozen((images / 16.0).astype(np.float32)), _frozen(labels.astype(np.int64))
    if dataset == "diabetes":
        features, progression = datasets.load_diabetes(return_X_y=True, scaled=False)
        return (
            _frozen(_standardised(features)),
            _frozen(_standardised(progression.reshape(-1, 1))),
        )
    raise ValueError(f"unknown data set {dataset!r}; known: {', '.join(DATASETS)}")


def _random(*key: int) -> np.random.RandomState:
    # RandomState, because its streams are frozen for good; a Generator's may change with a
    # release of NumPy, and then two environments would not run the same task.
    return np.random.RandomState(list(key))


def _initial(layers: Sequence[int], seed: int) -> tuple[Array, ...]:
    """Weights uniform within sqrt(6 / (fan_in + fan_out)), biases zero."""
    random = _random(seed, 1)
    values: list[Array] = []
    for rows, columns in itertools.pairwise(layers):
        limit = math.sqrt(6.0 / (rows + columns))
        weight = (2.0 * random.random_sample((rows, columns)) - 1.0) * limit
        values += [_frozen(weight.astype(np.float32)), _frozen(np.zeros(columns, np.float32))]
    return tuple(values)


def _order(samples: int, batch: int, steps: int, seed: int) -> Array:
    """Row numbers of every batch: a fresh permutation each epoch, its last short batch left out."""
    random = _random(seed, 2)
    per_epoch = samples // batch
    epochs = -(-steps // per_epoch)
    rows = [
        random.permutation(samples)[: per_epoch * batch].reshape(per_epoch, batch)
        for _ in range(epochs)
    ]
    return _frozen(np.concatenate(rows)[:steps].astype(np.int64))


def _one_ulp(values: Iterable[Array], seed: int) -> tuple[Array, ...]:
    """Every value moved to a neighbouring float32, up or down at random; zeros stay."""
    random = _random(seed, 3)
    moved: list[Array] = []
    for value in values:
        ends = np.where(random.random_sample(value.shape) < 0.5, -np.inf, np.inf)
        neighbour = np.nextafter(value, ends.astype(np.float32))
        # The neighbours of zero are subnormal, which two platforms flush: that is no perturbation.
        moved.append(_frozen(np.where(value == 0, value, neighbour)))
    return tuple(moved)


# --- tasks ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Task:
    """One training run, complete: whoever has a task needs nothing else but a loss.

    ``initial`` is weight, bias, weight, bias, ...: a network with ReLU between its layers, or a
    linear model when there is one pair. ``order`` holds the row numbers of every batch, so its
    length is the number of steps. ``settings`` is ``None`` where the framework's own optimiser
    defaults are wanted. The training loss is multiplied by ``scale``; the recorded one is not.
    """

    loss: str
    dataset: str
    optimizer: str
    track: str
    variant: int
    inputs: Array
    targets: Array
    initial: tuple[Array, ...]
    order: Array
    learning_rate: float
    settings: Settings | None
    threshold: float
    scale: float = 1.0
    every: int = 1

    @property
    def id(self) -> str:
        """A readable name, unique among all tasks of this module."""
        variant = f"#{self.variant}" if self.variant else ""
        return f"{self.track}{variant}/{self.loss}/{self.dataset}/{self.optimizer}"

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 of everything that decides the run; equal hashes mean the same run."""
        digest = hashlib.sha256()
        facts = [self.loss, self.optimizer, self.learning_rate, self.threshold, self.scale]
        settings = None if self.settings is None else vars(self.settings)
        digest.update(json.dumps([*facts, self.every, settings], sort_keys=True).encode())
        for array in (self.inputs, self.targets, *self.initial, self.order):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def __eq__(self, other: object) -> bool:
        """The same run under the same name."""
        if not isinstance(other, Task):
            return NotImplemented
        return self.id == other.id and self.hash == other.hash

    def __hash__(self) -> int:
        """Equal for equal tasks."""
        return hash(self.hash)

    def predict(self, parameters: Sequence[Array], inputs: Array) -> Array:
        """The model in NumPy, in the precision of what it is given."""
        return _forward(parameters, inputs)[-1]

    def evaluate(
        self,
        parameters: Sequence[Array],
        fallback: Callable[[Array, Array], float] | None = None,
    ) -> float:
        """The loss over all the training data, in float64.

        The formula is this module's own, so a fault in a loss under test cannot hide in the curve
        that is to show it. ``fallback(prediction, target)`` is asked for losses it does not know.
        """
        wide = [np.asarray(value, np.float64) for value in parameters]
        prediction = self.predict(wide, self._wide_inputs)
        known = _KNOWN.get(self.loss)
        if known is not None:
            return known(prediction, self._wide_targets)[0]
        if fallback is None:
            raise ValueError(
                f"no formula for {self.loss!r} here (known: {', '.join(_KNOWN)}); "
                "give evaluate(parameters, fallback)"
            )
        return float(fallback(prediction, self._wide_targets))

    @functools.cached_property
    def _wide_inputs(self) -> Array:
        return self.inputs.astype(np.float64)

    @functools.cached_property
    def _wide_targets(self) -> Array:
        whole = np.issubdtype(self.targets.dtype, np.integer)
        return self.targets if whole else self.targets.astype(np.float64)

    def run(
        self,
        platform: str,
        step: Callable[[Array], None],
        read: Callable[[], Sequence[Array]],
        fallback: Callable[[Array, Array], float] | None = None,
    ) -> Curve:
        """Take every step of the task, and return the curve.

        ``step(rows)`` makes one optimiser step on those rows; ``read()`` gives the parameters as
        they now are. ``values[i]`` is the training loss after ``i * every`` steps. A run that
        leaves the finite numbers ends there, says so in ``note``, and has not reached anything.
        """
        started = time.perf_counter()
        values = [self.evaluate(read(), fallback)]
        note = ""
        # A run that blows up is a finding, told in `note`; NumPy's warnings would add nothing.
        with np.errstate(all="ignore"):
            for number, rows in enumerate(self.order, start=1):
                step(rows)
                if number % self.every:
                    continue
                value = self.evaluate(read(), fallback)
                if not math.isfinite(value):
                    note = f"the training loss became {value} at step {number}"
                    break
                values.append(value)
        reached = next((at for at, value in enumerate(values) if value <= self.threshold), None)
        return {
            "id": f"convergence/{self.id}/{platform}",
            "dataset": self.dataset,
            "loss": self.loss,
            "optimizer": self.optimizer,
            "platform": platform,
            "track": self.track,
            "variant": self.variant,
            "task": self.hash,
            "every": self.every,
            "values": values,
            "iterations": None if reached is None or note else reached * self.every,
            "threshold": self.threshold,
            "note": note,
            "seconds": round(time.perf_counter() - started, 3),
        }


@dataclass(frozen=True)
class _Recipe:
    """What a family of tasks shares: a loss on a data set, and rate and threshold per optimiser."""

    loss: str
    dataset: str
    hidden: tuple[int, ...]
    outputs: int
    batch: int
    steps: int
    schedule: Mapping[str, tuple[float, float]]


# Rates and thresholds are chosen so that a run crosses its threshold after 140 to 360 steps, on the
# way down and not on a plateau: then one per cent is more than one step, a rate that is 5 % off
# moves the crossing by more than the gate allows, and rounding does not move it.
_RECIPES: Final[tuple[_Recipe, ...]] = (
    _Recipe(
        "CrossEntropyLoss",
        "digits",
        (32,),
        10,
        64,
        400,
        {"sgd": (0.1, 0.5), "adam": (2e-3, 0.5), "rmsprop": (2e-3, 0.5)},
    ),
    _Recipe(
        "MSELoss",
        "diabetes",
        (),
        1,
        32,
        400,
        {"sgd": (2e-3, 0.6), "adam": (2e-3, 0.6), "rmsprop": (1e-3, 0.6)},
    ),
    _Recipe(
        "HuberLoss",
        "diabetes",
        (16,),
        1,
        32,
        400,
        {"sgd": (1e-2, 0.25), "adam": (1e-3, 0.25), "rmsprop": (5e-4, 0.25)},
    ),
)


def tasks(
    track: str = "aligned",
    *,
    losses: Iterable[str] | None = None,
    datasets: Iterable[str] | None = None,
    optimizers: Iterable[str] | None = None,
    steps: int | None = None,
) -> tuple[Task, ...]:
    """All tasks of a track, in a fixed order; the keywords select.

    Control tracks give three variants of every task. ``steps`` cuts the runs short, for tests that
    only need a run and not a verdict.
    """
    if track not in TRACKS:
        raise ValueError(f"unknown track {track!r}; known: {', '.join(TRACKS)}")
    chosen: list[Task] = []
    for recipe in _RECIPES:
        if losses is not None and recipe.loss not in tuple(losses):
            continue
        if datasets is not None and recipe.dataset not in tuple(datasets):
            continue
        for optimizer in OPTIMIZERS:
            if optimizers is not None and optimizer not in tuple(optimizers):
                continue
            if track == "defaults:scaled" and optimizer == "sgd":
                # Scaling the loss is scaling SGD's rate; there is no setting to compare.
                continue
            chosen += _variants(recipe, optimizer, track, steps or recipe.steps)
    return tuple(chosen)


def _variants(recipe: _Recipe, optimizer: str, track: str, steps: int) -> list[Task]:
    inputs, targets = _data(recipe.dataset)
    layers = (inputs.shape[1], *recipe.hidden, recipe.outputs)
    rate, threshold = recipe.schedule[optimizer]
    own = track.startswith("defaults")
    task = Task(
        loss=recipe.loss,
        dataset=recipe.dataset,
        optimizer=optimizer,
        track=track,
        variant=0,
        inputs=inputs,
        targets=targets,
        initial=_initial(layers, _SEED),
        order=_order(len(inputs), recipe.batch, steps, _SEED),
        learning_rate=rate,
        settings=None if own else ALIGNED[optimizer],
        threshold=threshold,
        scale=SMALL_LOSS if track == "defaults:scaled" else 1.0,
    )
    if track not in CONTROLS:
        return [task]
    varied: list[Task] = []
    for variant in range(1, _VARIANTS + 1):
        seed = _SEED + variant
        if track == "control:order":
            order = _order(len(inputs), recipe.batch, steps, seed)
            varied.append(replace(task, variant=variant, order=order))
        elif track == "control:seed":
            # An unlucky start needs far more steps; the order keeps its beginning.
            order = _order(len(inputs), recipe.batch, 3 * steps, _SEED)
            initial = _initial(layers, seed)
            varied.append(replace(task, variant=variant, initial=initial, order=order))
        else:
            varied.append(replace(task, variant=variant, initial=_one_ulp(task.initial, seed)))
    return varied


# --- the reference run ---------------------------------------------------------------------------


def _forward(parameters: Sequence[Array], inputs: Array) -> list[Array]:
    """Inputs of every layer, then the prediction."""
    values = [inputs]
    last = len(parameters) - 2
    for at in range(0, len(parameters), 2):
        linear = values[-1] @ parameters[at] + parameters[at + 1]
        values.append(linear if at == last else np.maximum(linear, 0.0))
    return values


def _backward(parameters: Sequence[Array], values: list[Array], gradient: Array) -> list[Array]:
    """Gradients of the parameters from that of the prediction; ReLU has derivative 0 at 0."""
    gradients: list[Array] = []
    for at in range(len(parameters) - 2, -1, -2):
        entered = values[at // 2]
        gradients[:0] = [entered.T @ gradient, gradient.sum(axis=0)]
        if at:
            gradient = (gradient @ parameters[at].T) * (entered > 0.0)
    return gradients


def reference(task: Task, settings: Settings | None = None) -> Curve:
    """The task run in float64 NumPy with the formulas of this module, as one more curve.

    It stands beside the platforms in the verdict: a fault they all share shows against it, and a
    single platform can be judged. ``settings`` replaces the task's, to ask what a framework's
    defaults are worth without that framework.
    """
    meaning = settings or task.settings or ALIGNED[task.optimizer]
    if task.loss not in _KNOWN:
        raise ValueError(
            f"no reference run for {task.loss!r}: its formula is not known here "
            f"(known: {', '.join(_KNOWN)}); compare the platforms with each other"
        )
    formula = _KNOWN[task.loss]
    parameters = [value.astype(np.float64) for value in task.initial]
    means = [np.zeros_like(value) for value in parameters]
    squares = [np.zeros_like(value) for value in parameters]
    inputs, targets = task.inputs.astype(np.float64), task.targets
    steps = 0

    def move(at: int, gradient: Array) -> Array:
        if task.optimizer == "sgd":
            return gradient
        squares[at] += (1.0 - meaning.decay) * (gradient * gradient - squares[at])
        root = np.sqrt(squares[at])
        if task.optimizer == "rmsprop":
            if meaning.placement == "inside":
                return gradient / np.sqrt(squares[at] + meaning.epsilon)
            return gradient / (root + meaning.epsilon)
        means[at] += (1.0 - meaning.momentum) * (gradient - means[at])
        correction = math.sqrt(1.0 - meaning.decay**steps)
        epsilon = meaning.epsilon
        if meaning.placement == "before_correction":
            epsilon /= correction
        return means[at] / (1.0 - meaning.momentum**steps) / (root / correction + epsilon)

    def step(rows: Array) -> None:
        nonlocal steps
        steps += 1
        values = _forward(parameters, inputs[rows])
        gradient = formula(values[-1], targets[rows])[1] * task.scale
        for at, partial in enumerate(_backward(parameters, values, gradient)):
            parameters[at] = parameters[at] - task.learning_rate * move(at, partial)

    return task.run(REFERENCE, step, lambda: parameters)


# --- judging -------------------------------------------------------------------------------------


def tolerance(counts: Iterable[int], every: int = 1) -> float:
    """How far apart iteration counts may lie: one evaluation, or one per cent of the fewest."""
    return max(float(every), min(counts) / 100)


def _key(curve: Curve) -> tuple[str, str, str]:
    return curve["loss"], curve["dataset"], curve["optimizer"]


def _grouped(curves: Iterable[Curve], track: str) -> dict[tuple[str, str, str], list[Curve]]:
    groups: dict[tuple[str, str, str], list[Curve]] = {}
    for curve in curves:
        if curve["track"] == track:
            groups.setdefault(_key(curve), []).append(curve)
    return groups


def _counts(curves: Iterable[Curve]) -> str:
    return ", ".join(
        f"{curve['platform']} {'never' if curve['iterations'] is None else curve['iterations']}"
        for curve in curves
    )


def _drift(curves: Sequence[Curve], steps: int | None = None) -> float:
    """The largest relative difference between two curves at the same step."""
    length = min(len(curve["values"]) for curve in curves)
    if steps is not None:
        length = min(length, 1 + steps // int(curves[0]["every"]))
    table = np.array([curve["values"][:length] for curve in curves])
    return float(np.max((table.max(axis=0) - table.min(axis=0)) / np.abs(table).max(axis=0)))


def _judge(curves: Sequence[Curve], platforms: Sequence[str]) -> tuple[str, str, float | None]:
    """Status, detail and bound of the aligned curves of one task."""
    missing = [name for name in platforms if name not in {c["platform"] for c in curves}]
    if len({curve["task"] for curve in curves}) > 1:
        return "UNTESTED", f"not the same task everywhere, so not compared: {_counts(curves)}", None
    ill = [curve for curve in curves if curve["iterations"] is None]
    if ill:
        notes = "; ".join(f"{c['platform']}: {c['note']}" for c in ill if c["note"])
        threshold = curves[0]["threshold"]
        detail = f"threshold {threshold} not reached by all: {_counts(curves)}"
        return "FAIL", f"{detail} ({notes})" if notes else detail, None
    detail = f"{_counts(curves)}; no curve from {', '.join(missing)}" if missing else ""
    if len(curves) < 2:
        return "UNTESTED", detail or f"nothing to compare with: {_counts(curves)}", None
    counts = [int(curve["iterations"]) for curve in curves]
    bound = tolerance(counts, curves[0]["every"])
    spread = max(counts) - min(counts)
    if spread > bound:
        return "FAIL", f"{_counts(curves)}: {spread} apart, {bound:g} allowed", bound
    early = _drift(curves, EARLY_STEPS)
    if early > EARLY_DIFFERENCE:
        detail = (
            f"{_counts(curves)}; but in the first {EARLY_STEPS} steps the training losses differ "
            f"by {early:.1e}, {EARLY_DIFFERENCE:g} allowed"
        )
        return "FAIL", detail, bound
    if missing:
        return "UNTESTED", detail, bound
    return "PASS", f"{_counts(curves)}; curves within {_drift(curves):.1e}", bound


def verdict(
    curves: Iterable[Curve],
    *,
    platforms: Sequence[str] = (),
    expected: Iterable[Task] = (),
    spec_ids: Mapping[str, str] | None = None,
) -> list[Cell]:
    """One cell per aligned task; the other tracks never gate and give none.

    ``FAIL`` where two counts lie further apart than :func:`tolerance`, where a run does not reach
    its threshold, or where the curves part in their first :data:`EARLY_STEPS` steps by more than
    :data:`EARLY_DIFFERENCE`; ``UNTESTED`` where there is nothing to compare, where curves come
    from different tasks, or where one of ``platforms`` or of the ``expected`` tasks has no curve.
    ``spec_ids`` names the spec behind a class.
    """
    groups = _grouped(curves, "aligned")
    for task in expected:
        if task.track == "aligned":
            groups.setdefault((task.loss, task.dataset, task.optimizer), [])
    cells: list[Cell] = []
    for (loss, dataset, optimizer), group in groups.items():
        spec = (spec_ids or {}).get(loss, loss)
        if group:
            status, detail, bound = _judge(group, platforms)
        else:
            status, detail, bound = "UNTESTED", "no platform gave a curve", None
        cells.append(
            {
                "id": cell_id(
                    "convergence", spec, "all", optimizer, "float32", "iterations", dataset
                ),
                "track": "convergence",
                "loss": spec,
                "class": loss,
                "platform": "all",
                "mode": optimizer,
                "dtype": "float32",
                "quantity": "iterations",
                "stratum": dataset,
                "status": status,
                "bits": None,
                "median_bits": None,
                "condition": None,
                "bound": bound,
                "cases": len(group),
                "worst_case": None,
                "detail": detail,
                "deviation": None,
            }
        )
    return cells


def summary(curves: Iterable[Curve]) -> list[dict[str, Any]]:
    """One row per task and track, for the report: counts, spread, and the causes at work.

    ``spread`` is the largest relative difference between the counts of a row; on a control track
    a row holds the aligned run and its variants on one platform. ``None`` where a run never
    reached its threshold.
    """
    listed = list(curves)
    rows: list[dict[str, Any]] = []
    for track in ("aligned", "defaults", "defaults:scaled"):
        for key, group in _grouped(listed, track).items():
            named = [
                cause.id
                for cause in CAUSES
                if cause.at_work and key[2] in cause.optimizers and track != "aligned"
            ]
            rows.append(_row(track, "all", key, {c["platform"]: c for c in group}, named))
    aligned = {(_key(c), c["platform"]): c for c in listed if c["track"] == "aligned"}
    for track in CONTROLS:
        for key, group in _grouped(listed, track).items():
            for platform in dict.fromkeys(curve["platform"] for curve in group):
                runs = {str(c["variant"]): c for c in group if c["platform"] == platform}
                if (key, platform) in aligned:
                    runs = {"aligned": aligned[key, platform], **runs}
                rows.append(_row(track, platform, key, runs, []))
    return rows


def _row(
    track: str,
    platform: str,
    key: tuple[str, str, str],
    runs: Mapping[str, Curve],
    causes: list[str],
) -> dict[str, Any]:
    counts = {name: curve["iterations"] for name, curve in runs.items()}
    known = [count for name, count in counts.items() if name != REFERENCE]
    complete = all(count is not None for count in known) and min(known, default=0) > 0
    return {
        "track": track,
        "platform": platform,
        "loss": key[0],
        "dataset": key[1],
        "optimizer": key[2],
        "iterations": counts,
        "spread": (max(known) - min(known)) / min(known) if complete else None,
        "causes": causes,
    }


def attribute(task: Task) -> list[dict[str, Any]]:
    """What each difference between a framework's defaults and the aligned settings is worth.

    Runs the reference with one field of the settings replaced at a time (epsilon together with
    its placement: neither means anything without the other), then with all of them. The last
    figure is what that framework's run should need if the named causes are the only ones.
    """
    start = ALIGNED[task.optimizer]
    rows: list[dict[str, Any]] = []
    for (platform, optimizer), own in DEFAULTS.items():
        if optimizer != task.optimizer:
            continue
        changes: dict[str, Settings] = {"none": start}
        if own.decay != start.decay:
            changes[f"{optimizer}-decay"] = replace(start, decay=own.decay)
        if (own.epsilon, own.placement) != (start.epsilon, start.placement):
            changes[f"{optimizer}-epsilon"] = replace(
                start, epsilon=own.epsilon, placement=own.placement
            )
        changes["all"] = own
        for cause, settings in changes.items():
            curve = reference(task, settings)
            rows.append({"platform": platform, "cause": cause, "iterations": curve["iterations"]})
    return rows
