"""Every notebook runs, by the engine of nbdev_test."""

from pathlib import Path

import pytest
import torch
from nbdev.test import test_nb as run_notebook

run_notebook.__test__ = False
#: They measure time or compare last bits with all threads, so nothing may run beside them.
ALONE = {
    "02_templates",
    "06_pipeline",
    "03e_packed_weights",
    "07_plots",
    "09_store",
    "10_scale",
    "10a_benchmark",
    "20b_tiny_evaluation",
    "scale_out",
}
NOTEBOOKS = sorted(
    p for p in Path(__file__).parent.parent.joinpath("nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts
)


@pytest.fixture(autouse=True)
def own_torch_settings():
    """What a notebook sets for the whole process is not left to the next one."""
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    yield
    torch.set_num_threads(threads)
    torch.set_grad_enabled(grad)


@pytest.mark.parametrize(
    "notebook",
    [pytest.param(p, id=p.stem, marks=() if p.stem in ALONE else pytest.mark.side_by_side) for p in NOTEBOOKS],
)
def test_notebook(notebook, monkeypatch):
    monkeypatch.chdir(notebook.parent)
    passed, _seconds = run_notebook(notebook, skip_flags=("slow", "gpu"))
    assert passed, f"{notebook.name} failed; its traceback is printed above"
