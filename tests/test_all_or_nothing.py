"""What fails on the way leaves no half a state: each inner step is made to fail in turn, also by Ctrl+C."""

import os
import warnings
from copy import copy

import pytest
import torch

import llm_dit.core.disk_store
import llm_dit.core.files
import llm_dit.encoding.embedding_cache
import llm_dit.prompts.templates
import llm_dit.studies.store
from llm_dit.core.disk_store import DiskStore
from llm_dit.encoding.embedding_cache import EmbeddingCache
from llm_dit.encoding.prefix_cache import PrefixCache, ReadText
from llm_dit.prompts.templates import TemplateRegistry
from llm_dit.studies.store import Store, content_key

FAILURES = [OSError(5, "Input/output error"), KeyboardInterrupt(), MemoryError()]
failures = pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)


def failing(failure, call=0, function=None):
    """A function that raises at one of its calls, counted from 0."""
    calls = iter(range(10**6))

    def fail(*arguments, **options):
        if next(calls) == call:
            raise failure
        return function(*arguments, **options)

    return fail


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


STEPS = [
    (llm_dit.core.files, "_write_new", 0),
    (llm_dit.core.files, "_write_new", 1),
    (os, "fsync", 0),
    (os, "fsync", 1),
    (llm_dit.core.disk_store, "write_file", 0),
    (llm_dit.core.disk_store, "write_file", 1),
]


@failures
@pytest.mark.parametrize("where, step, call", STEPS)
def test_a_store_has_an_entry_whole_or_not_at_all(tmp_path, monkeypatch, failure, where, step, call):
    store = Store(tmp_path, durable=True)
    old = store.put({"n": 1}, {"norm": 1}, files={"png": b"old"})
    with monkeypatch.context() as patch:
        patch.setattr(where, step, failing(failure, call, getattr(where, step)))
        with pytest.raises(type(failure)):
            store.put({"n": 2}, {"norm": 2}, files={"png": b"new"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for each in (store, Store(tmp_path)):
            assert [*each] == [old] and each.get(content_key({"n": 2})) is None and each.get(old["key"]) == old
    assert not [*tmp_path.rglob("*.partial")]
    assert store.put({"n": 2}, {"norm": 2}, files={"png": b"new"}) in [*Store(tmp_path)]


@failures
def test_an_index_that_could_not_be_written_is_completed(tmp_path, monkeypatch, failure):
    """The entry itself was written: this store has it, and so has one that is opened later."""
    store = Store(tmp_path)
    store.put({"n": 1}, files={"png": b"old"})
    with monkeypatch.context() as patch:
        patch.setattr(Store, "_append", failing(failure))
        with pytest.raises(type(failure)):
            store.put({"n": 1}, {"norm": 2}, files={"png": b"larger"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.get(content_key({"n": 1}))["result"] == {"norm": 2}


@failures
@pytest.mark.parametrize("step", ["_listed", "_read", "_write_index"])
def test_rebuild_keeps_what_is_known(tmp_path, monkeypatch, failure, step):
    store = Store(tmp_path)
    store.put({"n": 1})
    before, on_disk = [*store], files(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Store, step, failing(failure))
        with pytest.raises(type(failure)):
            store.rebuild()
    assert [*store] == before and files(tmp_path) == on_disk


@failures
@pytest.mark.parametrize("step", ["_find", "_fresh", "load_template", "_layer"])
def test_a_registry_is_reloaded_whole_or_not_at_all(tmp_path, monkeypatch, failure, step):
    for name in ("one", "two"):
        (tmp_path / f"{name}.md").write_text(f"---\nname: {name}\n---\nDraw {name}.\n")
    registry = TemplateRegistry(tmp_path)
    before = copy(vars(registry))
    assert len(registry) == 2
    (tmp_path / "one.md").write_text("---\nname: one\n---\nDraw something else.\n")
    with monkeypatch.context() as patch:
        patch.setattr(llm_dit.prompts.templates, step, failing(failure))
        with pytest.raises(type(failure)):
            registry.reload()
    assert vars(registry) == before
    assert registry.reload() == ["one"]


def test_a_registry_whose_warning_is_an_error_stays_as_it_is(tmp_path):
    (tmp_path / "one.md").write_text("---\nname: one\n---\nDraw one.\n")
    registry = TemplateRegistry(tmp_path)
    before = copy(vars(registry))
    (tmp_path / "one.md").write_text("---\nname: [\n---\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning):
            registry.reload()
    assert vars(registry) == before
    with pytest.warns(UserWarning, match="last good version is kept"):
        registry.reload()


KEY = "a" * 64


@pytest.mark.parametrize("failure", FAILURES[1:], ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize(
    "where, step",
    [
        (llm_dit.encoding.embedding_cache, "_to_bytes"),
        (llm_dit.encoding.embedding_cache, "save"),
        (llm_dit.encoding.embedding_cache, "_checksum"),
        (DiskStore, "write"),
        (llm_dit.core.disk_store, "write_file"),
    ],
)
def test_a_cache_takes_an_embedding_whole_or_not_at_all(tmp_path, monkeypatch, failure, where, step):
    cache = EmbeddingCache(tmp_path)
    cache.put(KEY, torch.zeros(2, 3))
    before, on_disk = cache.statistics(), files(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(where, step, failing(failure))
        with pytest.raises(type(failure)):
            cache.put(KEY, torch.ones(4, 3))
    assert cache.statistics() == before and files(tmp_path) == on_disk and cache.get(KEY).equal(torch.zeros(2, 3))


def test_a_cache_whose_warning_is_an_error_has_the_embedding(tmp_path, monkeypatch):
    cache = EmbeddingCache(tmp_path)
    monkeypatch.setattr(llm_dit.core.disk_store, "write_file", failing(FAILURES[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="in memory only"):
            cache.put(KEY, torch.ones(4, 3))
    assert cache.get(KEY).equal(torch.ones(4, 3))


@failures
@pytest.mark.parametrize("step, call", [("nbytes", 0), ("nbytes", 1), ("serves", 0)])
def test_read_texts_are_added_whole_or_not_at_all(monkeypatch, failure, step, call):
    cache = PrefixCache(max_bytes=40)
    entries = [ReadText(ids, [], {0: torch.zeros(2, 2)}) for ids in ((1,), (2,), (1, 3))]
    for entry in entries[:2]:
        cache.add(entry)
    before = [*cache._entries.items()]
    with monkeypatch.context() as patch:
        patch.setattr(ReadText, step, failing(failure, call, getattr(ReadText, step)))
        with pytest.raises(type(failure)):
            cache.add(entries[2])
    assert [*cache._entries.items()] == before
    cache.add(entries[2])
    assert [key for key, _ in cache._entries] == [(2,), (1, 3)]
