"""Files that are written whole or not at all: permissions, and what a failure leaves."""

import errno
import os
import stat
from pathlib import Path

import pytest
import torch
from platformdirs.macos import MacOS
from platformdirs.unix import Unix
from platformdirs.windows import Windows
from safetensors.torch import save_file

from vggnet.data.preprocess import Preprocess
from vggnet.errors import StorageError
from vggnet.files import cache_folder, replacing, write_text
from vggnet.models.vgg import build
from vggnet.weights.checkpoint import save


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request):
    """New files are made under this umask."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def permissions(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_files_have_the_permissions_of_new_files(tmp_path, umask):
    """Oracle: 0o666 without the bits of the umask, for text, for tensors and for a model."""
    write_text(tmp_path / "text", "text")
    with replacing(tmp_path / "tensors") as temporary:
        save_file({"x": torch.zeros(2)}, temporary)
    save(
        build("vgg11_bn", num_classes=2, head="gap", width=0.05),
        tmp_path / "model.safetensors",
        preprocess=Preprocess.imagenet(),
    )
    for path in tmp_path.iterdir():
        assert permissions(path) == 0o666 & ~umask, path.name
    assert len(list(tmp_path.iterdir())) == 3


def half_written(path):
    path.write_text("half")
    raise OSError(28, "No space left on device")


def test_a_failure_leaves_the_old_file(tmp_path):
    """Oracle: the text and the list of files before."""
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(StorageError, match="No space"), replacing(path) as temporary:
        half_written(temporary)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


HOME = Path.home()


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {}, HOME / ".cache/vggnet"),
        ("linux", {"XDG_CACHE_HOME": "/var/c"}, Path("/var/c/vggnet")),
        ("darwin", {}, HOME / "Library/Caches/vggnet"),
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
    monkeypatch.setattr("platformdirs.windows.get_win_folder", lambda name: os.environ["LOCALAPPDATA"])
    monkeypatch.setattr("platformdirs.PlatformDirs", {"linux": Unix, "darwin": MacOS, "win32": Windows}[platform])
    assert cache_folder() == expected


@pytest.mark.parametrize("error", [errno.EACCES, errno.EINVAL, errno.EIO])
def test_folders_that_cannot_be_flushed(tmp_path, monkeypatch, error):
    """Oracle: the file, written whole: network file systems refuse to open or flush folders. A broken disk is said."""
    real = os.open

    def refuse(path, *arguments, **options):
        if Path(path).is_dir():
            raise OSError(error, os.strerror(error))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    if error == errno.EIO:
        with pytest.raises(StorageError, match="Input/output error"):
            write_text(tmp_path / "file", "new")
    else:
        write_text(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"


def test_a_file_that_is_open_elsewhere_stays(tmp_path, monkeypatch):
    """Oracle: Windows does not let an open file be replaced; one line names it, and what was there stays."""
    write_text(tmp_path / "file", "old")

    def refuse(old, new):
        raise PermissionError(13, "The process cannot access the file", str(old), 32, str(new))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(StorageError, match="file: cannot be written") as caught:
        write_text(tmp_path / "file", "new")
    assert len(str(caught.value).splitlines()) == 1
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
