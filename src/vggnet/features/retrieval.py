"""The pictures that look most like one: vectors of a folder in a file, and the nearest of them."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open

from vggnet.data.decoding import decode_image
from vggnet.data.images import Picture, named_pictures
from vggnet.errors import ConfigError, DataError, ImageError, StorageError, check_at_least
from vggnet.features.descriptors import POOLING, describe_pictures, described_layers, fingerprint, joined
from vggnet.features.pretrained import DEFAULT, answering
from vggnet.features.store import Extraction, Progress, extract
from vggnet.report.figures import draw_gallery

FORMAT = "vggnet similar 1"
MAX_DRAWN = 8  # rows
GRAPH_FROM = 50_000  # images, from which on a graph is worth its building; below, every vector is compared


@dataclass(frozen=True, kw_only=True)
class Match:
    """A picture of the index."""

    image: str  # its path as it was indexed
    similarity: float  # cosine of the angle between both vectors, at most 1


class SimilarityIndex:
    """The vectors of many pictures, (N, D) of length 1, and which weights made them.

    Raises: DataError if the file is missing, damaged or of another kind.
    """

    def __init__(self, path: Path) -> None:
        try:
            with safe_open(path, framework="np") as file:
                facts = dict(file.metadata() or {})
                if facts.get("format") != FORMAT:
                    raise DataError(f"{path}: not an index; make one with `vgg similar index FOLDER -o {path}`.")
                self.images: list[str] = json.loads(facts["images"])
                self.weights, self.fingerprint = facts["weights"], facts["fingerprint"]
                self.vectors = joined({layer: file.get_tensor(layer) for layer in file.keys()})  # noqa: SIM118 (not a mapping)
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{path}: cannot be read as an index ({error}). Make it with `vgg similar index`."
            ) from error
        self._graph = _graph_file(path)

    def nearest(self, vectors: NDArray[np.float32], top: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """For each vector (M, D) of length 1 the places of the nearest pictures and their cosines, (M, top) both.

        Exact, but for a graph that `build_index` made, which finds nearly all.
        """
        top = min(top, len(self.images))
        if self._graph.is_file() and find_spec("usearch"):
            return _search_graph(self._graph, vectors, top)
        cosines = vectors @ self.vectors.T
        order = np.argsort(-cosines, axis=1, kind="stable")[:, :top]
        return order, np.take_along_axis(cosines, order, axis=1)


def build_index(
    images: Sequence[Path] | Path,
    out: Path,
    *,
    weights: Path | str = DEFAULT,
    batch_size: int = 16,
    device: str | None = None,
    progress: Progress | None = None,
) -> Extraction:
    """Write the vectors of pictures, and of those in folders, to `out` (.safetensors); stopped, it goes on there.

    From GRAPH_FROM pictures on also a graph for fast search, if usearch is installed: pip install 'vggnet[search]'.
    Raises: as `extract`.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"{out}: an index is a .safetensors file; give a name that ends so.")
    _graph_file(out).unlink(missing_ok=True)
    network = answering(weights, device)
    facts = {"format": FORMAT, "weights": str(weights), "fingerprint": fingerprint(network)}
    extraction = extract(
        network,
        images,
        described_layers(network),
        out,
        pooling=POOLING,
        batch_size=batch_size,
        facts=facts,
        progress=progress,
    )
    if extraction.images >= GRAPH_FROM and find_spec("usearch"):
        _build_graph(SimilarityIndex(out).vectors, _graph_file(out))
    return extraction


def find_similar(
    index: Path,
    images: Sequence[Picture] | Picture,
    *,
    top: int = 8,
    weights: Path | str | None = None,
    device: str | None = None,
) -> list[list[Match]]:
    """For each picture the `top` most similar of the index, the nearest first.

    weights: only if those that made the index lie elsewhere now.
    Raises: DataError for a file that is no index; ImageError for a picture that cannot be read; ConfigError for `top`
        below 1, or other weights than the index was made by; WeightsError.
    """
    check_at_least(1, top=top)
    opened = SimilarityIndex(index)
    network = answering(weights or opened.weights, device)
    if fingerprint(network) != opened.fingerprint:
        raise ConfigError(
            f"{index} was made by other weights than {weights or opened.weights} has now. Make it again, or name those "
            "weights."
        )
    vectors = describe_pictures(network, list(named_pictures(images)))
    order, cosines = opened.nearest(vectors, top)
    return [
        [Match(image=opened.images[place], similarity=float(cosine)) for place, cosine in zip(*row, strict=True)]
        for row in zip(order, cosines, strict=True)
    ]


def matches_json(images: Sequence[str], found: Sequence[Sequence[Match]]) -> str:
    """A JSON array of objects with `image` and `matches`."""
    rows = [
        {"image": name, "matches": [asdict(match) for match in row]} for name, row in zip(images, found, strict=True)
    ]
    return json.dumps(rows, ensure_ascii=False)


def matches_table(images: Sequence[str], found: Sequence[Sequence[Match]]) -> str:
    """The name of each picture with a line for each match below it."""
    lines: list[str] = []
    for name, row in zip(images, found, strict=True):
        lines += [name, *(f"  {match.similarity:.4f}  {match.image}" for match in row)]
    return "\n".join(lines)


def draw_matches(images: Sequence[str], found: Sequence[Sequence[Match]], path: Path) -> None:
    """A row for each of the first MAX_DRAWN pictures: itself, then its matches with cosines.  Raises: StorageError."""
    rows = [
        [(_opened(name), "the picture asked for"), *((_opened(m.image), f"{m.similarity:.3f}") for m in row)]
        for name, row in list(zip(images, found, strict=True))[:MAX_DRAWN]
    ]
    draw_gallery(rows, path)


def _opened(name: str) -> Image.Image | None:
    """None for a picture that is no longer there."""
    try:
        return decode_image(Path(name))
    except ImageError:
        return None


def _graph_file(index: Path) -> Path:
    return index.with_suffix(".usearch")


def _build_graph(vectors: NDArray[np.float32], path: Path) -> None:
    from usearch.index import Index

    graph = Index(ndim=vectors.shape[1], metric="ip", dtype="f16")
    graph.add(np.arange(len(vectors)), vectors)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        graph.save(str(temporary))
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        raise StorageError(f"{path}: cannot be written ({error}). The index works without it, slower.") from error


def _search_graph(path: Path, vectors: NDArray[np.float32], top: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    from usearch.index import Index

    graph = Index.restore(str(path), view=True)
    assert graph is not None
    found = graph.search(vectors, top)
    keys = np.atleast_2d(found.keys).astype(np.int64)
    return keys, 1 - np.atleast_2d(found.distances)
