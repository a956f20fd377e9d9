"""Where fetched and computed files are kept."""

from pathlib import Path

import pytest

from vggnet.cache import cache_folder

HOME = Path.home()


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {}, HOME / ".cache/vggnet"),
        ("linux", {"XDG_CACHE_HOME": "/var/c"}, Path("/var/c/vggnet")),
        ("darwin", {"XDG_CACHE_HOME": "/var/c"}, HOME / "Library/Caches/vggnet"),
        ("win32", {"LOCALAPPDATA": "/local"}, Path("/local/vggnet")),
        ("linux", {"VGGNET_CACHE": "~/mine", "XDG_CACHE_HOME": "/var/c"}, HOME / "mine"),
        ("linux", {"VGGNET_CACHE": "", "XDG_CACHE_HOME": ""}, HOME / ".cache/vggnet"),
    ],
)
def test_folders_by_platform(platform, environment, expected, monkeypatch):
    """Oracle: the conventions of each platform, by hand."""
    for name in ("VGGNET_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.platform", platform)
    assert cache_folder() == expected
