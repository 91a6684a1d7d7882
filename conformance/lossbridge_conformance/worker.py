"""One platform's process: reads tasks, runs them, writes one line for each as soon as it is done.

Raw results go back; the parent, which holds the truth, judges them. A task that kills this process
costs that task only: the parent sees which line is missing, and starts another worker behind it.
The tasks come through the standard input, which stays open for as long as the parent lives: when it
ends, however the parent died, this process clears its folder away and ends too.

    python -m lossbridge_conformance.worker PLATFORM RESULTS FOLDER
"""

from __future__ import annotations

import importlib
import os
import pickle
import shutil
import sys
import threading
import traceback
from base64 import b85encode
from collections.abc import Mapping
from typing import Any

from lossbridge.cli import QUIET
from lossbridge.errors import UnsupportedError
from lossbridge_conformance import wire
from lossbridge_conformance.probe import as_arrays, registered

THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
)


def environment(folder: str | None = None) -> dict[str, str]:
    """One thread each, and no noise; set before a framework is imported.

    ``folder`` is for what a framework compiles: two runs that share such a place can meet there.
    """
    quiet = {
        **QUIET,
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
        "KERAS_BACKEND": "tensorflow",
    }
    own = {} if folder is None else {"TORCHINDUCTOR_CACHE_DIR": os.path.join(folder, "inductor")}
    return {**os.environ, **quiet, **own, **dict.fromkeys(THREADS, "1")}


def main(platform: str, results_file: str, folder: str) -> int:
    """Run every task; returns the exit status."""
    tasks = pickle.load(sys.stdin.buffer)  # from our parent, through its own pipe
    threading.Thread(target=_follow, args=(folder,), daemon=True).start()
    probe = registered()[platform].load()
    subjects: dict[Any, Any] = {}
    with open(results_file, "ab", buffering=0) as out:
        out.write(_line({"versions": probe.versions(), "modes": probe.modes}))
        for task in tasks:
            out.write(_line({"started": task["id"]}))
            try:
                line = _line({"id": task["id"], **_run(probe, subjects, task)})
            except Exception as error:
                answer = {
                    "error": f"{type(error).__name__}: {error}"[:500],
                    "kind": type(error).__name__,
                    "where": traceback.format_exc(limit=-2)[-600:],
                }
                line = _line({"id": task["id"], **answer})
            out.write(line)
    return 0


def _follow(folder: str) -> None:
    """End with the parent: its end of the pipe closes even where it was killed."""
    sys.stdin.buffer.read()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _line(record: Mapping[str, Any]) -> bytes:
    return b85encode(wire.encode(record)) + b"\n"


def _run(probe: Any, subjects: dict[Any, Any], task: Mapping[str, Any]) -> dict[str, Any]:
    if task["kind"] == "train":
        return {"curve": _train(probe, task)}
    key = task["subject"]
    if key not in subjects:
        subjects.clear()  # tasks come ordered by subject; frameworks keep what they compiled
        subjects[key] = _subject(probe, task)
    asked = [task["wrt"]]
    if task.get("native"):
        asked.append(task["wrt"][:1])  # some have no derivative in their targets, and then raise
    raised: list[Exception] = []
    for wrt in dict.fromkeys(asked):
        try:
            found = subjects[key].run(
                task["inputs"], dtype=task["dtype"], mode=task["mode"], wrt=wrt, call=task["call"]
            )
            return {n: as_arrays(found[n]) for n in ("value", "gradients")}
        except Exception as error:
            raised.append(error)
    raise raised[0]


def _subject(probe: Any, task: Mapping[str, Any]) -> Any:
    """One of our losses, or the framework's own, which a probe need not have."""
    if not task.get("native"):
        return probe.subject(
            task["spec"],
            task["params"],
            reduction=task["reduction"],
            normalizer=task["normalizer"],
            weights=task["weights"],
            ports=task["ports"],
        )
    if not hasattr(probe, "native"):
        raise UnsupportedError(f"the probe of {probe.name} has no losses of its framework's own")
    return probe.native(**task["native"])


def _train(probe: Any, task: Mapping[str, Any]) -> dict[str, Any]:
    """Train with the platform's public object, called by the names of its inputs."""
    front = importlib.import_module(f"lossbridge.{probe.name}")
    loss = front.compile(task["spec"], **task["params"])
    first, second = tuple(task["spec"].inputs)[:2]
    curve: dict[str, Any] = probe.train(
        task["task"], lambda prediction, target: loss(**{first: prediction, second: target})
    )
    return curve


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
