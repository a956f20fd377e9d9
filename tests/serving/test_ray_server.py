"""Replicas on a Ray cluster of two nodes give the answers of a single process."""

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from conftest import encoded

from vggnet.cli.main import main
from vggnet.serving.replicas import Replicas

FILE = encoded(1)
FORM = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n%s\r\n--b--\r\n'


def test_mistakes(capsys, monkeypatch, sources):
    """One line and exit code 2, before Ray is started."""
    for arguments, words in (
        (["--min-replicas", "2"], "max_replicas is 1; it must be at least 2"),
        (["--replica-cpus", "0"], "replica_cpus is 0.0; it must be more than 0"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["serve", *arguments])
        assert ended.value.code == 2
        assert words in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit):
        main(["serve", str(sources[0]), "--engine", "ray", "--port", "0"])
    assert capsys.readouterr().err.endswith("ray is not installed; pip install 'vggnet[ray]'\n")
    assert Replicas().max_replicas == 1


def ask(url, path, data=None, kind="multipart/form-data; boundary=b"):
    request = urllib.request.Request(url + path, data, {"Content-Type": kind} if data else {})
    try:
        with urllib.request.urlopen(request) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture
def process(ray_cluster_of_two, sources):
    """`vgg serve` with two replicas, which takes both processors of the cluster."""
    command = [sys.executable, "-m", "vggnet", "serve", sources[0], sources[1], "--engine", "ray", "--device", "cpu"]
    command += ["--min-replicas", "2", "--max-replicas", "2", "--max-batch", "1", "--max-images", "4", "--port", "0"]
    started = subprocess.Popen(list(map(str, command)), env=ray_cluster_of_two, stdout=subprocess.PIPE, text=True)
    yield started
    started.kill()
    started.communicate()


@pytest.mark.slow  # Ray takes a minute to start
def test_two_replicas_answer_as_one_process_does(process, client):
    """Oracle: the answers of the application in this process, on all routes that are asked."""
    line = process.stdout.readline()
    url = re.search(r"http://127\.0\.0\.1:\d+", line)[0]
    assert line.startswith("serving mine, gray at")
    for path, data in (
        ("/predict?top=2", FORM % FILE),
        ("/predict?model=gray", FORM % FILE),
        ("/features?layer=relu3_2", FORM % FILE),
        ("/predict", FORM % b"no image"),
        ("/predict?model=none", FORM % FILE),
        ("/v2/models/gray", None),
        ("/v2/health/ready", None),
    ):
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        expected = client.request("POST" if data else "GET", path, content=data, headers=headers)
        for _ in range(4):  # both replicas
            status, found = ask(url, path, data)
            if status == 404:
                assert found["error"].startswith("there is no model 'none'")
            else:
                assert (status, found) == (expected.status_code, expected.json())
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0
