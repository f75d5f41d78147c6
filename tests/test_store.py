"""A store's small promises, one by one; `tools/mutation.py` says which of them the notebook leaves open."""

import errno
import json
import os
import shutil
import stat
import time
import warnings
from datetime import UTC
from unittest.mock import Mock

import pytest

import llm_dit.studies.store
from llm_dit.studies.store import Store, StoreFullError, StoreWarning, content_key

pytestmark = pytest.mark.side_by_side
A, B, C = ({"name": name} for name in "abc")
KEY_A, KEY_B, KEY_C = map(content_key, (A, B, C))


def index_lines(store):
    """Lines of the index."""
    return (store.folder / "index.jsonl").read_bytes().splitlines()


def silently(f, *args):
    """Call `f`, and fail if it warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return f(*args)


@pytest.mark.parametrize("value", [object(), float("inf"), {1, 2}])
def test_an_identity_is_plain_json(value):
    with pytest.raises(TypeError, match="has to be plain JSON"):
        content_key({"value": value})


def test_only_a_durable_store_waits_for_the_disk(tmp_path, monkeypatch):
    flushed = []
    monkeypatch.setattr(os, "fsync", flushed.append)
    Store(tmp_path / "quick").put(A)
    assert not flushed
    Store(tmp_path / "sure", durable=True).put(A, files={"png": b"1"})
    assert len(flushed) == 2, "the image and the record"


@pytest.mark.parametrize("in_the_way", ["store", "store/entries"])
def test_a_file_in_the_way(tmp_path, in_the_way):
    (tmp_path / in_the_way).parent.mkdir(exist_ok=True)
    (tmp_path / in_the_way).write_text("a file")
    with pytest.raises(NotADirectoryError, match="is a file, or lies below one"):
        Store(tmp_path / "store")


def test_opening_leaves_the_index_as_it_is(tmp_path):
    store = Store(tmp_path)
    store.put(A)
    store.put(B, error="no")
    before = index_lines(store)
    Store(tmp_path)
    assert index_lines(store) == before


def test_repr_counts_failures_and_bytes(tmp_path):
    store = Store(tmp_path / "few")
    store.put(A, files={"png": b"1" * 2**20, "safetensors": b"2" * 2**20})
    store.put(B)
    assert repr(store) == "Store(few: 2 entries, 2 MiB of embeddings and pictures)"
    store.put(C, error="no")
    assert "3 entries, 1 of them failed, 2 MiB" in repr(store)


def test_what_another_process_made_of_a_failure(tmp_path):
    mine, theirs = Store(tmp_path), Store(tmp_path)
    mine.put(A, error="out of memory")
    theirs.put(A, {"norm": 1})
    assert mine.get(KEY_A)["result"] == {"norm": 1}
    assert [record["error"] for record in mine] == [None], "and it is remembered"


def test_a_failure_replaces_a_failure_only(tmp_path):
    store = Store(tmp_path)
    store.put(A, error="first")
    assert store.put(A, error="second")["error"] == "second" == Store(tmp_path).get(KEY_A)["error"]
    made = store.put(A, {"norm": 1})
    assert store.put(A, error="third") == made == Store(tmp_path).get(KEY_A)


def test_files_that_are_asked_for(tmp_path):
    store = Store(tmp_path)
    store.put(A, files={"png": b"1"})
    store.put(B)
    assert store.get(KEY_A, files=["png"]) and store.get(KEY_B)
    assert store.get(KEY_B, files=["png"]) is None is store.get(KEY_A, files=["png", "safetensors"])


def test_an_entry_whose_record_was_deleted(tmp_path):
    store = Store(tmp_path)
    store.put(A)
    store.path(KEY_A).unlink()
    assert store.get(KEY_A) is None and KEY_A not in store


def test_refresh_reads_each_line_once(tmp_path, monkeypatch):
    mine, theirs = Store(tmp_path), Store(tmp_path)
    theirs.put(A)
    mine.refresh()
    read, parse = [], llm_dit.studies.store._parsed
    monkeypatch.setattr(llm_dit.studies.store, "_parsed", lambda line: read.append(line) or parse(line))
    theirs.put(B)
    theirs.put(C)
    mine.refresh()
    mine.refresh()
    assert len(mine) == 3 and len(read) == 2


def test_refresh_of_an_index_that_was_written_anew(tmp_path):
    mine, theirs = Store(tmp_path), Store(tmp_path)
    mine.put(A, {"text": "long " * 100})
    mine.refresh()
    theirs.put(B)
    theirs.path(KEY_A).unlink()
    theirs.rebuild()
    mine.refresh()
    assert KEY_B in {record["key"] for record in mine}


def test_refresh_of_an_index_that_was_cut_short(tmp_path):
    """The same file, but shorter than what was read of it."""
    mine = Store(tmp_path)
    mine.put(A, {"text": "long " * 100})
    mine.refresh()
    line = json.dumps(Store(tmp_path / "other").put(B)).encode() + b"\n"
    (tmp_path / "index.jsonl").write_bytes(line)
    mine.refresh()
    assert {record["key"] for record in mine} == {KEY_A, KEY_B}


def test_a_line_that_is_being_written(tmp_path):
    mine, theirs = Store(tmp_path), Store(tmp_path)
    line = json.dumps(theirs.put(A)).encode() + b"\n"
    index = tmp_path / "index.jsonl"
    index.write_bytes(line[:20])
    mine.refresh()
    assert len(mine) == 0
    index.write_bytes(line)
    mine.refresh()
    assert len(mine) == 1


def test_rebuild_leaves_a_line_for_each_entry(tmp_path):
    store = Store(tmp_path)
    store.put(A, error="no")
    store.put(A, {"norm": 1})
    store.put(B)
    store.rebuild()
    assert sorted(json.loads(line)["key"] for line in index_lines(store)) == sorted([KEY_A, KEY_B])
    store.path(KEY_B).unlink()
    store.rebuild()
    assert len(store) == len(index_lines(store)) == 1


def test_a_rebuild_that_fails_forgets_nothing(tmp_path, monkeypatch):
    store = Store(tmp_path)
    store.put(A)
    monkeypatch.setattr(store, "_write_index", Mock(side_effect=OSError(errno.ENOSPC, "full")))
    store.path(KEY_A).unlink()
    with pytest.raises(OSError):
        store.rebuild()
    assert [record["key"] for record in store] == [KEY_A]


def test_table_is_plain_and_sorted_by_time(tmp_path):
    store = Store(tmp_path)
    assert list(store.table().columns) == ["key", "error", "time"] and len(store.table()) == 0
    for n in (2, 1):
        store.put({"n": n, "lora": ["style"], "model": {"name": "tiny"}}, {"norm": n / 2}, files={"png": b"1"})
        time.sleep(0.002)
    table = Store(tmp_path).table()
    assert list(table.n) == [2, 1] and list(table.norm) == [1, 0.5]
    assert list(table.columns) == ["key", "n", "norm", "error", "time", "png"]
    assert [(tmp_path / file).read_bytes() for file in table.png] == [b"1", b"1"]


def test_table_shows_what_others_added(tmp_path):
    mine = Store(tmp_path)
    Store(tmp_path).put(A)
    assert len(mine.table()) == 1


@pytest.mark.parametrize("age, left", [(86400, True), (86401, False)])
def test_a_sign_stays_for_a_day(tmp_path, monkeypatch, age, left):
    store = Store(tmp_path)
    with store.working():
        [sign] = (tmp_path / "working").iterdir()
        data = shutil.copy(sign, tmp_path)
    shutil.copy(data, sign)  # as if the process had been killed
    os.utime(sign, (1000, 1000))
    monkeypatch.setattr(time, "time", lambda: 1000 + age)
    with store.working() as others:
        assert (others, sign.exists()) == (int(left), left)


def test_a_sign_that_somebody_deleted(tmp_path):
    with Store(tmp_path).working():
        for sign in (tmp_path / "working").iterdir():
            sign.unlink()


def test_a_sign_is_taken_away_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), Store(tmp_path).working():
        raise ZeroDivisionError
    assert not [*(tmp_path / "working").iterdir()]


@pytest.mark.parametrize("age, left", [(3600, True), (3601, False)])
@pytest.mark.parametrize("name", [f"{KEY_A}.json.7.aa.partial", ".tmpOXAtLq"])
def test_an_unfinished_file_stays_for_an_hour(tmp_path, monkeypatch, name, age, left):
    store = Store(tmp_path)
    store.put(A)
    file = store.path(KEY_A).with_name(name)
    file.write_bytes(b"half")
    os.utime(file, (1000, 1000))
    monkeypatch.setattr(time, "time", lambda: 1000 + age)
    assert len(silently(Store, tmp_path)) == 1
    assert file.exists() == left


def test_files_of_others_are_counted_and_the_first_is_named(tmp_path):
    store = Store(tmp_path)
    store.put(A, files={"png": b"1"})
    for name in ("b.txt", "a.txt"):
        (tmp_path / "entries" / name).write_text("mine")
    (tmp_path / "entries" / "00").mkdir(exist_ok=True)
    shutil.copy(store.path(KEY_A), tmp_path / "entries" / "00")  # an entry in the folder of another
    with pytest.warns(StoreWarning, match="^3 files, such as .* is skipped: they are no entries") as given:
        assert len(Store(tmp_path)) == 1
    assert len(given) == 1 and min([f"{KEY_A}.json", "a.txt"]) in str(given[0].message)


def test_a_linked_folder_is_not_read(tmp_path):
    other = Store(tmp_path / "other")
    other.put(A)
    store = Store(tmp_path / "store")
    (store.folder / "entries" / KEY_A[:2]).symlink_to(other.path(KEY_A).parent)
    with pytest.warns(StoreWarning, match="1 files"):
        assert len(Store(store.folder)) == 0


def test_a_warning_names_the_line_that_asked(tmp_path):
    store = Store(tmp_path)
    store.put(A, files={"png": b"12"})
    store.path(KEY_A, "png").write_bytes(b"1")
    with pytest.warns(StoreWarning, match="missing or cut off") as given:
        assert store.get(KEY_A) is None
        assert store.get(KEY_A) is None
    assert [one.filename for one in given] == [__file__], "once, and not from within the library"


def test_an_error_that_has_no_reason_in_the_disk(tmp_path):
    """A function that fails says so itself, and nothing is stored."""

    def broken(path):
        raise ValueError("No numbers")

    def not_allowed(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    store = Store(tmp_path)
    with pytest.raises(ValueError, match="No numbers"):
        store.put(A, files={"png": broken})
    with pytest.raises(PermissionError):
        store.put(A, files={"png": not_allowed})
    assert len(store) == 0 and KEY_A not in store


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named(tmp_path, number):
    def full(path):
        raise OSError(number, os.strerror(number))

    store = Store(tmp_path)
    store.put(A)
    with pytest.raises(StoreFullError, match="its 1 entries are whole") as raised:
        store.put(B, files={"png": full})
    assert raised.value.errno == number


def test_a_line_that_was_written_in_part_is_a_full_disk(tmp_path, monkeypatch):
    store, write = Store(tmp_path), os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:10]))
    with pytest.raises(StoreFullError):
        store.put(A)
    monkeypatch.undo()
    store.put(B)
    assert [json.loads(line)["key"] for line in index_lines(store)[1:]] == [KEY_B], "on a line of its own"
    assert len(Store(tmp_path)) == 2, "the record of the first is whole"


def test_the_index_may_be_shared_and_is_closed(tmp_path):
    old = os.umask(0)
    try:
        store = Store(tmp_path)
        store.put(A)
        files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
        store.put(B)
        assert files is None or len(os.listdir("/proc/self/fd")) == files
        assert stat.S_IMODE((tmp_path / "index.jsonl").stat().st_mode) == 0o666
    finally:
        os.umask(old)
    assert b"" not in index_lines(store), "no empty lines"


def test_an_entry_is_newer_than_the_index_says(tmp_path):
    """Its process was killed between the two: the result of the entry counts, and gets into the index."""
    store = Store(tmp_path)
    store.put(A, error="no")
    failed = index_lines(store)
    store.put(A, {"norm": 1})
    (tmp_path / "index.jsonl").write_bytes(failed[0] + b"\n")
    assert [record["result"] for record in Store(tmp_path)] == [{"norm": 1}]
    assert len(index_lines(store)) == 2


def line(**changes):
    """A record as the index has it."""
    return json.dumps(dict(key=KEY_A, identity=A, result={}, error=None, files={}, time="") | changes).encode()


DAMAGED = {
    "nested": b"[" * 100_000,
    "cut": line()[:-1],
    "a list": b"[]",
    "no result": line(result=None),
    "another key": line(key=KEY_B),
    "another identity": line(identity=B),
    "not plain": line(identity={"n": float("nan")}),
    "no key": line(key="a"),
    "unknown file": line(files={"exe": 1}),
    "no size": line(files={"png": True}),
}


@pytest.mark.parametrize("data", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_record_is_reported_and_not_read(tmp_path, data):
    store = Store(tmp_path)
    store.put(A)
    store.path(KEY_A).write_bytes(data)
    (tmp_path / "index.jsonl").unlink()
    with pytest.warns(StoreWarning, match=f"{KEY_A}.json .*damaged"):
        again = Store(tmp_path)
    assert KEY_A not in again
    again.put(A, {"norm": 1})
    assert silently(Store, tmp_path).get(KEY_A)["result"] == {"norm": 1}


def test_damaged_lines_of_the_index_are_not_read(tmp_path):
    store = Store(tmp_path)
    store.put(A)
    with (tmp_path / "index.jsonl").open("ab") as file:
        for name in ("nested", "cut", "a list", "no result", "no key", "unknown file", "no size"):
            file.write(DAMAGED[name] + b"\n")
    store.refresh()
    assert [record["key"] for record in store] == [KEY_A] == [record["key"] for record in Store(tmp_path)]


def test_a_record_beside_which_a_file_is_missing(tmp_path):
    store = Store(tmp_path)
    store.put(A, files={"png": b""})
    assert store.get(KEY_A)["files"] == {"png": 0}, "an empty file is whole"
    store.path(KEY_A, "png").unlink()
    with pytest.warns(StoreWarning, match=f"{KEY_A}.png .*missing or cut off"):
        assert store.get(KEY_A) is None


def test_a_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    Store("~/results").put(A)
    assert (tmp_path / "results" / "entries").is_dir()


def test_times_are_in_utc_to_the_millisecond(tmp_path):
    from datetime import datetime, timedelta

    said = Store(tmp_path).put(A)["time"]
    assert len(said) == len("2026-01-01T00:00:00.000+00:00")
    assert abs(datetime.fromisoformat(said) - datetime.now(UTC)) < timedelta(minutes=1)


def test_an_error_is_given_by_name(tmp_path):
    with pytest.raises(TypeError, match="positional"):
        Store(tmp_path).put(A, {}, "no")


def test_names_that_are_no_keys(tmp_path):
    with pytest.raises(ValueError, match="expected 64 lower-case hexadecimal digits"):
        Store(tmp_path).path(KEY_A.upper())
    with pytest.raises(ValueError, match="expected 'json', 'safetensors' or 'png'"):
        Store(tmp_path).path(KEY_A, "jpg")
