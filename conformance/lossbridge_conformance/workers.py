"""The processes of a run: one per platform, restarted behind whatever kills it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from base64 import b85decode
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lossbridge.errors import LossbridgeError
from lossbridge_conformance.worker import environment

NOTES = 20  # more of them than anybody reads
SILENCE = 240.0  # seconds after which a worker that says nothing counts as lost


@dataclass
class Worker:
    """A platform's process, and what it has sent back."""

    platform: str
    modes: Sequence[str]
    tasks: list[dict[str, Any]]
    folder: Path
    silence: float = SILENCE
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def run(self) -> Worker:
        """Run all tasks, whatever happens to the process: a death costs the task it was at."""
        began = time.monotonic()
        left = list(self.tasks)
        attempt = 0
        while left:
            attempt += 1
            status, started, words = self._process(left, attempt)
            done = {task["id"] for task in left if task["id"] in self.answers}
            # What failed as several calls in one is run again call by call.
            again = [part for task in left if task["id"] in done for part in self._parts(task)]
            left = [task for task in left if task["id"] not in done]
            if started is not None and started not in done:
                died = next(task for task in left if task["id"] == started)
                left = [task for task in left if task["id"] != started]
                detail = f"the worker died here ({_cause(status)})"
                if "parts" in died:
                    again += died["parts"]
                    self._note(f"{started}: {detail}; its parts were run one by one")
                else:
                    self._lose(started, detail)
            elif not done:
                # It never got to a task, and another process would do no better.
                for task in left:
                    self._lose(task["id"], f"the worker did not start ({_cause(status)}): {words}")
                left = []
            left = again + left
        for task in self.tasks:
            self._spread(task)
        self.seconds = time.monotonic() - began
        return self

    def _process(self, left: list[dict[str, Any]], attempt: int) -> tuple[int, str | None, str]:
        """One process over the tasks left: its exit status, the last task begun, its last words."""
        name = self.folder / f"{self.platform}-{attempt}"
        tasks, results, log = (name.with_suffix(f".{s}") for s in ("tasks", "results", "log"))
        bare = [{k: v for k, v in task.items() if k not in ("parts", "dims")} for task in left]
        tasks.write_bytes(pickle.dumps(bare))
        results.touch()
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "lossbridge_conformance.worker", self.platform, str(tasks),
                 str(results)],
                env=environment(str(self.folder)), stdout=subprocess.DEVNULL, stderr=errors,
            )  # fmt: skip
            try:
                self._watch(process, results)
            finally:
                if process.poll() is None:  # this process is being interrupted
                    process.kill()
                    process.wait()
        words = log.read_text("utf-8", "replace").strip().splitlines()[-3:]
        return process.returncode, self._read(results), " | ".join(words)[:400]

    def _watch(self, process: subprocess.Popen[bytes], results: Path) -> None:
        """Wait for the end; a process that writes nothing for too long is stopped."""
        size, since = -1, time.monotonic()
        while process.poll() is None:
            time.sleep(0.05)
            now = results.stat().st_size
            if now != size:
                size, since = now, time.monotonic()
            elif time.monotonic() - since > self.silence:
                process.kill()
                process.wait()

    def _read(self, results: Path) -> str | None:
        started: str | None = None
        for line in results.read_bytes().splitlines():
            try:
                record = pickle.loads(b85decode(line))  # written by our own worker
            except Exception:  # a line cut short by the process's death
                continue
            if "versions" in record:
                self.versions = record["versions"]
            elif "started" in record:
                started = record["started"]
            else:
                self.answers[record["id"]] = record
        return started

    def _lose(self, task: str, detail: str) -> None:
        self.answers[task] = {"id": task, "error": detail, "kind": "crash"}
        self._note(f"lost: {task}: {detail}")

    def _note(self, text: str) -> None:
        if len(self.notes) < NOTES:
            self.notes.append(text)

    def _parts(self, task: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The parts of a task that gave an error, whose answer is then forgotten."""
        if "parts" not in task or "error" not in self.answers[task["id"]]:
            return []
        del self.answers[task["id"]]
        return list(task["parts"])

    def _spread(self, task: Mapping[str, Any]) -> None:
        """Cut the answer of several calls in one into an answer for each."""
        whole = self.answers.get(task["id"])
        if whole is None or "parts" not in task:
            return
        dims: Mapping[str, int] = task["dims"]
        first = 0
        for part in task["parts"]:
            place = slice(first, first + part["samples"])
            first = place.stop

            def cut(name: str, x: Any, place: slice = place) -> Any:
                array = np.asarray(x)
                dim = dims[name]
                if array.ndim <= dim or array.shape[dim] != task["samples"]:
                    return array  # of a wrong shape, which its judge will say
                return array[(*[slice(None)] * dim, place)]

            self.answers[part["id"]] = {
                "value": cut("value", whole["value"]),
                "gradients": {n: cut(n, x) for n, x in whole["gradients"].items()},
            }


def _cause(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def run_all(workers: Iterable[Worker]) -> None:
    """As many at a time as there are cores."""
    with ThreadPoolExecutor(max_workers=max(os.cpu_count() or 1, 1)) as pool:
        list(pool.map(Worker.run, workers))


def modes_of(platform: str) -> tuple[str, ...] | None:
    """The modes of a platform, or None where its framework is not installed.

    Asked in a process of its own, so that this one never loads a framework.
    """
    code = (
        "import sys\nfrom lossbridge_conformance.probe import registered\n"
        "try:\n    probe = registered()[sys.argv[1]].load()\n"
        "except ImportError as error:\n    print(error, file=sys.stderr)\n    sys.exit(3)\n"
        "print(*probe.modes)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, platform], env=environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if found.returncode == 3:
        return None
    if found.returncode != 0:
        raise LossbridgeError(
            f"the platform {platform} cannot be loaded: {found.stderr.strip().splitlines()[-1:]}"
        )
    return tuple(found.stdout.split())
