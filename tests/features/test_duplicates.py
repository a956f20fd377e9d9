"""Near-duplicates: copies and their like are found within and across splits and classes, others are not."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

import vggnet
from vggnet.cli.main import main
from vggnet.errors import ConfigError, DataError, ImageError
from vggnet.features import duplicates
from vggnet.features.duplicates import find_duplicates, group_rows


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = vggnet.create_model("vgg11", num_classes=2, head="gap", width=0.0625).eval()
    model.preprocess = vggnet.Preprocess()
    for bias in (parameter for parameter in model.parameters() if parameter.ndim == 1):
        torch.nn.init.constant_(bias, -0.2)
    return model


def scene(seed):
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(
        (120, 90), Image.Resampling.NEAREST
    )


@pytest.fixture
def photos(tmp_path):
    """Six scenes of two classes in two splits; scene 0 again smaller and in JPEG, in the other split and class."""
    for seed in range(6):
        path = tmp_path / "data" / ("train" if seed < 4 else "test") / ("cat" if seed % 2 else "dog") / f"{seed}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene(seed).save(path)
    scene(0).resize((80, 60)).save(tmp_path / "data" / "test" / "cat" / "again.jpg", quality=60)
    ImageEnhance.Brightness(scene(0)).enhance(1.05).save(tmp_path / "data" / "train" / "dog" / "light.png")
    scene(3).save(tmp_path / "data" / "train" / "cat" / "copy.png")
    (tmp_path / "data" / "train" / "cat" / "broken.png").write_bytes(b"x")
    return tmp_path / "data"


def test_what_is_nearly_the_same_is_found(network, photos):
    """Oracle: how the pictures were made; the sure copies come first."""
    seen = []
    found = find_duplicates(network, photos, threshold=0.93, progress=lambda done, total: seen.append((done, total)))
    names = [{image.rpartition("/")[2] for image in group.images} for group in found.groups]
    assert names == [{"3.png", "copy.png"}, {"0.png", "light.png", "again.jpg"}]
    copies, alike = found.groups
    assert copies.similarity == pytest.approx(1, abs=1e-5)
    assert 0.93 <= alike.similarity < 1
    assert (set(copies.splits), set(copies.classes)) == ({"train"}, {"cat"})
    assert (set(alike.splits), set(alike.classes)) == ({"train", "test"}, {"dog", "cat"})
    assert (found.images, seen[-1]) == (9, (10, 10))


@settings(max_examples=30)
@given(data=st.data(), n=st.integers(1, 12), threshold=st.floats(0.1, 1))
def test_groups_are_those_of_plain_loops(data, n, threshold):
    """Oracle: plain loops: neighbors of neighbors until nothing changes; blocks of three rows."""
    rows = data.draw(st.lists(st.lists(st.integers(-3, 3), min_size=3, max_size=3), min_size=n, max_size=n))
    vectors = np.array(rows, dtype=np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "BLOCK", 3)
        found = group_rows(vectors, threshold + 1e-3)  # away from cosines that are threshold but for rounding
    lengths = [max(np.linalg.norm(row), 1e-12) for row in vectors]
    cosine = [[vectors[i] @ vectors[j] / lengths[i] / lengths[j] for j in range(n)] for i in range(n)]
    groups = [{i} for i in range(n)]
    for i in range(n):
        for j in range(i):
            if cosine[i][j] >= threshold + 1e-3:
                joined = next(g for g in groups if i in g) | next(g for g in groups if j in g)
                groups = [g for g in groups if not g & joined] + [joined]
    assert sorted(map(tuple, (members for _, members in found))) == sorted(
        tuple(sorted(g)) for g in groups if len(g) > 1
    )
    for similarity, members in found:
        links = [cosine[i][j] for i in members for j in members if i < j and cosine[i][j] >= threshold + 1e-3]
        assert similarity == pytest.approx(min(links), abs=1e-5)


def page(seed):
    """Lines of random dashes, as text."""
    random = np.random.default_rng(seed)
    pixels = np.full((300, 220), 250, np.uint8)
    for row in range(20, 280, 12):
        column = 15
        while column < 200:
            length = int(random.integers(4, 22))
            pixels[row : row + 5, column : column + length] = random.integers(10, 60)
            column += length + 4
    return Image.fromarray(pixels)


def test_pages_of_text_are_different(network, tmp_path):
    """Oracle: how the pages were made; made small they are more alike than the threshold."""
    for seed in range(6):
        page(seed).save(tmp_path / f"{seed}.png")
    page(3).resize((180, 245)).save(tmp_path / "copy.jpg", quality=60)
    (group,) = find_duplicates(network, tmp_path).groups
    assert {name.rpartition("/")[2] for name in group.images} == {"3.png", "copy.jpg"}
    assert group.could_go == (str(tmp_path / "copy.jpg"),)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "AGREEMENT", -2)
        assert len(find_duplicates(network, tmp_path).groups[0].images) == 7


COPIES = {
    "quarter.png": (lambda image: image.rotate(90, expand=True), ["turned"]),
    "half.png": (lambda image: image.rotate(180), ["turned"]),
    "mirrored.png": (ImageOps.mirror, ["mirrored"]),
    "flipped.png": (ImageOps.flip, ["turned", "mirrored"]),
    "both.png": (lambda image: ImageOps.mirror(image.rotate(90, expand=True)), ["turned", "mirrored"]),
    "gray.png": (lambda image: image.convert("L"), ["gray"]),
    "gray-turned.png": (lambda image: image.convert("L").rotate(270, expand=True), ["gray", "turned"]),
}


@pytest.mark.parametrize("name", COPIES)
def test_copies_on_request(network, tmp_path, name):
    """Oracle: how the copy was made, by Pillow. A folder without classes; without the request there is no group."""
    change, copies = COPIES[name]
    for seed in range(4):
        scene(seed).save(tmp_path / f"{seed}.png")
    change(scene(1)).save(tmp_path / name)
    (group,) = find_duplicates(network, tmp_path, threshold=0.97, copies=copies).groups
    assert {image.rpartition("/")[2] for image in group.images} == {"1.png", name}
    assert len(group.could_go) == 1
    assert (set(group.splits), set(group.classes)) == ({""}, {""})
    assert not find_duplicates(network, tmp_path, threshold=0.97, copies=copies[1:]).groups


def test_a_plain_folder_by_the_command(network, tmp_path, capsys):
    """Oracle: the library, and how the pictures were made."""
    vggnet.save(network, tmp_path / "weights.safetensors")
    (tmp_path / "photos").mkdir()
    for seed in range(3):
        scene(seed).save(tmp_path / "photos" / f"{seed}.png")
    ImageOps.mirror(scene(2)).save(tmp_path / "photos" / "mirrored.png")
    options = ["--duplicates", "--weights", str(tmp_path / "weights.safetensors"), "--copies", "mirrored,gray"]
    arguments = ["data", str(tmp_path / "photos"), *options, "--threshold", "0.97"]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "1 of 4 images could go; nothing is deleted"
    assert sum(line.endswith("  could go") for line in lines) == 1
    with pytest.raises(ConfigError, match="unknown kind of copies 'rotated'"):
        find_duplicates(network, tmp_path / "photos", copies=["rotated"])


def test_pictures_that_cannot_be_read_are_named(network, tmp_path, capsys):
    """Oracle: the contract; the pair is found beside the one that cannot be read."""
    vggnet.save(network, tmp_path / "weights.safetensors")
    (tmp_path / "photos").mkdir()
    for name in ("a.png", "b.png"):
        scene(0).save(tmp_path / "photos" / name)
    bad = tmp_path / "photos" / "0.png"
    bad.write_bytes(b"none")
    found = find_duplicates(network, tmp_path / "photos")
    assert (found.images, len(found.groups), len(found.unreadable)) == (2, 1, 1)
    assert found.unreadable[0].startswith(f"{bad}: ")
    with pytest.raises(ImageError, match=r"0\.png"):
        find_duplicates(network, tmp_path / "photos", on_error="raise")
    with pytest.raises(SystemExit) as ended:
        main(["data", str(tmp_path / "photos"), "--duplicates", "--weights", str(tmp_path / "weights.safetensors")])
    assert ended.value.code == 2
    assert f"vgg: {bad}: " in capsys.readouterr().err


def test_what_cannot_work(network, photos, tmp_path):
    """Oracle: the contract."""
    for threshold in (0, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="threshold is"):
            find_duplicates(network, photos, threshold=threshold)
    with pytest.raises(DataError, match="no such folder"):
        find_duplicates(network, tmp_path / "nowhere")
    for file in photos.rglob("*.*"):
        file.write_bytes(b"x")
    with pytest.raises(DataError, match="none of the 10 images"):
        find_duplicates(network, photos)


def test_the_command(network, photos, tmp_path, capsys):
    """Oracle: the library; without the option nothing is compared. Groups across splits or classes are marked."""
    vggnet.save(network, tmp_path / "weights.safetensors")
    options = ["--duplicates", "--threshold", "0.93", "--weights", str(tmp_path / "weights.safetensors")]
    for given_options, count in ((options, 2), ([], None)):
        with pytest.raises(SystemExit) as ended:
            main(["data", str(photos), "--json", *given_options])
        found = json.loads(capsys.readouterr().out)
        assert ended.value.code == 2  # broken.png
        assert len(found["duplicates"]["groups"]) == count if count else "duplicates" not in found
    with pytest.raises(SystemExit):
        main(["data", str(photos), *options])
    lines = capsys.readouterr().out.splitlines()
    assert "near-duplicates, cosine at least 0.93: 2 groups" in lines
    assert any(line.endswith(", in several splits, in several classes") for line in lines)
