"""The study of segmentation and detection: rows are what tests say, the table is their arithmetic."""

import numpy as np
import pytest
from PIL import Image

import vggnet
from experiments.dense_tasks import run as study
from experiments.rows import read_rows
from vggnet.cli.main import main
from vggnet.training.run import Run

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def masked(tmp_path):
    """Noise with masks of three classes, in the splits train and val."""
    random = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for kind in ("images", "masks"):
            (tmp_path / "data" / split / kind).mkdir(parents=True)
        for number in range(count):
            pixels, mask = random.integers(0, 256, (40, 52, 3)), random.integers(0, 3, (40, 52))
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / split / "images" / f"{number}.png")
            Image.fromarray(mask.astype(np.uint8)).save(tmp_path / "data" / split / "masks" / f"{number}.png")
    return tmp_path / "data"


def test_a_row_is_a_test_on_val(masked, tmp_path, command, cells):
    """Oracle: `vggnet.evaluate` on val; training saw none of it."""
    options = "--model vgg11 --width 0.05 --freeze 0 --resize 32 --crop 32 --max-resize 48 --epochs 1 --batch-size 2"
    folder = tmp_path / "run"
    data = ["--data", str(masked), "--val-fraction", "0", "--out", str(folder)]
    with pytest.raises(SystemExit) as ended:
        main(["train", *data, "--preset", "segment", *options.split()])
    assert not ended.value.code
    assert "val_mean_iou" not in Run.open(folder).history[0]
    rows = tmp_path / "rows.jsonl"
    assert command(study.main, folder, rows=rows) == 0
    (row,) = read_rows(rows)
    expected = vggnet.evaluate(folder, masked, split="val")
    assert (row["test"]["mean_iou"], row["test"]["images"], row["images"]) == (expected.mean_iou, 2, 4)
    table = cells((tmp_path / "README.md").read_text())
    line = next(line for line in table if line[0].startswith("`vgg train --data $DATA --preset segment"))
    assert line[1] == "1"
    assert line[3] == f"{100 * expected.mean_iou:.2f}"
    assert [name for name, *_ in table[-3:]] == ["class 0", "class 1", "class 2"]
