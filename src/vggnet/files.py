"""Atomic file writes, and the folder for caches."""

import codecs
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs
from safetensors import SafetensorError

from vggnet.errors import StorageError, VGGError

NO_FLUSH = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # of folders: not offered


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends well, it takes the place of `path`.

    File and folder are flushed to the disk before and after the rename, so that a kill or a power cut leaves either
    the old file or the new one. When the block fails, the temporary file is removed. The file gets the permissions
    that the umask gives to new files, whoever writes it.
    Raises: StorageError if the disk refuses (full, read-only, not permitted).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()
        permissions = stat.S_IMODE(temporary.stat().st_mode)
        yield temporary
        temporary.chmod(permissions)  # safetensors' writer replaces it by a file for its owner alone
        _flush(temporary)
        os.replace(temporary, path)  # noqa: PTH105 (the one call that tests kill at)
        _flush_folder(path.parent)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"{path}: cannot be written ({error}). What was there before is unchanged; make room or choose another "
            "folder, then try again."
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, *, busy: VGGError, advice: str) -> Iterator[None]:
    """Hold the lock file `path`, whose folder is made if missing.

    Args:
        path: the lock file; it stays.
        busy: raised if another process holds it.
        advice: what to do where the folder cannot be written, a sentence.

    Raises:
        VGGError: `busy`.
        StorageError: the folder cannot be written.
    """
    from filelock import FileLock, Timeout  # the command line starts without it

    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise busy from error
    except OSError as error:
        raise StorageError(f"{path.parent}: cannot be written ({error}). {advice}") from error
    try:
        yield
    finally:
        lock.release()


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in UTF-8, as `escaped` has it.  Raises: StorageError."""
    with replacing(path) as temporary:
        temporary.write_text(escaped(text), encoding="utf-8")


def escaped(text: str, encoding: str = "utf-8") -> str:
    r"""The text with an escape for each character that an encoding lacks, which JSON reads as that character.

    Python has such characters for the bytes of a file name that are no UTF-8.

    Args:
        text: any text.
        encoding: of what it is written to.

    Example:
        >>> escaped("caf\udce9"), escaped("café 😀", "ascii")
        ('caf\\udce9', 'caf\\u00e9 \\ud83d\\ude00')
    """
    return text.encode(encoding, ESCAPE).decode(encoding)


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{high:02x}{low:02x}" for high, low in zip(units[::2], units[1::2], strict=True)), error.end


ESCAPE = "vggnet.escape"  # a handler of encoding errors
codecs.register_error(ESCAPE, _escape)


def make_folder(folder: Path) -> Path:
    """The folder, made if missing.  Raises: StorageError if it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: cannot make this folder for the results ({error}); choose another.") from error
    return folder


def check_readable(path: Path) -> None:
    """Raises: StorageError if this user may not read a file; readers of formats would call it missing or damaged."""
    try:
        path.open("rb").close()
    except PermissionError as error:
        raise StorageError(f"{path}: {error.strerror}. Give this user access to it, or choose another file.") from error
    except OSError:
        pass  # the reader says what is wrong


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that a killed process left in `folder`."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def cache_folder() -> Path:
    """$VGGNET_CACHE, or a folder `vggnet` where the platform keeps caches ($XDG_CACHE_HOME or ~/.cache on Linux)."""
    given = os.environ.get("VGGNET_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(platformdirs.user_cache_dir("vggnet", appauthor=False, opinion=False))


def _flush(path: Path) -> None:
    """Write a file or folder to the disk. Windows can do that with open files only; its folders need it not."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    """As `_flush`, where the file system offers it for folders; those of Windows and of networks may not."""
    try:
        _flush(folder)
    except OSError as error:
        if error.errno not in NO_FLUSH:
            raise
