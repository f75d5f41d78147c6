"""What an editor and a type checker see: every public name, its methods, and nothing that is slow to import."""

import subprocess
import sys
from pathlib import Path

import jedi
import pytest

import llm_dit

pytestmark = [pytest.mark.side_by_side, pytest.mark.xdist_group("types")]

ROOT = Path(__file__).parent.parent


def completions(code: str) -> set[str]:
    """Return what an editor offers at the end of the code."""
    return {found.name for found in jedi.Script(code, path=ROOT / "example.py").complete()}


def test_public_names_are_offered_and_there():
    assert set(llm_dit.__all__) <= completions("from llm_dit import ")
    assert all(getattr(llm_dit, name).__name__ == name for name in llm_dit.__all__)


def test_methods_are_offered():
    pipe = completions('from llm_dit import ZImagePipeline\npipe = ZImagePipeline.from_pretrained("tiny")\npipe.')
    assert {"encoder", "load_lora", "reproduce", "recipe_for", "scheduler", "to", "weights"} <= pipe
    encoding = completions("from llm_dit import EncodingOutput\nencoding: EncodingOutput\nencoding.")
    assert {"embedding", "embeddings", "layer", "save", "tokens", "token_labels"} <= encoding
    assert {"compare", "norms", "similarity", "mean_vector", "statistics", "pca"} <= encoding
    assert {"scale", "clamp", "mask_dims", "blend", "blend_layers", "drop_tokens", "repeat", "pad"} <= encoding
    sweep = 'from llm_dit import Sweep\nsweep = Sweep(prompt="a star")\n'
    assert {"cells", "plan", "run", "to_yaml"} <= completions(f"{sweep}sweep.")
    results = completions(f'{sweep}sweep.run(None, "a folder").')
    assert {"compare", "contact_sheet", "embedding", "grid", "image", "summary", "table"} <= results


def test_nothing_heavy_is_imported():
    code = "import sys, llm_dit; assert not {'torch', 'diffusers', 'transformers', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
