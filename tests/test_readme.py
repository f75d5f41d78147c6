"""What the README tells to type is typed here, as it stands, in a copy of the project: the tree that is tested is not
written to.
"""

import os
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = re.sub(r"<!--.*?-->", "", (ROOT / "README.md").read_text(), flags=re.DOTALL)  # a comment is for no reader
BASH = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]
BASH += [
    command
    for command in re.findall(r"`((?:llm-dit|pip install|make) [^`]+)`", README)
    if command != "pip install torch"
]  # needs a network
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
WEIGHTS = "Tongyi-MAI/Z-Image-Turbo"  # cannot be had here: what names it has to end in one clear sentence
ENV = {k: v for k, v in os.environ.items() if k != "IN_TEST"} | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "HF_HUB_OFFLINE": "1",
    "BROWSER": "true",
}
ELSEWHERE = {  # what other tests run already, and what it has to be there
    "make docs": ("tests/test_docs.py", "tools/docs.py"),
    "make test": ("this run", "pytest"),
}


def tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).exists()]


@pytest.fixture(scope="module", autouse=True)
def untouched():
    """No file of the tree is written or added by these tests."""

    def state():
        return {name: (ROOT / name).stat().st_mtime_ns for name in tracked()}, sorted(
            path.name for path in ROOT.iterdir() if path.name != ".pytest_cache"
        )

    before = state()
    yield
    assert state() == before


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The project as a clone has it, with the environment of these tests as its own."""
    folder = tmp_path_factory.mktemp("readme") / "project"
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
        os.utime(folder / name, (0, 0))  # older than .venv/.ready, so that make does not install again
    assert (Path(sys.prefix) / ".ready").exists(), "run the tests by `make test`, which makes this environment"
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def shell(command, cwd, env=ENV):
    return subprocess.run(command, shell=True, cwd=cwd, env=env, capture_output=True, text=True)


def in_own_environment(command, folder, project):
    """`pip install .` in an environment of its own, to which what it depends on is lent."""
    venv.create(folder, with_pip=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "lent.pth").write_text(next(p for p in sys.path if p.endswith("site-packages")) + "\n")
    env = ENV | {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "PIP_NO_DEPS": "1"}
    return shell(command, project, env)


def serves(command, folder):
    """A command that goes on until it is stopped: it has to say where it serves."""
    with subprocess.Popen(
        ["setsid", "bash", "-c", command],
        cwd=folder,
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            end = time.monotonic() + 60
            for line in process.stdout:
                if re.search(r"http://(localhost|127\.0\.0\.1):\d+/", line):
                    return True
                assert time.monotonic() < end, line
            return False
        finally:
            os.killpg(process.pid, 15)


@pytest.mark.parametrize("command", sorted(set(BASH)))
def test_command(command, tmp_path, copy):
    if command in ELSEWHERE:
        planned = shell(command.replace("make", "make -n"), copy)
        assert planned.returncode == 0 and ELSEWHERE[command][1] in planned.stdout, planned.stderr
    elif command.startswith(("make lab", "llm-dit playground")):
        assert serves(command, copy if command.startswith("make") else tmp_path)
    elif command.startswith("pip install"):
        done = in_own_environment(command, tmp_path / "venv", copy)
        assert done.returncode == 0, done.stdout + done.stderr
    elif WEIGHTS in command:
        done = shell(command, tmp_path, ENV | {"HF_HOME": str(tmp_path)})
        assert done.returncode and "Traceback" not in done.stderr and WEIGHTS in done.stderr, done.stderr
    else:
        done = shell(command, copy if command.startswith("make") else tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr


def test_what_only_a_comment_names_is_not_typed():
    assert "make docs" in BASH and "make export" not in BASH


def test_python(tmp_path):
    """The examples, one after another in one session, those of the embedded checkpoint."""
    code = "\n".join(block for block in PYTHON if WEIGHTS not in block)
    assert code.count("from_pretrained") >= 2
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
