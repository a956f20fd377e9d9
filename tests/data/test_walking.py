"""Folders that cannot be read: one error that names the folder, from every function, and never a traceback."""

import pytest
from PIL import Image

from vggnet.data.sources.opening import open_source
from vggnet.data.walking import data_files, data_folders, is_run
from vggnet.errors import DataError


@pytest.fixture
def photos(tmp_path):
    """Two classes; their permissions are restored, so that pytest can remove them."""
    root = tmp_path / "above" / "photos"
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(root / name / f"{number}.png")
    yield root
    for folder in (root.parent, root, root / "cat"):
        folder.chmod(0o755)


@pytest.mark.parametrize("mode", [0o000, 0o600, 0o300], ids=["nothing", "no search", "no list"])
@pytest.mark.parametrize("place", ["", "photos", "photos/cat"])
def test_a_folder_without_permission(photos, as_any_user, place, mode):
    """Oracle: the permissions: what cannot be listed or entered is a DataError of one line."""
    folder = photos.parent / place
    folder.chmod(mode)
    if not place and mode == 0o300:  # the folder above need not be listed
        with as_any_user():
            assert len(open_source(photos, "all")) == 8
        return
    with as_any_user(), pytest.raises(DataError, match="Permission denied") as raised:
        open_source(photos, "all")
    assert len(str(raised.value).splitlines()) == 1


def test_a_folder_that_cannot_be_reached_is_no_run(photos, as_any_user):
    """Oracle: the permissions; listing it is refused."""
    photos.chmod(0)
    with as_any_user():
        assert not is_run(photos / "cat")
        for listed in (data_files, data_folders):
            with pytest.raises(DataError, match="cannot be read"):
                list(listed(photos))
