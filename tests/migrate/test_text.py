"""Expressions given as text are parsed, never evaluated; what is no plain call is refused."""

from __future__ import annotations

import time

import pytest

from lossbridge.errors import ArgumentError, LossbridgeError
from lossbridge.migrate.judge import compare
from lossbridge.migrate.sides import side

torch = pytest.importorskip("torch")

HUBER = "torch.nn.HuberLoss"
NO_CALLS = {
    "another call": f"f({HUBER}())",
    "a call in an argument": f"{HUBER}(delta=g())",
    "arithmetic": "1 + 1",
    "a power": f"{HUBER}(delta=9**9**9**9)",
    "two names": "a b",
    "a list": "[]",
    "nothing": "",
    "blanks": "   ",
    "a constant": "None",
    "a star": f"{HUBER}(*[1])",
    "two stars": f"{HUBER}(**{{'delta': 1}})",
    "an f-string": f"{HUBER}(reduction=f'mean')",
    "a lambda": "torch.nn.TripletMarginWithDistanceLoss(distance_function=lambda a, b: a)",
    "a lambda that is called": "(lambda: 1)()",
    "a subscript": "torch.nn['HuberLoss']()",
    "a call of a call": f"{HUBER}()()",
    "an attribute of a call": f"{HUBER}().delta",
    "an import": "__import__('os').system('true')",
    "a walrus": f"(x := {HUBER}())",
    "a comprehension": f"{HUBER}(delta=[x for x in (1,)])",
    "a condition": f"{HUBER}(delta=1 if 1 else 2)",
    "an argument twice": f"{HUBER}(delta=1.0, delta=2.0)",
    "a second line": f"{HUBER}()\nimport os",
    "a second statement": f"{HUBER}(); import os",
    "a null": f"{HUBER}\0()",
    "a space of no width": "torch.nn.Huber\u200bLoss()",
    "text from right to left": f"\u202e{HUBER}()",
    "a long integer": f"{HUBER}(delta={'9' * 5000})",
    "a million blanks": f"{HUBER}({' ' * 10**6})",
    "a million letters": "a" * 10**6,
    "a million brackets": "(" * 10**6,
    "deep brackets": "(" * 3000 + "1" + ")" * 3000,
    "deep lists": f"{HUBER}(delta={'[' * 2000}{']' * 2000})",
    "deep signs": f"{HUBER}(delta={'-' * 5000}1)",
    "deep calls": "f(" * 2000 + ")" * 2000,
}
REFUSED = {
    "a dunder": (f"{HUBER}.__class__()", "no built-in loss"),
    "globals": (f"{HUBER}.__init__.__globals__()", "no built-in loss"),
    "builtins": ("torch.nn.__builtins__", "no built-in loss"),
    "a long name": (".".join("a" * 4000), "."),
    "another alphabet": ("torch.nn.H\u00fcberLoss()", "no built-in loss"),
    "a loader of ours": ("lossbridge.torch.compile('x.json')", "not a loss of ours"),
    "a module in ours": ("lossbridge.torch.importlib.import_module('os')", "not a loss of ours"),
    "an attribute of ours": ("lossbridge.torch.__dict__", "not a loss of ours"),
    "our command line": ("lossbridge.cli.main()", "not a loss of ours"),
    "another native": ("lossbridge.torch.native('os.system')", "no built-in loss"),
    "a near name": ("torch.nn.HuberLos()", "did you mean torch.nn.HuberLoss"),
    "a near name in Keras": ("keras.losses.Hubber()", "did you mean keras.losses.Huber"),
    "a near name in optax": ("optax.losses.l3_loss()", "did you mean optax.losses.l2_loss"),
    "a near name of ours": ("lossbridge.torch.HubrLoss()", "did you mean HuberLoss"),
    "a near argument": (f"{HUBER}(dleta=2.0)", "reduction, delta; did you mean delta"),
    "an argument too many": (f"{HUBER}('mean', 1.0, 2.0)", "its arguments are reduction, delta"),
    "a reduction": (f"{HUBER}(reduction='avg')", "one of 'none', 'mean', 'sum'"),
    "a negative": (f"{HUBER}(delta=-1.0)", "delta"),
    "infinity, below": (f"{HUBER}(delta=-1e999)", "delta"),
    "an integer of thousands of bits": (f"{HUBER}(delta={'9' * 4000})", "bits"),
    "a complex number": (f"{HUBER}(delta=1+2j)", "delta"),
    "bytes": (f"{HUBER}(delta=b'1')", "delta"),
    "text": (f"{HUBER}(delta='1')", "delta"),
    "a dict": (f"{HUBER}(delta={{}})", "delta"),
    "an ellipsis": (f"{HUBER}(delta=...)", "delta"),
    "a truth value": (f"{HUBER}(delta=True)", "delta"),
    "nothing for a number": (f"{HUBER}(delta=None)", "the original refuses it"),
    "weights of two axes": ("torch.nn.CrossEntropyLoss(weight=[[1.0], [2.0]])", "nested"),
    "weights of text": ("torch.nn.CrossEntropyLoss(weight=['a'])", "number"),
    "an axis of text": ("keras.losses.Dice(axis='x')", "cannot be made with axis='x'"),
    "a mask of text": ("optax.losses.softmax_cross_entropy(where='x')", "cannot be made with"),
    "a size of text": ("torch.nn.LinearCrossEntropyLoss('x', 3)", "."),
    "a fraction of classes": ("torch.nn.CTCLoss(blank=1.5)", "blank"),
    "no probability": ("keras.losses.CategoricalGeneralizedCrossEntropy(q=2.0)", "0 and 1"),
    "a file that is not there": ("nowhere.json", "cannot be read"),
}


@pytest.mark.parametrize("text", NO_CALLS.values(), ids=NO_CALLS)
def test_what_is_no_plain_call_is_refused_quickly(text: str) -> None:
    start = time.process_time()
    with pytest.raises(ArgumentError, match="not a plain constructor call"):
        side(text)
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
def test_what_names_no_loss_is_refused_with_what_would_do(text: str, said: str) -> None:
    for name, module in (("keras", "tensorflow"), ("optax", "optax")):
        if text.startswith(name):
            pytest.importorskip(module)
    start = time.process_time()
    with pytest.raises(LossbridgeError, match=said) as caught:
        side(text)
    assert time.process_time() - start < 2.0
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("given", [None, 3, {}, b"torch", len, object(), torch.nn.HuberLoss])
def test_what_is_no_loss_is_refused(given: object) -> None:
    with pytest.raises(ArgumentError, match="is no loss of torch"):
        compare(given, given)


@pytest.mark.parametrize(
    "text",
    [
        f"{HUBER}(delta=2.0)",
        " nn.HuberLoss( delta = 2 )\n",
        "torch.nn.modules.loss.HuberLoss('mean', 2.0)",
        "lossbridge.torch.HuberLoss(delta=2.0)",
        "lossbridge.torch.native('torch.nn.HuberLoss', delta=2.0)",
    ],
)
def test_spellings_of_one_loss(text: str) -> None:
    assert compare(text, torch.nn.HuberLoss(delta=2.0)).verdict == "same"
