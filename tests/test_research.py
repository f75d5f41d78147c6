"""The explanations say what is so: enough of it is asserted, and another checkpoint or another hidden layer makes
assertions fail.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.side_by_side

ROOT = Path(__file__).parent.parent
RESEARCH = sorted((ROOT / "nbs/research").glob("*.ipynb"))
RUN = (
    "import sys; from pathlib import Path; from nbdev.test import test_nb; print(__import__('llm_dit').__file__); "
    "sys.exit(not test_nb(Path(sys.argv[1]))[0])"
)


def assertions(notebook):
    """How many statements a notebook asserts."""
    cells = [
        "".join(cell["source"]) for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"
    ]
    return sum(isinstance(node, ast.Assert) for cell in cells for node in ast.walk(ast.parse(cell)))


def test_claims_are_asserted():
    counts = {notebook.stem: assertions(notebook) for notebook in RESEARCH}
    assert len(counts) == 7 and min(counts.values()) >= 5 and sum(counts.values()) >= 40, counts


def another_rope(package):
    """Positions of half as many tokens, as the class default of diffusers has them."""
    config = package / "tiny_z_image/transformer/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"axes_lens": [1024, 512, 512]}))


def another_layer(package):
    """The hidden state one layer lower than the family's record says."""
    record = package / "families/z_image.py"
    record.write_text(re.sub(r"layers=\(-2,\)", "layers=(-3,)", record.read_text()))


@pytest.mark.parametrize(
    "change, stem, fails",
    [
        (None, "rope_3d", False),
        (another_rope, "rope_3d", True),
        (None, "which_hidden_state", False),
        (another_layer, "which_hidden_state", True),
        (another_layer, "way_of_a_prompt", True),
    ],
)
def test_a_changed_checkpoint_is_noticed(change, stem, fails, tmp_path):
    shutil.copytree(ROOT / "llm_dit", tmp_path / "llm_dit", ignore=shutil.ignore_patterns("__pycache__"))
    if change:
        change(tmp_path / "llm_dit")
    env = {k: v for k, v in os.environ.items() if k != "IN_TEST"} | {
        "PYTHONPATH": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN, ROOT / f"nbs/research/{stem}.ipynb"],
        cwd=ROOT / "nbs/research",
        env=env,
        capture_output=True,
        text=True,
    )
    assert str(tmp_path) in done.stdout, done.stdout + done.stderr
    assert bool(done.returncode) == fails, done.stdout + done.stderr
    if fails:
        assert "AssertionError" in done.stdout + done.stderr
