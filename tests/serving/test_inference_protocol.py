"""The Open Inference Protocol, by hand and by Triton's own client."""

import io
import json

import numpy as np
import pytest
import torch
from conftest import CLASSES, encoded
from PIL import Image

import vggnet

LENGTH = "Inference-Header-Content-Length"
PICTURES = [encoded(number) for number in range(3)]


@pytest.fixture(scope="module")
def inputs(sources):
    """What a client sends, preprocessed by the model's own preprocessing; float32 (3, 3, 32, 32)."""
    preprocess = vggnet.load(sources[0]).preprocess
    return torch.stack([preprocess(Image.open(io.BytesIO(file))) for file in PICTURES]).numpy()


@pytest.fixture(scope="module")
def expected(sources):
    """Oracle: `vggnet.predict`; (3, 3) float32, in the order of the classes."""
    found = [vggnet.predict(sources[0], [file], device="cpu")[0] for file in PICTURES]
    rows = [dict(zip(one.classes, one.probabilities, strict=True)) for one in found]
    return np.float32([[row[name] for name in CLASSES] for row in rows])


def test_metadata_and_health(client):
    """Oracle: the fields that the protocol prescribes."""
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/mine/ready").json() == {"name": "mine", "ready": True}
    assert client.get("/v2/models/gray").json() == {
        "name": "gray",
        "versions": ["1"],
        "platform": "pytorch",
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 32, 32]}],
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}],
    }
    assert client.get("/v2/models/none").json()["error"].startswith("there is no model 'none'")


def request(values, **changes):
    of_input = {"name": "input", "shape": list(values.shape), "datatype": "FP32", "data": values.tolist()}
    return {"inputs": [of_input | changes.pop("input", {})], **changes}


def infer(client, body, binary=None, model="mine"):
    text = json.dumps(body).encode()
    headers = {} if binary is None else {LENGTH: str(len(text))}
    return client.post(f"/v2/models/{model}/infer", content=text + (binary or b""), headers=headers)


def test_json(client, inputs, expected):
    for values in (inputs, inputs.ravel()):  # nested or flat
        body = request(inputs, id="seven", input={"data": values.tolist()})
        found = infer(client, body).json()
        (output,) = found.pop("outputs")
        assert found == {"model_name": "mine", "model_version": "1", "id": "seven"}
        np.testing.assert_array_equal(np.float32(output["data"]).reshape(output["shape"]), expected)


def test_binary(client, inputs, expected):
    of_input = {"data": None, "parameters": {"binary_data_size": inputs.nbytes}}
    body = request(inputs, input=of_input, outputs=[{"name": "probabilities", "parameters": {"binary_data": True}}])
    response = infer(client, body, inputs.tobytes())
    length = int(response.headers[LENGTH])
    (output,) = json.loads(response.content[:length])["outputs"]
    assert output["parameters"] == {"binary_data_size": expected.nbytes}
    assert "id" not in json.loads(response.content[:length])
    np.testing.assert_array_equal(np.frombuffer(response.content[length:], "<f4").reshape(3, 3), expected)


@pytest.mark.parametrize(
    ("changes", "binary", "words"),
    [
        ({"input": {"name": "image"}}, None, "expected 'input' alone"),
        ({"input": {"datatype": "INT8"}}, None, r"INT8 \[1, 3, 32, 32\]; expected FP32 \[-1, 3, 32, 32\]"),
        ({"input": {"shape": [1, 3, 1 << 40, 32]}}, None, "expected FP32"),
        ({"input": {"shape": [0, 3, 32, 32]}}, None, "expected FP32"),
        ({"input": {"data": [1, 2]}}, None, "no 3072 numbers"),
        ({"input": {"data": None}}, None, "no 3072 numbers"),
        ({"input": {"data": [[1, 2], [3]]}}, None, "no 3072 numbers"),
        ({"input": {"data": ["1"] * 3072}}, None, "no 3072 numbers"),
        ({"input": {"data": [10**400] * 3072}}, None, "no 3072 numbers"),
        ({"input": {"data": [1e300] * 3072}}, None, "NaN or infinite"),
        ({"input": {"data": [3e38] * 3072}}, None, "the output is NaN or infinite"),
        ({"input": {"data": None, "parameters": {"binary_data_size": 8}}}, b"8 bytes.", "expected 12288 bytes"),
        ({"input": {"data": None, "parameters": {"binary_data_size": "12288"}}}, b"", "expected 12288 bytes"),
        ({}, b"more", "4 bytes follow the JSON"),
        ({"outputs": [{"name": "logits"}]}, None, "there is 'probabilities' alone"),
        ({"outputs": [{"name": "probabilities", "parameters": {"classification": 3}}]}, None, "classification"),
        ({"inputs": []}, None, "inputs: List should have at least 1 item"),
        ({"inputs": [[[[]]]]}, None, "inputs.0"),
    ],
)
def test_refusals(client, changes, binary, words):
    response = infer(client, request(np.zeros((1, 3, 32, 32), np.float32), **changes), binary)
    assert response.status_code in (400, 422)
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(response.json()["error"])


def test_other_refusals(client):
    many = request(np.zeros((5, 3, 32, 32), np.float32))
    assert infer(client, many).status_code == 413
    assert infer(client, many, model="bare").status_code == 400
    for length in ("-1", "999999999", "x", "9" * 5000):
        response = client.post("/v2/models/mine/infer", content=b"{}", headers={LENGTH: length})
        assert response.status_code == 400


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_client_of_triton(address, inputs, expected):
    """Oracle: an existing client, used as its documentation shows; JSON and binary."""
    triton = pytest.importorskip("tritonclient.http")
    client = triton.InferenceServerClient(address)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mine")
    assert client.get_server_metadata()["name"] == "vggnet"
    facts = client.get_model_metadata("mine")["inputs"][0]
    for binary in (False, True):
        sent = triton.InferInput(facts["name"], list(inputs.shape), facts["datatype"])
        sent.set_data_from_numpy(inputs, binary_data=binary)
        for outputs in (None, [triton.InferRequestedOutput("probabilities", binary_data=not binary)]):
            found = client.infer("mine", [sent], outputs=outputs, request_id="abc")
            assert found.get_response()["id"] == "abc"
            np.testing.assert_array_equal(found.as_numpy("probabilities"), expected)
    with pytest.raises(triton.InferenceServerException, match="there is no model 'none'"):
        client.infer("none", [sent])
    client.close()
