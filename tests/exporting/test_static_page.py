"""The page that `vgg export --to web` writes, in Chromium.

A stand-in for ONNX Runtime Web keeps the pixels that the page gives it; the library itself is tested where the variable
VGGNET_ONNXRUNTIME_WEB names the folder of the npm package.
"""

import io
import json
import os
import threading
from base64 import b64encode
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vggnet
from vggnet import Preprocess
from vggnet.cli.export import main
from vggnet.data.decoding import decode_image
from vggnet.data.sources.digits import open_digits
from vggnet.errors import ConfigError
from vggnet.exporting.export import export
from vggnet.exporting.static_page import RUNTIME

pytest.importorskip("onnxscript", reason="the Python packages of vggnet[onnx] are not installed")
CLASSES = ("ant", "<b>bee</b>", "猫", "dog", "eel", "fox")
SCORES = (0.5, 3.0, 1.0, 2.0, -1.0, 0.0)
STAND_IN = f"""
export const env = {{ wasm: {{}} }};
export class Tensor {{ constructor(type, data, dims) {{ Object.assign(this, {{ type, data, dims }}); }} }}
export const InferenceSession = {{
  create: async (file) => ({{
    run: async ({{ images }}) => {{
      globalThis.given = {{ ...images, data: [...images.data], bytes: file.length }};
      return {{ outputs: {{ data: Float32Array.from({list(SCORES)}) }} }};
    }},
  }}),
}};
"""
PIXELS = """async ([bytes, preprocess]) => {
    const { pixelsOf } = await import("./preprocess.js");
    const file = new Blob([Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0))]);
    const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
    return Array.from(pixelsOf(bitmap, preprocess));
}"""


def runtime_folder(folder):
    """A stand-in for the npm package."""
    (folder / "dist").mkdir(parents=True)
    for name in RUNTIME:
        (folder / "dist" / name).write_text(STAND_IN)
    return folder


def network(channels=3):
    torch.manual_seed(0)
    model = vggnet.create_model("vgg11_bn", num_classes=6, head="gap", width=0.05, in_channels=channels).eval()
    model.classes, model.preprocess = CLASSES, Preprocess.imagenet(channels, resize=40, crop=32)
    return model


def encoded(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def expected_pixels(data, preprocess):
    """(crop, crop, C), by Pillow."""
    return preprocess.pixels(decode_image(data)).permute(1, 2, 0).numpy().astype(int)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("page")
    done = export(network(), place / "page", to="web", runtime=runtime_folder(place / "package"))
    assert done.input == "uint8 pixels (batch, 32, 32, 3)"
    assert done.bytes == sum(file.stat().st_size for file in (place / "page").iterdir())
    return place / "page"


@pytest.fixture(scope="module")
def serve():
    """Call with a folder: the address of a server of its files, such as Python's own."""
    servers = []

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    def start(folder):
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
        servers.append((server, threading.Thread(target=server.serve_forever)))
        servers[-1][1].start()
        return f"127.0.0.1:{server.server_address[1]}"

    yield start
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def page(visit, serve, folder):
    opened = visit(serve(folder))
    opened.locator("#status", has_text="The network is loaded.").wait_for()
    return opened


def names(page):
    return page.locator("#classes .name").all_inner_texts()


def test_the_answer(page, hand_over, folder, tmp_path):
    """Oracle: softmax by numpy; a class name that looks like markup; what the stand-in was given."""
    order = np.argsort(SCORES)[::-1][:5]
    shares = np.exp(SCORES) / np.exp(SCORES).sum()
    data = encoded(Image.fromarray(noise(60, 90, 3)))
    (tmp_path / "photo.png").write_bytes(data)
    page.set_input_files("#file", tmp_path / "photo.png")
    page.locator("#status", has_text=f"Done: <b>bee</b>, {100 * shares.max():.1f}%.").wait_for()
    assert names(page) == [CLASSES[place] for place in order]
    widths = page.eval_on_selector_all("#classes .bar", "bars => bars.map(bar => parseFloat(bar.style.width))")
    assert widths == pytest.approx(100 * shares[order], abs=1e-3)
    given = page.evaluate("given")
    assert (given["type"], given["dims"]) == ("uint8", [1, 32, 32, 3])
    assert given["bytes"] == (folder / "model.onnx").stat().st_size
    expected = expected_pixels(data, network().preprocess)
    assert given["data"] == expected.flatten().tolist()
    assert page.eval_on_selector("#picture", "image => [image.naturalWidth, image.alt]") == [90, "The photo"]
    assert page.get_by_role("list").count() == 1
    hand_over(page, "paste", "image/png", b"no image")
    page.locator("#error", has_text="cannot read the image").wait_for()
    assert page.locator("#result").is_hidden()
    assert page.inner_text("#status") == ""
    hand_over(page, "drop", "image/png", data)
    page.wait_for_selector("#result:not([hidden])")
    assert page.locator("#error").is_hidden()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"


def test_the_pixels_are_those_of_pillow(page):
    """Oracle: `Preprocess.pixels`, bit for bit: enlarged, reduced, elongated, stretched, both filters, gray."""
    rng = np.random.default_rng(1)
    for number in range(30):
        width, height, crop = int(rng.integers(1, 200)), int(rng.integers(1, 200)), int(rng.integers(1, 40))
        stretch = number % 5 == 0
        preprocess = Preprocess(
            resize=crop + (0 if stretch else int(rng.integers(0, 9))), crop=crop, stretch=stretch,
            interpolation=("bilinear", "bicubic")[number % 2],
            **({"mean": (0.5,), "std": (0.2,)} if number % 3 == 0 else {}),
        )  # fmt: skip
        picture = rng.integers(0, 2, (height, width, 3), dtype=np.uint8) * 255  # bicubic weights go beyond 0 and 255
        data = encoded(Image.fromarray(picture if number % 4 else rng.integers(0, 256, picture.shape, dtype=np.uint8)))
        facts = {name: getattr(preprocess, name) for name in ("resize", "crop", "stretch", "interpolation")}
        found = page.evaluate(PIXELS, [b64encode(data).decode(), facts | {"channels": preprocess.in_channels}])
        expected = expected_pixels(data, preprocess)
        assert found == expected.flatten().tolist(), (width, height, preprocess)


def test_photos_of_every_kind(page):
    """Oracle: `Preprocess.pixels`: eight orientations, gray, a palette, 16 bits; within 1 where half transparent."""
    preprocess = Preprocess(resize=40, crop=32)
    facts = {"resize": 40, "crop": 32, "interpolation": "bilinear", "channels": 3}
    pixels = np.tile(noise(210, 51, 3), (10, 10, 1))  # read in several strips
    files = [encoded(Image.fromarray(pixels)), encoded(Image.fromarray(noise(60, 90)))]
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        files.append(encoded(Image.fromarray(noise(60, 90, 3)), "JPEG", exif=exif))
    files.append(encoded(Image.fromarray(noise(60, 90, 3)).quantize(50)))
    files.append(encoded(Image.fromarray(noise(60, 90).astype(np.uint16) * 257)))
    files.append(encoded(Image.fromarray(noise(60, 90), "L"), "JPEG"))
    for data in files:
        expected = expected_pixels(data, preprocess)
        assert page.evaluate(PIXELS, [b64encode(data).decode(), facts]) == expected.flatten().tolist()
    clear = encoded(Image.fromarray(noise(60, 90, 4)))
    found = np.array(page.evaluate(PIXELS, [b64encode(clear).decode(), facts]))
    assert abs(found - expected_pixels(clear, preprocess).flatten()).max() <= 1


def test_on_a_phone_in_chinese_at_night(visit, serve, folder, hand_over):
    """Oracle: nothing is wider than the phone; a Chinese reader gets Chinese; the dark colors."""
    page = visit(serve(folder), locale="zh-CN", color_scheme="dark", viewport={"width": 360, "height": 740})
    page.locator("#status", has_text="网络已加载").wait_for()
    hand_over(page, "drop", "image/png", encoded(Image.fromarray(noise(60, 90, 3))))
    page.locator("#status", has_text="完成").wait_for()
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 24, 30)"


def test_a_missing_network_and_a_page_opened_as_a_file(visit, serve, folder, browser, tmp_path):
    """Oracle: the messages."""
    for file in folder.iterdir():
        if file.suffix != ".onnx":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    page = visit(serve(tmp_path))
    page.locator("#error", has_text="The network cannot be loaded (model.onnx: 404").wait_for()
    assert page.locator("#from-file").is_hidden()
    opened = browser.new_page()
    opened.goto((tmp_path / "index.html").as_uri())
    assert "python -m http.server" in opened.inner_text("#from-file")
    assert opened.locator("#source").is_hidden()
    opened.close()


def test_no_request_can_leave_the_page(browser, serve, folder):
    """Oracle: the browser, which says that the policy of the page forbids them."""
    page, complaints = browser.new_page(), []
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(f"http://{serve(folder)}/")
    elsewhere = "http://127.0.0.1:1/x.js"
    asked = "(url) => Promise.allSettled([fetch(url), import(url)]).then(all => all.map(one => one.status))"
    assert page.evaluate(asked, elsewhere) == ["rejected", "rejected"]
    page.close()
    assert {
        word for line in complaints for word in ("connect-src", "script-src") if word in line and elsewhere in line
    } == {
        "connect-src",
        "script-src",
    }


@pytest.mark.parametrize(("options", "message"), [
    ({}, "run `npm install onnxruntime-web` and give --runtime node_modules/onnxruntime-web"),
    ({"runtime": "empty"}, "empty: has no ort.wasm.bundle.min.mjs and .*; run `npm install"),
    ({"runtime": "package", "to": "onnx", "out": "a.onnx"}, "the network alone; leave it out"),
    ({"runtime": "package", "head": "none"}, "shows classes, and this network .head none, .* gives none"),
])  # fmt: skip
def test_mistakes_are_told(options, message, tmp_path, monkeypatch):
    """Oracle: the message; nothing is written."""
    monkeypatch.chdir(tmp_path)
    runtime_folder(Path("package"))
    Path("empty").mkdir()
    model = network()
    if options.pop("head", None):
        model = vggnet.create_model("vgg11_bn", head="none", width=0.05)
        model.preprocess = network().preprocess
    with pytest.raises(ConfigError, match=message):
        export(model, options.pop("out", "page"), **({"to": "web"} | options))
    assert {file.name for file in tmp_path.iterdir()} == {"package", "empty"}


@pytest.mark.slow
def test_200_images_by_the_library_itself(visit, serve, tmp_path, capsys):
    """Oracle: `vggnet.predict`; only the server of the page is asked (`visit`)."""
    package = os.environ.get("VGGNET_ONNXRUNTIME_WEB")
    if not package:
        pytest.skip("VGGNET_ONNXRUNTIME_WEB does not name a folder with the npm package onnxruntime-web")
    source = "vgg8_bn-cifar10-fast"
    assert main([source, "--to", "web", "-o", f"{tmp_path}/page", "--runtime", package]) == 0
    assert "python -m http.server" in capsys.readouterr().out
    assert json.loads((tmp_path / "page" / "model.json").read_text())["classes"][3] == "cat"
    page = visit(serve(tmp_path / "page"))
    page.locator("#status", has_text="The network is loaded.").wait_for()
    digits = open_digits("test")
    for number in range(200):
        size = (40 + number, 150 - number // 2)
        data = encoded(digits.open(number).decode().resize(size).rotate(number, expand=True), "JPEG")
        page.set_input_files("#file", {"name": "photo", "mimeType": "image/jpeg", "buffer": data})
        page.locator("#status", has_text="Done").wait_for()
        (expected,) = vggnet.predict(source, [data], device="cpu")
        assert names(page) == list(expected.classes)
        widths = page.eval_on_selector_all("#classes .bar", "bars => bars.map(bar => parseFloat(bar.style.width))")
        assert widths == pytest.approx([100 * share for share in expected.probabilities], abs=0.01)
