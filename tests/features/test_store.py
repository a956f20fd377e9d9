"""Features of many pictures in a file: the right rows, whatever the format, the batch, or the moment of a stop."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors import safe_open

import vggnet
from vggnet.accel.precision import products_in
from vggnet.cli.main import main
from vggnet.data.preprocess import Preprocess
from vggnet.errors import ConfigError, DataError, ImageError, StorageError, WeightsError
from vggnet.features import store as extracting
from vggnet.features.store import extract_to_file

LAYERS = ["relu1_1", "pool2"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = vggnet.create_model("vgg11", num_classes=2, head="gap", width=0.0625).eval()
    model.preprocess = Preprocess(resize=16, crop=16)
    return model


@pytest.fixture
def pictures(tmp_path):
    """Seven pictures, the second and the last of which cannot be read."""
    random = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    (folder / "more").mkdir(parents=True)
    for index in range(7):
        path = folder / ("more" if index > 4 else "") / f"{index} ü.png"
        Image.fromarray(random.integers(0, 256, (20, 18 + index, 3), dtype=np.uint8)).save(path)
        if index in (1, 6):
            path.write_bytes(path.read_bytes()[:60])
    return folder


@pytest.fixture
def expected(model, pictures):
    """Oracle: the taps of each readable picture by itself."""
    files = [path for path in sorted(pictures.rglob("*.png")) if path.stat().st_size > 60]
    rows = [vggnet.extract_features(model, path, LAYERS) for path in files]
    return list(map(str, files)), {layer: torch.cat([row[layer] for row in rows]).numpy() for layer in LAYERS}


def read(path):
    """Oracle of the formats: the libraries they belong to. (paths, {layer: array})."""
    if path.suffix == ".npy":
        names = json.loads(path.with_name(f"{path.name}.images.json").read_text())
        return names, {"pool2": np.load(path)}
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        shapes = {name: json.loads(table.schema.field(name).metadata[b"shape"]) for name in table.column_names[1:]}
        columns = {name: np.stack(table[name].to_numpy()).reshape(-1, *shape) for name, shape in shapes.items()}
        return table["image"].to_pylist(), columns
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0  # the format wants its data aligned
    with safe_open(path, "np") as file:
        return json.loads(file.metadata()["images"]), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def assert_same(path, expected):
    names, values = read(path)
    assert names == expected[0]
    for layer, rows in values.items():
        assert rows.dtype == np.float32
        assert np.allclose(rows, expected[1][layer], atol=1e-6)


@pytest.mark.parametrize("suffix", extracting.SUFFIXES)
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_every_format_and_batch(model, pictures, expected, tmp_path, suffix, batch_size, monkeypatch):
    """Oracle: see `expected` and `read`; parquet in groups of one row as well."""
    if batch_size == 3:
        monkeypatch.setattr(extracting, "GROUP_BYTES", 1)
    out = tmp_path / "new" / f"features{suffix}"
    layers = ["pool2"] if suffix == ".npy" else LAYERS
    seen = []
    extraction = extract_to_file(
        model, pictures, layers, out, batch_size=batch_size, progress=lambda done, total: seen.append((done, total))
    )
    assert_same(out, expected)
    assert (extraction.images, extraction.path) == (5, str(out))
    assert extraction.shapes["pool2"] == (8, 4, 4)
    assert [("1 ü.png" in extraction.unreadable[0]), ("6 ü.png" in extraction.unreadable[1])] == [True, True]
    assert (seen[0], seen[-1]) == ((0, 7), (7, 7))
    assert not out.with_name(f"{out.name}.partial").exists()


def test_paths_as_text_from_home(model, pictures, expected, tmp_path, monkeypatch):
    """Oracle: `expected`; the home folder is the one that the environment names."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for given_images in ("~/pictures", ["~/pictures"]):
        extraction = extract_to_file(model, given_images, "pool2", "~/out/f.npy")
        assert extraction.path == str(tmp_path / "out" / "f.npy")
        assert_same(tmp_path / "out" / "f.npy", expected)


def test_an_unreadable_image_can_be_an_error(model, pictures, tmp_path):
    """Oracle: the contract: the error names the file; the batches before it are kept."""
    with pytest.raises(ImageError, match="1 ü"):
        extract_to_file(model, pictures, LAYERS, tmp_path / "f.npy.safetensors", on_error="raise", batch_size=1)
    assert json.loads((tmp_path / "f.npy.safetensors.partial" / "state.json").read_text())["done"] == 1


def test_lines_without_a_terminal(model, pictures, tmp_path, capsys, monkeypatch):
    """Oracle: the protocol of `report_progress`: a line with done, total and the title; nothing without progress."""
    monkeypatch.setattr("vggnet.progress.LINE_SECONDS", 1e-4)
    extract_to_file(model, pictures, LAYERS, tmp_path / "quiet.safetensors", batch_size=1)
    assert capsys.readouterr() == ("", "")
    extract_to_file(model, pictures, LAYERS, tmp_path / "told.safetensors", batch_size=1, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert any(line.startswith("features: ") and "/7 images" in line for line in err.splitlines())


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_pooled(model, pictures, expected, tmp_path, pooling):
    """Oracle: NumPy."""
    extract_to_file(model, pictures, LAYERS, tmp_path / "f.safetensors", pooling=pooling)
    pooled = {layer: getattr(rows, pooling)((2, 3)) for layer, rows in expected[1].items()}
    assert_same(tmp_path / "f.safetensors", (expected[0], pooled))


@pytest.mark.parametrize("stop_at", range(8))
def test_a_stop_at_any_batch_loses_nothing(model, pictures, expected, tmp_path, stop_at):
    """Oracle: an uninterrupted run; what was done is not done again, though a kill left half a row behind."""
    out = tmp_path / "f.safetensors"

    def stop(done, total):
        if done == stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_to_file(model, pictures, LAYERS, out, batch_size=1, progress=stop)
    assert not out.exists()
    for rows in tmp_path.glob("f.safetensors.partial/*.f32"):
        with rows.open("ab") as file:
            file.write(b"half a row")
    seen = []
    extract_to_file(model, pictures, LAYERS, out, batch_size=1, progress=lambda done, total: seen.append(done))
    assert seen == list(range(stop_at, 8))
    assert_same(out, expected)


def test_a_store_of_something_else_is_left_alone(model, pictures, tmp_path):
    """Oracle: the contract: another layer, file, pooling or precision, other weights, damage."""
    out = tmp_path / "f.safetensors"

    def stop(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_to_file(model, pictures, LAYERS, out, batch_size=2, progress=stop)
    state = (tmp_path / "f.safetensors.partial" / "state.json").read_text()
    with pytest.raises(ConfigError, match="unfinished extraction"):
        extract_to_file(model, pictures, "pool1", out)
    with pytest.raises(ConfigError, match="unfinished extraction"):
        extract_to_file(model, pictures / "0 ü.png", LAYERS, out)
    with pytest.raises(ConfigError, match="unfinished extraction"):
        extract_to_file(model, pictures, LAYERS, out, pooling="max")
    with products_in("bfloat16"), pytest.raises(ConfigError, match="unfinished extraction"):
        extract_to_file(model, pictures, LAYERS, out)
    with torch.no_grad():
        model.features.conv1_1.bias += 1
    with pytest.raises(ConfigError, match="unfinished extraction"):
        extract_to_file(model, pictures, LAYERS, out)
    with torch.no_grad():
        model.features.conv1_1.bias -= 1
    for damage in ("[]", "{", state.replace('"done": 2', '"done": 6')):
        (tmp_path / "f.safetensors.partial" / "state.json").write_text(damage)
        with pytest.raises(ConfigError, match="damaged"):
            extract_to_file(model, pictures, LAYERS, out)


def test_what_cannot_work(model, pictures, tmp_path):
    """Oracle: the contract."""
    with pytest.raises(ConfigError, match=r"expected a name that ends in \.safetensors"):
        extract_to_file(model, pictures, LAYERS, tmp_path / "f.csv")
    with pytest.raises(ConfigError, match="holds one layer, not 2"):
        extract_to_file(model, pictures, LAYERS, tmp_path / "f.npy")
    with pytest.raises(ConfigError, match="unknown pooling 'median'"):
        extract_to_file(model, pictures, LAYERS, tmp_path / "f.npy", pooling="median")
    with pytest.raises(DataError, match=r"none of the 1 images can be read; the first: .*1 ü\.png"):
        extract_to_file(model, pictures / "1 ü.png", LAYERS, tmp_path / "f.safetensors")
    assert not (tmp_path / "f.safetensors.partial").exists()  # repaired, it must not meet what was left of it
    with pytest.raises(DataError, match="no images"):
        extract_to_file(model, [], LAYERS, tmp_path / "f.safetensors")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        extract_to_file(model, pictures, LAYERS, tmp_path / "file" / "f.safetensors")
    model.preprocess = None
    with pytest.raises(WeightsError, match="preprocess"):
        extract_to_file(model, pictures, LAYERS, tmp_path / "g.safetensors")


def test_the_command(model, pictures, expected, tmp_path, capsys, own_cache):
    """Oracle: `expected`; a picture that cannot be read is a line on stderr, and exit code 2."""
    vggnet.save(model, tmp_path / "weights.safetensors")
    out = tmp_path / "f.parquet"
    options = ["--model", tmp_path / "weights.safetensors", "-o", out, "--json"]
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, ["features", pictures, "--layers", *LAYERS, *options])))
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert json.loads(printed.out)["images"] == 5
    assert [line.startswith("vgg: ") for line in printed.err.strip().splitlines()] == [True, True]
    names, values = read(out)
    assert names == expected[0]
    assert np.allclose(values["pool2"], expected[1]["pool2"], atol=1e-5)
