"""Predictions on a Ray cluster of two nodes: killed, resumed, and equal to those of one process."""

import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg

from vggnet.evaluation.predict_table import predict_table

IMAGES = 2000
MODEL = "vgg8_bn-cifar10-fast"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "images.parquet"
    pixels = np.random.default_rng(0).integers(0, 256, (IMAGES, 32, 32, 3), dtype=np.uint8)
    pq.write_table(pa.table({"img": [simplejpeg.encode_jpeg(image) for image in pixels]}), path)
    return path


@pytest.mark.slow  # Ray takes a minute to start
def test_a_killed_run_goes_on_and_equals_that_of_one_process(ray_cluster_of_two, images, tmp_path):
    """Oracle: the table of one process, bit for bit, with each row once."""
    expected = pq.read_table(predict_table(MODEL, [images], tmp_path / "expected.parquet", device="cpu").path)
    out = tmp_path / "out.parquet"
    command = [
        sys.executable,
        "-m",
        "vggnet",
        "predict",
        MODEL,
        images,
        "--engine",
        "ray",
        "--device",
        "cpu",
        "-o",
        out,
    ]
    process = subprocess.Popen(list(map(str, command)), env=ray_cluster_of_two, stderr=subprocess.DEVNULL)
    parts = tmp_path / "out.parquet.parts"
    while len(list(parts.glob("*.parquet"))) < 3:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 3 <= len(list(parts.glob("*.parquet"))) < 8
    assert not out.exists()
    again = subprocess.run(list(map(str, command)), env=ray_cluster_of_two, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert f"{IMAGES:,} images, 0 of them unreadable" in again.stdout
    found = pq.read_table(out)
    assert found["row"].to_pylist() == list(range(IMAGES))
    assert found.equals(expected)
