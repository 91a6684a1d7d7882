"""Stand-alone files: a loss and its settings as one ``nn.Module`` that imports only torch.

The upper half of this module is copied into the file as it stands; the lower half writes what
belongs to the one loss: its emitted functions, a table of them, and the class.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lossbridge import frontdoor
from lossbridge.emit import emit, stand_alone
from lossbridge.errors import ArgumentError, UnsupportedError, shown
from lossbridge.frontdoor import Bound
from lossbridge.ir import Graph, is_star
from lossbridge.plan import Options, Plan
from lossbridge.spec import Weight
from lossbridge_torch.lowering import LOWERING

__all__ = ["eject", "source"]

# --- copied into the file ------------------------------------------------------------------------


class Form(NamedTuple):
    """A compiled function: the value with gradients to scale, or the gradients alone."""

    run: Callable[..., tuple[Tensor, ...]]
    saves: bool  # it gives the value, and gradients that the backward multiplies
    scaled: bool  # a number that multiplies them too comes after the value


class Piece(NamedTuple):
    """A loss's compiled functions, and what their arguments are."""

    dtypes: dict[str, str]  # real, int or bool, in the order of the functions' arguments
    axes: dict[str, tuple[str, ...]]
    value_axes: tuple[str, ...]
    inputs: tuple[str, ...]
    moved: tuple[str, ...]  # the inputs whose class axis is brought last
    deciding: tuple[str, ...]  # the arguments whose dtypes decide what is computed in
    value: Callable[..., tuple[Tensor, ...]]
    forms: dict[tuple[str, ...], Form]  # by the arguments that gradients are for


class Differentiated(torch.autograd.Function):
    """The value, and gradients by the loss's own formula."""

    @staticmethod
    def forward(
        ctx: Any,
        piece: Piece,
        moving: tuple[str, ...],
        compute: torch.dtype,
        out: torch.dtype,
        *tensors: Tensor,
    ) -> Tensor:
        form = piece.forms[moving]
        value, *saved = (form.run if form.saves else piece.value)(*widened(piece, tensors, compute))
        ctx.piece, ctx.moving, ctx.compute = piece, moving, compute
        ctx.save_for_backward(*tensors, *saved)
        return value.to(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Any:
        piece, form = ctx.piece, ctx.piece.forms[ctx.moving]
        tensors = ctx.saved_tensors[: len(piece.dtypes)]
        saved = ctx.saved_tensors[len(piece.dtypes) :]
        upstream = upstream.to(ctx.compute)
        if form.saves:
            if form.scaled:
                upstream, saved = upstream * saved[0], saved[1:]
            gradients = [
                g * spread(upstream, piece.value_axes, piece.axes[name], g.ndim)
                for name, g in zip(ctx.moving, saved, strict=True)
            ]
        else:
            gradients = form.run(*widened(piece, tensors, ctx.compute), upstream)
        found = dict(zip(ctx.moving, gradients, strict=True))
        return (
            None,
            None,
            None,
            None,
            *(
                found[name].to(x.dtype) if need else None
                for name, x, need in zip(
                    piece.dtypes, tensors, ctx.needs_input_grad[4:], strict=True
                )
            ),
        )


def spread(upstream: Tensor, axes: Sequence[str], order: Sequence[str], rank: int) -> Tensor:
    """The incoming gradient, of the value's axes, shaped to multiply one argument's gradient."""
    if not axes or tuple(axes) == tuple(order):
        return upstream
    group = rank - len(order) + 1  # how many dimensions a group of axes has, if there is one
    places: dict[str, list[int]] = {}
    at = 0
    for axis in axes:
        width = group if is_star(axis) else 1
        places[axis] = list(range(at, at + width))
        at += width
    upstream = upstream.permute([d for axis in order for d in places.get(axis, ())])
    at = 0
    for axis in order:
        for _ in range(group if is_star(axis) else 1):
            if axis not in places:
                upstream = upstream.unsqueeze(at)
            at += 1
    return upstream


def widened(piece: Piece, tensors: Sequence[Tensor], compute: torch.dtype) -> list[Tensor]:
    """The arguments, real ones in the dtype that the loss is computed in."""
    return [
        x.to(compute) if kind == "real" else x
        for x, kind in zip(tensors, piece.dtypes.values(), strict=True)
    ]


def lengths_of(piece: Piece, values: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The length of each named axis; arguments that disagree raise."""
    lengths: dict[str, tuple[int, ...]] = {}
    for name, x in values.items():
        axes, at = piece.axes[name], 0
        width = x.ndim - len(axes) + 1 if any(is_star(a) for a in axes) else 1
        if width < 0 or (len(axes) != x.ndim and not any(is_star(a) for a in axes)):
            raise ValueError(f"{name} has shape {tuple(x.shape)}, but its axes are {axes}")
        for axis in axes:
            step = width if is_star(axis) else 1
            length = tuple(x.shape[at : at + step])
            at += step
            if lengths.setdefault(axis, length) != length:
                raise ValueError(
                    f"{name} has shape {tuple(x.shape)} as {axes}, but another argument has "
                    f"{axis} of {lengths[axis]}; nothing broadcasts silently"
                )
    return lengths


def evaluate(
    pieces: Sequence[Piece],
    arguments: Sequence[Tensor],
    arrays: Mapping[str, Tensor],
    weights: Mapping[str, Tensor],
    numbers: Mapping[str, Any],
    axis: int | None,
    wide: bool,
) -> Tensor:
    """One call: choose the loss, check, move the class axis last, run."""
    reals = ["real" if x.is_floating_point() else "int" for x in arguments]
    piece = next(
        (
            p
            for p in pieces
            if all(p.dtypes[n] in (r, "bool") for n, r in zip(p.inputs, reals, strict=True))
        ),
        pieces[0],
    )
    values: dict[str, Tensor] = {}
    for name, x in zip(piece.inputs, arguments, strict=True):
        if (
            values
            and piece.dtypes[name] == "real"
            and not (x.is_floating_point() or x.is_complex())
        ):
            x = x.to(torch.float32)  # such as labels 0 and 1
        if piece.dtypes[name] != "bool" and (piece.dtypes[name] == "real") != x.is_floating_point():
            raise TypeError(f"{name} holds {piece.dtypes[name]} numbers, but is {x.dtype}")
        if name in piece.moved and x.ndim > 1:
            x = x.movedim(min(1, x.ndim - 1) if axis is None else axis, -1)
        values[name] = x.long() if piece.dtypes[name] == "int" else x
    values.update((n, w) for n, w in weights.items() if n in piece.dtypes)
    lengths = lengths_of(piece, values)
    first = values[piece.inputs[0]]
    for name, array in arrays.items():
        if name in piece.dtypes:
            values[name] = array.expand(
                [n for a in piece.axes[name] for n in lengths.get(a, array.shape)]
            )
    for name, given in numbers.items():
        x = torch.as_tensor(given)
        kind = x.dtype if x.is_floating_point() else torch.promote_types(torch.float32, first.dtype)
        values[name] = x.to(device=first.device, dtype=kind)
    out, compute = first.dtype, torch.float64 if wide else torch.float32
    if any(values[name].dtype == torch.float64 for name in piece.deciding):
        compute = torch.float64
    if torch.is_autocast_enabled(first.device.type):
        out = torch.promote_types(out, torch.float32)
    tensors = [values[name] for name in piece.dtypes]
    moving = {
        name
        for name, kind in piece.dtypes.items()
        if kind == "real" and values[name].requires_grad and torch.is_grad_enabled()
    }
    with torch.autocast(first.device.type, enabled=False):
        if not moving:
            return piece.value(*widened(piece, tensors, compute))[0].to(out)
        form = min((f for f in piece.forms if moving <= set(f)), key=len, default=None)
        if form is None:
            raise ValueError(f"this file has no gradients for {sorted(moving)}")
        result: Tensor = Differentiated.apply(  # type: ignore[no-untyped-call]
            piece, form, compute, out, *tensors
        )
        return result


# --- written for one loss ------------------------------------------------------------------------


def eject(bound: Bound, name: str) -> str:
    """The source of a file with the loss as a module class called ``name``.

    The class takes no arguments: its settings are those of ``bound``. Its gradients are the ones
    of the loss, differentiable once. Sample weights and masks are left out: eject the loss with
    ``reduction="none"`` to weigh its values.
    """
    if not name.isidentifier():
        raise ArgumentError(f"{shown(name)} cannot name a class; give a Python name")
    plans = [bound.plan(k, Options(unread=True), LOWERING.native) for k in range(len(bound.specs))]
    for plan in plans:
        _refuse(bound, plan)
    functions: list[str] = []
    pieces = [_piece(bound, k, plan, functions) for k, plan in enumerate(plans)]
    own = [
        inspect.getsource(part)
        for part in (is_star, Form, Piece, spread, Differentiated, widened, lengths_of, evaluate)
    ]
    table = "PIECES = (\n" + "".join(pieces) + ")\n"
    text = stand_alone("\n\n".join([*functions, *own, table, _class(bound, name)]), LOWERING)
    head = (
        f'"""{name}: {_plain(bound.specs[0].summary)}\n\nWritten by `lossbridge eject` from '
        f'{", ".join(s.id for s in bound.specs)}; imports only torch.\n"""\n\n'
    )
    imports = (
        "import math\nfrom collections.abc import Callable, Mapping, Sequence\n"
        "from typing import Any, NamedTuple\n"
    )
    text = text.replace("import math\n", imports, 1).replace(
        "from torch import Tensor\n",
        "from torch import Tensor, nn\nfrom torch.autograd.function import once_differentiable\n",
        1,
    )
    return head + text


def source(bound: Bound) -> str:
    """The emitted function of a training step: the value, and the first input's gradient."""
    parts = []
    for which, spec in enumerate(bound.specs):
        plan = bound.plan(which, Options(), LOWERING.native)
        wrt = ([n for n in plan.differentiable if n in spec.inputs] or [*plan.differentiable])[:1]
        graph = plan.scaled(tuple(wrt)) or plan.fused(tuple(wrt)) if wrt else plan.plain
        parts.append(emit(graph, LOWERING, spec.name, spec.id))
    return "\n\n".join(parts)


def _refuse(bound: Bound, plan: Plan) -> None:
    """Losses that need more than arrays cannot stand alone."""
    spec = plan.spec
    name = bound.form.name
    if spec.uses:
        raise UnsupportedError(
            f"{name} combines other losses ({', '.join(spec.uses)}), each with settings of its "
            "own; eject those one by one and add their values"
        )
    if spec.ports:
        raise UnsupportedError(
            f"{name} calls functions of yours ({', '.join(spec.ports)}), which torch "
            "differentiates outside the compiled function; use it from lossbridge.torch"
        )
    if any(kind.name == "tree" for kind in spec.inputs.values()):
        raise UnsupportedError(
            f"{name} runs over a tree of parameters, leaf by leaf; use it from lossbridge.torch"
        )


def _piece(bound: Bound, which: int, plan: Plan, functions: list[str]) -> str:
    """A row of the table, after writing the functions that it names."""
    spec, graph = bound.specs[which], plan.stable
    order = [(name, graph.nodes[index]) for name, index in graph.inputs()]

    def write(graph: Graph, name: str) -> str:
        functions.append(emit(graph, LOWERING, name, spec.id))
        return name

    value = write(plan.plain, f"value_{which}")
    real = [
        n
        for n, node in order
        if node.type.dtype == "real" and (n in spec.inputs or n in spec.weights)
    ]
    groups = (
        [real[:1], real]
        if len(real) > 2
        else [
            list(g) for size in range(1, len(real) + 1) for g in itertools.combinations(real, size)
        ]
    )
    rows = []
    for k, group in enumerate(groups):
        wrt = tuple(group)
        called = f"gradients_{which}_{k}"
        if plan.separable(wrt):
            scaled = plan.scaled(wrt)
            write(plan.fused(wrt) if scaled is None else scaled, called)
            rows.append(f"        {wrt!r}: Form({called}, True, {scaled is not None}),\n")
        else:
            pulled = plan.pullback(wrt)
            taken = [n for n, _ in pulled.inputs()]
            write(pulled, f"_{called}")
            names = [n for n, _ in order]
            given = ", ".join(f"a[{names.index(n)}]" if n in names else "a[-1]" for n in taken)
            functions.append(f"def {called}(*a):\n    return _{called}({given})\n")
            rows.append(f"        {wrt!r}: Form({called}, False, False),\n")
    moved = tuple(
        n
        for n, kind in spec.inputs.items()
        if frontdoor.moved_axis(kind) is not None
        and bound.form.has_axis
        and (bound.axis is not None or frontdoor.is_class_axis(kind.axes[1]))
    )
    deciding = tuple(frontdoor.promotion_of(bound, which).computed)
    dtypes = {n: node.type.dtype for n, node in order}
    axes = {n: tuple(node.attr("order")) for n, node in order}
    for n, kind in spec.inputs.items():  # one that the value does not depend on is checked too
        dtypes.setdefault(n, kind.dtype)
        axes.setdefault(n, tuple(kind.axes))
    if len(dtypes) != len(order):
        extra = [n for n in dtypes if n not in dict(order)]
        raise UnsupportedError(
            f"{bound.form.name} with these settings does not read {', '.join(extra)}, so a file "
            "would not check it; use it from lossbridge.torch"
        )
    return (
        f"    Piece(\n        {dtypes!r},\n        {axes!r},\n        {plan.value_axes!r},\n"
        f"        {tuple(spec.inputs)!r},\n        {moved!r},\n        {deciding!r},\n"
        f"        {value},\n        {{\n"
        + "".join("    " + row for row in rows)
        + "        },\n    ),\n"
    )


def _class(bound: Bound, name: str) -> str:
    spec = bound.specs[0]
    setup = [
        f'self.register_buffer("{key}", {_tensor(torch.as_tensor(value))})'
        for key, value in bound.arrays.items()
    ]
    for key, weight in spec.weights.items():
        shape = tuple(
            s if isinstance(s, int) else bound.sizes[s]
            for s in (weight.sizes[axis] for axis in weight.kind.axes)
        )
        setup.append(f"self.{key} = nn.Parameter({_initial(weight, shape)})")
    if spec.step:
        setup.append('self.register_buffer("step", torch.zeros((), dtype=torch.int64))')
    keywords, numbers = [], []
    if bound.normalizer == "external" and bound.reduction == "mean":
        keywords.append("normalizer_count")
        numbers.append('"normalizer_count": normalizer_count')
    if spec.step:
        keywords.append("step=None")
        numbers.append('"step": self.step if step is None else step')
    signature = ", ".join(["self", *spec.inputs, *(["*", *keywords] if keywords else [])])
    wide = any(s.numerics.compute == "at_least_float64" for s in bound.specs)

    def own(names: Sequence[str]) -> str:
        return "{" + ", ".join(f'"{n}": self.{n}' for n in names) + "}"

    def given(n: str) -> str:
        cast = spec.numerics.dtype
        return f"{n}.to(torch.{cast})" if cast and spec.inputs[n].dtype == "real" else n

    lines = [
        f"class {name}(nn.Module):",
        f'    """{_plain(spec.summary)}"""',
        "",
    ]
    if setup:
        lines += ["    def __init__(self):", "        super().__init__()"]
        lines += [f"        {line}" for line in setup] + [""]
    lines += [
        f"    def forward({signature}):",
        "        return evaluate(",
        f"            PIECES, ({', '.join(map(given, spec.inputs))},), {own(list(bound.arrays))},",
        f"            {own(list(spec.weights))}, {{{', '.join(numbers)}}}, {bound.axis}, {wide},",
        "        )",
    ]
    if spec.step:
        lines += [
            "",
            "    def advance(self, steps=1):",
            '        """Move the schedule; a forward never does."""',
            "        self.step += steps",
        ]
    return "\n".join(lines) + "\n"


def _initial(weight: Weight, shape: tuple[int, ...]) -> str:
    rule = weight.init
    if not isinstance(rule, str):
        return f"torch.full({shape}, {float(rule)!r})"
    function = {
        "zeros": "zeros_",
        "ones": "ones_",
        "normal": "normal_",
        "uniform": "uniform_",
        "glorot_normal": "xavier_normal_",
        "glorot_uniform": "xavier_uniform_",
    }[rule]
    return f"nn.init.{function}(torch.empty({shape}))"


def _tensor(x: Tensor) -> str:
    def literal(v: Any) -> str:
        if isinstance(v, list):
            return f"[{', '.join(map(literal, v))}]"
        if isinstance(v, float) and not math.isfinite(v):
            return f'float("{v!r}")'
        return repr(v)

    return f"torch.tensor({literal(x.detach().tolist())}, dtype={x.dtype})"


def _plain(text: str) -> str:
    """Text of a specification, safe inside a docstring."""
    return "".join(c for c in text if c.isprintable() and c not in '\\"').strip()
