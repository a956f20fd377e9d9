"""When compiled kernels are taken into use."""

import os
import subprocess
import sys

import pytest

from vggnet.accel import startup as module
from vggnet.accel.startup import Startup, note_compiled


@pytest.fixture
def clock(monkeypatch, tmp_path):
    """Every convolution takes as long as it returns; nothing is compiled."""
    now = [0.0]
    monkeypatch.setattr(module, "perf_counter", lambda: now[0])
    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    module._marker.cache_clear()
    yield lambda seconds: lambda: now.__setitem__(0, now[0] + seconds) or seconds
    module._marker.cache_clear()


def test_kernels_are_compiled_once_convolutions_have_taken_as_long(clock):
    """Oracle: by hand: 1 second."""
    startup = Startup()
    assert startup.run(clock(0.8)) == 0.8
    assert not startup.pays()
    startup.run(clock(0.3))
    assert startup.pays()


def test_compiled_kernels_pay_earlier(clock):
    """Oracle: by hand: half a second."""
    note_compiled()
    startup = Startup()
    startup.run(clock(0.4))
    assert not startup.pays()
    startup.run(clock(0.2))
    assert startup.pays()


def test_kernels_in_use_stay_in_use(clock):
    """Oracle: the contract."""
    startup = Startup()
    startup.start()
    assert startup.pays()


def test_without_a_folder_to_write_to(clock, tmp_path):
    """Oracle: nothing is raised."""
    (tmp_path / "cache").touch()
    note_compiled()
    assert not Startup().pays()


PROGRAM = """
import sys
import torch
import vggnet
from vggnet.accel.autotuning import autotuner
network = vggnet.accelerate(vggnet.create_model("vgg11_bn", num_classes=3, head="gap", width=0.1)).eval()
images = torch.randn(2, 3, 32, 32)
with torch.inference_mode():
    before = network(images)
assert "numba" not in sys.modules
with torch.inference_mode(), autotuner().fixed({}):
    after = network(images)
assert "numba" in sys.modules
torch.testing.assert_close(before, after, rtol=1e-3, atol=1e-4)
"""


@pytest.mark.integration
def test_short_work_does_not_wait_for_kernels(tmp_path):
    """Oracle: the loaded modules, and the same outputs by both ways."""
    environment = {name: value for name, value in os.environ.items() if name != "VGGNET_CONV"}
    environment["VGGNET_CACHE"] = str(tmp_path)
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, env=environment)
