"""What `same` claims: every input counts, every probe is finite, and every axis is its own."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import lossbridge
from lossbridge.cli import main
from lossbridge.errors import ArgumentError, LossbridgeError, RecordError
from lossbridge.migrate import probes, record
from lossbridge.migrate.judge import assert_equivalent, compare
from lossbridge.migrate.probes import parse, seen

torch = pytest.importorskip("torch")
F = torch.nn.functional
Tensor = Any

LABELS = {"logits": "real[n,c]", "ya": "index(c)[n]", "yb": "index(c)[n]"}


def inside(rank: int) -> list[probes.Probe]:
    return [p for p in probes.probes(rank) if p.group == "inside"]


@pytest.mark.parametrize("kind", ["real[n,c]", "index(c)[n]", "binary[n,c]", "positive[n,c]"])
def test_inputs_of_one_kind_are_given_arrays_of_their_own(kind: str) -> None:
    signature = parse({"x": "real[n,c]", **dict.fromkeys("abcde", kind)})
    # What is drawn anew may be another's by chance: on the probe it is compared with, it is not.
    for probe in (p for p in inside(2) if p.anew is None):
        arrays = list(seen(probe, signature).values())[1:]
        few = arrays[0].size < 4 and "real" not in kind and "positive" not in kind
        for k, x in enumerate(arrays):
            for y in arrays[:k]:
                assert few or not np.array_equal(x, y), probe.id


def test_every_axis_has_a_length_of_its_own() -> None:
    signature = parse(
        {"x": "real[n,d]", "mu": "real[n,z]", "y": "real[m,d]", "box": "real[n,4]",
         "k": "real[d,d]", "one": "real[n,1]"}
    )  # fmt: skip
    shapes = {n: np.shape(x) for n, x in seen(inside(2)[2], signature).items()}
    assert shapes["box"] == (shapes["x"][0], 4) and shapes["one"] == (shapes["x"][0], 1)
    assert shapes["k"] == (shapes["x"][1],) * 2 and shapes["y"][1] == shapes["x"][1]
    assert len({shapes["x"][0], shapes["x"][1], shapes["mu"][1], shapes["y"][0]}) == 4


def test_a_class_of_a_second_head_is_one_of_its_own() -> None:
    signature = parse({"a": "real[n,c]", "b": "real[n,k]", "yb": "index(k)[n]"})
    given = [seen(p, signature) for p in inside(2)]
    assert all((x["yb"] >= 0).all() and (x["yb"] < x["b"].shape[1]).all() for x in given)
    assert max(int(x["yb"].max()) for x in given) >= 3


def test_an_input_that_neither_side_uses_is_not_probed_and_an_assertion_demands_to_ignore_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def forgets(logits: Tensor, ya: Tensor, yb: Tensor) -> Tensor:
        return F.cross_entropy(logits, ya)

    found = compare(forgets, forgets, inputs=LABELS)
    assert (found.verdict, found.without_effect, found.exit_code) == ("same", ("yb",), 3)
    assert any(x.startswith("yb, which changes neither") for x in found.not_probed)
    with pytest.raises(AssertionError, match=r"ignore=\('yb',\)"):
        assert_equivalent(forgets, forgets, inputs=LABELS)
    assert assert_equivalent(forgets, forgets, inputs=LABELS, ignore=("yb",)).exit_code == 0
    for given in ("yb", ("yc",)):
        with pytest.raises(ArgumentError, match="ignore="):
            compare(forgets, forgets, inputs=LABELS, ignore=given)


@pytest.mark.parametrize("weights", [(1.0, 0.5, 7.0), (1.0, 0.5, 2.0)])
def test_terms_of_one_kind_are_told_apart(weights: tuple[float, ...]) -> None:
    def terms(a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor, f: Tensor, w: Any) -> Tensor:
        return w[0] * F.mse_loss(a, b) + w[1] * F.l1_loss(c, d) + w[2] * F.mse_loss(e, f)

    inputs = dict.fromkeys("abcdef", "real[n,d]")
    found = compare(partial(terms, w=(1.0, 0.5, 2.0)), partial(terms, w=weights), inputs=inputs)
    assert found.verdict == ("same" if weights[2] == 2.0 else "different")


def test_two_of_nothing_but_nan_are_undecided_with_the_count() -> None:
    inputs = {"x": "real[n]", "y": "real[n]"}
    found = compare(
        lambda x, y: (-x * x - y * y - 1).log().mean(),
        lambda x, y: (-x * x - y * y - 1).sqrt().mean(), inputs=inputs,
    )  # fmt: skip
    assert (found.verdict, found.exit_code) == ("undecided", 3)
    assert "0 of 7 ordinary probes" in str(found)


def test_two_functions_are_matched_by_their_parameter_names() -> None:
    def first(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels)

    def second(labels: Tensor, logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels)

    inputs = {"logits": "real[n,c]", "labels": "index(c)[n]"}
    assert compare(first, second, inputs=inputs).verdict == "same"
    held = record.record(second, inputs=dict(reversed(inputs.items())))
    assert compare(first, held, inputs=inputs).verdict == "same"


def test_axes_meet_by_name_whatever_order_they_have(tmp_path: Path) -> None:
    def sums(x: Tensor, y: Tensor, axes: tuple[int, ...] = (1, 2)) -> Tensor:
        return 1 - ((2 * (x * y).sum(axes) + 1) / ((x + y).sum(axes) + 1)).mean()

    last = dict.fromkeys(("x", "y"), "probability[n,h,w,c]")
    first = dict.fromkeys(("x", "y"), "probability[n,c,h,w]")
    old = record.record(lambda x, y: sums(x, y), inputs=last, platform="torch")
    right = compare(old, lambda x, y: sums(x, y, (2, 3)), inputs=first)
    assert right.verdict == "same", str(right)
    wrong = compare(old, lambda x, y: sums(x, y, (1, 2)), inputs=first)
    assert wrong.verdict == "different"


@pytest.mark.parametrize("loss", ["MSELoss", "L1Loss", "HuberLoss"])
def test_n_1_beside_n_is_noticed(loss: str) -> None:
    def broadcasts(x: Tensor, y: Tensor) -> Tensor:
        return getattr(F, {"MSELoss": "mse_loss", "L1Loss": "l1_loss"}.get(loss, "huber_loss"))(
            x, y
        )

    def flat(x: Tensor, y: Tensor) -> Tensor:
        return broadcasts(x.reshape(-1), y.reshape(-1))

    found = compare(broadcasts, flat, inputs=dict.fromkeys("xy", "real[*batch]"))
    assert found.verdict == "same"
    assert "predictions of shape (N, 1) beside targets of shape (N,): a gives" in str(found)


# --- profiles ------------------------------------------------------------------------------------


def hard(x: Tensor, target: Tensor) -> Tensor:
    return torch.where(target > 0.5, F.softplus(-x), F.softplus(x)).mean()


def test_the_training_profile_leaves_out_by_name_what_training_does_not_meet() -> None:
    inputs = {"x": "real[n,c]", "target": "binary[n,c]"}
    found = compare(hard, F.binary_cross_entropy_with_logits, inputs=inputs)
    assert found.verdict == "same", str(found)
    assert "left out (profile training): gradients of targets" in str(found)
    strict = compare(hard, F.binary_cross_entropy_with_logits, inputs=inputs, profile="strict")
    assert strict.verdict != "same" and strict.left_out == ()
    with pytest.raises(ArgumentError, match="'training' or 'strict'"):
        compare(hard, hard, inputs=inputs, profile="loose")


@pytest.mark.parametrize(
    ("port", "verdict"),
    [
        (lambda x, y: F.mse_loss(torch.nan_to_num(x, nan=0.0), y), "same"),
        (lambda x, y: F.mse_loss(x.clamp(-1e20, 1e20), y), "same"),
        (lambda x, y: F.mse_loss(x.clamp(-500, 500), y), "same"),
        (lambda x, y: F.mse_loss(x, y) if x.numel() else x.sum(), "same"),
        (lambda x, y: F.mse_loss(x, y) * (2 if x.dtype == torch.float16 else 1), "same"),
        (lambda x, y: F.mse_loss(x.clamp(-50, 50), y), "edges_differ"),
        (lambda x, y: F.mse_loss(x, y) * (2 if x.dtype == torch.float32 else 1), "edges_differ"),
        (lambda x, y: F.mse_loss(x, y.detach()), "gradient_differs"),
    ],
)
def test_what_the_training_profile_keeps_and_what_not(port: Any, verdict: str) -> None:
    inputs = {"x": "real[n,d]", "y": "real[n,d]"}
    found = compare(port, F.mse_loss, inputs=inputs)
    assert found.verdict == verdict, str(found)
    assert compare(port, F.mse_loss, inputs=inputs, profile="strict").verdict != "same"


def test_a_label_that_is_told_to_be_ignored_is_in_the_data() -> None:
    ce = torch.nn.CrossEntropyLoss
    assert compare(ce(ignore_index=-1), ce(ignore_index=-2)).verdict == "edges_differ"


def test_the_gradient_in_a_target_by_name_is_left_out() -> None:
    inputs = {"x": "real[n]", "target": "real[n]"}
    assert compare(lambda x, t: F.mse_loss(x, t.detach()), F.mse_loss, inputs=inputs).verdict == (
        "same"
    )


# --- causes --------------------------------------------------------------------------------------


PAIR = {"x": "real[n,d]", "y": "real[n,d]"}


@pytest.mark.parametrize("delta", [0.5, 0.37])
def test_a_setting_of_ours_is_solved_for(delta: float) -> None:
    import lossbridge.torch as L

    found = compare(lambda x, y: F.huber_loss(x, y, delta=delta), L.HuberLoss(), inputs=PAIR)
    assert found.causes[0].fix == f"pass delta={delta} to b"


@pytest.mark.parametrize("axis", [None, -1])
@pytest.mark.parametrize("platform", ["torch", "keras", "jax"])
def test_a_setting_is_tried_at_every_rank(platform: str, axis: int | None) -> None:
    # Of images, PyTorch's classes lie at axis 1: the formula had them last, and no cause was named.
    front = pytest.importorskip(f"lossbridge.{platform}")
    for name, setting in (
        ("CrossEntropyLoss", {"label_smoothing": 0.1}),
        ("FocalLoss", {"gamma": 1.7}),
    ):
        make = partial(getattr(front, name), axis=axis)
        found = compare(make(), make(**setting))
        ((key, value),) = setting.items()
        assert found.causes[0].fix == f"pass {key}={value} to a"


def _specification(body: str) -> lossbridge.Spec:
    shapes = dict.fromkeys(("prediction", "target"), "real[*batch]")
    return lossbridge.loads(
        json.dumps({
            "lossbridge": 1, "loss": "me/mine@1", "inputs": shapes, "body": [body],
            "params": {"gamma": {"kind": "positive", "value": 2.0}}, "yields": "per_element",
        })
    )  # fmt: skip


def test_settings_of_a_specification_and_of_a_combination_are_tried() -> None:
    import lossbridge.torch as L

    mine = _specification("value = 1 - exp(-gamma * (prediction - target) ** 2)")
    found = compare(L.compile(mine), L.compile(mine, gamma=3.0))
    assert found.causes[0].fix == "pass gamma=3.0 to a"
    losses = {"a": L.MSELoss(), "b/2": L.L1Loss()}
    sums = [L.WeightedLoss(losses, {"b/2": weight}) for weight in (2.0, 7.0)]
    found = compare(*sums)
    assert found.verdict == "different"
    assert found.causes[0].fix == "pass coefficients={'b/2': 7.0} to a"
    plans = [L.CurriculumWeightedLoss(losses, {"a": (0.0, 1.0, 0, end)}) for end in (10, 20)]
    found = compare(*plans)
    assert found.causes[0].fix == "L.compile(a.spec, a_end=20.0)"
    repaired = L.compile(plans[0].spec, a_end=20.0)
    assert compare(repaired, plans[1]).verdict == "same"


SCHEDULES = [
    *(("torch", "torch", 10, end) for end in (10, 11)),
    *(("torch", "torch", end, end + 100) for end in (1000, 20000)),
    *((one, two, 10, end) for one, two in (("jax", "jax"), ("torch", "keras")) for end in (10, 20)),
]


@pytest.mark.parametrize(("one", "two", "end", "other"), SCHEDULES)
def test_the_step_of_a_schedule_is_an_input(
    one: str, two: str, end: int, other: int, tmp_path: Path
) -> None:
    # At step 0, where a buffer stands, both were 0: `same`, whatever the schedules.
    sides = []
    for platform, last in ((one, end), (two, other)):
        front = pytest.importorskip(f"lossbridge.{platform}")
        losses = {"a": front.MSELoss(), "b": front.L1Loss()}
        plan = {"a": (0.0, 1.0, last // 10, last)}
        sides.append(front.CurriculumWeightedLoss(losses, plan))
    assert (compare(*sides).verdict == "same") is (end == other)
    record.record(sides[0], tmp_path / "side.json")
    assert (compare(tmp_path / "side.json", sides[1]).verdict == "same") is (end == other)


HEADS = [
    ({}, "HuberLoss", {}, {}),
    ({}, "TripletMarginLoss", {}, {}),  # whose features lie last, beside classes at 1
    ({}, "CrossEntropyLoss", {"axis": -1}, {"axis": 1}),
    ({"axis": -1}, "FocalLoss", {"axis": -1}, {}),
]


@pytest.mark.parametrize(("first", "kind", "second", "other"), HEADS)
@pytest.mark.parametrize("platform", ["jax", "keras"])
def test_the_classes_of_each_loss_in_a_combination_lie_where_it_has_them(
    platform: str, first: Any, kind: str, second: Any, other: Any, tmp_path: Path
) -> None:
    fronts = [pytest.importorskip(f"lossbridge.{p}") for p in ("torch", platform)]
    heads = [
        {"label": f.CrossEntropyLoss(**(first if k == 0 else {})), "other": getattr(f, kind)(**kw)}
        for k, (f, kw) in enumerate(zip(fronts, (second, other), strict=True))
    ]
    a, b = (f.WeightedLoss(h) for f, h in zip(fronts, heads, strict=True))
    found = compare(a, b)
    assert found.verdict == "same", found
    assert not any("rank" in text for text in found.not_probed)
    assert compare(a, fronts[0].compile(a.spec)).verdict == "same"
    record.record(a, tmp_path / "a.json")
    assert compare(tmp_path / "a.json", b).verdict == "same"
    wrong = fronts[1].WeightedLoss(
        {**heads[1], "label": fronts[1].CrossEntropyLoss(label_smoothing=0.1)}
    )
    assert compare(a, wrong).verdict == "different"


def test_a_function_of_a_step_meets_a_schedule() -> None:
    schedule = {"prediction": "real[n]", "target": "real[n]", "step": "integer"}
    shapes = dict.fromkeys(("prediction", "target"), "real[*batch]")
    spec = {
        "lossbridge": 1, "loss": "me/warm@1", "inputs": shapes, "step": True,
        "body": ["value = (prediction - target) ** 2 * (1 - exp(-step / 1000))"],
        "yields": "per_element",
    }  # fmt: skip

    def port(prediction: Tensor, target: Tensor, step: Tensor, scale: float = 1000.0) -> Tensor:
        return ((prediction - target) ** 2).mean() * (1 - torch.exp(-step.double() / scale))

    mine = lossbridge.loads(json.dumps(spec))
    assert compare(mine, port, inputs=schedule).verdict == "same"
    wrong = partial(port, scale=1010.0)
    assert compare(mine, wrong, inputs=schedule).verdict != "same"
    assert compare(port, wrong, inputs=schedule).verdict != "same"


def test_a_factor_that_another_setting_equals_by_chance_is_not_said_to_be_it() -> None:
    a = torch.nn.HuberLoss(delta=2.0)
    found = compare(lambda x, y: 2.0 * F.huber_loss(x, y, delta=2.0), a, inputs=PAIR)
    assert found.verdict == "same_up_to_factor"
    assert "delta" not in found.causes[0].text


def test_no_kink_is_said_of_an_underflow() -> None:
    def smooth(x: Tensor, y: Tensor) -> Tensor:
        return ((x - y) ** 2).mean()

    def cut(x: Tensor, y: Tensor) -> Tensor:
        e = (x - y) ** 2
        return torch.where(e.detach() < 1e-10, e.detach(), e).mean()

    found = compare(smooth, cut, inputs=PAIR, profile="strict")
    assert "at a kink" not in str(found)


def test_gradients_of_nothing_are_in_no_proportion() -> None:
    found = compare(
        lambda x, y: (x > y).double().mean() + 0 * x.sum(),
        lambda x, y: (x.mean() > y.mean()).double() + 2 + 0 * x.sum(), inputs=PAIR,
    )  # fmt: skip
    assert "factor" not in found.verdict and "factor" not in found.causes[0].text


# --- records and the command line ----------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 1000])
def test_what_a_record_says_of_classes_is_bounded_before_any_work(classes: int) -> None:
    text = json.dumps({"lossbridge_record": 2, "classes": classes, "probes": {"version": 1}})
    with pytest.raises(RecordError, match="holds other probes"):
        record.loaded(text, "side.json")
    assert sum(x.size for p in probes.probes(2, classes=classes) for x in p.latent) < 1 << 23


def test_two_files_are_compared_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old.py").write_text(
        "import torch\ndef f(logits, labels):\n"
        "    return torch.nn.functional.cross_entropy(logits, labels)\n"
    )
    (tmp_path / "new.py").write_text(
        "def g(labels, logits):\n"
        "    return -logits.log_softmax(1).gather(1, labels[:, None]).mean()\n"
        "def h(logits, labels):\n    return 2 * g(labels, logits)\n"
    )
    inputs = ["--inputs", "logits=real[n,c]", "--inputs", "labels=index(c)[n]"]
    old, new = f"{tmp_path}/old.py:f", f"{tmp_path}/new.py"
    assert main(["compare", old, f"{new}:g", *inputs]) == 0
    assert len(capsys.readouterr().out.splitlines()) <= 12
    assert main(["compare", old, f"{new}:h", *inputs, "--profile", "strict"]) == 1
    assert main(["compare", old, f"{new}:g", *inputs, "--profile", "loose"]) == 2
    capsys.readouterr()
    out = f"{tmp_path}/old.json"
    assert main(["record", old, *inputs, "-o", out]) == 0
    capsys.readouterr()
    assert main(["compare", out, f"{new}:g", *inputs, "--verbose"]) == 0
    assert "recorded with" in capsys.readouterr().out
    assert main(["compare", f"{new}:g", out, *inputs]) == 0


@pytest.mark.parametrize(
    "text", ["real[n, 0]", "real[n, 65]", "real[n, 1000000]", "real[n, 64, 64, 2]", "real[n, -1]"]
)
def test_lengths_that_no_probe_has_are_refused(text: str) -> None:
    with pytest.raises(LossbridgeError):
        parse({"x": text})


def test_a_record_holds_its_description() -> None:
    inputs = {"x": "real[n, c]", "k": "real[c, c]", "box": "real[n, 4]"}
    held = record.record(
        lambda x, k, box: (x @ k).pow(2).mean() + box.pow(2).mean(), inputs=inputs,
        platform="torch",
    )  # fmt: skip
    assert [held.signature.written(n) for n in inputs] == list(inputs.values())
    assert lossbridge.__version__ in held.versions["lossbridge"]
