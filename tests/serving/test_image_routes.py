"""Answers about images, compared with the functions of the package, and refusals."""

import base64
import io
import json
import re
import zlib

import httpx2
import numpy as np
import pytest
import torch
from conftest import CLASSES, encoded, upload
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import vggnet
from vggnet.accel.precision import best_precision
from vggnet.features.retrieval import find_similar
from vggnet.interpret.explanation import explain
from vggnet.serving import uploads
from vggnet.serving.app import create_app
from vggnet.serving.limits import Limits
from vggnet.serving.service import open_service

FILES = [encoded(1), encoded(2, "JPEG"), encoded(3, "WEBP", mode="RGBA"), encoded(4, "GIF", mode="L")]


PART = b'--b\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'


def form(body):
    """A form as it is, with the boundary b."""
    return {"content": body, "headers": {"Content-Type": "multipart/form-data; boundary=b"}}


@pytest.mark.parametrize("model", ["mine", "gray"])
def test_predictions_are_those_of_predict(client, sources, model):
    """Oracle: `vggnet.predict` on each file by itself, bit for bit; forms and JSON give the same."""
    source = {"mine": sources[0], "gray": sources[1]}[model]
    expected = [vggnet.predict(source, [file], top=2, device="cpu")[0] for file in FILES]
    form = client.post("/predict", params={"model": model, "top": 2}, **upload(*FILES))
    body = {"images": [base64.b64encode(file).decode() for file in FILES]}
    for response in (form, client.post("/predict", params={"model": model, "top": 2}, json=body)):
        assert response.status_code == 200
        assert response.json()["model"] == model
        for found, one in zip(response.json()["predictions"], expected, strict=True):
            assert (tuple(found["classes"]), tuple(found["probabilities"])) == (one.classes, one.probabilities)


def test_the_precision_is_that_of_the_server():
    """Oracle: `vggnet.predict` while PyTorch's own switch says bfloat16; afterwards the switch is as before."""
    name, file = "vgg8_bn-cifar10-fast", encoded(5, size=(32, 32))
    (plain,) = vggnet.predict(name, [file], device="cpu")
    with open_service([name], device="cpu", precision="bfloat16", limits=Limits(max_batch=1)) as opened:
        with TestClient(create_app(opened)) as client:
            (found,) = client.post("/predict", **upload(file)).json()["predictions"]
        assert torch.backends.mkldnn.conv.fp32_precision == "bf16"
        (expected,) = vggnet.predict(name, [file], device="cpu")
    assert tuple(found["probabilities"]) == expected.probabilities
    assert torch.backends.mkldnn.conv.fp32_precision != "bf16"
    if best_precision() == "bfloat16":  # on other CPUs PyTorch may compute in float32 all the same
        assert expected.probabilities != plain.probabilities


def test_features_are_those_of_extract_features(client, sources):
    """Oracle: `vggnet.extract_features`, bit for bit."""
    for model, source, layer in (("mine", sources[0], "relu3_2"), ("bare", sources[2], "pool5")):
        params = {"model": model, "layer": layer, "pooling": "max"}
        response = client.post("/features", params=params, **upload(*FILES[:2])).json()
        expected = vggnet.extract_features(source, FILES[:2], layer, pooling="max", batch_size=1, device="cpu")[layer]
        np.testing.assert_array_equal(np.float32(response["features"]), expected.numpy())


def test_explanations_are_those_of_explain(client, sources):
    """Oracle: `vggnet.interpret.explain`: the class, and where its attribution is largest; the crop, bit for bit."""
    response = client.post("/explain", params={"target": "owl"}, **upload(FILES[1])).json()
    (found,) = response["explanations"]
    expected = explain(sources[0], FILES[1], target="owl", methods=["gradcam"], device="cpu")
    assert (found["name"], found["index"], found["layer"]) == (
        "owl",
        2,
        expected.attributions["gradcam"].facts["layer"],
    )
    assert found["probability"] == pytest.approx(expected.probability, abs=1e-5)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["picture"]))))
    np.testing.assert_array_equal(picture, expected.picture)
    values = expected.attributions["gradcam"].values
    opacity = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["heatmap"]))))[..., 3] / 217
    share = values / max(values.max(), 1e-12)
    np.testing.assert_allclose(opacity, np.interp(share, [0, 0.5, 1], [0, 150 / 217, 1]), atol=0.01)


def test_an_explanation_as_png(client):
    response = client.post("/explain", headers={"Accept": "image/png"}, **upload(FILES[0]))
    assert Image.open(io.BytesIO(response.content)).size == (32, 32)
    assert client.post("/explain", headers={"Accept": "image/png"}, **upload(*FILES)).status_code == 400


def test_similar_images_are_those_of_find_similar(client, index, photos):
    """Oracle: `find_similar`; the names are below the common folder, and a thumbnail is the image itself, smaller."""
    response = client.post("/similar", params={"top": 3}, **upload(FILES[0], encoded(5))).json()
    for found, expected in zip(response["matches"], find_similar(index, [FILES[0], encoded(5)], top=3), strict=True):
        assert [photos / one["name"] for one in found] == [photos / one.image for one in expected]
        assert [one["similarity"] for one in found] == pytest.approx([one.similarity for one in expected], abs=1e-6)
    first = response["matches"][1][0]
    assert first["name"] == "1/5.png"
    shown = Image.open(io.BytesIO(client.get(f"/similar/{first['position']}").content))
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(Image.open(photos / "1" / "5.png")))
    assert client.get("/similar/6").status_code == 404
    assert client.get("/similar/..%2f..%2fetc").status_code in (404, 422)


def test_the_models_are_listed(client):
    listed = client.get("/models").json()
    assert [(model["name"], model["ranks_classes"], model["num_classes"]) for model in listed["models"]] == [
        ("mine", True, 3), ("gray", True, 3), ("bare", False, 0)
    ]  # fmt: skip
    assert listed["models"][0]["classes"] == CLASSES
    assert listed["models"][1]["input_shape"] == [1, 32, 32]
    assert listed["similar"] == "mine"


@given(
    st.lists(st.binary(max_size=60), min_size=1, max_size=4), st.text("abc'()+_,-./:=? 019", min_size=1, max_size=70)
)
def test_files_of_forms_come_as_they_were_sent(files, boundary):
    """Oracle: forms that httpx writes, with any content and boundary."""
    boundary = boundary.strip() or "b"
    headers = {"Content-Type": f'multipart/form-data; boundary="{boundary}"'}
    sent = httpx2.Request("POST", "http://x/", **upload(*files), headers=headers)
    body = sent.read()
    if any(b"\r\n--" + boundary.encode() in b"\r\n" + file for file in files):
        return
    assert uploads._of_form(body, sent.headers["content-type"]) == files


@pytest.mark.parametrize(
    ("path", "request_", "status", "words"),
    [
        ("/predict", upload(b"no image"), 422, "image 1: unknown format"),
        ("/predict", upload(FILES[0], FILES[1][:-600]), 422, "image 2: the JPEG data is damaged or truncated"),
        ("/predict", upload(b""), 422, "the file is empty"),
        ("/predict", upload(*FILES, FILES[0]), 413, "at most 4"),
        ("/predict", {"json": {"images": ["AA=="] * 5}}, 413, "at most 4"),
        ("/predict", {"json": {"images": []}}, 422, "images: List should have at least 1 item"),
        ("/predict", {"json": {"images": ["§"]}}, 422, "images.0: not base64"),
        ("/predict", {"json": {"images": ["/etc/passwd"], "path": "/etc/passwd"}}, 422, "path: Extra inputs"),
        ("/predict", {"content": b"[" * 100_000, "headers": {"Content-Type": "application/json"}}, 422, "Invalid JSON"),
        ("/predict", {"files": {"photo": FILES[0]}}, 422, "the form has 'photo'"),
        ("/predict", {"files": {"image": (None, "text")}}, 422, "the form has 'image'"),
        ("/predict", {"content": b"", "headers": {"Content-Type": "multipart/form-data"}}, 422, "boundary"),
        ("/predict", form(b""), 422, "does not begin and end with its boundary"),
        ("/predict", form(b"--b--"), 422, "no file"),
        ("/predict", form(b"--b\r\n--b--"), 422, "a part has no headers"),
        ("/predict", form(PART + FILES[0]), 422, "does not begin and end with its boundary"),
        ("/predict", form(b"x" + PART + FILES[0] + b"\r\n--b--"), 422, "does not begin and end with its boundary"),
        ("/predict", form(PART.replace(b"--b", b"--bx") + FILES[0] + b"\r\n--b--"), 422, "a part has no headers"),
        ("/predict", {"content": FILES[0], "headers": {"Content-Type": "image/png"}}, 415, "the body is image/png"),
        ("/predict?model=../mine", upload(FILES[0]), 404, "the models are mine, gray, bare"),
        ("/predict?model=bare", upload(FILES[0]), 400, "no head"),
        ("/predict?top=0", upload(FILES[0]), 422, "query.top"),
        ("/features?layer=relu9_9", upload(FILES[0]), 400, "no layer relu9_9"),
        ("/features", upload(FILES[0]), 422, "query.layer: Field required"),
        ("/explain?target=cow", upload(FILES[0]), 400, "unknown class 'cow'"),
        ("/explain?model=bare", upload(FILES[0]), 400, "no head"),
    ],
)  # fmt: skip
def test_refusals(client, path, request_, status, words):
    """Oracle: the documented status, and a message that says what is wrong."""
    response = client.post(path, **request_)
    assert (response.status_code, list(response.json())) == (status, ["error"])
    assert words in response.json()["error"]


def test_an_image_that_is_too_large(client):
    """A bomb of 60,000 x 60,000 pixels in a few bytes is refused by its header."""
    bomb = bytearray(encoded())
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
    response = client.post("/predict", **upload(bytes(bomb)))
    assert response.status_code == 422
    assert "has 60000 x 60000 pixels" in response.json()["error"]


def test_other_routes(client):
    assert client.get("/nothing").json() == {"error": "Not Found"}
    assert client.get("/predict").status_code == 405
    assert client.get("/predict").headers["allow"] == "POST"


def test_the_description_is_complete(client):
    """Oracle: every reference of /openapi.json points to something in it."""
    described = client.get("/openapi.json").json()
    references = set(re.findall(r'"\$ref": ?"#/components/schemas/(\w+)"', json.dumps(described)))
    assert references <= set(described["components"]["schemas"])
    assert json.dumps(described).count("$ref") == json.dumps(described).count("#/components/schemas/")
    operations = {(path, method) for path, of in described["paths"].items() for method in of}
    assert {("/predict", "post"), ("/v2/models/{model}/infer", "post"), ("/metrics", "get")} <= operations
