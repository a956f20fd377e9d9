"""An index that is brought up to date is the one that would be made from the start."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from vggnet.cli.main import main
from vggnet.errors import ConfigError, DataError
from vggnet.features.retrieval import SimilarityIndex, build_index, find_similar, update_index


def draw(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8))
    coarse.resize((48, 40), Image.Resampling.BICUBIC).save(path)


@pytest.fixture
def index(small_network, tmp_path):
    for seed in range(6):
        draw(tmp_path / "photos" / ("a" if seed < 4 else "b") / f"{seed}.png", seed)
    build_index(small_network, tmp_path / "photos", tmp_path / "index.safetensors")
    return tmp_path / "index.safetensors"


def test_an_update_is_a_new_index(small_network, index, tmp_path):
    """Oracle: `build_index` of the same folder; how many images are computed, as progress counts them."""
    photos = tmp_path / "photos"
    draw(photos / "a" / "1.png", 11)
    os.utime(photos / "a" / "1.png", ns=(1, 1))
    (photos / "b" / "4.png").unlink()
    draw(photos / "b" / "new.png", 12)
    (photos / "b" / "broken.png").write_bytes(b"no image")
    seen = []
    found = update_index(index, photos, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (3, 3)
    assert (found.added, found.changed) == ((str(photos / "b/new.png"),), (str(photos / "a/1.png"),))
    assert found.removed == (str(photos / "b/4.png"),)
    assert len(found.unreadable) == 1
    assert "broken.png" in found.unreadable[0]
    build_index(small_network, photos, tmp_path / "fresh.safetensors")
    updated, fresh = SimilarityIndex(index), SimilarityIndex(tmp_path / "fresh.safetensors")
    assert found.images == len(updated.images) == 6
    assert sorted(updated.images) == sorted(fresh.images)
    order = [updated.images.index(name) for name in fresh.images]
    np.testing.assert_allclose(updated.vectors[order], fresh.vectors, atol=1e-6)
    assert find_similar(index, photos / "b/new.png", top=1)[0][0].image == str(photos / "b/new.png")
    again = update_index(index, [photos / "a", photos / "b/new.png"])
    assert (again.added, again.changed, again.removed, again.images) == ((), (), (), 6)


def test_images_and_folders_are_removed(index, tmp_path):
    """Oracle: the names; nothing is computed, and the files stay."""
    photos, before = tmp_path / "photos", SimilarityIndex(index)
    found = update_index(index, remove=[photos / "a", photos / "b/5.png"], model=tmp_path / "not needed")
    assert (found.images, len(found.removed)) == (1, 5)
    after = SimilarityIndex(index)
    assert after.images == [str(photos / "b/4.png")]
    assert np.array_equal(after.vectors, before.vectors[before.images.index(after.images[0])][None])
    assert len(list(photos.rglob("*.png"))) == 6


def test_an_index_without_stamps_is_computed_again(index, tmp_path):
    """Oracle: an index of version 0.1, whose metadata have no stamps."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    with safe_open(index, framework="np") as file:
        facts = {name: value for name, value in file.metadata().items() if name != "stamps"}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    save_file(tensors, index, facts)
    assert len(update_index(index, tmp_path / "photos").changed) == 6
    assert update_index(index, tmp_path / "photos").changed == ()


def test_what_cannot_work(small_network, index, tmp_path):
    """Oracle: the contract; the index is as before."""
    before = index.read_bytes()
    with pytest.raises(DataError, match="not in the index"):
        update_index(index, remove=[tmp_path / "photos" / "none.png"])
    with pytest.raises(ConfigError, match="would be empty"):
        update_index(index, remove=[tmp_path / "photos"])
    draw(tmp_path / "photos" / "a" / "new.png", 9)
    with pytest.raises(ConfigError, match="other weights"):
        update_index(index, tmp_path / "photos", model="vgg8_bn-cifar10-fast")
    assert index.read_bytes() == before


def test_the_command(index, tmp_path, capsys):
    """Oracle: the library's counts."""
    draw(tmp_path / "photos" / "a" / "new.png", 9)
    for options, expected in (([], "7 images; 1 added, 0 changed, 0 removed"), (["--json"], "")):
        with pytest.raises(SystemExit) as ended:
            main(["similar", "update", str(tmp_path / "photos"), "-i", str(index), *options])
        assert ended.value.code == 0
        out = capsys.readouterr().out
        assert expected in out
    assert json.loads(out)["images"] == 7
    with pytest.raises(SystemExit) as ended:
        main(["similar", "update", "-i", str(index)])
    assert (ended.value.code, "nothing to update" in capsys.readouterr().err) == (2, True)
