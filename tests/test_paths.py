"""Every public function takes paths as text, relative, and from the home folder."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import vggnet
from vggnet.data.boxes import read_voc
from vggnet.data.decoding import decode_image, open_image
from vggnet.data.formats import image_files, left_out
from vggnet.data.inspection import inspect
from vggnet.data.sources.image_folder import folder_splits, open_folder
from vggnet.data.sources.opening import open_source, source_splits
from vggnet.data.sources.parquet import open_parquet, parquet_files
from vggnet.features.duplicates import find_duplicates
from vggnet.features.retrieval import SimilarityIndex, build_index, find_similar
from vggnet.features.store import extract_to_file
from vggnet.run_report import write_report
from vggnet.tasks.results import read_per_image
from vggnet.weights.checkpoint import Checkpoint, open_model

OPTIONS = {"width": 0.05, "model": "vgg11_bn", "head": "gap", "epochs": 1, "batch_size": 8, "workers": 0}
TINY = vggnet.preset("quick").override(resize=32, crop=32, **OPTIONS)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with photos, a parquet set, a run with its test, an index, a box."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VGGNET_CACHE", str(home / "cache"))
        encoded = []
        for split in ("train", "test"):
            for label in ("cat", "dog"):
                (home / "photos" / split / label).mkdir(parents=True)
                for number in range(6):
                    pixels = np.random.default_rng([number, len(split), len(label)]).integers(0, 256, (32, 32, 3))
                    image = Image.fromarray(pixels.astype(np.uint8))
                    image.save(home / "photos" / split / label / f"{number}.png")
                    stream = io.BytesIO()
                    image.save(stream, "PNG")
                    encoded.append(stream.getvalue())
        (home / "table").mkdir()
        pq.write_table(pa.table({"image": encoded, "label": [0, 1] * 12}), home / "table" / "train.parquet")
        vggnet.train(home / "photos", TINY, out=home / "run")
        vggnet.evaluate(home / "run", home / "photos", out=home / "run")
        build_index(home / "run", home / "photos", home / "index.safetensors")
    voc = "<annotation><object><bndbox>{}</bndbox></object></annotation>"
    edges = "".join(
        f"<{name}>{at}</{name}>" for name, at in zip(("xmin", "ymin", "xmax", "ymax"), (1, 1, 9, 9), strict=True)
    )
    (home / "box.xml").write_text(voc.format(edges))
    return home


CALLS = {
    "predict": lambda p: vggnet.predict(p("run"), p("photos/test")),
    "predict one": lambda p: vggnet.predict(p("run/weights.safetensors"), p("photos/test/cat/0.png")),
    "predict a list": lambda p: vggnet.predict(p("run"), [p("photos/test/cat"), p("photos/test/dog/0.png")]),
    "evaluate": lambda p: vggnet.evaluate(p("run"), p("photos"), out=p("out")),
    "evaluate two": lambda p: vggnet.evaluate([p("run"), p("run")], p("photos")),
    "train": lambda p: vggnet.train(p("photos"), TINY, out=p("new"), init_from=p("run")),
    "resume": lambda p: vggnet.resume(p("run"), data=p("photos")),
    "load": lambda p: vggnet.load(p("run")),
    "save": lambda p: vggnet.save(vggnet.load(p("run")), p("saved.safetensors")),
    "Run.open": lambda p: vggnet.Run.open(p("run")),
    "Checkpoint.open": lambda p: Checkpoint.open(p("run")).build(),
    "open_model": lambda p: open_model(p("run")),
    "extract_features": lambda p: vggnet.extract_features(p("run"), p("photos/test/cat"), "relu1_1"),
    "FeatureExtractor": lambda p: vggnet.FeatureExtractor(p("run"), "relu1_1"),
    "extract_to_file": lambda p: extract_to_file(p("run"), p("photos"), "relu1_1", p("f.npy"), pooling="mean"),
    "build_index": lambda p: build_index(p("run"), p("photos"), p("i.safetensors")),
    "find_similar": lambda p: find_similar(p("index.safetensors"), p("photos/test/cat/0.png"), model=p("run")),
    "SimilarityIndex": lambda p: SimilarityIndex(p("index.safetensors")),
    "find_duplicates": lambda p: find_duplicates(p("run"), p("photos")),
    "explain": lambda p: vggnet.interpret.explain(p("run"), p("photos/test/cat/0.png"), methods=("gradcam",)),
    "feature_maps": lambda p: vggnet.interpret.feature_maps(p("run"), p("photos/test/cat/0.png"), "relu1_1"),
    "write_report": lambda p: write_report(p("run")),
    "inspect": lambda p: inspect(p("photos")),
    "open_source": lambda p: (open_source(p("photos"), "train").read(0), source_splits(p("photos"))),
    "stream": lambda p: open_source(f"stream:{p('table')}", "train").read(0),
    "open_folder": lambda p: (open_folder(p("photos"), "train").read(0), folder_splits(p("photos"))),
    "open_parquet": lambda p: (open_parquet(p("table"), "train").read(0), parquet_files(p("table"))),
    "image_files": lambda p: (image_files([p("photos")]), left_out([p("photos")])),
    "decode_image": lambda p: (decode_image(p("photos/test/cat/0.png")), open_image(p("photos/test/cat/0.png"))),
    "read_voc": lambda p: read_voc(p("box.xml"), "cat"),
    "read_per_image": lambda p: read_per_image(p("run")),
}


@pytest.mark.parametrize("form", ["~", "relative", "Path ~"])
@pytest.mark.parametrize("call", CALLS)
def test_paths_of_every_form(home, tmp_path, monkeypatch, call, form):
    """Oracle: it finds what lies there; nothing is written to a folder that is called `~`."""
    monkeypatch.setenv("VGGNET_CACHE", str(home / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for entry in home.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    monkeypatch.chdir(tmp_path)
    forms = {"~": "~/{}".format, "relative": "{}".format, "Path ~": lambda name: Path("~") / name}
    assert CALLS[call](forms[form]) not in ([], {})
    assert not (tmp_path / "~").exists()
