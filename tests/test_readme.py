"""What the README tells to type is typed here, as it stands."""
import os
import re
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BASH = [line.partition("#")[0].strip() for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines() if line.strip()]
BASH += re.findall(r"`((?:llm-dit|pip install|make) [^`]+)`", README)
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
WEIGHTS = "Tongyi-MAI/Z-Image-Turbo"  # cannot be had here: what names it has to end in one clear sentence
ENV = {k: v for k, v in os.environ.items() if k != "IN_TEST"} | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1", "BROWSER": "true"}


def shell(command, cwd, env=ENV):
    return subprocess.run(command, shell=True, cwd=cwd, env=env, capture_output=True, text=True)


def in_own_environment(command, folder):
    """`pip install .` in an environment of its own, to which what it depends on is lent."""
    venv.create(folder, with_pip=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "lent.pth").write_text(next(p for p in sys.path if p.endswith("site-packages")) + "\n")
    env = ENV | {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "PIP_NO_DEPS": "1"}
    return shell(command, ROOT, env)


def serves(command):
    """A command that goes on until it is stopped: it has to say where it serves."""
    with subprocess.Popen(["setsid", "bash", "-c", command], cwd=ROOT, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            end = time.monotonic() + 60
            for line in process.stdout:
                if re.search(r"http://(localhost|127\.0\.0\.1):\d+/", line):
                    return True
                assert time.monotonic() < end, line
            return False
        finally:
            os.killpg(process.pid, 15)


@pytest.mark.parametrize("command", sorted(set(BASH) - {"make test"}))  # that one runs this
def test_command(command, tmp_path):
    if command.startswith(("make lab", "make docs-serve")):
        assert serves(command)
    elif command.startswith("pip install"):
        done = in_own_environment(command, tmp_path / "venv")
        assert done.returncode == 0, done.stdout + done.stderr
    elif WEIGHTS in command:
        done = shell(command, tmp_path, ENV | {"HF_HOME": str(tmp_path)})
        assert done.returncode and "Traceback" not in done.stderr and WEIGHTS in done.stderr, done.stderr
    else:
        done = shell(command, ROOT if command.startswith("make") else tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr


def test_python(tmp_path):
    """The examples, one after another in one session, those of the embedded checkpoint."""
    code = "\n".join(block for block in PYTHON if WEIGHTS not in block)
    assert code.count("from_pretrained") >= 2
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
