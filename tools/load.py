"""Eight threads do everything at once with one pipeline, and each result is compared with that of a thread alone.

`make load` makes 3 rounds of 200 operations in each thread; `python tools/load.py --seconds 60` goes on for a minute.
Every image has to be the one that its own recipe names, nothing may fail, and memory may not grow from round to round.
"""

import argparse
import gc
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil
import torch
from safetensors.torch import save_file

from llm_dit import Recipe, Store, ZImagePipeline

THREADS, ROUNDS, OPERATIONS, GROWTH = 8, 3, 200, 40 * 2**20
QUICK = dict(num_inference_steps=1, height=64, width=64, progress=False)
PROMPTS = ("a red star", "a blue circle on a green background", "two small squares", "")


def lora(path: Path, pipe: ZImagePipeline, seed: int) -> Path:
    """Write a LoRA on one layer."""
    layer, prefix = pipe.transformer.layers[0].attention.to_q, "transformer.layers.0.attention.to_q"
    torch.manual_seed(seed)
    matrices = {"A": torch.randn(4, layer.in_features), "B": torch.randn(layer.out_features, 4)}
    save_file({f"{prefix}.lora_{name}.weight": x * 0.3 for name, x in matrices.items()}, path)
    return path


class Load:
    """One pipeline, what it gives to a thread alone, and what many threads may do with it."""

    def __init__(self, folder: Path):
        self.pipe = ZImagePipeline.from_pretrained("tiny", device="cpu", memory="balanced")
        self.folder, self.store, self.done, self.wrong = folder, Store(folder / "store"), Counter(), []
        self.loras, self.stop = [lora(folder / f"{n}.safetensors", self.pipe, n) for n in range(2)], threading.Event()
        self.embeddings = {prompt: self.pipe.encoder.encode(prompt).embedding for prompt in PROMPTS}
        self.images = {}
        for loaded in ([], self.loras[:1], self.loras[1:], self.loras):
            with ExitStack() as stack:
                for file in loaded:
                    stack.enter_context(self.pipe.load_lora(file))
                names = frozenset(file.stem for file in loaded)
                self.images |= {(names, prompt): self.pixels(prompt) for prompt in PROMPTS}

    def pixels(self, prompt):
        return self.pipe(prompt, **QUICK).image.tobytes()

    def check(self, name, right):
        self.done[name] += 1
        if not right:
            self.wrong.append(name)

    def draw(self, prompt, n):
        made = self.pipe(prompt, **QUICK)
        names = frozenset(each["name"] for each in made.recipe.loras)
        self.check("draw", made.image.tobytes() == self.images[names, prompt])
        if n % 10 == 0:
            file = made.save(self.folder / f"{threading.get_ident()}.png")[0]
            self.check("read a recipe", Recipe.from_image(file) == made.recipe)

    def encode(self, prompt, n):
        self.check("encode", self.pipe.encoder.encode(prompt).embedding.equal(self.embeddings[prompt]))

    def free(self, prompt, n):
        self.pipe.encoder.backend.free()
        self.pipe.encoder.cache.clear()
        self.encode(prompt, n)

    def load(self, prompt, n):
        dtype = random.choice(["float32", "bfloat16"])
        other = ZImagePipeline.from_pretrained("tiny", device="cpu", dtype=dtype)
        self.check("load", other.transformer.dtype == getattr(torch, dtype))

    def keep(self, prompt, n):
        record = self.store.put({"prompt": prompt, "n": n % 50}, {"n": n})
        self.check("keep", self.store.get(record["key"]) is not None)

    def operations(self, seed, until):
        """Do random things with one thread."""
        choose, n = random.Random(seed), 0
        while not until(n):
            work = choose.choices((self.draw, self.encode, self.free, self.keep, self.load), (6, 8, 2, 3, 0.3))[0]
            work(choose.choice(PROMPTS), n)
            n += 1

    def change_loras(self):
        """Load and unload until the others are done."""
        choose = random.Random(0)
        while not self.stop.is_set():
            file = choose.choice(self.loras)
            if file.stem in self.pipe.loras:
                self.pipe.unload_lora(file.stem)
            else:
                self.pipe.load_lora(file)
            self.done["change LoRAs"] += 1
            time.sleep(0.005)
        self.pipe.unload_lora()

    def round(self, number, until):
        """Let all threads work; what one of them raises comes out."""
        self.stop.clear()
        with ThreadPoolExecutor(THREADS) as pool:
            changing = pool.submit(self.change_loras)
            working = [pool.submit(self.operations, f"{number} {t}", until) for t in range(THREADS - 1)]
            try:
                for each in working:
                    each.result()
            finally:
                self.stop.set()
            changing.result()


def memory():
    """Bytes of this process, without what only waits to be collected."""
    gc.collect()
    return psutil.Process().memory_info().rss


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, help="go on for so long in place of 200 operations a round")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        load, taken = Load(Path(folder)), []
        for number in range(ROUNDS):
            end = time.monotonic() + (seconds or 0) / ROUNDS
            load.round(number, lambda n, end=end: time.monotonic() > end if seconds else n >= OPERATIONS)
            taken.append(memory())
        print(", ".join(f"{count} × {name}" for name, count in load.done.items()))
        print(f"wrong: {len(load.wrong)}; memory after each round: {', '.join(f'{x / 2**20:.0f} MB' for x in taken)}")
        grown = taken[-1] - taken[0]
        return int(bool(load.wrong) or grown > GROWTH)


if __name__ == "__main__":
    sys.exit(main())
