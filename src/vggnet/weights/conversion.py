"""From another library's file to ours."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vggnet.errors import ConfigError, WeightsError
from vggnet.models.vgg import empty
from vggnet.weights.checkpoint import save, sha256
from vggnet.weights.foreign import Foreign
from vggnet.weights.importers import caffe as from_caffe
from vggnet.weights.importers import keras as from_keras
from vggnet.weights.importers import lpips_heads as from_lpips
from vggnet.weights.importers import timm as from_timm
from vggnet.weights.importers import torchvision as from_torchvision
from vggnet.weights.importers.state_dicts import read_state
from vggnet.weights.validation import check

STATE_DICTS = (".pth", ".pt", ".bin", ".safetensors")  # torchvision's and timm's
KERAS = (".h5", ".hdf5")
CAFFE = (".caffemodel",)
LPIPS = (".ckpt",)
SUFFIXES = (*STATE_DICTS, *KERAS, *CAFFE, *LPIPS)


def convert(
    source: Path | str,
    out: Path | str,
    *,
    classes: Sequence[str] | None = None,
    keep_bgr: bool = False,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write the network of another library's file as ours, with its preprocessing, and what it came from.

    source: torchvision's or timm's state dict (.pth, .pt, .bin, .safetensors), Keras Applications' (.h5, .weights.h5),
        Caffe's (.caffemodel).
    classes: their names, of which such files know nothing.
    keep_bgr: leave the first layer of a Keras or Caffe network in BGR and 0..255, see `caffe_input`; by default it
        takes RGB as all others do.
    notes: more facts to keep; the file's name and SHA-256 are among them anyhow.
    Raises: WeightsError if the file is missing, damaged, or of another network; ConfigError if an option does not fit
        it; StorageError if `out` cannot be written. Nothing is written then.
    """
    path = Path(source).expanduser()
    if not path.is_file():
        raise WeightsError(
            f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; expected {', '.join(SUFFIXES)}."
        )
    foreign = _read(path, keep_bgr)
    state = {name: t.float() if t.is_floating_point() else t for name, t in foreign.state.items()}
    model = empty(foreign.architecture)
    check(path, state, model.state_dict())
    model.load_state_dict(state)
    model.classes, model.preprocess = tuple(classes) if classes else None, foreign.preprocess
    origin = {"library": foreign.library, "source": path.name, "sha256": sha256(path)}
    save(model, out, notes={**origin, **(notes or {})})


def _read(path: Path, keep_bgr: bool) -> Foreign:
    suffix = path.suffix.lower()
    if suffix in KERAS:
        return from_keras.read(path, keep_bgr=keep_bgr)
    if suffix in CAFFE:
        return from_caffe.read(path, keep_bgr=keep_bgr)
    if keep_bgr:
        raise ConfigError(
            f"{path}: only the networks of Keras and Caffe take BGR, of which there is nothing to keep here."
        )
    if suffix in LPIPS:
        return from_lpips.read(path)
    if suffix in STATE_DICTS:
        state = read_state(path)
        is_timm = f"{from_timm.HEAD['head.fc6']}.weight" in state
        return from_timm.read(path, state) if is_timm else from_torchvision.read(path, state)
    raise WeightsError(f"{path}: unknown kind of weights; expected {', '.join(SUFFIXES)}.")
