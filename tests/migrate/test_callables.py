"""Plain functions: found out by probing alone. A difference of every kind is planted, and found."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import numpy as np
import pytest

import lossbridge
from lossbridge.errors import ArgumentError, SpecError
from lossbridge.migrate.judge import assert_equivalent as asserted
from lossbridge.migrate.judge import compare as compared
from lossbridge.migrate.probes import parse, probes, seen

torch = pytest.importorskip("torch")

# Edges are planted here, which the default profile leaves out.
compare = partial(compared, profile="strict")
assert_equivalent = partial(asserted, profile="strict")
PAIR = {"prediction": "real[*batch]", "target": "real[*batch]"}
CLASSES = {"logits": "real[n, c]", "labels": "index(c)[n]"}
Tensor = Any


def squared(x: Tensor, y: Tensor) -> Tensor:
    return ((x - y) ** 2).mean()


def blind(x: Tensor, y: Tensor) -> Tensor:
    return squared(x, y.detach())


def transposing(x: Tensor, y: Tensor) -> Tensor:
    return squared(x, y.T if x.ndim == 2 and x.shape[0] == x.shape[1] else y)


def swapping(x: Tensor, y: Tensor) -> Tensor:
    return squared(x, y.transpose(0, 1) if x.ndim == 3 and x.shape[0] == x.shape[1] else y)


def coarse(x: Tensor, y: Tensor) -> Tensor:
    return squared(x, y) * (1.5 if x.dtype == torch.bfloat16 else 1.0)


def forgiving(x: Tensor, y: Tensor) -> Tensor:
    return squared(torch.nan_to_num(x, nan=0.0), y)


def silent(x: Tensor, y: Tensor) -> Tensor:
    return squared(x, y) if x.numel() else x.sum()


def capped(x: Tensor, y: Tensor) -> Tensor:
    return squared(x.clamp(-50.0, 50.0), y)


def doubled(x: Tensor, y: Tensor) -> Tensor:
    return 2.0 * squared(x, y)


def shifted(x: Tensor, y: Tensor) -> Tensor:
    return squared(x, y) + 0.25


def summed(x: Tensor, y: Tensor) -> Tensor:
    return ((x - y) ** 2).sum()


def single(x: Tensor, y: Tensor) -> Tensor:
    return ((x - y) ** 2)[0].mean()


PLANTED = [
    (squared, "same", ""),
    (blind, "gradient_differs", "in target (and only in that)"),
    (transposing, "different", ""),
    (swapping, "different", ""),
    (coarse, "edges_differ", "lower precision (in bfloat16"),
    (forgiving, "edges_differ", "one NaN"),
    (silent, "edges_differ", "the mean of nothing (empty"),
    (capped, "edges_differ", "saturated at 100"),
    (doubled, "same_up_to_factor", "b is twice a, as where one of them halves the square"),
    (shifted, "different", "a plus 0.25"),
    (summed, "same_up_to_factor", "number of elements"),
    (single, "different", ""),
]


@pytest.mark.parametrize(("function", "verdict", "said"), PLANTED)
def test_a_planted_difference_is_found(function: Any, verdict: str, said: str) -> None:
    found = compare(squared, function, inputs=PAIR)
    assert found.verdict == verdict, str(found)
    assert said in str(found)
    if verdict != "same":
        assert found.example is not None
        assert "value" in found.example.a


def test_the_example_is_the_smallest_that_shows_it() -> None:
    found = compare(squared, doubled, inputs=PAIR)
    assert found.example is not None
    assert {np.size(x) for x in found.example.inputs.values()} == {3}
    found = compare(squared, swapping, inputs=PAIR)
    assert found.example is not None
    assert {np.shape(x) for x in found.example.inputs.values()} == {(3, 3, 3)}


def at_kink(x: Tensor, y: Tensor) -> Tensor:
    return torch.where(x >= y, x - y, y - x).mean()


def ignoring(x: Tensor, y: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(x, y, ignore_index=-1)


def clipped(x: Tensor, y: Tensor) -> Tensor:
    p = x.softmax(-1).clamp(1e-7, 1.0)
    return -p.log().gather(-1, y[:, None]).mean()


@pytest.mark.parametrize(
    ("function", "other", "inputs", "verdict", "said"),
    [
        (at_kink, "torch.nn.L1Loss()", PAIR, "gradient_differs", "at a kink"),
        (ignoring, "torch.nn.CrossEntropyLoss()", CLASSES, "edges_differ", "labels that are ignor"),
        (clipped, "torch.nn.CrossEntropyLoss()", CLASSES, "edges_differ", "an extreme input"),
        (squared, "torch.nn.MSELoss()", PAIR, "same", ""),
        (squared, "torch.nn.CrossEntropyLoss()", PAIR, "different", ""),
        (squared, "torch.nn.TripletMarginLoss()", PAIR, "domain_differs", "different arguments"),
    ],
)
def test_a_function_beside_a_built_in(
    function: Any, other: str, inputs: dict[str, str], verdict: str, said: str
) -> None:
    found = compare(function, other, inputs=inputs)
    assert found.verdict == verdict, str(found)
    assert said in str(found)


def test_values_that_are_not_reduced_are_averaged_and_that_is_said() -> None:
    found = compare(squared, lambda x, y: (x - y) ** 2, inputs=PAIR)
    assert found.verdict == "same"
    assert any("they were averaged" in n for n in found.notes)
    assert all("they were averaged" not in n for n in compare(squared, doubled, inputs=PAIR).notes)


def test_shapes_n_1_beside_n_are_told_apart() -> None:
    def strict(x: Tensor, y: Tensor) -> Tensor:
        assert x.shape == y.shape
        return squared(x, y)

    found = compare(squared, strict, inputs=PAIR)
    assert any("(N, 1) beside targets of shape (N,)" in n for n in found.notes)


def refusing(*inputs: Any) -> Any:
    raise RuntimeError("never\nsecond line")


def test_what_accepts_nothing_is_undecided_with_what_it_raised() -> None:
    found = compare(refusing, squared, inputs=PAIR)
    assert found.verdict == "undecided"
    assert found.exit_code == 3
    assert "refusing accepts none of the probes' inputs" in found.notes[0]
    assert "torch: RuntimeError: never" in found.notes[0]
    found = compare(lambda: 1.0, squared, inputs=PAIR)
    assert "takes 0 positional arguments" in found.notes[0]


def test_a_function_of_numpy_has_no_gradient_to_compare() -> None:
    def of_arrays(x: Any, y: Any) -> Any:
        return np.mean((np.asarray(x) - np.asarray(y)) ** 2)

    found = compare(of_arrays, squared, inputs=PAIR, platform=("torch", None))
    assert found.verdict == "undecided"


def test_what_is_probed_and_what_not_is_said() -> None:
    found = compare(squared, doubled, inputs=PAIR)
    probed = " ".join(found.probed)
    for group in ("inside", "kinks", "edges", "empty", "precision", "compiled"):
        assert group in probed
    assert any("torch.compile" in x for x in found.not_probed)

    def flat(x: Tensor, y: Tensor) -> Tensor:
        assert x.ndim < 3, "no more than two axes"
        return squared(x, y)

    found = compare(squared, flat, inputs=PAIR)
    assert found.verdict == "same"
    assert any("rank 3" in x and "no more than two axes" in x for x in found.not_probed)


def tripled(x: Tensor, y: Tensor) -> Tensor:
    return 3.0 * squared(x, y)


def by_sample(x: Tensor, y: Tensor) -> Tensor:
    return ((x - y) ** 2).sum(-1).mean()


def nearly(x: Tensor, y: Tensor) -> Tensor:
    return squared(x, y) * (1.0 + 1e-5)


def single_precision(x: Tensor, y: Tensor) -> Tensor:
    return squared(x.float(), y.float())


ROWS = {"prediction": "real[n, d]", "target": "real[n, d]"}


def test_a_factor_is_told_from_the_length_of_an_axis_that_is_as_long() -> None:
    found = compare(squared, tripled, inputs=ROWS)
    assert (found.verdict, found.factor) == ("same_up_to_factor", pytest.approx(3.0))
    assert "length" not in str(found)
    found = compare(squared, by_sample, inputs=ROWS)
    assert (found.verdict, found.factor) == ("same_up_to_factor", None)
    assert "times the length of the last axis" in found.causes[0].text


def test_a_factor_near_one_is_a_factor() -> None:
    found = compare(squared, nearly, inputs=PAIR)
    assert (found.verdict, found.factor) == ("same_up_to_factor", pytest.approx(1.00001, abs=1e-9))


def test_what_casts_says_so() -> None:
    found = compare(squared, single_precision, inputs=PAIR)
    assert found.verdict == "same"
    assert any("it computes in float32, whatever it is given" in n for n in found.notes)


def poisson(y_true: Tensor, y_pred: Tensor) -> Tensor:
    return (y_pred - y_true * torch.log(y_pred + 1e-8)).mean()


LABELS_FIRST = {"y_true": "non_negative[*batch]", "y_pred": "positive[*batch]"}


def test_targets_described_first_meet_the_targets_of_the_other() -> None:
    other = "torch.nn.PoissonNLLLoss(log_input=False)"
    found = compare(poisson, other, inputs=LABELS_FIRST)
    assert found.verdict == "same", str(found)
    assert any("y_pred is taken for its prediction" in n for n in found.notes)
    held = lossbridge.record(poisson, inputs=LABELS_FIRST)
    assert lossbridge.compare(held, other).verdict == "same"

    def swapped(target: Tensor, x: Tensor) -> Tensor:
        return poisson(x, target)

    assert compare(poisson, swapped, inputs=LABELS_FIRST).verdict == "different"


def test_what_gives_another_value_each_time_is_undecided() -> None:
    calls: list[int] = []

    def drifting(x: Tensor, y: Tensor) -> Tensor:
        calls.append(1)
        return squared(x, y) * len(calls)

    for function in (drifting, lambda x, y: squared(x, y) * torch.rand(())):
        found = compare(function, squared, inputs=PAIR)
        assert found.verdict == "undecided"
        assert "does not give one value on one input" in found.notes[0]


def test_hard_targets_that_are_described_are_no_other_domain() -> None:
    def naive(x: Tensor, y: Tensor) -> Tensor:
        p = torch.sigmoid(x)
        return -(y * torch.log(p) + (1 - y) * torch.log(1 - p)).mean()

    inputs = {"logits": "real[*batch]", "labels": "binary[*batch]"}
    found = compare(naive, "torch.nn.BCEWithLogitsLoss()", inputs=inputs)
    assert found.verdict == "edges_differ", str(found)
    assert "an extreme input (saturated at 20, in float32" in str(found)


def test_a_batch_without_a_label_that_counts_is_an_edge() -> None:
    def forgiving_mean(x: Tensor, y: Tensor) -> Tensor:
        each = torch.nn.functional.cross_entropy(x, y, ignore_index=1, reduction="none")
        return each.sum() / (y != 1).sum().clamp(min=1)

    found = compare(forgiving_mean, torch.nn.CrossEntropyLoss(ignore_index=1), inputs=CLASSES)
    assert found.verdict == "edges_differ", str(found)
    assert "labels that are ignored" in str(found)


def test_the_mean_of_an_unknown_function_beside_a_small_constant() -> None:
    def plain_triplet(a: Tensor, p: Tensor, n: Tensor) -> Tensor:
        return torch.relu((a - p).norm(dim=-1) - (a - n).norm(dim=-1) + 1.0).mean()

    inputs = dict.fromkeys(("anchor", "positive", "negative"), "real[*batch, features]")
    found = compare(plain_triplet, "torch.nn.TripletMarginLoss()", inputs=inputs)
    assert found.verdict == "edges_differ", str(found)
    assert "epsilon" in str(found)


def test_class_weights_multiply_the_values_of_a_function_of_torch() -> None:
    def each(x: Tensor, y: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(x, y, reduction="none")

    found = compare("torch.nn.CrossEntropyLoss()", each, inputs=CLASSES, weights="class")
    assert found.verdict == "same_up_to_factor", str(found)
    assert "class weights divide by their sum on one side" in found.causes[0].text


@pytest.mark.parametrize("classes", [0, 1, -5, 10**9, "3", True])
def test_how_many_classes_is_checked(classes: Any) -> None:
    with pytest.raises(ArgumentError, match="an integer from 2 to 1000"):
        compare(squared, squared, inputs=PAIR, classes=classes)


def leaving(x: Tensor, y: Tensor) -> Tensor:
    raise SystemExit(3)


def test_what_is_no_function_of_a_loss_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"MSELoss is a class; make one of it: MSELoss\(\)"):
        compare(torch.nn.MSELoss, squared, inputs=PAIR)
    with pytest.raises(ArgumentError, match="one for each side"):
        compare(squared, squared, inputs=PAIR, platform=("torch", "torch", "torch"))
    assert "SystemExit: 3" in compare(leaving, squared, inputs=PAIR).notes[0]


def test_an_example_can_be_typed_in() -> None:
    found = compare(squared, silent, inputs=PAIR)
    assert found.example is not None
    assert found.example.shapes["prediction"][0] == 0
    assert f"prediction = [] of shape {found.example.shapes['prediction']}" in found.whole()
    found = compare(at_kink, "torch.nn.L1Loss()", inputs=PAIR)
    assert found.example is not None
    shown = dict(line.split(" = ") for line in found.whole().splitlines() if " = " in line)
    for name, numbers in found.example.inputs.items():
        assert json.loads(shown[f"    {name}"]) == numbers
    # What stands in other terms on the other side is given there too.
    found = compare("torch.nn.BCELoss()", "torch.nn.BCEWithLogitsLoss()")
    assert found.example is not None
    assert [*found.example.others] == ["logits", "target"]
    assert "for b, logits = " in found.whole()


def test_markdown_says_everything_once() -> None:
    found = compare("torch.nn.HuberLoss()", "torch.nn.HuberLoss(delta=2.0)")
    assert found.causes[0].fix
    page = found.to_markdown()
    assert page.count(found.causes[0].text) == 1
    assert page.count(found.causes[0].fix) == 1
    assert page.count("for example") == 1


def test_inputs_must_be_described_and_be_kinds() -> None:
    with pytest.raises(ArgumentError, match="plain callable"):
        compare(squared, squared)
    with pytest.raises(ArgumentError, match="inputs= describes"):
        compare(squared, squared, inputs={})
    with pytest.raises(SpecError, match="unknown kind"):
        compare(squared, squared, inputs={"x": "what[n]", "y": "real[n]"})
    with pytest.raises(ArgumentError, match="one of torch, keras, jax"):
        compare(squared, squared, inputs=PAIR, platform="tf")


def test_an_assertion_shows_the_comparison() -> None:
    assert assert_equivalent(squared, squared, inputs=PAIR).verdict == "same"
    with pytest.raises(AssertionError, match="halves the square"):
        assert_equivalent(squared, doubled, inputs=PAIR)


@pytest.mark.slow  # imports TensorFlow and JAX
def test_the_platform_is_found_from_what_a_function_accepts() -> None:
    jax = pytest.importorskip("jax")
    tf = pytest.importorskip("tensorflow")
    jnp = jax.numpy

    def of_torch(x: Any, y: Any) -> Any:
        return torch.nn.functional.cross_entropy(x, y, ignore_index=10**6)

    def of_jax(x: Any, y: Any) -> Any:
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x), y[..., None], -1))

    def of_tensorflow(x: Any, y: Any) -> Any:
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, x))

    for function, platform in ((of_torch, "torch"), (of_jax, "jax"), (of_tensorflow, "keras")):
        from lossbridge.migrate.sides import side

        assert side(function, inputs=CLASSES).platform == platform
    # Out of range: torch and TensorFlow raise, JAX gives NaN; all else is the same.
    found = compare(of_torch, of_jax, inputs=CLASSES)
    assert found.verdict == "edges_differ"
    assert {c.text.partition(" (")[0] for c in found.causes} == {"labels that are ignored"}
    both = compare(squared, squared, inputs=PAIR, platform=("torch", "jax"))
    assert both.verdict == "same"


@pytest.mark.slow  # imports TensorFlow
def test_what_is_compiled_is_compared_too() -> None:
    tf = pytest.importorskip("tensorflow")

    def plain(x: Any, y: Any) -> Any:
        return tf.reduce_mean((x - y) ** 2)

    def moody(x: Any, y: Any) -> Any:
        return plain(x, y) * (1.0 if tf.executing_eagerly() else 1.25)

    found = compare(plain, moody, inputs=PAIR)
    assert found.verdict == "edges_differ"
    assert "compiled" in found.causes[0].text


def test_class_weights_say_how_many_classes_there_are() -> None:
    weight = torch.linspace(0.5, 2.0, 10)
    loss = torch.nn.CrossEntropyLoss(weight=weight)
    assert lossbridge.compare(loss, torch.nn.CrossEntropyLoss(weight=weight)).verdict == "same"
    assert lossbridge.compare(loss, torch.nn.CrossEntropyLoss()).verdict == "different"
    other = lossbridge.compare(loss, torch.nn.CrossEntropyLoss(weight=torch.ones(4)))
    assert other.verdict == "domain_differs"
    assert "10 classes" in other.causes[0].text and "4" in other.causes[0].text


def test_a_callable_is_told_how_many_classes_there_are() -> None:
    weight = torch.linspace(0.5, 2.0, 10)

    def weighed(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(x, y, weight=weight.to(x.dtype))

    inputs = {"x": "real[n, c]", "y": "index(c)[n]"}
    loss = torch.nn.CrossEntropyLoss(weight=weight)
    found = lossbridge.compare(weighed, loss, inputs=inputs, classes=10)
    assert found.verdict == "same", str(found)
    assert lossbridge.compare(weighed, weighed, inputs=inputs).verdict == "undecided"


@pytest.mark.slow
def test_a_record_of_another_number_of_classes_says_so() -> None:
    held = lossbridge.record(torch.nn.CrossEntropyLoss())
    found = lossbridge.compare(held, torch.nn.CrossEntropyLoss(weight=torch.ones(10)))
    assert found.verdict == "undecided" and "--classes 10" in found.notes[0]


def test_an_input_has_the_length_of_the_axis_it_names() -> None:
    def weighed(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(x, y, weight=w)

    def by_hand(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        own = torch.log_softmax(x, 1).gather(1, y[:, None])[:, 0]
        return -(w[y] * own).sum() / w[y].sum()

    inputs = {"x": "real[n, c]", "y": "index(c)[n]", "w": "positive[c]"}
    found = lossbridge.compare(weighed, by_hand, inputs=inputs)
    assert found.verdict in ("same", "edges_differ"), str(found)
    assert any("inside (" in group for group in found.probed)


def test_a_callable_of_sequences_is_compared() -> None:
    def ctc(x: Any, y: Any, frames: Any, lengths: Any) -> Any:
        return torch.nn.functional.ctc_loss(x, y, frames, lengths)

    inputs = {
        "log_probs": "real[time, batch, classes]", "targets": "integer[batch, positions]",
        "input_lengths": "integer[batch]", "target_lengths": "integer[batch]",
    }  # fmt: skip
    assert lossbridge.compare(ctc, ctc, inputs=inputs).verdict == "same"


WEIGHT = torch.tensor([0.5, 2.0, 1.25])


class Weighed(torch.nn.Module):  # type: ignore[misc]
    """As written by hand: its weights are float32, and torch takes inputs of that alone."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", WEIGHT.clone())

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(x, y, weight=self.weight)


@pytest.mark.parametrize(
    "port",
    [
        Weighed(),
        partial(torch.nn.functional.cross_entropy, weight=WEIGHT),
        lambda x, y: torch.nn.functional.cross_entropy(x, y, weight=WEIGHT),
    ],
)
def test_what_takes_float32_alone_is_compared_in_that(port: Any) -> None:
    found = compare(port, torch.nn.CrossEntropyLoss(weight=WEIGHT), inputs=CLASSES)
    assert found.verdict == "same", str(found)
    assert any("it takes float32 only" in n for n in found.notes)
    wrong = compare(port, torch.nn.CrossEntropyLoss(), inputs=CLASSES)
    assert wrong.verdict == "different" and wrong.causes, str(wrong)
    held = lossbridge.record(port, inputs=CLASSES)
    assert compare(held, torch.nn.CrossEntropyLoss(weight=WEIGHT)).verdict == "same"


def test_a_partial_is_called_by_its_function() -> None:
    bound = partial(torch.nn.functional.huber_loss, delta=2.0)
    assert compare(bound, squared, inputs=PAIR).a == "huber_loss(delta=2.0)"


@pytest.mark.parametrize(
    "inputs",
    [
        {"x": "real[n, c, d]", "y": "index(c)[n, d]"},
        {"x": "real[n, c, *d]", "y": "index(c)[n, *d]"},
    ],
)
def test_the_axis_of_the_classes_is_where_the_description_has_it(inputs: dict[str, str]) -> None:
    def by_hand(x: Tensor, y: Tensor, axis: int = 1) -> Tensor:
        return -x.log_softmax(axis).gather(1, y.unsqueeze(1)).mean()

    same = compare(torch.nn.functional.cross_entropy, torch.nn.CrossEntropyLoss(), inputs=inputs)
    assert same.verdict == "same", str(same)
    shown = seen(next(p for p in probes(3) if "inside 0" in p.id), parse(inputs))
    assert [np.shape(x) for x in shown.values()] == [(4, 3, 2), (4, 2)]
    found = compare(by_hand, torch.nn.CrossEntropyLoss(), inputs=inputs)
    assert found.verdict == "edges_differ", str(found)
    assert {c.text.partition(" (")[0] for c in found.causes} == {"labels that are ignored"}
    wrong = compare(lambda x, y: by_hand(x, y, -1), torch.nn.CrossEntropyLoss(), inputs=inputs)
    assert wrong.verdict == "different"


def test_an_axis_called_time_makes_no_alignment() -> None:
    def each(x: Tensor, y: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(x.movedim(-1, 1), y)

    inputs = {"x": "real[batch, time, classes]", "y": "index(classes)[batch, time]"}
    assert compare(each, torch.nn.CrossEntropyLoss(), inputs=inputs).verdict == "same"


def naive_cross_entropy(x: Tensor, y: Tensor) -> Tensor:
    return -x.softmax(-1).gather(-1, y.clamp(min=0)[:, None]).log().mean()


def test_a_sure_and_wrong_prediction_is_among_the_extremes() -> None:
    def stable(x: Tensor, y: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(x, y.clamp(min=0))

    found = compare(naive_cross_entropy, stable, inputs=CLASSES)
    assert found.verdict == "edges_differ", str(found)
    assert "an extreme input (saturated at" in found.causes[0].text


@pytest.mark.parametrize("epsilon", [1e-12, 1e-10, 1e-8, 1e-7])
def test_a_small_constant_in_a_logarithm_is_no_other_function(epsilon: float) -> None:
    def held(x: Tensor, y: Tensor) -> Tensor:
        return -(x.softmax(-1).gather(-1, y[:, None]) + epsilon).log().mean()

    found = compare(held, torch.nn.CrossEntropyLoss(), inputs=CLASSES)
    assert found.verdict == "edges_differ", str(found)
    assert ("a small constant (epsilon)" in str(found)) == (epsilon > 1e-9)


TRIPLET = dict.fromkeys(("anchor", "positive", "negative"), "real[*batch, d]")
SLIPS = [
    (lambda x, y: torch.nn.functional.cross_entropy(x.softmax(-1), y), "CrossEntropyLoss()",
     CLASSES, "a is what b gives for the softmax of its logits"),
    (lambda x, y: squared(x, y).sqrt(), "MSELoss()", PAIR, "b is the square of a"),
    (lambda a, n, p: torch.nn.functional.triplet_margin_loss(a, p, n), "TripletMarginLoss()",
     TRIPLET, "positive and negative of a are exchanged"),
    (lambda x, y: (x - y * x.log()).mean(), "PoissonNLLLoss()",
     {"rate": "positive[*batch]", "y": "non_negative[*batch]"}, "the exponential of its rate"),
    (lambda x, y: torch.relu(-(y * x - 1.0)).mean(), "HingeEmbeddingLoss()",
     {"x": "real[*batch]", "y": "sign[*batch]"}, "nothing that was tried makes them agree"),
]  # fmt: skip


@pytest.mark.parametrize(("port", "other", "inputs", "said"), SLIPS)
def test_the_slips_of_a_port_are_named(
    port: Any, other: str, inputs: dict[str, str], said: str
) -> None:
    found = compare(port, f"torch.nn.{other}", inputs=inputs)
    assert found.verdict == "different", str(found)
    assert said in found.causes[0].text


def test_values_in_proportion_are_told_from_other_gradients() -> None:
    def straight(x: Tensor, y: Tensor) -> Tensor:
        return 2.0 * squared(x, y.detach())

    found = compare(squared, straight, inputs=PAIR)
    assert found.verdict == "different"
    assert "b is twice a" in found.causes[0].text
    assert "but the gradient in target is another" in found.causes[0].text


def test_class_weights_in_a_proportion_are_said_to_be_so() -> None:
    a, b = (
        torch.nn.CrossEntropyLoss(weight=k * WEIGHT, reduction="sum") for k in (1.0, 2.0)
    )  # fmt: skip
    found = compare(a, b)
    assert (found.verdict, found.factor) == ("same_up_to_factor", pytest.approx(2.0))
    assert found.causes[0].fix == "pass weight=[1.0, 4.0, 2.5] to a"


def test_what_divides_by_the_sum_of_the_weights_is_told_to_whom_it_concerns() -> None:
    def each(x: Tensor, y: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(x, y, reduction="none")

    def by_number(x: Tensor, y: Tensor) -> Tensor:
        return (WEIGHT.to(x)[y] * each(x, y)).mean()

    def by_sum(x: Tensor, y: Tensor) -> Tensor:
        return (WEIGHT.to(x)[y] * each(x, y)).sum() / WEIGHT.to(x)[y].sum()

    other = torch.nn.CrossEntropyLoss(weight=WEIGHT)
    found = compare(by_number, other, inputs=CLASSES)
    assert found.causes[0].fix == "divide by the sum of the weights in a"
    assert compare(other, by_number, inputs=CLASSES).causes[0].fix.endswith(" in b")
    assert compare(by_sum, by_sum, inputs=CLASSES).verdict == "same"  # what the fix makes of it
    assert compare(by_sum, other, inputs=CLASSES).verdict == "edges_differ"


@pytest.mark.slow  # imports TensorFlow
@pytest.mark.parametrize(
    ("given", "advised"),
    [
        ("keras.losses.SparseCategoricalCrossentropy(from_logits=True)", "mean_with_sample_weight"),
        ("keras.losses.CategoricalCrossentropy(from_logits=True, "
         "reduction='mean_with_sample_weight')", "sum_over_batch_size"),
    ],
)  # fmt: skip
def test_the_reduction_that_is_advised_for_class_weights_does_it(given: str, advised: str) -> None:
    keras = pytest.importorskip("keras")
    found = compare(given, "torch.nn.CrossEntropyLoss()", weights="class")
    assert found.verdict == "same_up_to_factor", str(found)
    assert found.causes[0].fix == f"pass reduction={advised!r} to a"
    loss = getattr(keras.losses, given.split("(")[0].rpartition(".")[2])
    mended = loss(from_logits=True, reduction=advised)
    assert compare(mended, "torch.nn.CrossEntropyLoss()", weights="class").verdict == "same"


def test_weights_of_labels_say_how_many_labels_there_are() -> None:
    weight = torch.linspace(0.5, 2.0, 7)
    loss = torch.nn.BCEWithLogitsLoss(pos_weight=weight)
    assert compare(loss, torch.nn.BCEWithLogitsLoss(pos_weight=weight)).verdict == "same"
    found = compare(loss, torch.nn.BCEWithLogitsLoss())
    assert found.verdict == "different" and "pos_weight" in found.causes[0].text


IMAGE = {"x": "real[n, c, h, w]", "y": "index(c)[n, h, w]"}


def test_images_described_axis_by_axis_are_compared() -> None:
    def last(x: Tensor, y: Tensor) -> Tensor:
        return torch.nn.functional.nll_loss(x.log_softmax(-1), y)

    cross_entropy = torch.nn.functional.cross_entropy
    found = compare(cross_entropy, torch.nn.CrossEntropyLoss(), inputs=IMAGE)
    assert found.verdict == "same", str(found)
    assert compare(last, torch.nn.CrossEntropyLoss(), inputs=IMAGE).verdict == "different"
    held = lossbridge.record(cross_entropy, inputs=IMAGE)
    assert compare(held, torch.nn.CrossEntropyLoss()).verdict == "same"


def test_more_axes_than_the_probes_have_are_undecided() -> None:
    five = dict.fromkeys(("x", "y"), "real[a, b, c, d, e]")
    found = compare(squared, torch.nn.MSELoss(), inputs=five)
    assert found.verdict == "undecided"
    assert "an input of 5 axes; the probes have 4 at most" in found.notes


def test_a_mean_over_what_a_mask_leaves_is_told_from_one_over_all() -> None:
    inputs = {**CLASSES, "mask": "mask[n]"}

    def each(x: Tensor, y: Tensor, m: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(x, y, reduction="none") * m

    def of_the_mask(x: Tensor, y: Tensor, m: Tensor) -> Tensor:
        return each(x, y, m).sum() / m.sum()

    def of_all(x: Tensor, y: Tensor, m: Tensor) -> Tensor:
        return each(x, y, m).mean()

    found = compare(of_the_mask, of_all, inputs=inputs)
    assert (found.verdict, found.factor) == ("same_up_to_factor", None)
    assert found.causes[0].fix == "divide by the sum of mask in b"
    assert compare(of_all, of_the_mask, inputs=inputs).causes[0].fix.endswith("in a")


def test_targets_between_0_and_1_are_told_from_labels() -> None:
    def focal(x: Tensor, y: Tensor) -> Tensor:
        nll = torch.nn.functional.binary_cross_entropy_with_logits(x, y, reduction="none")
        return ((1 - torch.exp(-nll)) ** 2 * nll).mean()

    def mixed(x: Tensor, y: Tensor) -> Tensor:
        nll = torch.nn.functional.binary_cross_entropy_with_logits(x, y, reduction="none")
        p = x.sigmoid()
        return ((1 - y * p - (1 - y) * (1 - p)) ** 2 * nll).mean()

    inputs = {"x": "real[*batch]", "y": "probability[*batch]"}
    found = compare(focal, mixed, inputs=inputs)
    assert found.verdict == "different"
    assert found.causes[0].text == "the values are equal for targets of 0 and 1, and for no others"
