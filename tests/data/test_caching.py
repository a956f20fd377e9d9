"""The cache of data sets: bounded by what was used longest ago, shown, and cleared."""

import json
import os

import pytest

from vggnet.cli.main import main
from vggnet.data import caching
from vggnet.data.caching import cache_use, clear_cache, mark_used


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path))
    return tmp_path


def put(cache, name, size, used):
    path = cache / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(size))
    os.utime(path, ns=(used, used))
    return path


def test_the_cache_is_bounded(cache, monkeypatch):
    """Oracle: sizes by hand: what was used longest ago goes first, and never the file in use."""
    monkeypatch.setattr(caching, "LIMIT", 100)
    first, second, third = (put(cache, f"decoded/{number}.npy", 40, number) for number in (1, 2, 3))
    mark_used(first)
    assert (first.exists(), second.exists(), third.exists()) == (True, False, True)
    large = put(cache, "arrow/large.arrow", 1000, 4)
    mark_used(large)
    assert (large.exists(), first.exists(), third.exists()) == (True, False, False)


def test_the_cache_is_shown_and_cleared(cache, capsys):
    """Oracle: sizes by hand; downloads stay."""
    put(cache, "decoded/1.npy", 40, 1)
    put(cache, "hashes/2.npy", 2, 2)
    weights = put(cache, "weights/vgg16.safetensors", 7, 3)
    assert (cache_use().files, cache_use().num_bytes) == (2, 42)
    with pytest.raises(SystemExit, match="^0$"):
        main(["data", "--clear-cache", "--json"])
    assert json.loads(capsys.readouterr().out) == {"removed": {"folder": str(cache), "files": 2, "num_bytes": 42}}
    assert weights.exists()
    assert clear_cache().files == cache_use().files == 0
    with pytest.raises(SystemExit, match="^0$"):
        main(["data", "digits", "--json"])
    assert json.loads(capsys.readouterr().out)["cache"]["files"] == 0
    with pytest.raises(SystemExit, match="^2$"):
        main(["data"])
    assert (
        capsys.readouterr().err
        == "vgg: no data set is given; expected vgg data DATA, or vgg data --clear-cache. See vgg data --help.\n"
    )
