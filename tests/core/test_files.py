"""Writing a file: whole or not at all, with the mode it should have, and nothing else replaced."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from lossbridge import dump, files
from lossbridge.catalogue import catalogue
from lossbridge.errors import OutputError


@pytest.fixture
def umask() -> int:
    """The umask of this process."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path: Path, umask: int) -> None:
    for path in (tmp_path / "text", tmp_path / "spec.json"):
        files.save("x", path) if path.name == "text" else dump(catalogue()["mse@1"].spec, path)
        assert mode(path) == 0o666 & ~umask


def test_a_file_that_is_there_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "script"
    path.write_text("old")
    path.chmod(0o750)
    files.save("new", path)
    assert (path.read_text(), mode(path)) == ("new", 0o750)


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    target, link, dangling = tmp_path / "target", tmp_path / "link", tmp_path / "dangling"
    target.write_text("old")
    link.symlink_to(target)
    dangling.symlink_to(tmp_path / "made")
    files.save("new", link)
    files.save("first", dangling)
    assert link.is_symlink() and target.read_text() == "new"
    assert dangling.is_symlink() and (tmp_path / "made").read_text() == "first"


def test_a_pipe_is_written_to_and_stays_one(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    reader.start()
    files.save("through", pipe)
    reader.join(10)
    assert read == ["through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_is_written_to_and_stays_one() -> None:
    files.save("gone", Path(os.devnull))
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


@pytest.mark.parametrize("name", ["folder", "nowhere/file", "name\0hidden"])
def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="nothing there was changed"):
        files.save("x", tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
