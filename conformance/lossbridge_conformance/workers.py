"""The processes of a run: one per platform, restarted behind whatever kills it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from base64 import b85decode
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lossbridge_conformance import wire
from lossbridge_conformance.worker import environment

STARTS = 2  # attempts in a row of a process to reach its first task
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
    stop: threading.Event = field(default_factory=threading.Event)  # set: the run is interrupted

    def run(self) -> Worker:
        """Run all tasks, whatever happens to the process: a death costs the task it was at."""
        began = time.monotonic()
        left = list(self.tasks)
        attempt = unstarted = 0
        while left and not self.stop.is_set():
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
            elif not done and (unstarted := unstarted + 1) >= STARTS:
                # It never gets to a task, and another process would do no better.
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
        results, log = (name.with_suffix(f".{s}") for s in ("results", "log"))
        bare = [{k: v for k, v in task.items() if k not in ("parts", "dims")} for task in left]
        results.touch()
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "lossbridge_conformance.worker", self.platform,
                 str(results), str(self.folder)],
                env=environment(str(self.folder)), stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL, stderr=errors,
            )  # fmt: skip
            # It stays open: its end tells the process that this one is gone.
            lifeline = process.stdin
            assert lifeline is not None
            try:
                try:
                    lifeline.write(pickle.dumps(bare))
                    lifeline.flush()
                except BrokenPipeError:
                    pass  # it died before it had read its tasks, as its status will say
                self._watch(process, results)
            finally:
                if process.poll() is None:  # this process is being interrupted
                    process.kill()
                    process.wait()
                with contextlib.suppress(BrokenPipeError):
                    lifeline.close()
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
            elif self.stop.is_set() or time.monotonic() - since > self.silence:
                process.kill()
                process.wait()

    def _read(self, results: Path) -> str | None:
        started: str | None = None
        for line in results.read_bytes().splitlines():
            try:
                record = wire.decode(b85decode(line))
            except ValueError:  # a line cut short by the process's death
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
        if "error" in whole:  # the process never came to it
            for part in task["parts"]:
                self.answers[part["id"]] = {**whole, "id": part["id"]}
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


def run_all(workers: Sequence[Worker]) -> None:
    """As many at a time as there are cores; an interruption stops every process at once."""
    with ThreadPoolExecutor(max_workers=max(os.cpu_count() or 1, 1)) as pool:
        jobs = [pool.submit(worker.run) for worker in workers]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            for worker in workers:
                worker.stop.set()
            for job in jobs:
                job.cancel()
            raise


class Oracles(ProcessPoolExecutor):
    """A pool whose processes may be ended while jobs wait.

    The executor's own ``map`` cancels the jobs that wait when it is left by an exception, and when
    the processes then end, its thread raises InvalidStateError at the first cancelled one: the
    interpreter waited for that thread for ever.
    """

    def map(
        self, fn: Callable[..., Any], *iterables: Iterable[Any], **options: Any
    ) -> Iterator[Any]:
        """The results in order."""
        jobs = [self.submit(fn, *arguments) for arguments in zip(*iterables, strict=True)]
        return (job.result() for job in jobs)


@contextlib.contextmanager
def oracles(folder: str) -> Iterator[ProcessPoolExecutor]:
    """Processes for the oracle, one a core; none outlives this one, however it ends.

    ``folder`` is the run's own, for nobody after it.
    """
    # A fresh process each: this one has threads, which a fork would not survive.
    context = multiprocessing.get_context("spawn")
    pool = Oracles(
        os.cpu_count() or 1, mp_context=context, initializer=_follow_parent, initargs=(folder,)
    )
    try:
        yield pool
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown()


def _follow_parent(folder: str) -> None:
    """End when the parent does, which a pool's process does not notice by itself.

    The run's folder is then cleared away: a parent that was killed could not do it.

    Signals from a terminal reach the whole group; the parent alone decides what they mean.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        shutil.rmtree(folder, ignore_errors=True)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end the run as Ctrl-C does: processes stopped, folders cleared away.

    One that is ignored stays so: under nohup a closed terminal ends nothing.
    """

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    signals = [getattr(signal, n) for n in ("SIGTERM", "SIGHUP") if hasattr(signal, n)]
    if threading.current_thread() is not threading.main_thread():
        signals = []  # only the main thread may say what a signal does
    signals = [number for number in signals if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, interrupt) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Availability:
    """What a platform says of itself: its modes, or why it cannot be used here."""

    modes: tuple[str, ...] = ()
    missing: str = ""


def probed(platform: str) -> Availability:
    """The modes of a platform, or why it is not to be had here.

    Asked in a process of its own, so that this one never loads a framework, and that a third
    party's that raises, or ends the process, as it is imported costs its own cells only.
    """
    code = (
        "import sys\nfrom lossbridge_conformance.probe import registered\n"
        "try:\n    probe = registered()[sys.argv[1]].load()\n"
        "except ImportError as error:\n    print(error, file=sys.stderr)\n    sys.exit(3)\n"
        "sys.stdout.write('modes ' + ' '.join(probe.modes))\n"
    )
    asked = subprocess.run(
        [sys.executable, "-c", code, platform], env=environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    last = next(iter(asked.stderr.strip().splitlines()[-1:]), _cause(asked.returncode))
    if asked.returncode == 3:
        return Availability(missing=f"it is not installed ({last})")
    _, marked, modes = asked.stdout.rpartition("modes ")
    if asked.returncode != 0 or not marked:
        return Availability(missing=f"it cannot be loaded ({last})")
    return Availability(tuple(modes.split()))
