"""What the README shows is what happens."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.checkout

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_prints_what_its_comments_say(example):
    promised = re.findall(r"^print\(.*\)  # (.*?)(?:;|$)", example, re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[: len(promised)] == promised


def test_the_first_example_promises_figures():
    assert len(re.findall(r"^print", EXAMPLES[0], re.MULTILINE)) == 2


def test_every_command_names_a_job():
    spec = importlib.util.spec_from_file_location("run", ROOT / "run.py")
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    named = set(re.findall(r"python3 run\.py (\w+)", README))
    assert named >= {"conformance", "tests"}
    assert named <= set(run.JOBS)
    assert all(f"python3 run.py {job} " in run.__doc__ for job in run.JOBS)


def test_every_file_it_links_to_exists():
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
