"""Every notebook runs, by the engine of nbdev_test."""

from pathlib import Path

import pytest
import torch
from nbdev.test import test_nb as run_notebook

run_notebook.__test__ = False
#: They measure time or compare last bits with all threads, so nothing may run beside them.
ALONE = {
    "prompts/04_template_files",
    "prompts/05_templates",
    "generation/25_pipeline",
    "encoding/09_packed_weights",
    "views/00_plots",
    "studies/00_store",
    "studies/08_scale",
    "cli/12_benchmark",
    "cli/13_encoding_benchmark",
    "cli/14_image_benchmark",
    "tiny/08_evaluation",
    "how-to/scale_out",
}
NBS = Path(__file__).parent.parent / "nbs"
NOTEBOOKS = {
    path.relative_to(NBS).with_suffix("").as_posix(): path
    for path in sorted(NBS.rglob("*.ipynb"))
    if ".ipynb_checkpoints" not in path.parts
}


@pytest.fixture(autouse=True)
def own_torch_settings():
    """What a notebook sets for the whole process is not left to the next one."""
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    yield
    torch.set_num_threads(threads)
    torch.set_grad_enabled(grad)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ALONE else pytest.mark.side_by_side) for name in NOTEBOOKS]
)
def test_notebook(name, monkeypatch):
    notebook = NOTEBOOKS[name]
    monkeypatch.chdir(notebook.parent)
    passed, _seconds = run_notebook(notebook, skip_flags=("slow", "gpu"))
    assert passed, f"{name} failed; its traceback is printed above"
