"""The processes of a run: what dies costs little, nobody outlives the run, nothing is unpickled."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flint")

from lossbridge_conformance import stability, subjects, wire
from lossbridge_conformance.workers import Worker, probed

BACKENDS = Path(__file__).resolve().parents[1] / "backends"


def install(folder: Path, name: str, module: str) -> None:
    """A backend as if it had been installed in ``folder``."""
    info = folder / f"{name}_backend-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-backend\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[lossbridge.backends]\n{name} = {module}:PROBE\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where third parties' backends are installed; the NumPy one is."""
    folder = tmp_path / "site"
    install(folder, "numpy", "numpy_backend.probe")
    before = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{BACKENDS}:{before}")
    return folder


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "lossbridge", "conformance", *arguments]


def tasks_of(folder: Path, dtypes: tuple[str, ...]) -> list[dict[str, object]]:
    (subject,), _ = subjects.chosen(("MSELoss",), folder, settings=False)
    return list(stability.tasks(subject, ("plain",), dtypes, False))


# --- deaths ---------------------------------------------------------------------------------------


def test_a_worker_that_dies_before_its_first_task_costs_its_cells_only(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was a KeyError that ended the run, where calls are run side by side."""
    (site / "dying.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    install(site, "dying", "dying")
    (task,) = tasks_of(site, ("float32",))
    assert len(task["parts"]) > 1
    worker = Worker("dying", ("plain",), [task], site).run()
    for part in task["parts"]:
        assert worker.answers[part["id"]]["kind"] == "crash"
        assert "signal 9" in worker.answers[part["id"]]["error"]


def test_a_worker_that_dies_once_before_its_first_task_is_started_again(site: Path) -> None:
    (site / "once.py").write_text(
        "import os, pathlib, signal\nmark = pathlib.Path(__file__).with_name('mark')\n"
        "if not mark.exists():\n    mark.touch()\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "from numpy_backend.probe import PROBE\n"
    )
    install(site, "once", "once")
    worker = Worker("once", ("plain",), tasks_of(site, ("float32",)), site).run()
    assert not any("error" in answer for answer in worker.answers.values())


@pytest.mark.parametrize(
    "body",
    ["raise ValueError('planted')", "import sys\nsys.exit(1)", "import os\nos._exit(0)", "x = 1"],
    ids=["raises", "exits", "ends", "has no probe"],
)
def test_a_platform_that_cannot_be_loaded_stops_only_a_run_that_names_it(
    site: Path, tmp_path: Path, body: str
) -> None:
    (site / "broken.py").write_text(body)
    install(site, "broken", "broken")
    assert probed("broken").missing
    assert probed("numpy").modes == ("plain",)
    done = subprocess.run(
        command("--losses", "MSELoss", "--platforms", "broken", "--out", str(tmp_path / "out")),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert "broken was not measured: it cannot be loaded" in done.stderr
    assert "Traceback" not in done.stderr


# --- signals --------------------------------------------------------------------------------------


def children(parent: int) -> set[int]:
    """All processes below one, by what the kernel says."""
    found: set[int] = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            child = int(status.parent.name)
            found |= {child} | children(child)
    return found


def heard() -> None:
    """Ignore nothing that the tests themselves were started to ignore, in the background say."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def alive(processes: set[int]) -> set[int]:
    def running(number: int) -> bool:
        try:
            return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    return {number for number in processes if running(number)}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="asks the kernel as Linux does")
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)],
    ids=["SIGINT", "SIGTERM", "SIGHUP", "SIGKILL"],
)
@pytest.mark.parametrize("when", ["truths", "tasks"])
def test_a_run_that_is_stopped_leaves_no_process_and_no_folder(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, number: int, code: int
) -> None:
    """Alone sent to the parent, as a job scheduler and `kill` do."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("LOSSBRIDGE_TEST_FAULT", "hang" if when == "tasks" else "")
    # Truths of more losses than there are processes, some of which take 15 s.
    loss = "MSELoss" if when == "tasks" else "NTXentLoss,PerceptualLoss,ArcFaceLoss,FocalLoss"
    out = tmp_path / "out"
    run = subprocess.Popen(
        command("--platforms", "numpy", "--losses", loss, "--out", str(out)),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard,
    )  # fmt: skip
    try:
        below: set[int] = set()
        for _ in range(1200):
            below |= children(run.pid)
            # The oracle's processes are there at once, a worker's results when the truths are.
            begun = list(temporary.rglob("*.results"))
            if begun and begun[0].stat().st_size if when == "tasks" else len(below) >= 2:
                break
            assert run.poll() is None, run.communicate()
            time.sleep(0.1)
        else:
            pytest.fail("the run did not begin")
        time.sleep(0.5)
        below |= children(run.pid)
        run.send_signal(number)
        _, err = run.communicate(timeout=60)
        for _ in range(300):
            if not alive(below) and not list(temporary.iterdir()):
                break
            time.sleep(0.1)
        assert run.returncode == code, err
        assert not alive(below)
        assert not list(temporary.iterdir())
        assert not (out / "report.html").exists()
        assert "Traceback" not in err
        if number != signal.SIGKILL:
            assert f"stopped by {signal.Signals(number).name}" in err
    finally:
        run.kill()
        for process in alive(below):
            os.kill(process, signal.SIGKILL)


# --- what is read ---------------------------------------------------------------------------------


class Planted:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def job(folder: Path) -> tuple[object, tuple[str, ...], str]:
    (subject,), _ = subjects.chosen(("MSELoss",), folder, settings=False)
    return subject, ("float32", "float64"), str(folder)


def test_truths_are_kept_exactly(tmp_path: Path) -> None:
    first = subjects.cached_truths(job(tmp_path))
    (path,) = tmp_path.glob("*.truth")
    stamp = path.stat().st_mtime_ns
    assert repr(subjects.cached_truths(job(tmp_path))) == repr(first)
    assert path.stat().st_mtime_ns == stamp


def test_a_planted_or_cut_file_of_truths_is_replaced_and_runs_nothing(tmp_path: Path) -> None:
    first = subjects.cached_truths(job(tmp_path))
    (path,) = tmp_path.glob("*.truth")
    good = path.read_bytes()
    rows = wire.decode(good)
    rows[0][2]["rounded"]["value"]["value"] = np.zeros(3)
    other = wire.decode(good)
    other[0][2]["from_rules"] = 1
    planted = pickle.dumps(Planted(tmp_path / "mark"))
    huge = wire.encode([[0, "float32", {}]]).replace(b"\xa7float32", b"\xdb\xff\xff\xff\xfffloat32")
    bad = [b"", good[:-7], planted, wire.encode(rows), wire.encode(other), wire.encode([]), huge]
    for content in bad:
        path.write_bytes(content)
        assert repr(subjects.cached_truths(job(tmp_path))) == repr(first)
        assert path.read_bytes() == good
    assert not (tmp_path / "mark").exists()


def test_what_the_suite_exchanges_comes_back_as_it_was() -> None:
    value = {
        "words": ["a", None, True, 3, -0.0, float("inf")],
        "arrays": [np.arange(6.0).reshape(2, 3), np.array(-0.0), np.zeros((0, 4), bool)],
    }
    found = wire.decode(wire.encode(value))
    assert repr(found) == repr(value)
    assert np.isnan(wire.decode(wire.encode(float("nan"))))
    for strange in (np.array(["text"]), np.array([object()]), object()):
        with pytest.raises(TypeError, match="is not exchanged"):
            wire.encode(strange)
