"""The contract track: what a call does around the formula.

Every reduction under every divisor is held against plain NumPy on the certified values, with
weights and with a mask; further, that masked samples are not looked at, and what an empty batch,
weights of 0, a wrong shape and a label out of range do. In float64, in each platform's first mode.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from lossbridge.plan import spec_graph
from lossbridge_conformance import cases
from lossbridge_conformance.oracle import oracle
from lossbridge_conformance.results import Cell, Status, cell_id
from lossbridge_conformance.stability import base, error_status
from lossbridge_conformance.subjects import Array, Subject, Truths
from lossbridge_conformance.workers import Worker

CLOSE = 1e-12  # relative to the sum of the absolute values
EXTERNAL = 7.0
TYPED = ("ShapeError", "ArgumentError", "DTypeError", "DomainError", "LabelError")


@dataclass(frozen=True)
class Check:
    """One call, and what it must give: a value, or words about it."""

    name: str
    reduction: str
    normalizer: str | None
    call: Mapping[str, Any] = field(default_factory=dict)
    divisor: float = 1.0
    expected: float = 0.0
    scale: float = 0.0  # the sum of the absolute values that went into it


class Contract:
    """The checks of one loss, made from its first ordinary call."""

    def __init__(self, subject: Subject, truths: Truths) -> None:
        self.subject = subject
        self.reason = ""
        self.inputs: dict[str, Array] = {}
        at, call = next(
            (i, c)
            for i, c in enumerate(subject.calls)
            if (c.group, c.stratum) == ("single", "practical")
        )
        self.sample = call.sample_axis
        self.ids = call.ids
        values = truths[subject.name][at, "float64"].rounded["value"].value
        self._select(call, values)

    def _select(self, call: cases.Call, values: Array) -> None:
        """Only samples whose values are finite: a sum of infinities shows nothing."""
        finite = np.isfinite(values)
        inputs = dict(call.inputs)
        if not finite.all():
            if call.sample_axis is None:
                self.reason = "its first ordinary case has no finite value"
                return
            dim = self.subject.axes.index(call.sample_axis)
            kept = np.flatnonzero(np.moveaxis(finite, dim, 0).reshape(len(call.ids), -1).all(1))
            if kept.size < 2:
                self.reason = "too few of its ordinary cases have finite values"
                return
            values = np.take(values, kept, axis=dim)
            kinds = self.subject.kinds
            inputs = {
                n: np.take(x, kept, axis=kinds[n].axes.index(call.sample_axis))
                if call.sample_axis in kinds[n].axes
                else x
                for n, x in inputs.items()
            }
        self.inputs, self.values = inputs, values

    def checks(self) -> Iterator[Check]:
        """The calls whose values NumPy can say."""
        v = self.values
        rng = np.random.default_rng(7)
        weight = np.round(rng.uniform(0.25, 2.0, v.shape) * 64.0) / 64.0
        mask = np.asarray(rng.random(v.shape) < 0.7)
        if mask.size > 1:
            mask.flat[0], mask.flat[1] = True, False
        count = self._count(v)
        everything: dict[str, tuple[Array, Array, Mapping[str, Any]]] = {
            "": (np.ones(v.shape), np.ones(v.shape, bool), {}),
            " weighted": (weight, np.ones(v.shape, bool), {"sample_weight": weight}),
            " masked": (np.ones(v.shape), mask, {"mask": mask}),
            " weighted and masked": (weight, mask, {"sample_weight": weight, "mask": mask}),
        }
        for suffix, (w, m, call) in everything.items():
            terms = np.where(m, w * v, 0.0)
            size = float(np.abs(terms).sum())
            yield Check(f"sum{suffix}", "sum", None, call, 1.0, float(terms.sum()), size)
            divisors = {
                "elements": float(m.sum()),
                "batch": float(v.shape[0]) if v.ndim else 1.0,
                "counts": float(count[m].sum()),
                "weights": float((w * count)[m].sum()),
                "valid": float(((count > 0.0) & m).sum()),
                "external": EXTERNAL,
            }
            if suffix in (" weighted", " masked"):
                divisors = {"elements": divisors["elements"]}  # the others have both at once
            for normalizer, divisor in divisors.items():
                extra = (
                    {"normalizer_count": np.asarray(EXTERNAL)} if (normalizer == "external") else {}
                )
                if divisor == 0.0 or (not v.ndim and normalizer != "elements"):
                    continue
                yield Check(
                    f"{normalizer}{suffix}",
                    "mean",
                    normalizer,
                    {**call, **extra},
                    divisor,
                    float(terms.sum() / divisor),
                    size / divisor,
                )
            by_length = terms / np.maximum(count, 1.0)
            if v.ndim and suffix not in (" weighted", " masked"):
                yield Check(
                    f"target_length{suffix}",
                    "mean",
                    "target_length",
                    call,
                    float(m.sum()),
                    float(by_length.sum() / m.sum()),
                    size / float(m.sum()),
                )

    def _count(self, values: Array) -> Array:
        """What each value counts for, by the loss's own rule."""
        graph = spec_graph(self.subject.spec)
        if not graph.has_output("count"):
            return np.ones(values.shape)
        given = cases.with_parameters(self.subject.spec, self.inputs, dict(self.subject.params))
        found = oracle(graph, {n: given[n] for n, _ in graph.inputs()}, outputs=("count",))["count"]
        return np.broadcast_to(found.float64(), values.shape)

    # --- tasks

    def id(self, check: str) -> str:
        """The name of a check's task."""
        return f"contract {self.subject.name}: {check}"

    def tasks(self, mode: str, quick: bool) -> Iterator[dict[str, Any]]:
        """All calls, in one mode."""
        subject = self.subject
        if self.reason:
            return
        common = {
            **base(subject),
            **subject.split(self.inputs),
            "dtype": "float64",
            "mode": mode,
            "wrt": (),
        }
        if subject.tree:
            yield from self._tree(common)
            return
        for check in self.checks():
            if quick and " " in check.name:
                continue
            gradients = check.name in ("sum", "elements", "batch", "external")
            yield {
                **common,
                "reduction": check.reduction,
                "normalizer": check.normalizer,
                "call": dict(check.call),
                "wrt": subject.wrt if gradients else (),
                "subject": (subject.name, check.reduction, check.normalizer),
                "id": self.id(check.name),
            }
        yield {**common, "subject": (subject.name, "none", None), "id": self.id("none")}
        mean = {
            **common,
            "reduction": "mean",
            "normalizer": "elements",
            "subject": (subject.name, "mean", "elements"),
        }
        for name, inputs, call in self._odd():
            wrt = (next(iter(subject.wrt)),) if name == "masked NaN" else ()
            yield {**mean, "inputs": inputs, "call": call, "wrt": wrt, "id": self.id(name)}
        if self.values.ndim:
            yield {
                **common,
                "reduction": "mean",
                "normalizer": "weights",
                "call": {"sample_weight": np.zeros(self.values.shape)},
                "wrt": subject.wrt,
                "subject": (subject.name, "mean", "weights"),
                "id": self.id("weights of 0"),
            }
        if self.sample is not None and self.values.ndim:
            spec = msgspec.structs.replace(subject.spec, empty="zero")
            yield {
                **mean,
                "spec": spec,
                "inputs": self._emptied(),
                "id": self.id("empty zero"),
                "subject": (subject.name, "mean", "empty zero"),
            }
        for name, inputs in self._wrong_labels():
            yield {
                **common,
                "inputs": inputs,
                "id": self.id(name),
                "subject": (subject.name, "none", None),
            }

    def _odd(self) -> Iterator[tuple[str, dict[str, Array], dict[str, Any]]]:
        subject, split = self.subject, self.subject.split(self.inputs)["inputs"]
        first = next(n for n in split if subject.kinds[n].dtype == "real")
        if (
            self.sample is not None
            and self.values.ndim
            and self.sample in (subject.kinds[first].axes)
        ):
            poisoned = np.array(split[first])
            np.moveaxis(poisoned, subject.kinds[first].axes.index(self.sample), 0)[0] = np.nan
            mask = np.ones(self.values.shape, bool)
            np.moveaxis(mask, subject.axes.index(self.sample), 0)[0] = False
            yield "masked NaN", {**split, first: poisoned}, {"mask": mask}
            yield "empty", self._emptied(), {}
        if len(split) > 1:
            yield "further axis", {**split, first: split[first][..., None]}, {}
            axes = subject.kinds[first].axes
            if self.sample in axes:
                fewer = np.delete(split[first], 0, axis=axes.index(self.sample))
                yield "wrong shape", {**split, first: fewer}, {}

    def _emptied(self) -> dict[str, Array]:
        kinds, sample = self.subject.kinds, str(self.sample)
        return {
            n: np.take(x, [], axis=kinds[n].axes.index(sample)) if sample in kinds[n].axes else x
            for n, x in self.subject.split(self.inputs)["inputs"].items()
        }

    def _wrong_labels(self) -> Iterator[tuple[str, dict[str, Array]]]:
        split = self.subject.split(self.inputs)["inputs"]
        for name, kind in self.subject.spec.inputs.items():
            if kind.name != "index" or self.sample not in kind.axes:
                continue
            sizes = [
                x.shape[
                    self.subject.kinds[n].axes.index(str(kind.of)) - len(self.subject.kinds[n].axes)
                ]
                for n, x in self.inputs.items()
                if kind.of in self.subject.kinds[n].axes
            ]
            labels = np.array(split[name])
            np.moveaxis(labels, kind.axes.index(str(self.sample)), 0)[0] = sizes[0]
            # Beyond a length a label is not looked at.
            ends = {
                n: np.full_like(split[n], labels.shape[kind.axes.index(str(k.of))])
                for n, k in self.subject.spec.inputs.items()
                if k.name == "length" and k.of in kind.axes
            }
            yield "label out of range", {**split, **ends, name: labels}

    def _tree(self, common: dict[str, Any]) -> Iterator[dict[str, Any]]:
        (name,) = (n for n, k in self.subject.spec.inputs.items() if k.name == "tree")
        leaf = self.inputs[name]
        leaves = [leaf[: leaf.shape[0] // 2], leaf[leaf.shape[0] // 2 :]]
        yield {
            **common,
            "reduction": "sum",
            "inputs": {**self.inputs, name: leaves},
            "wrt": (name,),
            "subject": (self.subject.name, "sum", None),
            "id": self.id("leaves"),
        }

    # --- cells

    def cells(self, worker: Worker) -> Iterator[Cell]:
        """What came of the checks on one platform."""
        mode = worker.modes[0]
        if self.reason:
            yield self._cell(worker.platform, mode, "reductions", "UNTESTED", self.reason)
            return
        known = {check.name: check for check in self.checks()}
        prefix = self.id("")
        for task, answer in worker.answers.items():
            if not task.startswith(prefix):
                continue
            name = task.removeprefix(prefix)
            status, detail = self._verdict(name, known.get(name), answer, worker.answers)
            yield self._cell(worker.platform, mode, name, status, detail)

    def _cell(self, platform: str, mode: str, name: str, status: Status, detail: str) -> Cell:
        loss = self.subject.name
        return Cell(
            id=cell_id("contract", loss, platform, mode, "float64", name, ""), track="contract",
            loss=loss, class_=self.subject.class_, platform=platform, mode=mode, dtype="float64",
            quantity=name, status=status, cases=1, detail=detail[:600],
        )  # fmt: skip

    def _verdict(
        self,
        name: str,
        check: Check | None,
        answer: Mapping[str, Any],
        answers: Mapping[str, Mapping[str, Any]],
    ) -> tuple[Status, str]:
        refusals = ("wrong shape", "further axis", "label out of range")
        if name in refusals and answer.get("kind") in TYPED:
            return "PASS", ""
        if "error" in answer:
            return error_status(answer), str(answer["error"])
        value = np.asarray(answer["value"], np.float64)
        if check is not None:
            return self._number(check, value, answer, answers)
        if name == "none":
            good = value.shape == self.values.shape
            return _said(good, f"shape {value.shape}, not {self.values.shape}")
        if name == "leaves":
            total = float(self.values.sum())
            good = (
                bool(np.isclose(value, total, rtol=CLOSE, atol=0.0))
                and len(next(iter(answer["gradients"].values()))) == 2
            )
            return _said(good, f"{float(value)!r} of two leaves, but by hand {total!r}")
        if name == "wrong shape":
            return "FAIL", f"a wrong shape was taken, and gave a value of shape {value.shape}"
        if name == "further axis":
            # Keras drops a trailing 1, as its users expect; nobody may broadcast (N, 1) with (N,).
            plain = answers.get(self.id(self.subject.spec.reduction.normalizer), {})
            good = "value" in plain and bool(
                np.allclose(value, plain["value"], rtol=CLOSE, atol=0.0)
            )
            return _said(good, f"(N, 1) against (N,) was taken, and gave {value}")
        if name == "label out of range":
            dim = self.subject.axes.index(str(self.sample))
            rows = np.moveaxis(value, dim, 0).reshape(value.shape[dim], -1)
            good = bool(np.isnan(rows[0]).all() and np.isfinite(rows[1:]).all())
            return _said(good, f"neither a typed error nor NaN for that sample alone: {rows[0]}")
        if name == "masked NaN":
            gradient = np.asarray(next(iter(answer["gradients"].values())))
            good = bool(np.isfinite(value).all() and not np.isnan(gradient).any())
            return _said(good, f"a masked NaN shows: value {value}")
        if name == "weights of 0":
            gradients = [np.asarray(g) for g in answer["gradients"].values()]
            good = bool(np.isnan(value)) and all((g == 0.0).all() for g in gradients)
            return _said(good, f"divided by 0: value {value}, gradients {gradients}")
        wanted = 0.0 if name == "empty zero" else np.nan
        good = value.shape == () and bool(np.array_equal(value, wanted, equal_nan=True))
        return _said(good, f"the mean of an empty batch is {value}, not {wanted}")

    def _number(
        self,
        check: Check,
        value: Array,
        answer: Mapping[str, Any],
        answers: Mapping[str, Mapping[str, Any]],
    ) -> tuple[Status, str]:
        if value.shape != ():
            return "FAIL", f"a reduced value of shape {value.shape}"
        error = abs(float(value) - check.expected)
        # Not `error > ...`: NaN must fail.
        if not error <= CLOSE * max(check.scale, abs(check.expected)):
            return "FAIL", f"{float(value)!r}, but by hand {check.expected!r}"
        total = answers.get(self.id("sum"), {})
        for name, gradient in answer["gradients"].items():
            if name not in total.get("gradients", {}):
                continue
            wanted = np.asarray(total["gradients"][name]) / check.divisor
            largest = float(np.max(np.abs(wanted), initial=0.0))
            if not np.allclose(gradient, wanted, rtol=0.0, atol=CLOSE * largest, equal_nan=True):
                return "FAIL", (
                    f"the gradient in {name} is not that of the sum over {check.divisor:g}"
                )
        return "PASS", ""


def _said(good: bool, otherwise: str) -> tuple[Status, str]:
    return ("PASS", "") if good else ("FAIL", otherwise)


__all__ = ["Check", "Contract"]
