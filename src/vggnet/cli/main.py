"""`vgg COMMAND ...`: find the command's module, run it, and turn the user's mistakes into one line."""

import errno
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from types import FrameType

from vggnet.cli.ranks import is_alone, is_first
from vggnet.errors import ConfigError, VGGError
from vggnet.files import ESCAPE, cache_folder

_FULL = (errno.ENOSPC, errno.EDQUOT)
# What the system refuses whatever our code does: rights, devices, network drives, and names that it does not allow.
_REFUSED = (*_FULL, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE, errno.ENAMETOOLONG, errno.ELOOP)
COMMANDS = {
    "train": "train a VGG on CIFAR-10, on digits, or on your own images",
    "test": "measure a trained network on the test images, and draw what it gets wrong",
    "report": "write what a run has shown as one page, or compare several",
    "predict": "name what is on a picture, or on each picture of a folder",
    "explain": "show why a picture is given a class, and what layers, filters and channels look for",
    "features": "write the outputs of layers, by the paper's names, for pictures",
    "distance": "tell how different two pictures look",
    "similar": "find the pictures of a folder that look most like one",
    "style": "paint one picture as others are painted",
    "shrink": "make a trained network smaller: prune, distill, fold, factorize, quantize",
    "weights": "list, fetch, convert and verify trained weights",
    "export": "write a trained network for ONNX, OpenVINO, ncnn, torchvision, timm and others, or as a page",
    "serve": "serve trained networks over HTTP, with a page for the browser",
    "show": "show a network layer by layer, or the paper's tables",
    "compare": "measure VGGs beside AlexNet, GoogLeNet, ResNets, MobileNets and SqueezeNet",
    "bench": "time training and answering against stock PyTorch on this CPU",
    "data": "count, measure and verify a data set",
}
MOVED = {
    "study": "vgg study moved: in a copy of the repository, run python -m experiments.depth.run --data cifar10, or "
    "another one that experiments/README.md lists."
}
USAGE = f"""usage: vgg COMMAND ...

VGG, the network family of Simonyan & Zisserman: trained, tested and used.

commands:
{chr(10).join(f"  {name:<10}{what}" for name, what in COMMANDS.items())}

Each has --help with an example; `vgg train --data digits` is a good start.
exit codes: 0 done, 2 a mistake of the caller's (one line says which), 1 a mistake of ours (a traceback),
130 stopped by Ctrl-C."""


def main(argv: list[str] | None = None) -> None:
    """Run one command and exit."""
    arguments = sys.argv[1:] if argv is None else argv
    _print_all_names()
    # PyTorch's threads sleep while they wait for each other. By default they spin, and beside any other busy process a
    # step then takes about ten times as long; alone, sleeping costs 2 %. Heard only if set before PyTorch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")  # our own limit is one line
    try:
        with _interrupts_that_end_imports():
            code = _run(arguments[0] if arguments else "--help", arguments[1:])
        sys.stdout.flush()
    except VGGError as error:
        code = _complain(str(error))
    except KeyboardInterrupt:
        if is_first():
            print("stopped", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # the reader of our output has seen enough
        _drop_output()
        code = 0
    except OSError as error:
        if error.filename is not None and error.errno in _REFUSED:
            path = _refused(Path(os.fsdecode(error.filename)))
            is_cache = cache_folder().is_relative_to(path) or path.is_relative_to(cache_folder())
            other = "set VGGNET_CACHE to another folder" if is_cache else "choose another path"
            code = _complain(f"{path}: {error.strerror}. Give this user access to it, or {other}.")
        elif error.filename is None and error.errno in _FULL:
            _drop_output()
            code = _complain(
                f"standard output cannot be written ({error.strerror}). Make room, or redirect it elsewhere."
            )
        else:
            raise
    sys.exit(code)


def _run(command: str, arguments: list[str]) -> int | None:
    """The exit code of a command.  Raises: ConfigError for one that cannot be run."""
    if command in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if command == "--version":
        from importlib.metadata import version

        print(f"vggnet {version('vggnet')}")
        return 0
    if command in MOVED:
        raise ConfigError(MOVED[command])
    if command not in COMMANDS:
        raise ConfigError(f"unknown command {command!r}. The commands are {', '.join(COMMANDS)}.")
    if command != "train" and not is_alone():
        raise ConfigError(
            f"torchrun has started several processes, but vgg {command} works in one. Leave torchrun out."
        )
    code: int | None = import_module(f"vggnet.cli.{command}").main(arguments)
    return code


def _print_all_names() -> None:
    """Escape what the encoding of the output lacks: file and class names may have any characters."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=ESCAPE)


def _refused(path: Path) -> Path:
    """The outermost folder on the way to a file that this user may not enter, else the file."""
    return next((folder for folder in reversed(path.parents) if not os.access(folder, os.X_OK)), path)


def _drop_output() -> None:
    """What is still to be written goes nowhere; otherwise Python tries, and complains, once more at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _interrupts_that_end_imports() -> Iterator[None]:
    """Ctrl-C during an import ends the process at once: if it were raised there, PyTorch would abort and dump core."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:  # ignored, as in the background of a script
        yield
        return
    signal.signal(signal.SIGINT, _interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupted(_: int, frame: FrameType | None) -> None:
    """Exit if an import is under way in `frame`.  Raises: KeyboardInterrupt otherwise."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            os.write(2, b"stopped\n")
            os._exit(130)
        frame = frame.f_back
    raise KeyboardInterrupt


def _complain(message: str) -> int:
    if is_first():
        print(f"vgg: {' '.join(message.split())}", file=sys.stderr)
    return 2
