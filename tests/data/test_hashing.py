"""Hashes of files: of their contents, kept for a file as long as it is the same one."""

import os
from hashlib import blake2b

import numpy as np
import pytest

from vggnet.data import hashing
from vggnet.data.hashing import hash_files


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hashing, "SETTLED", -1)  # the files of a test are new


@pytest.fixture
def files(tmp_path):
    (tmp_path / "data").mkdir()
    made = [tmp_path / "data" / name for name in ("a", "b", "copy of a")]
    for file, content in zip(made, (b"one", b"two", b"one"), strict=True):
        file.write_bytes(content)
    return made


def expected(content):
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little")


def test_hashes_are_of_contents(files):
    """Oracle: hashlib; copies are equal."""
    assert hash_files(files).tolist() == [expected(content) for content in (b"one", b"two", b"one")]
    assert hash_files([]).tolist() == []


def test_files_are_read_once(files, monkeypatch):
    """Oracle: the files that are read, counted; one that has changed with its size and time as they were is read."""
    hash_files(files)
    read = []
    content = type(files[0]).read_bytes
    monkeypatch.setattr(type(files[0]), "read_bytes", lambda file: read.append(file.name) or content(file))
    hash_files(files)
    assert read == []
    times = files[1].stat().st_atime_ns, files[1].stat().st_mtime_ns
    files[1].write_bytes(b"new")
    os.utime(files[1], ns=times)
    assert hash_files(files).tolist()[1] == expected(b"new")
    assert read == ["b"]


def test_a_file_that_cannot_be_read_now_is_read_later(files, monkeypatch):
    """Oracle: its hash once it can be; until then it has one of its own."""
    with monkeypatch.context() as patch:
        patch.setattr(type(files[0]), "read_bytes", lambda file: (_ for _ in ()).throw(PermissionError(13, "denied")))
        assert len(set(hash_files(files[:2]).tolist())) == 2
    assert hash_files(files[:1]).tolist() == [expected(b"one")]


@pytest.mark.parametrize("damage", [b"none", b""])
def test_a_damaged_cache_is_made_again(files, tmp_path, damage):
    """Oracle: the hashes before."""
    before = hash_files(files)
    (kept,) = (tmp_path / "cache" / "hashes").iterdir()
    kept.write_bytes(damage)
    np.testing.assert_array_equal(hash_files(files), before)


def test_hashes_of_files_that_are_gone_are_forgotten(files, tmp_path):
    """Oracle: the size of the file, after the folder has changed many times."""
    for number in range(60):
        files[0].write_bytes(b"%d" % number)
        hash_files(files)
    (kept,) = (tmp_path / "cache" / "hashes").iterdir()
    assert len(np.load(kept)) <= 5 * len(files)
