"""Predictions on a Ray cluster of two nodes: killed, resumed, and equal to those of one process."""

import signal
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import simplejpeg

from vggnet.evaluation.predict_table import predict_table

IMAGES = 2000
MODEL = "vgg8_bn-cifar10-fast"
# The command, which is killed once three parts are written.
KILLED = """
import os, signal, sys
from vggnet.cli.main import main
from vggnet.evaluation import ray_blocks

write = ray_blocks.write_on_ray

def killed(job, blocks):
    for number, block in enumerate(write(job, blocks), start=1):
        yield block
        if number == 3:
            os.kill(os.getpid(), signal.SIGKILL)

ray_blocks.write_on_ray = killed
main(sys.argv[1:])
"""


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
    options = ["--engine", "ray", "--device", "cpu", "-o", out]
    arguments = list(map(str, ["predict", MODEL, images, *options]))
    killed = subprocess.run([sys.executable, "-c", KILLED, *arguments], env=ray_cluster_of_two, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert 3 <= len(list((tmp_path / "out.parquet.parts").glob("*.parquet"))) < 8
    assert not out.exists()
    command = [sys.executable, "-m", "vggnet", *arguments]
    again = subprocess.run(command, env=ray_cluster_of_two, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert f"{IMAGES:,} images, 0 of them unreadable" in again.stdout
    found = pq.read_table(out)
    assert found["row"].to_pylist() == list(range(IMAGES))
    assert found.equals(expected)
