"""The verdict: two sides on every probe, what differs first, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
import numpy as np

from lossbridge.errors import ArgumentError
from lossbridge.kinds import moved_axis
from lossbridge.migrate import causes
from lossbridge.migrate.alignment import (
    alike,
    by_names,
    domains_of,
    fixed_axes,
    in_domains,
    joint_domains,
    laid_alike,
    laid_out,
    overloads_of,
    ranks_of,
    stated_labels,
)
from lossbridge.migrate.comparison import Cause, Comparison, Example
from lossbridge.migrate.pairs import (
    CLOSE,
    Pair,
    answered,
    close_to,
    effects,
    judged,
    noise_of,
    pair,
    pairs_of,
)
from lossbridge.migrate.probes import (
    CLASSES,
    HIDDEN,
    PLACES,
    SHAPES,
    Probe,
    Signature,
    probes,
    seen,
    sequence_probes,
    unequal,
)
from lossbridge.migrate.profiles import TRAINING, Profile, profile_of
from lossbridge.migrate.sides import (
    Outcome,
    Side,
    UncallableError,
    as_formula,
    calls_of,
    side,
    title,
    with_arguments,
)

# An unknown function that differs by no more, and hardly anywhere, has a small constant.
NEARLY = 1e-3
# Within this, and with the same constants, they differ by how they round.
ROUNDED = 1e-6


def compare(
    a: Any,
    b: Any,
    *,
    inputs: Mapping[str, str] | None = None,
    weights: str | None = None,
    platform: str | tuple[str | None, str | None] | None = None,
    classes: int | None = None,
    profile: str = "training",
    ignore: Sequence[str] = (),
) -> Comparison:
    """Whether two losses are the same function, in value and gradient, and if not, why.

    Each of ``a`` and ``b`` is a live loss of PyTorch, Keras or optax, one of ours, a
    specification, the path of a specification or of a record (see :func:`lossbridge.record`), an
    expression such as ``"keras.losses.Tversky(alpha=0.3)"`` (parsed, never evaluated), or a plain
    callable, whose arguments ``inputs`` then describes:
    ``{"logits": "real[n, c]", "labels": "index(c)[n]"}``, in the order in which it takes them; a
    target that is named so and comes first, as Keras's ``y_true`` does, still meets the other's
    target. A function whose parameters have these names is called by them. An axis may be a number,
    its length (``real[n, 4]``), or stand twice (``real[c, c]``); where both sides name the same
    axes, they meet by name, whatever order each has them in. ``platform`` names the framework of a
    callable that takes arrays of several. ``weights="sample"`` demands that sample weights be
    probed; ``weights="class"`` asks about weights of classes alone, each framework taking them in
    its own way: an argument, sample weights as Keras's ``fit(class_weight=...)`` makes them, or
    values multiplied by hand. ``classes`` is how many there are on the probes, for callables that
    take no other number; class weights say it themselves.

    ``profile="training"`` leaves out what training does not meet: gradients of targets and of
    binary, sign, one-hot and mask inputs; infinities, NaN, 1e30 and saturation at 1000; labels
    outside the data (one that a side is told to ignore is in the data); empty and fully masked
    batches; NaN under a mask; half precision, unless a side computes in it; another subgradient
    at an exact tie. ``profile="strict"`` leaves out nothing. ``ignore`` names inputs that may
    change neither side; without it, :func:`assert_equivalent` demands that every input matters.

    Returns a :class:`Comparison`, whose ``verdict`` says what was found. Raises
    :class:`ArgumentError` for what is no loss at all.
    """
    chosen = profile_of(profile)
    if isinstance(ignore, str) or not all(isinstance(n, str) for n in ignore):
        raise ArgumentError(f"ignore={ignore!r} was given; it is names of inputs: ignore=('w',)")
    if weights not in (None, "sample", "class"):
        raise ArgumentError(f"weights={weights!r} was given; it is 'sample', 'class' or None")
    platforms = platform if isinstance(platform, tuple) else (platform, platform)
    if len(platforms) != 2:
        raise ArgumentError(
            f"platform={platform!r} was given; it is one name, or one for each side"
        )
    try:
        first, second = (
            side(x, inputs=inputs, platform=p, classes=classes)
            for x, p in zip((a, b), platforms, strict=True)
        )
    except UncallableError as error:
        return Comparison("undecided", str(_label(a)), str(_label(b)), notes=(str(error),))
    found = of_sides(first, second, weights=weights, profile=chosen)
    if not ignore:
        return found
    unknown = {*ignore} - {*first.signature.inputs, *second.signature.inputs}
    if unknown:
        names = ", ".join(first.signature.inputs)
        raise ArgumentError(f"ignore={tuple(ignore)!r} was given; the inputs are {names}")
    rest = tuple(n for n in found.without_effect if n not in ignore)
    return msgspec.structs.replace(found, without_effect=rest)


def _label(x: Any) -> str:
    return x if isinstance(x, str) else title(x)


def of_sides(
    a: Side, b: Side, weights: str | None = None, profile: Profile = TRAINING
) -> Comparison:
    """The comparison of two sides that can be called."""
    why = unable(a) or unable(b)
    if why:
        return _comparison("undecided", a, b, [], [], (why,))
    if a.classes and b.classes and a.classes != b.classes:
        return _of_other_classes(a, b)
    if weights == "class":
        return _of_class_weights(a, b)
    a, b = by_names(a, b)
    forms = [laid_alike(x, y) for x, y in overloads_of(a, b)]
    found = [
        msgspec.structs.replace(_of_form(x, y, weights, profile), left_out=profile.leaves_out)
        for x, y in forms
    ]
    if len(found) == 1:
        return found[0]
    # Where the dtype of an input decides between meanings, they are one function if all agree.
    worst = max(range(len(found)), key=lambda k: SEVERITY.index(found[k].verdict))
    if len({f.verdict for f in found}) == 1:
        return found[worst]
    said = [_given(x.signature, forms[0][0].signature, forms[-1][0].signature) for x, _ in forms]
    others = [
        f"for {said[k]}: {f.verdict}" + (f" ({f.notes[0]})" if f.verdict == "undecided" else "")
        for k, f in enumerate(found) if k != worst
    ]  # fmt: skip
    return msgspec.structs.replace(
        found[worst],
        causes=(Cause(f"so it is for {said[worst]}"), *found[worst].causes),
        notes=(*others, *found[worst].notes),
    )


SEVERITY = (
    "undecided", "same", "edges_differ", "gradient_differs", "same_up_to_factor", "domain_differs",
    "different",
)  # fmt: skip


def _of_other_classes(a: Side, b: Side) -> Comparison:
    """Two sides that take different numbers of classes."""
    for x, other in ((a, b), (b, a)):
        if x.recorded:
            why = (
                f"{x.label} was recorded on {x.classes} classes; record it on {other.classes}: "
                f"lossbridge record FILE.py:loss --classes {other.classes} -o side.json"
            )
            return _comparison("undecided", a, b, [], [], (why,))
    cause = Cause(
        f"a is for {a.classes} classes and b for {b.classes}", "give both as many class weights"
    )
    return _comparison("domain_differs", a, b, [], [cause])


def _given(own: Signature, *others: Signature) -> str:
    """The terms of those inputs that overloads take in different terms."""
    return ", ".join(
        f"{name} given as {causes.TERMS.get(own.domain(k), own.domain(k))}"
        for k, name in enumerate(own.inputs)
        if len({x.domain(k) for x in others}) > 1
    )


def _of_form(a: Side, b: Side, weights: str | None, profile: Profile) -> Comparison:
    """The comparison of two sides, each with one form of inputs."""
    if a.signature.sequence and b.signature.sequence:
        return _of_sequences(a, b, profile)
    laid = laid_out(a, b)
    if laid is None:
        why = "the axes of the two records lie otherwise, or are others; record one of them anew"
        return _comparison("undecided", a, b, [], [], (why,))
    a, b = laid
    if max(len(a.signature.inputs), len(b.signature.inputs)) > PLACES:
        why = f"more than {PLACES} inputs, which is as many as the probes have"
        return _comparison("undecided", a, b, [], [], (why,))
    stated = stated_labels(a, b)

    def skip(probe: Probe) -> bool:
        return bool(profile.probe(probe, stated))

    if a.signature.sequence != b.signature.sequence or not alike(a.signature, b.signature):
        return _apart(a, b)
    ranks = ranks_of(a.signature, b.signature)
    if not ranks:
        most = max(fixed_axes(k) for s in (a.signature, b.signature) for k in s.inputs.values())
        if most > max(SHAPES):
            why = f"an input of {most} axes; the probes have {max(SHAPES)} at most"
            return _comparison("undecided", a, b, [], [], (why,))
        return _apart(a, b)
    joint = joint_domains(a.signature, b.signature)
    weighted = a.takes_weights and b.takes_weights
    unprobed = []
    own = [
        j if x == y or (k and _stated(a, b, {x, y})) else None
        for k, (j, x, y) in enumerate(
            zip(joint, domains_of(a.signature), domains_of(b.signature), strict=True)
        )
    ]
    if None in own:
        # Where each needs its own terms, they are one function if they agree in those.
        tried, _ = answered(pairs_of(a, b, own, ranks, groups=("inside",)))
        ran = [p for p in tried if not p.a.raised and not p.b.raised]
        scale = causes.factor(a, b, ran) if any(p.status == "value" for p in ran) else None
        if scale and scale[0] is not None:
            ran += _longer(a, b, own, ran)
            scale = causes.factor(a, b, ran)
        if ran and (scale or all(p.status != "value" for p in ran)):
            more, _ = answered(
                pairs_of(a, b, own, ranks, weighted, ("kinks", "edges", "ignored"), left_out=skip)
            )
            tried = _counting(a, b, [*tried, *more], profile)
            ran = [p for p in _of(tried, "inside") if not p.a.raised and not p.b.raised]
            edges = [p for p in _edges(tried) if p.probe.group != "kinks"]
            sloped = [p for p in ran if p.status == "gradient"]
            return _comparison(
                "domain_differs", a, b, tried,
                [
                    causes.domain(a, b), *([scale[1]] if scale else ()),
                    *(causes.of_gradient(a, b, sloped) if sloped else ()),
                    *([] if scale else causes.of_edges(a, b, edges)),
                ],
                _notes(a, b), factor=scale[0] if scale else None,
            )  # fmt: skip
    pairs = []
    for rank in ranks:
        some, missing = answered(
            pairs_of(a, b, joint, (rank,), groups=("inside",), precise=rank == ranks[0])
        )
        unprobed += missing
        refused = [
            next((o.error for o in outcomes if o.raised), "")
            for outcomes in ([p.a for p in _of(some, "inside")], [p.b for p in _of(some, "inside")])
            if outcomes and all(o.raised for o in outcomes)
        ]
        if refused:
            unprobed.append(f"inputs of rank {rank}, which one side does not take: {refused[0]}")
        else:
            pairs += some
            more, missing = answered(
                pairs_of(
                    a,
                    b,
                    joint,
                    (rank,),
                    weighted,
                    FURTHER,
                    precise=rank == ranks[0],
                    left_out=skip,
                )
            )
            pairs += more
            unprobed += missing
    if not pairs:
        why = f"no probe ran on both sides{': ' if unprobed else ''}{'; '.join(unprobed[:1])}"
        found = _comparison("undecided", a, b, [], [], (why,))
        return msgspec.structs.replace(found, not_probed=tuple(dict.fromkeys(unprobed)))
    taken, beside = [], []
    pairs = _counting(a, b, pairs, profile)
    for p in pairs:
        if p.probe.id.endswith(HIDDEN) and p.status not in ("equal", "raises"):
            # What is not to count is no part of either function.
            values = f"a gives {p.a.value:.6g}, b {p.b.value:.6g}"
            shows = [n for n, o in (("a", p.a), ("b", p.b)) if np.isnan(o.value)]
            why = f"; a NaN under the mask shows in {shows[0]}" if len(shows) == 1 else ""
            beside.append(f"{HIDDEN}: {values}{why}")
            continue
        single = p.probe.group != "inside" and p.probe.id.endswith("in float32")
        if (p.probe.group in ("precision", "weights", "masks") or single) and p.status == "raises":
            precise = p.probe.group == "precision" or single
            what = p.probe.dtype if precise else p.probe.id.partition("/")[2]
            said = next(o.error for o in (p.a, p.b) if o.raised)
            unprobed.append(f"{what}, which one side does not take: {said}")
        else:
            taken.append(p)
    found = _verdict(a, b, taken, weights)
    if found.factor is not None:
        longer = _longer(a, b, joint, _of(taken, "inside"))
        found = _verdict(a, b, [*taken, *longer], weights) if longer else found
    inert = without_effect(a, b, taken)
    unprobed += [f"{n}, which changes neither side on any probe" for n in inert]
    if weights == "sample" and not weighted:
        unprobed.append("sample weights: not both sides take them")
    if "torch" in (a.platform, b.platform):
        unprobed.append("torch.compile, which takes ten seconds for each shape")
    if len(ranks) == 1 and ranks[0] == 2 and a.signature.axis != b.signature.axis:
        unprobed.append("more than two axes")
    return msgspec.structs.replace(
        found,
        notes=tuple(dict.fromkeys((*found.notes, *_notes(a, b), *beside))),
        not_probed=(*found.not_probed, *dict.fromkeys(unprobed)),
        without_effect=inert,
    )


def _counting(a: Side, b: Side, pairs: Sequence[Pair], profile: Profile) -> list[Pair]:
    """The pairs with those gradients and differences alone that count in a profile."""
    if not profile.leaves_out:
        return list(pairs)
    names = list(a.signature.inputs)
    terms = list(zip(names, b.signature.inputs, strict=False))
    da, db = domains_of(a.signature), domains_of(b.signature)
    counted = {
        x
        for k, (x, y) in enumerate(terms)
        if profile.gradient(x, da[k], db[k]) and (k == 0 or profile.gradient(y))
    }
    found = []
    for p in pairs:
        slopes = tuple(s for s in p.slopes if s[0] in counted)
        if len(slopes) < len(p.slopes):
            p = judged(a, b, replace(p, slopes=slopes))
        if not profile.counts(p.probe, p.status):
            p = replace(p, status="equal", where=())
        found.append(p)
    return found


def without_effect(a: Side, b: Side, pairs: Sequence[Pair]) -> tuple[str, ...]:
    """The inputs that change neither side."""
    names = list(a.signature.inputs)
    found = effects(pairs, len(names))
    return tuple(n for n, (x, y) in zip(names, found, strict=True) if x is False and y is False)


def _stated(a: Side, b: Side, terms: set[str]) -> bool:
    """Whether a target is said to be 0 or 1 in the description of a callable, and may be between.

    That is what the user has, and no other domain.
    """
    described = not a.specs or not b.specs
    return described and terms in ({"binary", "probability"}, {"one_hot", "simplex"})


def _longer(a: Side, b: Side, joint: Sequence[str | None], ran: Sequence[Pair]) -> list[Pair]:
    """Pairs of another length of the last axis, where all that ran have one: a factor may be it."""
    if a.classes or b.classes or a.recorded or b.recorded:
        return []
    if len({p.probe.latent[0].shape[-1] for p in ran if p.finite}) != 1:
        return []
    ranks = tuple({p.probe.rank: 1 for p in ran if p.finite})[:1]
    more = pairs_of(a, b, joint, ranks, groups=("inside",), classes=CLASSES + 2)
    return [p for p in more if p.finite]


CLASS_WEIGHTS = (0.5, 2.0, 1.25)


def _of_class_weights(a: Side, b: Side) -> Comparison:
    """Two losses whose classes weigh: by their argument, or by the weights of their samples."""
    a, b = overloads_of(a, b)[0]
    sides, notes = [], []
    for x in (a, b):
        made, how = _class_weighted(x)
        if made is None:
            return _comparison("undecided", a, b, [], [], (f"class weights: {x.label} {how}",))
        sides.append(made)
        notes.append(f"{x.label}: {how}")
    x, y = sides
    if not alike(x.signature, y.signature) or 2 not in ranks_of(x.signature, y.signature):
        return _apart(a, b)
    joint = joint_domains(x.signature, y.signature)
    weights = np.array(CLASS_WEIGHTS)

    def weighted(p: Probe) -> Probe:
        return replace(p, weights=weights[p.labels])

    # What a class weighs follows from the label, so that no gradient in a target is comparable.
    pairs = [
        judged(x, y, replace(p, slopes=p.slopes[:1]))
        for p in pairs_of(x, y, joint, (2,), groups=("inside",), change=weighted)
        if not p.probe.soft
    ]
    found = _verdict(x, y, pairs, None)
    return msgspec.structs.replace(found, notes=(*notes, *found.notes))


def _class_weighted(x: Side) -> tuple[Side | None, str]:
    """A side whose classes weigh, and how that was brought about."""
    if not {"index", "one_hot", "simplex"} & {*domains_of(x.signature)[1:]}:
        return None, "has no classes"
    if x.recorded:
        return None, "was recorded, and class weights are no part of a record"
    named = x.native is not None and "weight" in x.native.given
    if named and x.native is not None:
        if x.native.given["weight"] is not None:
            return None, "has class weights already: compare it without weights='class'"
        return with_arguments(x, weight=list(CLASS_WEIGHTS)), f"weight={list(CLASS_WEIGHTS)}"
    if x.takes_weights:
        return x, "each sample weighs what its class does, as fit(class_weight=...) has it"
    if x.run(next(iter(probes(2)))).unreduced:
        return _multiplied(x), "its values are multiplied by the weights, and averaged"
    return None, "takes neither class weights nor sample weights"


def _multiplied(x: Side) -> Side:
    """A side of unreduced values, weighed where no argument of it does so."""

    def call(given: Mapping[str, Any], weights: Any) -> Any:
        value = x.call(given, None)
        if weights is not None and hasattr(value, "new_tensor"):  # torch takes no array of NumPy's
            weights = value.new_tensor(weights)
        return value if weights is None else value * weights

    return replace(x, call=call, unweighted=None, kept={})


def _of_sequences(a: Side, b: Side, profile: Profile) -> Comparison:
    """Two losses of sequences, which take lengths, paddings or neither."""
    told = len(a.signature.inputs) > 2 and len(b.signature.inputs) > 2
    # Whether labels and lengths are described as such, or as integers, makes no other function.
    kinds = [
        [str(k) if k.dtype != "int" else k.axes for k in x.signature.inputs.values()]
        for x in (a, b)
    ]
    domains = [
        [d for d, k in zip(domains_of(s), s.inputs.values(), strict=True) if k.dtype != "int"]
        for s in (a.signature, b.signature)
    ]
    alike = kinds[0] == kinds[1] and domains[0] == domains[1]
    own: tuple[str | None, ...] = (None,) * len(a.signature.inputs)
    pairs, unprobed = _sequences(a, b, tuple(domains_of(a.signature)) if alike else own, told)
    pairs = _counting(a, b, pairs, profile)
    found = _verdict(a, b, pairs, None)
    if kinds[0] == kinds[1] and not alike and found.verdict == "different":
        # Of one kind, and no function in its own terms: in those of the one that says more.
        alike = True
        pairs, unprobed = _sequences(a, b, joint_domains(a.signature, b.signature), told)
        pairs = _counting(a, b, pairs, profile)
        found = _verdict(a, b, pairs, None)
    if not alike and found.verdict not in ("undecided", "different"):
        kept = found.causes if found.verdict != "same" else ()
        found = _comparison(
            "domain_differs", a, b, pairs, [_arguments(a, b), *kept], factor=found.factor
        )
    return msgspec.structs.replace(found, not_probed=(*found.not_probed, *unprobed))


def _sequences(
    a: Side, b: Side, joint: Sequence[str | None], told: bool
) -> tuple[list[Pair], list[str]]:
    """Both sides on the probes of sequences."""
    left, right = (x.signature if None in joint else in_domains(x.signature, joint) for x in (a, b))
    return answered(
        pair(a, b, p, seen(p, left), seen(p, right), joint) for p in sequence_probes(told)
    )


def unable(x: Side) -> str:
    """Why a side cannot be called on probes at all."""
    spec = x.specs[0] if x.specs else None
    if spec is None:
        return ""
    if spec.weights and x.native is not None:
        return (
            f"{x.label} has weights of its own ({', '.join(spec.weights)}), which start from "
            "random numbers: two of them differ whatever they compute"
        )
    unbound = [n for n in spec.ports if x.native is None or x.native.arguments.get(n) is None]
    if unbound and not x.functions:
        return f"{x.label} needs functions of yours: {', '.join(unbound)}; compare the live objects"
    return ""


def _apart(a: Side, b: Side) -> Comparison:
    return _comparison("domain_differs", a, b, [], [_arguments(a, b)])


def _arguments(a: Side, b: Side) -> Cause:
    return Cause(
        f"they take different arguments: a takes {_axes(a.signature)}; b {_axes(b.signature)}"
    )


# --- what is said beside the verdict -------------------------------------------------------------


def _notes(a: Side, b: Side) -> list[str]:
    return [*provenance(a), *provenance(b), *_broadcast(a, b), *_turned(a, b)]


def _turned(a: Side, b: Side) -> list[str]:
    """That two losses have their classes on different axes, and were given arrays to match."""
    x, y = (next((s.place(k) for k in s.inputs.values() if moved_axis(k)), None)
            for s in (a.signature, b.signature))  # fmt: skip
    if x is None or y is None or x == y:
        return []
    return [f"classes are on axis {x} for a and on axis {y} for b: each was given them there"]


def provenance(x: Side) -> list[str]:
    """Whether Keras takes a softmax's or a sigmoid's output for the logits before it.

    It does where it finds how a tensor was made: always behind Keras's own operations, and behind
    TensorFlow's in a graph.
    """
    domain = x.signature.domain(0)
    if x.recorded:
        return list(x.provenance)
    if x.platform != "keras" or domain not in ("probability", "simplex"):
        return []
    if x.native is None or "from_logits" not in x.native.given:
        return []
    rank = 2
    logits = np.array([[50.0, -50.0, 0.0]])
    probe = Probe("2/provenance", "provenance", rank, (logits,), np.array([1]), -np.sign(logits))
    inputs = seen(probe, replace(x.signature, domains=("real", *x.signature.domains[1:])))
    calls = calls_of(x.platform)
    found = {}
    # In the dtype of the loss: a cast would stand between it and how the tensor was made.
    dtype = x.computes or "float64"
    for mode in calls.MODES:
        try:
            value, _ = calls.evaluate(
                partial(calls.behind_activation, x.unweighted, domain), inputs, (), dtype, mode
            )
            found[mode] = np.mean(value)
        except Exception:  # a form of input that it does not take
            return []
    if close_to(found["eager"], found[calls.MODES[-1]], 1e-4):
        return []
    said = " and ".join(f"{float(v):.6g} in {m} mode" for m, v in found.items())
    made = "sigmoid" if domain == "probability" else "softmax"
    return [
        f"{x.label} depends on how its predictions were made: behind tf.nn.{made} of logits of 50 "
        f"it gives {said}, where it reads the logits behind it; give it logits and from_logits=True"
    ]


def _broadcast(a: Side, b: Side) -> list[str]:
    """What becomes of predictions of shape (N, 1) beside targets of shape (N,)."""
    first, second = unequal(a.signature), unequal(b.signature)
    if first is None or second is None:
        return []
    oa, ob = a.on(*first, wrt=()), b.on(*second, wrt=())
    if oa.missing or ob.missing:
        return []
    if oa.raised == ob.raised and (oa.raised or close_to(oa.value, ob.value, CLOSE["float32"])):
        return []
    said = [
        f"{n} {'raises ' + o.error.partition(':')[0] if o.raised else f'gives {o.value:.6g}'}"
        for n, o in (("a", oa), ("b", ob))
    ]
    return [f"predictions of shape (N, 1) beside targets of shape (N,): {', '.join(said)}"]


def _axes(signature: Signature) -> str:
    return ", ".join(f"{n}: {signature.written(n)}" for n in signature.inputs)


# --- deciding ------------------------------------------------------------------------------------


def _of(pairs: Sequence[Pair], *groups: str) -> list[Pair]:
    return [p for p in pairs if p.probe.group in groups]


def _verdict(a: Side, b: Side, pairs: Sequence[Pair], weights: str | None) -> Comparison:
    inside = _of(pairs, "inside", *(("weights",) if weights == "sample" else ()))
    ran = [p for p in inside if not p.a.raised and not p.b.raised]
    finite = [p for p in inside if p.finite and p.probe.group == "inside"]
    whole = [p for p in inside if p.probe.group == "inside"]
    if ran and (len(finite) < FEWEST or 2 * len(finite) < len(whole)):
        few = (
            f"{len(finite)} of {len(whole)} ordinary probes give finite values on both sides; it "
            f"takes {FEWEST} and half of them: describe what the inputs are, such as positive"
        )
        return _comparison("undecided", a, b, pairs, [], (few,))
    if not ran:
        which = next((p for p in inside if p.a.raised or p.b.raised), None)
        said = "" if which is None else which.a.error or which.b.error
        return _comparison("undecided", a, b, pairs, [], (f"no probe ran on both sides: {said}",))
    broken = [p for p in inside if p.status == "raises"]
    inside = ran
    described = bool(a.specs and b.specs)
    if not described:
        inside = _nearly(inside)
    finite = [p for p in inside if p.finite]
    if len(finite) > 1 and all(p.status != "value" for p in finite):
        broken += [p for p in inside if not p.finite and p.status == "value"]
        inside = finite
    if any(p.status == "value" for p in inside):
        scale = causes.factor(a, b, inside)
        if scale is not None:
            number, cause = scale
            why = [cause]
            if number is not None:
                rest = _edges([_scaled(a, b, p, number) for p in pairs])
                why += causes.of_edges(a, b, [p for p in rest if p.probe.group != "empty"])
            return _comparison("same_up_to_factor", a, b, pairs, why, factor=number, showing=inside)
        why = causes.of_difference(a, b, inside)
        return _comparison("different", a, b, pairs, why, showing=inside)
    slight = [p for p in inside if p.status == "slight"]
    epsilon = causes.of_constants(a, b, slight or _edges(pairs))
    if slight and not epsilon:
        if any(abs(p.b.value - p.a.value) > ROUNDED * abs(p.a.value) for p in slight):
            scale = causes.factor(a, b, inside)
            if scale is not None and scale[0] is not None:
                return _comparison(
                    "same_up_to_factor", a, b, pairs, [scale[1]], factor=scale[0], showing=slight
                )
            if described:
                found = causes.of_difference(a, b, slight)
                return _comparison("different", a, b, pairs, found, showing=slight)
            epsilon = [causes.nearly(max(slight, key=_apart_by), max(map(_apart_by, slight)))]
        else:
            slight = []
    rest = _edges(pairs)
    kinks = [p for p in rest if p.probe.group == "kinks"]
    sloped = [p for p in inside if p.status == "gradient"]
    if not sloped and all(p.status == "gradient" for p in kinks):
        sloped = kinks
    if sloped:
        known = {n for p in sloped for n in p.where}
        others = [
            p for p in rest
            if p.probe.group != "kinks" and not (p.status == "gradient" and known >= {*p.where})
        ]  # fmt: skip
        return _comparison(
            "gradient_differs", a, b, pairs,
            [*causes.of_gradient(a, b, sloped), *causes.of_edges(a, b, others)],
            showing=sloped,
        )  # fmt: skip
    rest = [*rest, *broken, *slight]
    if rest:
        found = [*causes.of_settings(a, b), *epsilon, *causes.of_edges(a, b, rest)]
        return _comparison("edges_differ", a, b, pairs, found, showing=rest)
    return _comparison("same", a, b, pairs, [])


def _nearly(inside: Sequence[Pair]) -> list[Pair]:
    """Pairs of a function of which nothing is known, and which may have a small constant.

    Most differ slightly then, and those of smaller probabilities or distances a little more.
    """
    finite = [p for p in inside if p.finite]
    more = [p for p in finite if p.status == "value" and _apart_by(p) <= NEARLY]
    slight = [p for p in finite if p.status == "slight"]
    if len(more) > len(slight) or any(
        p.status == "value" and _apart_by(p) > NEARLY for p in finite
    ):
        return list(inside)
    return [replace(p, status="slight") if p.finite and p.status == "value" else p for p in inside]


def _apart_by(p: Pair) -> float:
    size = max(abs(float(p.a.value)), abs(float(p.b.value)))
    return abs(float(p.b.value - p.a.value)) / size if size else 0.0


def _scaled(a: Side, b: Side, p: Pair, factor: float) -> Pair:
    """The pair, if a were multiplied by a factor."""
    if p.a.raised:
        return p
    slopes = tuple((n, ga * factor, gb) for n, ga, gb in p.slopes)
    value = replace(p.a, value=p.a.value * factor, noise=0.0)
    found = judged(a, b, replace(p, a=value, slopes=slopes))
    if found.status == "value" and p.probe.group in ("edges", "kinks"):
        value = replace(value, noise=abs(factor) * noise_of(a, p.probe, p.inputs, p.a))
        found = judged(a, b, replace(found, a=value))
    return replace(found, a=p.a)


FEWEST = 4
"""How many ordinary probes must be finite on both sides."""

FURTHER = (
    "kinks", "edges", "empty", "ignored", "weights", "masks", "compiled", "precision",
)  # fmt: skip
"""The groups of probes that are not inside."""


def _edges(pairs: Sequence[Pair]) -> list[Pair]:
    return [p for p in _of(pairs, *FURTHER) if p.status not in ("equal", "slight")]


def _comparison(
    verdict: str,
    a: Side,
    b: Side,
    pairs: Sequence[Pair],
    found: Sequence[Cause],
    notes: Sequence[str] = (),
    factor: float | None = None,
    showing: Sequence[Pair] | None = None,
) -> Comparison:
    """A result; its example is one of the pairs ``showing`` the difference, or of all."""
    shown = [p for p in (pairs if showing is None else showing) if p.status != "equal"]
    example = None if verdict in ("same", "undecided") or not shown else _example(a, b, shown)
    notes = list(notes)
    for x in (a, b):
        if any((p.a if x is a else p.b).unreduced for p in _of(pairs, "inside")):
            notes.append(f"{x.label} gives one value for each element; they were averaged")
        notes.extend(f"{x.label}: {n}" for n in (x.witness.notes if x.witness else ()))
        notes.extend(f"{x.label}: {n}" for n in x.notes)
    groups = dict.fromkeys(p.probe.group for p in pairs)
    return Comparison(
        verdict, a.label, b.label, factor=factor, causes=tuple(found), example=example,
        probed=tuple(f"{g} ({sum(p.probe.group == g for p in pairs)} probes)" for g in groups),
        notes=tuple(dict.fromkeys(notes)),
    )  # fmt: skip


def _example(a: Side, b: Side, pairs: Sequence[Pair]) -> Example:
    """The smallest input that shows the difference, with what the exact function gives there."""

    def size(p: Pair) -> tuple[int, float]:
        arrays = [np.asarray(x) for x in p.inputs.values()]
        digits = sum(float(np.abs(np.nan_to_num(x, posinf=9, neginf=9)).sum()) for x in arrays)
        return sum(x.size for x in arrays), digits

    chosen = min(pairs, key=size)
    exact = _exact(a, chosen)
    both = zip(chosen.inputs.values(), chosen.other.values(), strict=False)
    alike = len(chosen.inputs) == len(chosen.other) and all(close_to(x, y, 0.0) for x, y in both)
    beside = {"sample_weight": chosen.probe.weights, "mask": chosen.probe.mask}
    return Example(
        group=chosen.probe.group, probe=chosen.probe.id, dtype=chosen.probe.dtype,
        inputs={n: _numbers(x) for n, x in chosen.inputs.items()},
        a=_shown(chosen.a), b=_shown(chosen.b), exact=exact,
        others={} if alike else {n: _numbers(x) for n, x in chosen.other.items()},
        shapes={
            n: np.shape(x)
            for n, x in (*chosen.inputs.items(), *chosen.other.items())
            if not np.size(x)
        },
        beside={n: _numbers(x) for n, x in beside.items() if x is not None},
    )  # fmt: skip


def _shown(outcome: Outcome) -> dict[str, Any]:
    if outcome.raised:
        return {"raises": outcome.error}
    return {
        "value": number(outcome.value),
        "gradients": {n: _numbers(g) for n, g in outcome.gradients.items()},
    }


def _numbers(x: Any) -> Any:
    x = np.asarray(x)
    if x.dtype.kind != "f":
        return x.tolist()
    return number(float(x)) if x.ndim == 0 else [_numbers(row) for row in x]


def number(x: Any) -> Any:
    """A float as JSON has it: what is not finite as text."""
    value = float(x)
    return value if math.isfinite(value) else str(value)


def _exact(a: Side, chosen: Pair) -> dict[str, Any] | None:
    """What the meaning of ``a`` gives there in exact arithmetic, where the oracle is installed."""
    if not a.specs or a.signature.ports:
        return None
    try:
        from lossbridge_conformance.oracle import oracle
    except ImportError:
        return None
    from lossbridge.passes.differentiate import differentiate

    if chosen.probe.weights is not None or chosen.probe.mask is not None:
        return None
    try:
        formula = as_formula(a, chosen.inputs)
        if formula is None:
            return None
        spec, graph, given = formula
        real = tuple(n for n, k in spec.inputs.items() if k.dtype == "real")
        graph = differentiate(graph, "value", real)
        found = oracle(graph, {n: np.asarray(given[n]) for n, _ in graph.inputs()}, budget=2.0)
    except Exception:  # what the oracle cannot do is no reason to withhold a verdict
        return None
    value = np.asarray(found["value"].float64())
    return {
        "value": number(value.mean()) if value.size else None,
        "gradients": {
            n.removeprefix("gradient_"): _numbers(r.float64())
            for n, r in found.items() if n.startswith("gradient_")
        },
    }  # fmt: skip


def assert_equivalent(a: Any, b: Any, **options: Any) -> Comparison:
    """The comparison of :func:`compare`; raises :class:`AssertionError` unless it is ``same``."""
    return compare(a, b, **options).raise_if_different()


__all__ = ["assert_equivalent", "compare", "of_sides"]
