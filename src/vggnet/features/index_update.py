"""Add images to an index, compute changed ones again, and remove others, without computing the rest again."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from safetensors.numpy import save_file

from vggnet.data.formats import image_files
from vggnet.errors import ConfigError, DataError
from vggnet.features.similarity_index import (
    FORMAT,
    POOLING,
    SimilarityIndex,
    stamps_of,
    write_graph,
)
from vggnet.features.store import extract_to_file
from vggnet.files import replacing
from vggnet.models.vgg import VGG
from vggnet.progress import Progress
from vggnet.weights.checkpoint import open_model


@dataclass(frozen=True, kw_only=True)
class IndexUpdate:
    """What an update of an index did; images by their paths."""

    images: int  # in the index now
    added: tuple[str, ...]
    changed: tuple[str, ...]  # computed again
    removed: tuple[str, ...]
    unreadable: tuple[str, ...]  # one line for each new or changed image that cannot be read


def update_index(
    index: Path | str,
    images: Sequence[Path | str] | Path | str = (),
    *,
    remove: Sequence[Path | str] = (),
    model: VGG | Path | str | None = None,
    batch_size: int = 16,
    device: str | None = None,
    progress: Progress = False,
) -> IndexUpdate:
    """Bring an index up to date: only new and changed images are computed.

    Args:
        index: a file that `build_index` wrote. It is replaced when the new one is whole.
        images: image files and folders of them, named as they were for `build_index`. Images that are not in the index
            are added, those whose file has another size or time are computed again, and indexed images of these folders
            that are gone are removed.
        remove: indexed images, or folders whose images leave the index. The files stay.
        model: only if the weights that made the index are somewhere else now.
        batch_size: images at a time through the network.
        device: "cpu", "cuda", ...; by default a GPU if there is one.
        progress: False shows nothing, True a bar or lines on stderr; a callable gets (done, total).

    Raises:
        ConfigError: the index was made by other weights, or would be empty.
        DataError: the file is not an index, a path does not exist, or what to remove is not in the index.
        WeightsError: there is no such model.
        StorageError: the disk refuses.

    Example:
        >>> from PIL import Image
        >>> import vggnet
        >>> with TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 32), "red").save(f"{folder}/one.png")
        ...     _ = vggnet.retrieval.build_index("vgg8_bn-cifar10-fast", folder, f"{folder}/index.safetensors")
        ...     Image.new("RGB", (40, 32), "blue").save(f"{folder}/two.png")
        ...     update = update_index(f"{folder}/index.safetensors", folder)
        >>> update.images, len(update.added)
        (2, 1)
    """
    path = Path(index).expanduser()
    old = SimilarityIndex(path)
    given = [Path(one).expanduser() for one in ([images] if isinstance(images, Path | str) else images)]
    folders = [one for one in given if one.is_dir()]
    files = list(dict.fromkeys(image_files(given)))
    stamps, known = stamps_of(files), set(old.images)
    added = [file for file in files if str(file) not in known]
    changed = [file for file in files if str(file) in known and old.stamps.get(str(file)) != stamps[str(file)]]
    gone = {name for name in old.images if _is_below(name, folders) and name not in stamps}
    removed = gone | _chosen(old.images, [Path(one).expanduser() for one in remove])
    leaving = removed | set(map(str, changed))
    kept = [name not in leaving for name in old.images]
    names = [name for name, keep in zip(old.images, kept, strict=True) if keep]
    layers = {layer: rows[kept] for layer, rows in old.layers.items()}
    unreadable: tuple[str, ...] = ()
    if missing := [file for file in (*changed, *added) if str(file) not in removed]:
        network = open_model(model or old.weights, device=device).network
        if not old.fits(network):
            raise ConfigError(
                f"{index} was made by other weights than {model or old.weights} has now. Make it again, or name those "
                "weights."
            )
        new, unreadable = _computed(network, missing, old, path.parent, batch_size, progress)
        if new is not None:
            names += new.images
            layers = {layer: np.concatenate([rows, new.layers[layer]]) for layer, rows in layers.items()}
    if not names:
        raise ConfigError(f"{index} would be empty; delete the file instead.")
    there = set(names)
    facts = {
        "format": FORMAT,
        "weights": old.weights,
        "fingerprint": old.fingerprint,
        "images": json.dumps(names, ensure_ascii=False),
        "stamps": json.dumps({name: stamp for name, stamp in (old.stamps | stamps).items() if name in there}),
    }
    with replacing(path) as temporary:
        save_file(layers, temporary, facts)
    write_graph(path)
    return IndexUpdate(
        images=len(names),
        added=tuple(name for name in map(str, added) if name in there),
        changed=tuple(name for name in map(str, changed) if name in there),
        removed=tuple(name for name in old.images if name not in there),
        unreadable=unreadable,
    )


def _computed(
    network: VGG, files: Sequence[Path], old: SimilarityIndex, folder: Path, batch_size: int, progress: Progress
) -> tuple[SimilarityIndex | None, tuple[str, ...]]:
    """An index of these files alone, None if none of them can be read; and a line for each that cannot."""
    facts = {"format": FORMAT, "weights": old.weights, "fingerprint": old.fingerprint}
    layers = sorted(old.layers)
    with TemporaryDirectory(dir=folder) as temporary:
        part = Path(temporary) / "part.safetensors"
        try:
            done = extract_to_file(
                network, files, layers, part, pooling=POOLING, batch_size=batch_size, progress=progress, metadata=facts
            )
        except DataError as error:
            return None, (str(error),)
        return SimilarityIndex(part), done.unreadable


def _is_below(name: str, folders: Sequence[Path]) -> bool:
    return any(folder in Path(name).parents for folder in folders)


def _chosen(images: Sequence[str], remove: Sequence[Path]) -> set[str]:
    """The indexed images that are given, or are below a given folder.  Raises: DataError for one that chooses none."""
    chosen: set[str] = set()
    for path in remove:
        found = {name for name in images if Path(name) == path or path in Path(name).parents}
        if not found:
            raise DataError(
                f"{path}: not in the index, and no folder of its images; paths are those that were indexed."
            )
        chosen |= found
    return chosen
