"""Many pictures and encodes with the embedded checkpoint: memory stays flat, nothing gets slower, no file stays open.
`make soak`, or: python tools/soak.py PICTURES ENCODES

Prints what was measured, and ends with 1 where a promise is broken. Linux only.
"""

import ctypes
import gc
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from tqdm.auto import tqdm

from llm_dit import EncodingOutput, Recipe, ZImagePipeline

GROWTH = 6.0  # MB over a whole run that are taken for noise
SLOWER = 1.25  # of the processor time of the first tenth, each in units of a fixed calculation at the same time
FIXED = torch.ones(256, 256)


def resident():
    """Megabytes in memory, after what is free was given back."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def processor_time(work, *given):
    """Seconds of the processor that a call takes."""
    start = time.process_time()
    work(*given)
    return time.process_time() - start


def paced(work, numbers):
    """Processor time of each call, in units of a fixed calculation: other programs make it slower, too."""
    return [processor_time(work, i) / processor_time(torch.mm, FIXED, FIXED) for i in numbers]


def slowdown(times, work, tenth, tries=3):
    """How much longer the last tenth took than the first; once more after a pause if that may be another program's
    doing, since what has become slower stays so.
    """
    ratio = np.median(times[-tenth:]) / np.median(times[:tenth])
    for _ in range(tries):
        if ratio <= SLOWER:
            break
        time.sleep(2)
        ratio = min(ratio, np.median(paced(work, range(tenth))) / np.median(times[:tenth]))
    return float(ratio)


def watched(name, number, work, warm_up):
    """Do something many times. Returns a line that says what happened, and what was wrong."""
    for i in range(warm_up):
        work(i)
    gc.collect()
    gc.freeze()  # what is there by now need not be looked through again
    open_before, threads = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))
    times, samples = [], []
    every = max(1, number // 20)
    for i in tqdm(range(number), desc=name, leave=False):
        times += paced(work, [warm_up + i])
        if i % every == 0 or i + 1 == number:
            samples.append((i, resident()))
    at, memory = np.array(samples).T
    late = at >= number // 2  # until then allocators still take what a mix of sizes needs, which ends; a leak goes on
    slope, start = np.polyfit(at[late], memory[late], 1)
    growth, noise = slope * number, float(np.std(memory[late] - (slope * at[late] + start)))
    ratio = slowdown(times, work, max(1, number // 10))
    opened, more_threads = len(os.listdir("/proc/self/fd")) - open_before, len(os.listdir("/proc/self/task")) - threads
    broken = {
        f"memory grew by {growth:.1f} MB": growth > max(GROWTH, 3 * noise),
        f"the last tenth took {ratio:.2f} times as long as the first": number >= 100
        and ratio > SLOWER,  # fewer say nothing
        f"{opened} files stayed open": opened > 0,
        f"{more_threads} threads stayed": more_threads > 0,
    }
    line = (
        f"{name}: {number:,}; {memory[0]:.1f} MB at first, {memory[late][0]:.1f} half way, {memory[-1]:.1f} at last; "
        f"slope of the second half {1000 * slope:.3f} kB each ({growth:+.2f} MB in {number:,}, noise {noise:.2f} MB); "
        f"processor time of the last tenth {ratio:.2f} of the first; files "
        f"left open {opened}, threads {more_threads}"
    )
    return line, [f"{name}: {what}" for what, is_so in broken.items() if is_so]


def soak(pictures=1_000, encodes=20_000, folder=None):
    """Lines that say what was measured, and what was wrong."""
    torch.set_num_threads(1)
    pipe = ZImagePipeline.from_pretrained(
        "tiny", device="cpu", cache_bytes=2**20, prefix_cache_bytes=2**20
    )  # full after the warm-up
    with TemporaryDirectory() as made:

        def encode(i):
            text = (
                f"{i * 7919 % 90_000 + 10_000} red stars above {i * 104_729 % 9_000 + 1_000} green "
                f"squares{' and a circle' * (i % 7)}"
            )  # of seven lengths: what is kept for each is kept early
            if i % 10 == 0:
                pipe.encoder.encode([f"{text}, {word}" for word in ("small", "large", "pale", "dark")])
            elif i % 10 == 1:
                pipe.encoder.encode(text, layers="all")
            elif i % 10 == 2:
                EncodingOutput.load(pipe.encoder.encode(text).save(Path(made) / "encoding.safetensors"))
            elif i % 3:
                pipe.encoder.encode(text)
            else:
                pipe.encoder.encode(text, incremental=True)

        def draw(i):
            options = (
                dict(template="neon", num_images=2, num_inference_steps=2)
                if i % 10 == 0
                else dict(guidance_scale=1.0, num_inference_steps=2)
                if i % 10 == 1
                else {}
            )
            [png, *_] = pipe(
                f"a red star and {i * 7919 % 9_000 + 1_000} green squares", seed=i, progress=False, **options
            ).save(Path(made) / "picture.png")
            assert Recipe.from_png(png).seed == i

        results = [
            watched("encodes", encodes, encode, max(350, encodes // 5)),
            watched("pictures", pictures, draw, max(20, pictures // 10)),
        ]
    return [line for line, _ in results], [what for _, wrong in results for what in wrong]


if __name__ == "__main__":
    lines, wrong = soak(*map(int, sys.argv[1:]))
    print("\n".join(lines))
    sys.exit("\n".join(wrong) if wrong else 0)
