"""Every notebook runs, by the engine of nbdev_test."""
from pathlib import Path

import pytest
import torch
from nbdev.test import test_nb as run_notebook

run_notebook.__test__ = False
NOTEBOOKS = sorted(p for p in Path(__file__).parent.parent.joinpath("nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


@pytest.fixture(autouse=True)
def own_torch_settings():
    """What a notebook sets for the whole process is not left to the next one."""
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    yield
    torch.set_num_threads(threads)
    torch.set_grad_enabled(grad)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook(notebook, monkeypatch):
    monkeypatch.chdir(notebook.parent)
    passed, seconds = run_notebook(notebook, skip_flags=("slow", "gpu"))
    assert passed, f"{notebook.name} failed; its traceback is printed above"
