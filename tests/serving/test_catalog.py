"""Models by name, and files that change while they are served."""

import asyncio
import shutil
import threading

import pytest
from conftest import encoded, save_network

import vggnet
from vggnet.errors import ConfigError
from vggnet.serving.catalog import Catalog
from vggnet.serving.limits import Limits
from vggnet.serving.telemetry import Telemetry

FILE = encoded(1)


@pytest.fixture
def catalog(tmp_path):
    save_network(tmp_path / "m.safetensors", 1)
    save_network(tmp_path / "other.safetensors", 2, classes=["a", "b"])
    opened = open_catalog([tmp_path / "m.safetensors"])
    yield opened
    opened.close()


def open_catalog(sources, index=None):
    return Catalog(sources, device="cpu", limits=Limits(max_batch=1), telemetry=Telemetry(), index=index)


def probabilities(model):
    """What a request gets that holds this model."""
    picture = vggnet.data.decoding.decode_image(FILE)
    pixels = model.preprocess.pixels(picture).permute(1, 2, 0).numpy()

    async def ask():
        with model.batcher.admit(1) as admission:
            return (await admission.compute(model.classify, [pixels]))[0].tolist()

    return asyncio.run(ask())


def test_a_changed_file_is_reloaded_and_the_old_model_ends_its_work(catalog, tmp_path):
    """Oracle: `vggnet.predict` by each file."""
    before = vggnet.predict(tmp_path / "m.safetensors", [FILE], device="cpu")[0]
    old = catalog.get("m")
    asyncio.run(catalog.reload_changed())
    assert catalog.get("m") is old
    thread = old.batcher._thread
    kept = old.batcher.admit(1)  # a request that is being decoded
    shutil.copy(tmp_path / "other.safetensors", tmp_path / "m.safetensors")
    asyncio.run(catalog.reload_changed())
    new = catalog.get("m")
    assert new.opened.classes == ("a", "b")
    assert sorted(probabilities(new), reverse=True) == list(
        vggnet.predict(tmp_path / "other.safetensors", [FILE], device="cpu")[0].probabilities
    )
    assert sorted(probabilities(old), reverse=True) == list(before.probabilities)
    assert thread.is_alive()
    kept.__exit__()
    thread.join(60)
    assert not thread.is_alive()


def test_a_damaged_file_is_not_taken(catalog, tmp_path, caplog):
    old = catalog.get(None)
    data = (tmp_path / "other.safetensors").read_bytes()
    (tmp_path / "m.safetensors").write_bytes(data[:-100])
    for _ in range(2):
        asyncio.run(catalog.reload_changed())
    assert catalog.get("m") is old
    assert len(caplog.records) == 1  # it is tried once
    (tmp_path / "m.safetensors").unlink()
    asyncio.run(catalog.reload_changed())
    assert catalog.get("m") is old
    (tmp_path / "m.safetensors").write_bytes(data)
    asyncio.run(catalog.reload_changed())
    assert catalog.get("m").opened.classes == ("a", "b")


def test_names_are_unique_and_an_index_fits(tmp_path, sources, index):
    twin = save_network(tmp_path / "mine.safetensors", 1)
    with pytest.raises(ConfigError, match="are both called mine"):
        open_catalog([sources[0], twin])
    with pytest.raises(ConfigError, match="which is not served; add it: vgg serve"):
        open_catalog([sources[1]], index)
    assert threading.active_count() < 100
