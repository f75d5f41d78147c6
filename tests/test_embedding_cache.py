"""The cache of hidden states under two processes, under kill -9, and where its folder misbehaves.

CACHE_SECONDS (5) makes the first two longer.
"""

import os
import random
import subprocess
import sys
import time
import warnings
from hashlib import sha256
from pathlib import Path

import pytest
import torch

import llm_dit.core.disk_store
from llm_dit.encoding.embedding_cache import DamagedCacheWarning, EmbeddingCache, weights_fingerprint

pytestmark = pytest.mark.side_by_side

SECONDS = float(os.environ.get("CACHE_SECONDS", 5))


def key(i):
    return sha256(str(i).encode()).hexdigest()


def value(i):
    """What belongs under key(i): the same in every process; lengths and dtypes vary."""
    x = torch.randn(1 + i % 40, 64, generator=torch.Generator().manual_seed(i))
    return x.to((torch.bfloat16, torch.float16, torch.float32)[i % 3])


def child(*arguments):
    return subprocess.Popen([sys.executable, __file__, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def fill(folder, seed, seconds):
    """Get and put overlapping keys at random for some seconds, then print the keys that were put."""
    warnings.simplefilter("error")
    cache, choose, put, end = (
        EmbeddingCache(folder, max_bytes=50_000),
        random.Random(seed),
        set(),
        time.time() + float(seconds),
    )
    while time.time() < end:
        i = choose.randrange(3000)
        x = cache.get(key(i))
        assert x is None or x.equal(value(i)), f"entry {i} is wrong"
        if x is None or choose.random() < 0.3:
            cache.put(key(i), value(i))
            put.add(i)
    print(*put)


def write_large(folder, start):
    """Write entries of 8 MB until killed; print the number of each once it is there."""
    x, i = torch.arange(2 * 2**20, dtype=torch.float32).reshape(512, -1), int(start)
    cache = EmbeddingCache(folder, max_bytes=0)
    while True:
        cache.put(key(i), x)
        print(i, flush=True)
        i = (i + 1) % 20


def verified(folder):
    """Number of entries in a folder, every one of which loads and passes its checksum."""
    names = [path.stem for path in folder.glob("??/*.safetensors")]
    cache = EmbeddingCache(folder, max_bytes=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(cache.get(name) is not None for name in names)
    return len(names)


def test_two_processes_fill_one_folder(tmp_path):
    children = [child("fill", tmp_path, seed, SECONDS) for seed in (1, 2)]
    put = [set(map(int, c.communicate(timeout=SECONDS + 60)[0].split())) for c in children]
    assert [c.returncode for c in children] == [0, 0], "neither met a wrong, damaged or unwritable entry"
    cache = EmbeddingCache(tmp_path, max_bytes=0)
    missing = [i for i in put[0] | put[1] if (x := cache.get(key(i))) is None or not x.equal(value(i))]
    print(
        f"\n{len(put[0])} and {len(put[1])} keys put, {len(put[0] & put[1])} by both; {verified(tmp_path)} files "
        "verify"
    )
    assert not missing and put[0] & put[1]
    assert verified(tmp_path) == len(put[0] | put[1]) and not [*tmp_path.rglob("*.partial")]


def test_killed_while_writing(tmp_path):
    rounds, acknowledged, end = 0, set(), time.time() + SECONDS
    while rounds < 3 or time.time() < end or (rounds < 20 and not [*tmp_path.glob("*.partial")]):
        writer = child("write_large", tmp_path, 7 * rounds % 20)
        acknowledged.add(int(writer.stdout.readline()))
        time.sleep(random.random() / 4)
        known, deadline = {*tmp_path.glob("*.partial")}, time.time() + 30
        while not {*tmp_path.glob("*.partial")} - known and time.time() < deadline:
            pass  # until it is at it
        time.sleep(random.random() / 100)
        writer.kill()
        acknowledged |= {int(line) for line in writer.stdout if line.endswith("\n")}
        writer.wait()
        rounds += 1
        entries = verified(tmp_path)
        assert all((tmp_path / key(i)[:2] / f"{key(i)}.safetensors").exists() for i in acknowledged), (
            "what was put is there"
        )
    leftovers = [*tmp_path.glob("*.partial")]
    print(f"\n{rounds} kills, {len(leftovers)} in the middle of a write; {entries} files verify")
    assert leftovers
    EmbeddingCache(tmp_path)
    assert all(file.exists() for file in leftovers), "they could belong to a process that lives"
    for file in leftovers:
        os.utime(file, (time.time() - 3700,) * 2)
    EmbeddingCache(tmp_path)
    assert not [*tmp_path.rglob("*.partial")] and verified(tmp_path) == entries
    EmbeddingCache(tmp_path).clear()
    assert verified(tmp_path) == 0


def test_a_damaged_file_that_cannot_be_removed_is_reported_once(tmp_path, monkeypatch):
    cache = EmbeddingCache(tmp_path, max_bytes=0)
    cache.put(key(1), value(1))
    file = tmp_path / key(1)[:2] / f"{key(1)}.safetensors"
    file.write_bytes(file.read_bytes()[:-1])

    def refuse(path, missing_ok=False):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.warns(DamagedCacheWarning, match=key(1)):
            assert cache.get(key(1)) is None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert cache.get(key(1)) is None
    assert cache.statistics()["damaged"] == 1
    cache.put(key(1), value(1))
    assert cache.get(key(1)).equal(value(1)), "and putting it again repairs it"


@pytest.mark.filterwarnings("ignore")
def test_fingerprint_reads_what_torch_quantises():
    def module(scale):
        quantised = torch.nn.Module()
        quantised.register_buffer("weight", torch.quantize_per_tensor(torch.linspace(0, 1, 8), scale, 0, torch.qint8))
        return quantised

    assert weights_fingerprint(module(0.1)) == weights_fingerprint(module(0.1)) != weights_fingerprint(module(0.2))


if __name__ == "__main__":
    {"fill": fill, "write_large": write_large}[sys.argv[1]](*sys.argv[2:])


def test_an_entry_that_another_process_clears_at_once_is_no_failure(tmp_path, monkeypatch):
    """The cache took it for a folder that cannot be written, and went on in memory only."""
    write = llm_dit.core.disk_store.write_file
    cache, key = EmbeddingCache(tmp_path), "ab" * 32
    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("error")
        patch.setattr(
            llm_dit.core.disk_store, "write_file", lambda *given, **options: write(*given, **options).unlink()
        )
        cache.put(key, torch.ones(1, 2))
    cache.put(key, torch.ones(1, 2))
    assert [*tmp_path.glob("??/*.safetensors")]
