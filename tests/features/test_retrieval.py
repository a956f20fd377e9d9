"""Search by features: the nearest by brute force, the same through a graph, and indexes that are refused."""

import inspect
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import save_file

import vggnet
from vggnet.cli.main import main
from vggnet.data.preprocess import Preprocess
from vggnet.errors import ConfigError, DataError, ImageError
from vggnet.features import similarity_index as similar
from vggnet.features.perceptual import compare_images
from vggnet.features.retrieval import SimilarityIndex, build_index, find_duplicates, find_similar
from vggnet.features.style_transfer import transfer

LAYERS = ("relu4_3", "relu5_1", "relu5_3")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twelve coarse pictures, one of which cannot be read."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for index in range(12):
        coarse = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        coarse.resize((48, 40), Image.Resampling.BICUBIC).save(folder / f"{index:02}.png")
    (folder / "05.png").write_bytes(b"broken")
    return folder


@pytest.fixture(scope="module")
def index(small_network, pictures, tmp_path_factory):
    path = tmp_path_factory.mktemp("index") / "similar.safetensors"
    assert build_index(small_network, pictures, path).images == 11
    return path


def by_hand(small_network, files):
    """Oracle: taps of single pictures, cube roots of means of cubes, and lengths, in NumPy."""
    vectors = []
    for file in files:
        taps = vggnet.extract_features(small_network, file, LAYERS)
        pooled = [np.cbrt((tap[0].double().numpy() ** 3).mean((1, 2))) for tap in taps.values()]
        vectors.append(np.concatenate([part / np.linalg.norm(part) for part in pooled]) / np.sqrt(len(LAYERS)))
    return np.stack(vectors)


def test_the_nearest_are_those_of_brute_force(small_network, pictures, index):
    """Oracle: `by_hand`."""
    files = [file for file in sorted(pictures.glob("*.png")) if file.stat().st_size > 10]
    vectors = by_hand(small_network, files)
    cosines = vectors @ vectors.T
    found = find_similar(index, files, top=4)
    for row, matches in zip(cosines, found, strict=True):
        expected = np.argsort(-row)[:4]
        assert [match.image for match in matches] == [str(files[place]) for place in expected]
        assert [match.similarity for match in matches] == pytest.approx(row[expected], abs=1e-4)
    assert [len(matches) for matches in find_similar(index, files[:2], top=99)] == [11, 11]


def test_a_graph_finds_the_same(pictures, small_network, index, tmp_path, monkeypatch):
    """Oracle: the exact search; among so few the graph misses nothing."""
    pytest.importorskip("usearch.index", reason="usearch is not installed")
    monkeypatch.setattr(similar, "GRAPH_FROM", 5)
    path = tmp_path / "large.safetensors"
    build_index(small_network, pictures, path)
    assert path.with_suffix(".usearch").is_file()
    query = pictures / "03.png"
    ((*expected,),) = find_similar(index, query, top=5)
    ((*found,),) = find_similar(path, query, top=5)
    assert [match.image for match in found] == [match.image for match in expected]
    assert [match.similarity for match in found] == pytest.approx([m.similarity for m in expected], abs=2e-3)
    build_index(small_network, pictures / "03.png", path)  # a smaller one in its place has no graph
    assert not path.with_suffix(".usearch").exists()
    assert len(find_similar(path, query)[0]) == 1


def test_any_column_will_do(pictures, tmp_path):
    """Oracle: by hand: the last ReLUs of the blocks of column A; a picture is nearest to itself."""
    model = vggnet.create_model("vgg11_bn", num_classes=2, head="gap", width=0.0625)
    vggnet.save(model, tmp_path / "weights.safetensors", preprocess=Preprocess.imagenet())
    extraction = build_index(tmp_path, pictures, tmp_path / "index.safetensors")
    assert list(extraction.shapes) == ["relu4_2", "relu5_1", "relu5_2"]
    assert find_similar(tmp_path / "index.safetensors", pictures / "07.png")[0][0].image == str(pictures / "07.png")


def test_a_network_without_convolutions_in_block_5(pictures, tmp_path):
    """Oracle: by hand: the shipped network ends with relu4_1, which its index then consists of."""
    extraction = build_index("vgg8_bn-cifar10-fast", pictures, tmp_path / "index.safetensors")
    assert list(extraction.shapes) == ["relu4_1"]
    assert find_similar(tmp_path / "index.safetensors", pictures / "07.png")[0][0].image == str(pictures / "07.png")


def test_paths_as_text_from_home(pictures, small_network, index, tmp_path, monkeypatch):
    """Oracle: the same with paths."""
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(pictures, tmp_path / "pictures")
    shutil.copy(small_network, tmp_path / "weights.safetensors")
    assert build_index("~/weights.safetensors", "~/pictures", "~/index.safetensors").images == 11
    ((found,),) = find_similar("~/index.safetensors", "~/pictures/03.png", top=1)
    assert found.image == str(tmp_path / "pictures" / "03.png")


def test_the_argument_of_version_0_1(pictures, small_network, tmp_path):
    """Oracle: the same vectors by the new name; the warning says when the old one goes."""
    first = pytest.warns(DeprecationWarning, match="the model is the first argument now")
    with first, pytest.warns(DeprecationWarning, match="weights is model now.*0.3"):
        build_index(pictures, tmp_path / "old.safetensors", weights=small_network)
    build_index(small_network, pictures, tmp_path / "new.safetensors")
    old, new = (SimilarityIndex(tmp_path / f"{name}.safetensors") for name in ("old", "new"))
    assert np.array_equal(old.vectors, new.vectors)


@pytest.mark.parametrize(
    ("function", "old"),
    [
        (build_index, lambda p, w: build_index(p, p / "i.safetensors", model=w)),
        (find_duplicates, lambda p, w: find_duplicates(p, model=w)),
        (compare_images, lambda p, w: compare_images(p / "01.png", p / "01.png", ["content"], model=w)),
        (transfer, lambda p, w: transfer(p / "01.png", p / "02.png", model=w, size=64, scales=1)),
    ],
)
def test_the_model_was_a_keyword(function, old, pictures, small_network):
    """Oracle: version 0.1; what it gives is what the new form gives, tried for each elsewhere."""
    with pytest.warns(DeprecationWarning, match="the model is the first argument now.*0.3"):
        assert old(pictures, small_network) is not None
    assert next(iter(inspect.signature(function).parameters)) == "model"
    with pytest.raises(TypeError):
        function()


def test_what_is_refused(pictures, small_network, index, tmp_path):
    """Oracle: the contract."""
    with pytest.raises(DataError, match="cannot be read as an index"):
        SimilarityIndex(tmp_path / "nowhere.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(index.read_bytes()[:-9])
    with pytest.raises(DataError, match="cannot be read as an index"):
        SimilarityIndex(tmp_path / "cut.safetensors")
    save_file({"relu4_3": np.ones((1, 2), np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="not an index"):
        SimilarityIndex(tmp_path / "other.safetensors")
    facts = {"format": similar.FORMAT, "images": "[]", "weights": ""}
    save_file({"relu4_3": np.ones((1, 2), np.float32)}, tmp_path / "lacking.safetensors", facts)
    with pytest.raises(DataError, match="cannot be read as an index"):
        SimilarityIndex(tmp_path / "lacking.safetensors")
    with pytest.raises(ConfigError, match="ends so"):
        build_index(small_network, pictures, tmp_path / "index.npy")
    with pytest.raises(ConfigError, match="top is 0"):
        find_similar(index, pictures / "01.png", top=0)
    with pytest.raises(ImageError, match=r"05\.png"):
        find_similar(index, pictures / "05.png")
    other = vggnet.create_model("vgg16", num_classes=2, head="gap", width=0.0625)
    vggnet.save(other, tmp_path / "other" / "weights.safetensors", preprocess=Preprocess.imagenet())
    with pytest.raises(ConfigError, match="made by other weights"):
        find_similar(index, pictures / "01.png", model=tmp_path / "other")


def command(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        main(["similar", *map(str, arguments)])
    return ended.value.code, *capsys.readouterr()


def test_the_commands(pictures, small_network, index, tmp_path, capsys, monkeypatch):
    """Oracle: the library's answers; a picture that was moved away is an empty frame in the drawing."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(pictures, "copies")
    code, out, err = command(capsys, "index", "copies", "--weights", small_network)
    assert (code, out) == (2, "similar.safetensors: 11 images\n")
    assert "05.png" in err
    (tmp_path / "copies" / "02.png").unlink()
    code, out, err = command(capsys, "query", pictures / "01.png", pictures / "03.png", "--top", 11, "--json")
    assert (code, err) == (0, "drawn: similar.png\n")
    rows = json.loads(out)
    expected = find_similar(index, [pictures / "01.png", pictures / "03.png"], top=11)
    for row, matches in zip(rows, expected, strict=True):
        assert [match["image"][-6:] for match in row["matches"]] == [match.image[-6:] for match in matches]
    with Image.open("similar.png") as drawing:
        assert drawing.width > drawing.height
    code, out, _ = command(capsys, "query", pictures / "01.png", "--top", 1)
    assert out.splitlines() == [str(pictures / "01.png"), "  1.0000  copies/01.png"]
    code, out, err = command(capsys, "query", pictures / "01.png", "--index", "nowhere.safetensors")
    assert (code, out, len(err.splitlines())) == (2, "", 1)


def test_images_that_cannot_be_read_are_skipped_if_asked(pictures, small_network, index, tmp_path, capsys, monkeypatch):
    """Oracle: the query for the readable image alone. What is no image is counted."""
    monkeypatch.chdir(tmp_path)
    queries = tmp_path / "queries"
    queries.mkdir()
    shutil.copy(pictures / "01.png", queries)
    (queries / "00.png").write_bytes(b"none")
    (queries / "notes.txt").touch()
    (expected,) = find_similar(index, queries / "01.png", top=2)
    bad, found = find_similar(index, queries, top=2, on_error="return")
    assert [match.image for match in found] == [match.image for match in expected]
    assert (type(bad), bad.name) == (ImageError, str(queries / "00.png"))
    with pytest.raises(ImageError, match=r"00\.png"):
        find_similar(index, queries)
    arguments = ("query", queries, "--index", index, "--top", 2, "--json")
    code, out, err = command(capsys, *arguments)
    assert (code, out) == (2, "")
    assert "--on-bad-image skip" in err
    code, out, err = command(capsys, *arguments, "--on-bad-image", "skip")
    (row,) = json.loads(out)
    assert (code, row["image"]) == (0, str(queries / "01.png"))
    assert [match["image"] for match in row["matches"]] == [match.image for match in expected]
    assert "00.png: unknown format" in err
    assert "1 file is left out" in err
    assert "notes.txt" in err
    (bad,) = find_similar(index, [b"none"], on_error="return")
    assert (type(bad), bad.name) == (ImageError, "image 1")


def test_an_index_of_fully_connected_layers(pictures, tmp_path, monkeypatch):
    """Oracle: cosines of the layer's outputs, by NumPy."""
    monkeypatch.setattr("vggnet.models.heads.FC_WIDTH", 8)
    torch.manual_seed(0)
    model = vggnet.create_model("vgg11", num_classes=3, head="folded", width=0.05).eval()
    model.preprocess = Preprocess(resize=36, crop=32)
    vggnet.save(model, tmp_path / "weights.safetensors")
    path = tmp_path / "index.safetensors"
    build_index(tmp_path / "weights.safetensors", pictures, path, layers="fc7")
    index = SimilarityIndex(path)
    outputs = vggnet.extract_features(model, index.images, "fc7")["fc7"].numpy()
    unit = outputs / np.linalg.norm(outputs, axis=1, keepdims=True)
    np.testing.assert_allclose(index.vectors, unit, atol=1e-5)
    ((first, second),) = find_similar(path, pictures / "07.png", top=2)
    order = np.argsort(-(unit @ unit[index.images.index(str(pictures / "07.png"))]))
    assert [first.image, second.image] == [index.images[place] for place in order[:2]]
    with pytest.raises(ConfigError, match="other weights"):
        find_similar(path, pictures / "07.png", model="vgg8_bn-cifar10-fast")
