"""`vgg serve`."""

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from vggnet.cli.parsing import PrecisionOption, parse
from vggnet.errors import require
from vggnet.serving.limits import Limits
from vggnet.serving.replicas import Replicas

KEY = "VGGNET_API_KEY"  # the environment variable: arguments are visible to every user of the machine


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Serve models over HTTP: a page in the browser at /, and /predict, /features, /explain, /similar, /v2, /metrics.

    Example: vgg serve runs/mine --port 8000

    Then: curl -F image=@photo.jpg http://127.0.0.1:8000/predict

    With the environment variable VGGNET_API_KEY, requests must have the header "Authorization: Bearer KEY". SIGTERM and
    Ctrl-C end the server once it has answered what it accepted. A changed weights file is reloaded. The operations are
    described at /openapi.json.

    On all machines of a Ray cluster, or with several processes on this one:
    vgg serve runs/mine --engine ray --max-replicas 8
    """

    # run folders, .safetensors files, or names of `vgg weights list`, each served under its name; by default weights
    # that come with the package
    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE...")] = ()
    host: str = "127.0.0.1"  # address to listen at; by default this machine alone can connect
    port: int = 8000  # 0 takes a free one
    index: Path | None = None  # images for /similar: a file of `vgg similar index`, made by one of the models
    device: str | None = None  # by default a GPU if there is one
    precision: PrecisionOption = "float32"
    access_log: bool = False  # a line on stderr for each request; Ray has logs of its own
    engine: Literal["local", "ray"] = "local"  # this process, or replicas on the Ray cluster at $RAY_ADDRESS
    replicas: tyro.conf.OmitArgPrefixes[Replicas] = field(default_factory=Replicas)
    limits: tyro.conf.OmitArgPrefixes[Limits] = field(default_factory=Limits)


def main(arguments: list[str]) -> int:
    """Serve; returns the exit code."""
    args: Serve = parse(Serve, arguments, prog="vgg serve")
    for module in ("fastapi", "uvicorn", "httptools", "python_multipart", "pebble", "prometheus_client"):
        require(module, "serve")
    from vggnet.serving.run_server import is_loopback, run_server
    from vggnet.weights.registry import DEFAULT_WEIGHTS

    key = os.environ.get(KEY) or None
    if key is None and not is_loopback(args.host):
        print(f"vgg: whoever reaches {args.host} can use this server; set {KEY} to ask for a key", file=sys.stderr)
    options: dict[str, Any] = {
        "host": args.host,
        "port": args.port,
        "index": args.index,
        "device": args.device,
        "precision": args.precision,
        "limits": args.limits,
        "api_key": key,
        "announce": lambda line: print(line, flush=True),
    }
    sources = args.sources or (DEFAULT_WEIGHTS,)
    if args.engine == "ray":
        from vggnet.serving.ray_server import run_on_ray

        run_on_ray(sources, replicas=args.replicas, **options)
    else:
        run_server(sources, access_log=args.access_log, **options)
    return 0
