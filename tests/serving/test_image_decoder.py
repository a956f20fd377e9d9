"""Decoders that crash, hang, are killed or need too much."""

import asyncio
import io
import os
import signal

import crashing
import numpy as np
import pytest
from conftest import encoded
from PIL import Image

import vggnet
from vggnet.data.decoding import decode_image
from vggnet.errors import ImageError
from vggnet.serving import image_decoder
from vggnet.serving.image_decoder import ImageDecoder
from vggnet.serving.limits import Limits
from vggnet.serving.telemetry import Telemetry

PREPROCESS = vggnet.Preprocess(resize=40, crop=32)
GOOD = encoded(1)


@pytest.fixture(scope="module")
def decoder():
    made = ImageDecoder(Limits(decoders=1, decode_timeout=30, decoder_memory=100_000_000), Telemetry())
    made.wait_until_started()
    yield made
    made.close()


def decode(decoder, *images, view="crop"):
    return asyncio.run(decoder.decode(images, PREPROCESS, view))


def test_views(decoder):
    """Oracle: what the preprocessing makes of the whole picture."""
    picture = decode_image(GOOD)
    crop = PREPROCESS.pixels(picture).permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(decode(decoder, GOOD)[0], crop)
    (resized,) = decode(decoder, GOOD, view="resized")
    np.testing.assert_array_equal(PREPROCESS.pixels(vggnet.data.decoding.as_viewed(resized)).permute(1, 2, 0), crop)
    np.testing.assert_array_equal(decode(decoder, GOOD, view="original")[0], np.asarray(picture))
    assert decode(decoder, encoded(0, size=(400, 100)), view="thumbnail")[0].shape == (40, 160, 3)


def test_a_crash_costs_one_request(decoder, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(image_decoder, "_decode", crashing.crash)
        with pytest.raises(ImageError, match="crashed the decoder"):
            decode(decoder, GOOD)
    assert len(decode(decoder, GOOD, GOOD)) == 2
    assert 'vggnet_lost_decoders_total{reason="crash"} 1.0' in decoder._telemetry.text()


def test_a_hang_costs_one_request(monkeypatch):
    decoder = ImageDecoder(Limits(decoders=1, decode_timeout=0.05), Telemetry())
    decoder.wait_until_started()
    with monkeypatch.context() as patched:
        patched.setattr(image_decoder, "_decode", crashing.hang)
        with pytest.raises(ImageError, match=r"decoding took longer than 0.05 s"):
            decode(decoder, GOOD)
    monkeypatch.setattr(decoder, "_limits", Limits())
    assert decode(decoder, GOOD)[0].shape == (32, 32, 3)
    decoder.close()


def test_idle_processes_that_are_killed_are_replaced(decoder):
    for worker in list(decoder._pool._pool_manager.worker_manager.workers):
        os.kill(worker, signal.SIGKILL)
    assert decode(decoder, GOOD)[0].shape == (32, 32, 3)


def test_memory_is_limited(decoder):
    """Oracle: 49.5 megapixels as RGB take 148 MB, more than the 100 MB that the process may use."""
    buffer = io.BytesIO()
    Image.new("1", (9000, 5500)).save(buffer, "PNG")
    with pytest.raises(ImageError, match="MemoryError|memory"):
        decode(decoder, buffer.getvalue(), GOOD)
    assert len(decode(decoder, GOOD)) == 1
