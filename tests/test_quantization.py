"""int8 through torchao, which `make` puts into a folder of its own: with it installed, every import of diffusers
prints warnings.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.side_by_side

TORCHAO = Path(sys.prefix) / "torchao"
CODE = """
import torch
from llm_dit import TransformersBackend
text = "<|im_start|>user\\na red circle on a blue background<|im_end|>\\n<|im_start|>assistant\\n"
load = TransformersBackend.from_pretrained
whole, small = (load("tiny", device="cpu", dtype="bfloat16", quantization=q) for q in (None, "int8"))
a, b = whole.encode([text]), small.encode([text, text.replace("red", "green")])
cosine = torch.cosine_similarity(a.embedding.float(), b.embeddings[0].float(), dim=1).min().item()
assert cosine >= .99, cosine
assert b.history == ("quantization(int8)",) and "int8" in repr(small), repr(small)
alone = small.encode([text]).embedding.float()
assert torch.cosine_similarity(b.embeddings[0].float(), alone, dim=1).min() > .9999, "alone as in a batch"
stored = lambda weight: sum(getattr(weight, part).nbytes for part in weight.__tensor_flatten__()[0])
pair = whole.model.layers[0].mlp.up_proj.weight, small.model.layers[0].mlp.up_proj.weight
assert stored(pair[1]) < .6 * pair[0].nbytes, "the weights are smaller, not only called so"
print(f"lowest cosine of a token {cosine:.4f}, weight {stored(pair[1]) / pair[0].nbytes:.2f} of its size")
"""


PICTURE = """
import numpy as np
import torch
from llm_dit import ZImagePipeline
from llm_dit.generation.memory import count_bytes
load = ZImagePipeline.from_pretrained
whole, small = (load("tiny", device="cpu", dtype="bfloat16", quantization=q) for q in (None, "int8"))
a, b = (pipe("a red circle on a blue background", progress=False) for pipe in (whole, small))
assert np.abs(np.asarray(a.image, int) - np.asarray(b.image, int)).mean() < 5, "nearly the same picture"
assert (a.recipe.quantization, b.recipe.quantization) == (None, "int8")
def stored(weight):
    if not hasattr(weight, "__tensor_flatten__"):
        return weight.nbytes
    return sum(stored(getattr(weight, part)) for part in weight.__tensor_flatten__()[0])
held = sum(stored(p) for p in small.pipe.transformer.parameters())
counted = count_bytes(whole.pipe.transformer, torch.bfloat16, "int8")
assert abs(held / counted - 1) < .03, (held, counted)
assert small.plan.weights["transformer"] == counted < .6 * whole.plan.weights["transformer"]
print(f"transformer: {held / 1e6:.2f} MB held, {counted / 1e6:.2f} MB planned")
"""


def run(code, **env):
    return subprocess.run([sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True)


def test_int8_is_smaller_and_nearly_the_same():
    assert (TORCHAO / "torchao").is_dir(), (
        "make installs torchao there: pip install --no-deps --target .venv/torchao torchao"
    )
    done = run(CODE, PYTHONPATH=str(TORCHAO))
    assert done.returncode == 0, done.stderr
    print(done.stdout)


def test_the_transformer_is_quantised_as_planned():
    done = run(PICTURE, PYTHONPATH=str(TORCHAO))
    assert done.returncode == 0, done.stderr
    print(done.stdout)


def test_without_the_library_it_is_refused():
    done = run(
        'from llm_dit import TransformersBackend; TransformersBackend.from_pretrained("tiny", device="cpu", '
        'quantization="int8")'
    )
    assert (
        "ValueError: quantization='int8' needs torchao; install it with pip install 'llm-dit[quantization]'."
        in done.stderr
    )
