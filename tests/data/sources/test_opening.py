"""From what a user writes after --data to a source."""

import io
import os
import subprocess
import sys

import pyarrow
import pyarrow.parquet
from PIL import Image

OPTIONAL = ("datasets", "huggingface_hub", "fsspec", "sklearn", "scipy", "pandas")
PROGRAM = f"""
import sys
sys.modules.update(dict.fromkeys({OPTIONAL}))  # importing one of them raises ImportError
from vggnet.data.sources.opening import open_source
from vggnet.errors import MissingDependencyError
for spec in ("digits", "cifar10", "stream:cifar10"):
    source = open_source(spec, "train")
    print(len(source), source.read(0).size, len(source.fingerprint))
try:
    open_source("some/pictures", "train")
except MissingDependencyError as error:
    print(error)
"""


def test_local_data_need_no_optional_package(tmp_path):
    """Oracle: a process in which those packages cannot be imported; the hub names the extra that it takes."""
    data = io.BytesIO()
    Image.new("RGB", (32, 32)).save(data, "PNG")
    folder = tmp_path / "data" / "cifar10"
    folder.mkdir(parents=True)
    rows = {"img": [{"bytes": data.getvalue(), "path": None}] * 6, "label": ["a", "b"] * 3}
    pyarrow.parquet.write_table(pyarrow.table(rows), folder / "train-00000-of-00001.parquet")
    environment = {**os.environ, "VGGNET_CACHE": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "1437 (32, 32) 16",
        "6 (32, 32) 16",
        "6 (32, 32) 16",
        "datasets is not installed; pip install 'vggnet[hub]'",
    ]
