"""The Hugging Face hub: against a local server that speaks enough of its protocol, and a port where nobody listens."""

import base64
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading

import pytest
import safetensors.torch
import torch

import vggnet
from vggnet.models.vgg import build

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROGRAM = """
import json, sys
import vggnet
from vggnet.cli.weights import main

for step in sys.argv[1:]:
    task, _, rest = step.partition(" ")
    try:
        if task == "push":
            print(json.dumps(vggnet.hub.push_to_hub(*rest.split())))
        elif task == "vgg":
            main(rest.split())
        else:
            vggnet.save(vggnet.hub.pull_from_hub(rest), rest.replace("/", "-") + ".safetensors")
            print(json.dumps("pulled"))
    except vggnet.errors.VGGError as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""


class Hub(http.server.BaseHTTPRequestHandler):
    """Models that were pushed; `some/empty` is there from the start; nobody may write to `other/...`."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'some'}/{asked['name']}"
            if name.startswith("other/"):
                self.answer(403, b"", {"X-Error-Message": "not yours"})
                return
            self.server.models.setdefault(name, {})
            self.server.private[name] = asked.get("private") or asked.get("visibility") == "private"
            self.answer_json({"url": f"{self.server.url}/{name}", "name": name, "id": COMMIT})
            return
        if self.path == "/api/validate-yaml":
            self.answer_json({"errors": [], "warnings": []})
            return
        name, task = re.fullmatch(r"/api/models/(\w+/\w+)/(preupload|commit)/main", self.path).groups()
        if task == "preupload":
            files = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            self.answer_json({"files": files})
            return
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.server.models[name][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del self.server.models[name][line["value"]["path"]]
        self.answer_json(
            {"success": True, "commitOid": COMMIT, "commitUrl": f"{self.server.url}/{name}/commit/{COMMIT}"}
        )

    def do_GET(self):
        path = self.path.partition("?")[0]
        match = re.fullmatch(r"/(\w+/\w+)/resolve/\w+/(.+)", path)
        if match is None or match[1] not in self.server.models:
            found = re.fullmatch(r"/api/models/(\w+/\w+)(?:/revision/.*)?", path)
            if found and found[1] in self.server.models:
                self.answer_json({"id": found[1], "sha": COMMIT, "private": False, "siblings": []})
                return
            listed = re.fullmatch(r"/api/models/(\w+/\w+)/tree/main", path)
            if listed and listed[1] in self.server.models:
                files = self.server.models[listed[1]]
                self.answer_json([{"type": "file", "path": p, "size": len(f), "oid": COMMIT} for p, f in files.items()])
                return
            self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif match[2] not in self.server.models[match[1]]:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        else:
            self.answer(200, self.server.models[match[1]][match[2]], {"ETag": f'"{match[2]}"'})

    do_HEAD = do_GET  # noqa: N815

    def answer_json(self, value):
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status, body, headers):
        self.send_response(status)
        for name, value in {**headers, "X-Repo-Commit": COMMIT, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def hub():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.url, server.private = f"http://127.0.0.1:{server.server_port}", {}
        server.models = {"some/empty": {}}
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    network = build("vgg11_bn", num_classes=3, head="gap", width=0.05).eval()
    network.classes, network.preprocess = ("cat", "dog", "eel"), vggnet.Preprocess.imagenet()
    vggnet.save(network, tmp_path / "mine.safetensors")
    return network


def run(endpoint, home, *steps):
    """What a fresh process, with its own cache, makes of each step; it must say nothing else."""
    inherited = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    settings = {
        "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_TOKEN": "hf_test", "PYTHONPATH": os.pathsep.join(sys.path),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *steps],
        env={**inherited, **settings},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) if line[0] in '["' else line for line in done.stdout.splitlines()]


def test_pushed_and_pulled(hub, model, tmp_path):
    """Oracle: the network; what lies on the server are its tensors and a card, and nothing of timm's form any more."""
    hub.models["some/vgg"] = {"model.safetensors": b"old", "config.json": b"{}"}
    pushed, pulled = run(hub.url, tmp_path, "push mine.safetensors some/vgg", "pull some/vgg")
    assert (pushed, pulled) == (f"{hub.url}/some/vgg", "pulled")
    files = hub.models["some/vgg"]
    assert sorted(files) == ["README.md", "weights.safetensors"]
    uploaded = safetensors.torch.load(files["weights.safetensors"])
    assert all(torch.equal(tensor, uploaded[name]) for name, tensor in model.state_dict().items())
    assert 'vggnet.hub.pull_from_hub("some/vgg")' in files["README.md"].decode()
    found = vggnet.load(tmp_path / "some-vgg.safetensors")
    assert (found.classes, found.preprocess, found.architecture) == (
        model.classes, vggnet.load(tmp_path / "mine.safetensors").preprocess, model.architecture,
    )  # fmt: skip
    images = torch.randn(1, 3, 64, 64)
    assert torch.equal(found(images), model(images))


def test_by_the_command(hub, model, tmp_path):
    """Oracle: the network; the server was told that it is private."""
    pushed, pulled = run(
        hub.url,
        tmp_path,
        "vgg push mine.safetensors some/secret --private",
        "vgg pull some/secret out.safetensors --json",
    )
    assert pushed == f"{hub.url}/some/secret"
    assert pulled[0]["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert hub.private == {"some/secret": True}
    assert torch.equal(vggnet.load(tmp_path / "out.safetensors").head.fc.weight, model.head.fc.weight)


def test_what_the_hub_refuses(hub, model, tmp_path):
    """Oracle: the contract: one line that names the repository."""
    hub.models["some/text"] = {"weights.safetensors": b"text"}
    other = {"architecture": "resnet50", "num_classes": 1000, "pretrained_cfg": {}}
    hub.models["some/resnet"] = {"model.safetensors": b"text", "config.json": json.dumps(other).encode()}
    hub.models["some/half"] = {"model.safetensors": b"text"}
    steps = {
        "pull some/nothing": "no such repository",
        "pull some/empty": "has no weights.safetensors",
        "pull some/text": "not a sound safetensors file",
        "pull some/resnet": "not a VGG of timm (architecture is 'resnet50'; expected vgg11, vgg11_bn",
        "pull some/half": "nor config.json and model.safetensors",
        "pull not//a//name": "no such repository",
        "push mine.safetensors other/vgg": "cannot be uploaded",
        "push missing.safetensors some/vgg": "no such run folder",
    }
    for (step, message), (kind, said) in zip(steps.items(), run(hub.url, tmp_path, *steps), strict=True):
        assert kind == "WeightsError"
        assert message in said
        assert "\n" not in said
        assert step.split()[1] in said or step.split()[-1] in said or ".safetensors" in said or "config.json" in said


def test_nobody_answers(model, tmp_path):
    """Oracle: the contract."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{bound.getsockname()[1]}"
        (pull,) = run(endpoint, tmp_path, "pull some/vgg")
    assert pull[0] == "WeightsError"
    assert "cannot be reached" in pull[1]
    assert "\n" not in pull[1]
