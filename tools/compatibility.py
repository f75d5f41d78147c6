"""A part of the tests with the oldest versions of all dependencies. `make compatibility`, or: python tools/compatibility.py [FOLDER]

Makes an environment in FOLDER (a temporary one if not given, which is removed) from requirements-oldest.txt, and runs in it what a user without development tools can: the smoke test, notebooks, and tests that need no
tool of ours. Prints a line for each, and ends with 1 where one failed. `python tools/compatibility.py --notebook FILE` runs one notebook in the environment it is called in.
"""
import json
import os
import re
import subprocess
import sys
import time
import venv
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ("02b_versions", "03_encoding", "03a_embedding_cache", "03c_prefix_cache", "03f_weight_files", "04_backends", "05_encoder", "05a_recipe", "05b_memory", "06_pipeline", "08_widgets", "08a_playground", "09_store", "09a_metrics", "09b_experiments")
TESTS = ("test_concurrency.py", "test_faults.py", "test_pictures.py")


def run_notebook(path):
    """Run the cells of a notebook that tests run; raise where one fails."""
    from IPython.core.interactiveshell import InteractiveShell
    cells, shell = json.loads(path.read_text())["cells"], InteractiveShell()
    os.chdir(path.parent)
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and not re.search(r"^#\|\s*(slow|gpu|eval:\s*false)", source, re.M):
            shell.run_cell(source).raise_error()


def checks(python):
    """Names and commands of what is tried."""
    yield "smoke test", [python, "-c", "import sys; from llm_dit.cli import main; sys.argv = ['llm-dit', 'smoke-test']; main()"]
    for name in NOTEBOOKS: yield f"{name}.ipynb", [python, __file__, "--notebook", ROOT / "nbs" / f"{name}.ipynb"]
    for name in TESTS: yield name, [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", ROOT / "tests" / name, "-k", "not kernel_restarted"]


def try_all(folder):
    """Install, run everything, and return what failed."""
    python, failed = Path(folder) / "bin/python", []
    if not python.exists(): venv.create(folder, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-cache-dir", "-r", ROOT / "requirements-oldest.txt"], check=True)
    for name, command in checks(python):
        start, environment = time.time(), {**os.environ, "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg"}
        done = subprocess.run([str(part) for part in command], cwd=ROOT, env=environment, capture_output=True, text=True)
        print(f"{'ok    ' if not done.returncode else 'FAILED'} {name}, {time.time() - start:.0f} s", flush=True)
        if done.returncode:
            failed.append(name)
            print("\n".join((done.stdout + done.stderr).strip().splitlines()[-12:]), flush=True)
    return failed


if __name__ == "__main__":
    if sys.argv[1:2] == ["--notebook"]: run_notebook(Path(sys.argv[2]).resolve())
    elif sys.argv[1:]: sys.exit(len(try_all(sys.argv[1])) > 0)
    else:
        with TemporaryDirectory() as temporary: sys.exit(len(try_all(temporary)) > 0)
