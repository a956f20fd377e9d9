"""Files that are written whole or not at all: permissions, and what a failure leaves."""

import os
import stat

import pytest
import torch
from safetensors.torch import save_file

from vggnet.atomic import replacing, write_text
from vggnet.errors import StorageError
from vggnet.vgg import build
from vggnet.weights.files import save


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
    save(build("vgg11_bn", num_classes=2, head="gap", width=0.05), tmp_path / "model.safetensors")
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
