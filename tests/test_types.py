"""What an editor and a type checker see: every public name, its methods, and nothing that is slow to import."""

import os
import re
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
    assert all(getattr(getattr(llm_dit, name), "__name__", name) == name for name in llm_dit.__all__)


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


#: Libraries whose own types are not followed, so that mypy answers in seconds; what they give is `Any` then.
NOT_FOLLOWED = "diffusers ipywidgets matplotlib numpy pandas PIL pydantic torch transformers typer".split()


def test_mypy_sees_every_public_name_and_its_types(tmp_path):
    """mypy is the stricter reader of the two: it takes types from `__init__.pyi` and `py.typed` alone."""
    code = ["import llm_dit", *(f"reveal_type(llm_dit.{name})" for name in llm_dit.__all__)]
    code += [
        'pipe = llm_dit.ZImagePipeline.from_pretrained("tiny")',
        "reveal_type(pipe)",
        'reveal_type(pipe("a star", seed=3).recipes)',
        'reveal_type(pipe.encoder.encode("a star").tokens)',
        'reveal_type(llm_dit.Sweep(prompt="a star").run(pipe, "a folder"))',
        'pipe("a star", seed="three")',
        "pipe.lora",
    ]
    settings = ["[mypy]", "ignore_missing_imports = True"]
    settings += [f"[mypy-{name}.*]\nfollow_imports = skip" for name in NOT_FOLLOWED]
    (tmp_path / "mypy.ini").write_text("\n".join(settings))
    (tmp_path / "use.py").write_text("\n".join(code))
    program = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", "cache", "use.py"]
    environment = os.environ | {"MYPYPATH": str(ROOT)}
    said = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout
    types = re.findall(r'use.py:(\d+): note: Revealed type is "(.*)"', said)
    assert len(types) == len(llm_dit.__all__) + 4, said
    assert not [code[int(line) - 1] for line, kind in types if kind == "Any"], said
    assert types[-4][1] == "llm_dit.generation.z_image_pipeline.ZImagePipeline"
    assert types[-3][1] == "list[llm_dit.generation.recipe.Recipe]"
    assert types[-2][1] == "list[list[str]]"
    assert types[-1][1].endswith(".Results")
    errors = re.findall(r"use.py:(\d+): error: .*\[(.*)\]", said)
    assert errors == [(str(len(code) - 1), "arg-type"), (str(len(code)), "attr-defined")], said


def test_nothing_heavy_is_imported():
    heavy = {
        "import llm_dit": ["torch", "diffusers", "transformers", "pandas"],
        "from llm_dit import Family, register_family": ["torch", "diffusers", "transformers", "pandas"],
        "from llm_dit import TextEncoder": ["diffusers"],
    }
    for code, names in heavy.items():
        code = f"{code}; import sys; assert not {{*{names}}} & {{*sys.modules}}"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
