"""Speed and memory of the losses, as ratios to each platform's own: ``python benchmarks/bench.py``.

Every ratio comes from one process in which ours, the platform's own loss and a memory floor take
turns, so that a busy machine slows all three alike; what is printed is the median over the turns.
Each platform runs in a process of its own, and so does each measurement of peak memory, whose
counter (Linux only) covers a whole process. The exit code says only that the measurement ran: a
ratio above its bound is marked, not failed.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import os
import platform as machine_facts
import statistics
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

PLATFORMS = ("torch", "keras", "jax")
MODES: Mapping[str, tuple[str, ...]] = {
    "torch": ("eager", "compiled"),
    "keras": ("eager", "graph", "xla"),
    "jax": ("jit",),
}
PACKAGES: Mapping[str, tuple[str, ...]] = {
    "torch": ("torch",),
    "keras": ("tensorflow", "tensorflow-cpu", "keras"),
    "jax": ("jax", "jaxlib", "optax"),
}
LOSSES = ("mse", "bce", "focal", "ce")
SHAPES: Mapping[str, tuple[tuple[int, int], ...]] = {
    "mse": ((1024, 1024),),
    "bce": ((1024, 1024),),
    "focal": ((1024, 1024),),
    "ce": ((8192, 1000), (512, 32000), (65536, 10)),
}
# 64 MiB a tensor: large enough that the allocator's own bookkeeping does not show.
MEMORY_SHAPE = (4096, 4096)
MEMORY_LOSSES = ("mse", "bce", "focal")
CALL_SHAPE = (32, 10)

# A ratio of 1 is the goal and 0.1 is noise; where the platform's own loss is less accurate than
# ours, accuracy may cost up to half as much again.
RATIO_BOUND = 1.1
ACCURATE_BOUND = 1.5
MEMORY_BOUND = 1.2
KERAS_CALL_BOUND = 60.0
IMPORT_BOUND = 30.0
ACCURATE = frozenset({"bce", "ce"})
# Ours and the built-in mean the same function; float32 sums of a million terms agree to this.
AGREEMENT = 1e-3

Run = Callable[[], Any]


@dataclass(frozen=True)
class Effort:
    """How long to measure: turns at most, and seconds at most once three turns are done."""

    turns: int
    seconds: float
    calls: int


FULL = Effort(turns=60, seconds=12.0, calls=2000)
QUICK = Effort(turns=9, seconds=2.0, calls=300)


@dataclass
class Row:
    """One line of the result: a quantity, ours beside the platform's own."""

    platform: str
    mode: str
    loss: str
    case: str
    unit: str
    bound: float | None = None
    ours: float | None = None
    native: float | None = None
    floor: float | None = None
    # Ours over native, except where the quantity itself is bounded (memory, a call, an import).
    ratio: float | None = None
    judged: float | None = None
    note: str = ""

    @property
    def mark(self) -> str:
        """What the reader should look at."""
        if self.judged is None or self.bound is None:
            return ""
        if self.judged <= self.bound:
            return "ok"
        if self.unit == "ms" and self.loss in ACCURATE and self.judged <= ACCURATE_BOUND:
            return "accuracy"
        return "ABOVE"


# --- measuring -----------------------------------------------------------------------------------


def interleave(runs: Mapping[str, Run], effort: Effort) -> dict[str, list[float]]:
    """Seconds of each run, one after the other in every turn, the order reversed each time."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        for _ in range(2):
            run()
    order = list(runs)
    begun = time.perf_counter()
    for turn in range(effort.turns):
        for name in order:
            start = time.perf_counter()
            runs[name]()
            times[name].append(time.perf_counter() - start)
        order.reverse()
        if turn >= 2 and time.perf_counter() - begun > effort.seconds:
            break
    return times


def per_turn_ratio(ours: Sequence[float], native: Sequence[float]) -> float:
    """The median of the ratios of neighbours in time, which a slow minute leaves alone."""
    return statistics.median(a / b for a, b in zip(ours, native, strict=True))


def compare(row: Row, ours: Run, native: Run, floor: Run | None, effort: Effort) -> None:
    """Fill a row with the times of both sides and, in the same turns, of the floor."""
    runs = {"ours": ours, "native": native} | ({"floor": floor} if floor else {})
    times = interleave(runs, effort)
    scale = {"ms": 1e3, "us": 1e6}[row.unit]
    row.ours = statistics.median(times["ours"]) * scale
    row.native = statistics.median(times["native"]) * scale
    row.ratio = per_turn_ratio(times["ours"], times["native"])
    if floor:
        row.floor = statistics.median(times["floor"]) * scale
        first, _, third = statistics.quantiles(times["floor"], n=4)
        if third > 1.5 * first:
            row.note = "; ".join(filter(None, (row.note, "noisy: the floor varied by half")))


def resident(field_name: str) -> int | None:
    """A field of this process's memory status, in bytes; None where the system keeps none."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    for line in status.splitlines():
        if line.startswith(field_name + ":"):
            return int(line.split()[1]) * 1024
    return None


def peak_growth(run: Run) -> int | None:
    """Bytes by which the resident set grows at its peak while ``run`` runs."""
    gc.collect()
    # Freed blocks that the C library keeps would be used again, and not be seen to grow.
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim:
        trim(0)
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    except OSError:
        return None
    before = resident("VmRSS")
    kept = run()
    peak = resident("VmHWM")
    del kept
    return None if before is None or peak is None else peak - before


def floor_of(shape: tuple[int, int], inputs: int) -> Run:
    """Read each real input once and write one result, into memory that is already there."""
    np = import_module("numpy")
    a = np.ones(shape, np.float32)
    b = np.ones(shape, np.float32) if inputs == 2 else np.float32(1)
    out = np.empty(shape, np.float32)
    return lambda: np.subtract(a, b, out=out)


def data(loss: str, shape: tuple[int, int]) -> tuple[Any, Any]:
    """Predictions and targets, the same for both sides and on every platform."""
    np = import_module("numpy")
    rng = np.random.default_rng(20260)
    x = (3 * rng.standard_normal(shape)).astype(np.float32)
    if loss == "ce":
        return x, rng.integers(0, shape[1], shape[0]).astype(np.int32)
    if loss == "mse":
        return x, rng.standard_normal(shape).astype(np.float32)
    return x, (rng.random(shape) < 0.5).astype(np.float32)


def ours_of(front: Any, loss: str) -> Any:
    """Our loss, the same on every platform."""
    match loss:
        case "mse":
            return front.MSELoss()
        case "bce":
            return front.BCEWithLogitsLoss()
        case "focal":
            return front.BinaryFocalLoss(alpha=0.25, gamma=2.0)
        case _:
            return front.CrossEntropyLoss()


# --- platforms -----------------------------------------------------------------------------------


class Bench(ABC):
    """What differs between platforms; the measurements are the same."""

    name: str

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.front = import_module(f"lossbridge.{self.name}")

    @abstractmethod
    def arrays(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Host arrays as the platform's own."""

    @abstractmethod
    def native(self, loss: str) -> Any:
        """The platform's own loss, called as the platform calls losses."""

    @abstractmethod
    def step(self, loss: Any, x: Any, y: Any, mode: str) -> Run:
        """Value and gradient of a loss in a mode, finished when it returns."""

    @abstractmethod
    def call(self, loss: Any, x: Any, y: Any) -> Run:
        """The value alone, as a training script calls it."""

    def facts(self) -> dict[str, Any]:
        """What the platform says of its own threads."""
        return {}


class TorchBench(Bench):
    """PyTorch: a scalar loss and its ``backward``."""

    name = "torch"

    def __init__(self, threads: int) -> None:
        self.torch = import_module("torch")
        self.torch.set_num_threads(threads)
        super().__init__(threads)

    def arrays(self, x: Any, y: Any) -> tuple[Any, Any]:
        target = self.torch.from_numpy(y)
        target = target if target.is_floating_point() else target.long()
        return self.torch.from_numpy(x).requires_grad_(), target

    def native(self, loss: str) -> Any:
        nn = self.torch.nn
        if loss == "focal":
            return self._focal
        classes = {
            "mse": nn.MSELoss,
            "bce": nn.BCEWithLogitsLoss,
            "ce": nn.CrossEntropyLoss,
        }
        return classes[loss]()

    def _focal(self, logits: Any, target: Any) -> Any:
        """The usual recipe: cross-entropy, odds from a sigmoid, a power, a class weight."""
        torch = self.torch
        p = torch.sigmoid(logits)
        functional = torch.nn.functional
        bce = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
        missed = 1 - (p * target + (1 - p) * (1 - target))
        weight = 0.25 * target + 0.75 * (1 - target)
        return (weight * bce * missed**2.0).mean()

    def step(self, loss: Any, x: Any, y: Any, mode: str) -> Run:
        if mode == "compiled":
            # Shapes follow each other here as they do not in training: without a reset, both
            # sides would be measured with the dynamic shapes of the second compilation.
            loss = self.torch.compile(loss, fullgraph=True, dynamic=False)

        def run() -> Any:
            x.grad = None
            value = loss(x, y)
            value.backward()
            return value.detach(), x.grad

        return run

    def call(self, loss: Any, x: Any, y: Any) -> Run:
        return lambda: loss(x, y)

    def facts(self) -> dict[str, Any]:
        return {"torch threads": self.torch.get_num_threads()}


class KerasBench(Bench):
    """Keras on TensorFlow: a loss object called on tensors under a tape."""

    name = "keras"

    def __init__(self, threads: int) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ["KERAS_BACKEND"] = "tensorflow"
        self.tf = import_module("tensorflow")
        self.tf.config.threading.set_intra_op_parallelism_threads(threads)
        self.tf.config.threading.set_inter_op_parallelism_threads(1)
        self.keras = import_module("keras")
        super().__init__(threads)

    def arrays(self, x: Any, y: Any) -> tuple[Any, Any]:
        return self.tf.constant(x), self.tf.constant(y)

    def native(self, loss: str) -> Any:
        losses = self.keras.losses
        match loss:
            case "mse":
                return losses.MeanSquaredError()
            case "bce":
                return losses.BinaryCrossentropy(from_logits=True)
            case "focal":
                return losses.BinaryFocalCrossentropy(
                    apply_class_balancing=True, alpha=0.25, gamma=2.0, from_logits=True
                )
            case _:
                return losses.SparseCategoricalCrossentropy(from_logits=True)

    def step(self, loss: Any, x: Any, y: Any, mode: str) -> Run:
        def run(y_true: Any, y_pred: Any) -> Any:
            with self.tf.GradientTape() as tape:
                tape.watch(y_pred)
                value = loss(y_true, y_pred)
            return value, tape.gradient(value, y_pred)

        if mode == "eager":
            return lambda: run(y, x)
        compiled = self.tf.function(run, jit_compile=mode == "xla")
        return lambda: compiled(y, x)

    def call(self, loss: Any, x: Any, y: Any) -> Run:
        return lambda: loss(y, x)

    def facts(self) -> dict[str, Any]:
        return {
            "tf threads": self.tf.config.threading.get_intra_op_parallelism_threads(),
        }


class JaxBench(Bench):
    """JAX: the jitted value and gradient, against optax's formula and a mean."""

    name = "jax"

    def __init__(self, threads: int) -> None:
        self.jax = import_module("jax")
        super().__init__(threads)

    def arrays(self, x: Any, y: Any) -> tuple[Any, Any]:
        return self.jax.numpy.asarray(x), self.jax.numpy.asarray(y)

    def native(self, loss: str) -> Any:
        optax = import_module("optax")
        mean = self.jax.numpy.mean
        match loss:
            case "mse":
                return lambda x, y: mean(optax.losses.squared_error(x, y))
            case "bce":
                return lambda x, y: mean(optax.losses.sigmoid_binary_cross_entropy(x, y))
            case "focal":
                return lambda x, y: mean(
                    optax.losses.sigmoid_focal_loss(x, y, alpha=0.25, gamma=2.0)
                )
            case _:
                return lambda x, y: mean(
                    optax.losses.softmax_cross_entropy_with_integer_labels(x, y)
                )

    def step(self, loss: Any, x: Any, y: Any, mode: str) -> Run:
        del mode
        jitted = self.jax.jit(self.jax.value_and_grad(lambda a, b: loss(a, b)))
        return lambda: self.jax.block_until_ready(jitted(x, y))

    def call(self, loss: Any, x: Any, y: Any) -> Run:
        jitted = self.jax.jit(lambda a, b: loss(a, b))
        return lambda: self.jax.block_until_ready(jitted(x, y))


BENCHES: Mapping[str, type[Bench]] = {b.name: b for b in (TorchBench, KerasBench, JaxBench)}


def disagreement(ours: Run, native: Run) -> str:
    """Why the two sides do not compute the same thing, or nothing: speed of what else is moot."""
    np = import_module("numpy")
    (value, gradient), (value_n, gradient_n) = (
        tuple(np.array(part, dtype=np.float64) for part in run()) for run in (ours, native)
    )
    if value.shape != value_n.shape or gradient.shape != gradient_n.shape:
        return f"shapes differ: {value.shape} and {value_n.shape}"
    off = abs(float(value - value_n)) / abs(float(value_n))
    off_gradient = float(np.abs(gradient - gradient_n).max() / np.abs(gradient_n).max())
    if max(off, off_gradient) > AGREEMENT or math.isnan(off + off_gradient):
        return f"DISAGREES: value by {off:.1e}, gradient by {off_gradient:.1e}"
    return ""


def failure(error: Exception) -> str:
    """An error as a note: a loss that cannot run is a result too."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:120]


def speed_rows(bench: Bench, losses: Sequence[str], effort: Effort) -> list[Row]:
    """Forward and backward of every loss, shape and mode."""
    rows = []
    for loss in losses:
        for shape in SHAPES[loss]:
            x, y = bench.arrays(*data(loss, shape))
            floor = floor_of(shape, 1 if loss == "ce" else 2)
            for mode in MODES[bench.name]:
                case = f"{shape[0]}x{shape[1]}"
                row = Row(bench.name, mode, loss, case, "ms", RATIO_BOUND)
                rows.append(row)
                try:
                    if mode == "compiled":
                        import_module("torch._dynamo").reset()
                    native = bench.step(bench.native(loss), x, y, mode)
                    ours = bench.step(ours_of(bench.front, loss), x, y, mode)
                    row.note = disagreement(ours, native)
                    compare(row, ours, native, floor, effort)
                    row.judged = row.ratio
                except Exception as error:  # any error of any framework, reported in its row
                    row.note = failure(error)
    return rows


def call_rows(bench: Bench, losses: Sequence[str], effort: Effort) -> list[Row]:
    """What a call on a small batch costs before any arithmetic."""
    rows = []
    for loss in (name for name in ("mse", "ce") if name in losses):
        x, y = bench.arrays(*data(loss, CALL_SHAPE))
        case = f"call {CALL_SHAPE[0]}x{CALL_SHAPE[1]}"
        bound = KERAS_CALL_BOUND if bench.name == "keras" else None
        mode = "jit" if bench.name == "jax" else "eager"
        row = Row(bench.name, mode, loss, case, "us", bound)
        rows.append(row)
        try:
            ours = bench.call(ours_of(bench.front, loss), x, y)
            native = bench.call(bench.native(loss), x, y)
            many = Effort(effort.calls, effort.seconds, effort.calls)
            compare(row, ours, native, None, many)
            row.judged = row.ours if bound else None
        except Exception as error:  # as above
            row.note = failure(error)
    return rows


def memory_of(bench: Bench, loss: str, mode: str, side: str) -> float | None:
    """Peak memory of one side above its inputs, the gradient included, in tensors."""

    def make() -> Any:
        return ours_of(bench.front, loss) if side == "ours" else bench.native(loss)

    small = bench.arrays(*data(loss, (128, 128)))
    bench.step(make(), *small, mode)()  # imports and pools of the framework come first
    x, y = bench.arrays(*data(loss, MEMORY_SHAPE))
    run = bench.step(make(), x, y, mode)
    if mode != "eager":
        # Compiled modes need one full run to compile; what it leaves behind counts as before.
        run()
    grown = peak_growth(run)
    return None if grown is None else grown / (MEMORY_SHAPE[0] * MEMORY_SHAPE[1] * 4)


# --- processes -----------------------------------------------------------------------------------


def child(arguments: Sequence[str], threads: int) -> dict[str, Any]:
    """Run this file in a process of its own and read what it writes."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "out.json"
        command = [sys.executable, str(Path(__file__).resolve()), *arguments]
        command += ["--threads", str(threads), "--worker-out", str(path)]
        done = subprocess.run(
            command, env=environment, stderr=subprocess.PIPE, text=True, check=False
        )
        if not path.exists():
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            return {"error": lines[-1][:200]}
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found


def pin(threads: int) -> None:
    """Keep this process on as many cores as it has threads: XLA counts cores, not settings."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[-threads:])


def worker(options: argparse.Namespace) -> dict[str, Any]:
    """What a child process measures."""
    pin(options.threads)
    bench = BENCHES[options.worker](options.threads)
    if options.memory:
        loss, mode, side = options.memory.split("/")
        return {"tensors": memory_of(bench, loss, mode, side)}
    effort = QUICK if options.quick else FULL
    rows = speed_rows(bench, options.losses, effort) + call_rows(bench, options.losses, effort)
    return {"rows": [asdict(row) for row in rows], "facts": bench.facts()}


def memory_rows(options: argparse.Namespace, name: str) -> list[Row]:
    """Peak memory of the elementwise losses, each side in a process of its own."""
    rows = []
    for loss in (loss for loss in MEMORY_LOSSES if loss in options.losses):
        for mode in MODES[name] if not options.quick else MODES[name][:1]:
            row = Row(name, mode, loss, "peak memory", "tensors", MEMORY_BOUND)
            rows.append(row)
            for side in ("ours", "native"):
                job = ["--worker", name, "--memory", f"{loss}/{mode}/{side}"]
                found = child(job, options.threads)
                setattr(row, side, found.get("tensors"))
                row.note = row.note or found.get("error", "")
            if row.ours is not None and row.native:
                row.ratio = row.ours / row.native
            row.judged = row.ours
    return rows


def import_row(quick: bool) -> Row:
    """Milliseconds of ``import lossbridge`` in a fresh interpreter."""
    code = "import time; t = time.perf_counter(); import lossbridge; print(time.perf_counter() - t)"
    taken = []
    row = Row("-", "-", "-", "import lossbridge", "ms", IMPORT_BOUND)
    for _ in range(3 if quick else 9):
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            row.note = (done.stderr.strip().splitlines() or [""])[-1][:120]
            return row
        taken.append(float(done.stdout))
    row.ours = row.judged = statistics.median(taken) * 1e3
    return row


# --- report --------------------------------------------------------------------------------------


def machine(options: argparse.Namespace) -> dict[str, Any]:
    """What decides absolute figures: cores, allocator, huge pages, load."""
    policy = {k: v for k, v in os.environ.items() if k.startswith(("MALLOC_", "LD_PRELOAD"))}
    try:
        pages = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text(encoding="ascii")
    except OSError:
        pages = "unknown"
    return {
        "processor": machine_facts.processor() or machine_facts.machine(),
        "system": machine_facts.platform(),
        "python": machine_facts.python_version(),
        "cores": os.cpu_count(),
        "threads": options.threads,
        "allocator": policy or f"{'-'.join(machine_facts.libc_ver())} defaults",
        "huge pages": pages.strip(),
        "load": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }


def versions(name: str) -> dict[str, str]:
    """Installed versions of a platform's packages."""
    found = {}
    for package in PACKAGES[name]:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def cell(value: float | None, digits: int = 3) -> str:
    """A number for the table, or a dash."""
    return "-" if value is None else f"{value:.{digits}f}"


def table(rows: Sequence[Row]) -> str:
    """The rows as aligned text."""
    head = ["platform", "mode", "loss", "case"]
    head += ["ours", "native", "unit", "ratio", "floors", "mark", "note"]
    lines = [head]
    for row in rows:
        over = row.ours / row.floor if row.ours is not None and row.floor else None
        numbers = [cell(row.ours), cell(row.native), row.unit, cell(row.ratio, 2), cell(over, 1)]
        lines.append([row.platform, row.mode, row.loss, row.case, *numbers, row.mark, row.note])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    text = []
    for line in lines:
        text.append("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())
    return "\n".join(text)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--platform", choices=PLATFORMS, action="append", help="default: all three")
    parser.add_argument("--loss", dest="losses", choices=LOSSES, action="append")
    parser.add_argument("--quick", action="store_true", help="fewer turns, memory in one mode")
    parser.add_argument("--no-memory", action="store_true", help="leave peak memory out")
    parser.add_argument("--threads", type=int, default=1, help="threads and cores (default 1)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here too")
    parser.add_argument("--worker", choices=PLATFORMS, help=argparse.SUPPRESS)
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--worker-out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.losses = options.losses or list(LOSSES)
    return options


def main() -> int:
    """Measure, print the table, write the file; the result is always that it was measured."""
    options = arguments()
    if options.worker:
        options.worker_out.write_text(json.dumps(worker(options)), encoding="utf-8")
        return 0
    facts = machine(options)
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    rows = [import_row(options.quick)]
    found: dict[str, Any] = {}
    for name in options.platform or PLATFORMS:
        job = ["--worker", name, *(["--quick"] if options.quick else [])]
        for loss in options.losses:
            job += ["--loss", loss]
        result = child(job, options.threads)
        found[name] = {"versions": versions(name), **result.get("facts", {})}
        print(f"{name}: {found[name]}", flush=True)
        if "error" in result:
            rows.append(Row(name, "-", "-", "-", "ms", note=result["error"]))
            continue
        rows += [Row(**row) for row in result["rows"]]
        if not options.no_memory:
            rows += memory_rows(options, name)
    print("\n" + table(rows))
    above = [row for row in rows if row.mark == "ABOVE"]
    empty = [row for row in rows if row.judged is None and row.bound is not None]
    counts = f"{len(above)} above their bound, {len(empty)} without a result"
    print(f"\n{len(rows)} measurements, {counts}")
    if options.json:
        report = {
            "schema": "lossbridge-bench/1",
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "machine": facts,
            "platforms": found,
            "rows": [asdict(row) | {"mark": row.mark} for row in rows],
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
