"""What holds for every test."""

import ctypes
import os
import signal
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command does: tests share their cores with other work
os.environ.setdefault("OMP_NUM_THREADS", "1")  # as tests and their processes run side by side; accel/ has two

# Started in the background or under nohup, the tests and their processes would inherit that these are ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

settings.register_profile("vggnet", deadline=None)  # how long an example takes depends on the machine
settings.load_profile("vggnet")

TESTS = Path(__file__).parent
CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
PATIENCE = 300_000  # milliseconds, for a machine that is busy with other work
READ_ALL = 0b110  # the capabilities CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, with which root reads everything
collect_ignore = [
    "accel/kernels/arm64.py",
    "evaluation/colors.py",
    "serving/crashing.py",
    "training/killable.py",
    "training/ranked.py",
    "training/trainings.py",
    "weights/importers/keras_files.py",
]  # imported or started by tests
HAND_OVER = """([kind, type, bytes]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], "x", { type }));
    const names = { drop: "dataTransfer", paste: "clipboardData" };
    const event = kind === "drop" ? new DragEvent(kind, { dataTransfer: data, bubbles: true, cancelable: true })
        : new ClipboardEvent(kind, { clipboardData: data, bubbles: true, cancelable: true });
    document.body.dispatchEvent(event);
}"""
# Tests that train networks, start processes or a browser, compile kernels, or run large networks. `make quick` leaves
# them out, and so takes less than a minute; `make test` runs everything.
INTEGRATION = (
    "accel/",
    "benchmarking/",
    "cli/",
    "compression/test_shrink.py",
    "data/sources/test_columns.py",
    "data/sources/test_listing.py",
    "data/sources/test_opening.py",
    "data/sources/test_stream.py",
    "data/test_decoding.py",
    "data/test_hub.py",
    "data/test_loading.py",
    "docs/",
    "evaluation/test_overlap.py",
    "evaluation/test_predict_table.py",
    "evaluation/test_ray_blocks.py",
    "experiments/",
    "exporting/",
    "features/",
    "interpret/",
    "models/test_tracing.py",
    "report/test_page.py",
    "serving/",
    "tasks/test_box_evaluation.py",
    "tasks/test_localize.py",
    "tasks/test_protocols.py",
    "tasks/test_detect.py",
    "tasks/test_segment.py",
    "test_estimators.py",
    "test_field_reports.py",
    "test_hubconf.py",
    "test_paths.py",
    "test_run_report.py",
    "training/test_bad_images.py",
    "training/test_branches.py",
    "training/test_checkpoints.py",
    "training/test_distributed.py",
    "training/test_loggers.py",
    "training/test_loop.py",
    "training/test_lost_workers.py",
    "training/test_photos.py",
    "training/test_recorded_losses.py",
    "training/test_resume.py",
    "training/test_streams.py",
    "training/test_train.py",
    "weights/importers/",
    "weights/test_damage.py",
    "weights/test_exported_files.py",
    "weights/test_fetching.py",
    "weights/test_from_pytorch.py",
    "weights/test_hub.py",
    "weights/test_named.py",
)


def pytest_collection_modifyitems(items):
    """Mark the tests of the files above. The longest ones come first, so that no core waits for the last of them."""
    assert all((TESTS / name).exists() for name in INTEGRATION), "INTEGRATION names files that are not there"
    for item in items:
        if item.path.is_relative_to(TESTS) and item.path.relative_to(TESTS).as_posix().startswith(INTEGRATION):
            item.add_marker(pytest.mark.integration)
    items.sort(key=lambda item: "training" not in item.path.parts)


@pytest.fixture(scope="session", autouse=True)
def _kernels_from_the_start():
    """Else a test that computes something twice could see the change from PyTorch's convolutions to the engine's."""
    from vggnet.accel.startup import startup

    startup().start()


@pytest.fixture(scope="module")
def browser():
    """Chromium, by playwright; its camera is a test picture."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"there is no {CHROMIUM}")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=str(CHROMIUM), args=CHROMIUM_FLAGS, timeout=PATIENCE)
        yield started
        started.close()


@pytest.fixture
def visit(browser):
    """Call with an address: the page. What it complains of, or asks of another host, fails the test."""
    contexts, troubles = [], []

    def open_page(address, **options):
        context = browser.new_context(reduced_motion="reduce", permissions=["camera"], **options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.on("request", lambda one: noted(one.url) if not allowed(one.url, address) else None)
        page.on("console", lambda message: noted(message.text))
        page.on("pageerror", lambda error: noted(str(error)))
        page.goto(f"http://{address}/")
        return page

    def allowed(url, address):
        return url.startswith((f"http://{address}/", "data:", f"blob:http://{address}/"))

    noted = troubles.append
    yield open_page
    for context in contexts:
        context.close()
    assert [line for line in troubles if "status of 4" not in line] == []


@pytest.fixture
def hand_over():
    """Call with a page, "drop" or "paste", a type and bytes: hands the page a photo as a browser does."""

    def do(page, kind, media_type, data):
        page.evaluate(HAND_OVER, [kind, media_type, list(data)])

    return do


@pytest.fixture(scope="session")
def ray_cluster_of_two():
    """The environment of commands that use a Ray cluster of two nodes on this machine, each with one processor."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # the loopback interface alone
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        utils = pytest.importorskip("ray.cluster_utils", reason="the Python package ray is not installed")
        node = {"num_cpus": 1, "object_store_memory": 10**8}
        cluster = utils.Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
        cluster.add_node(**node)
        yield os.environ | {"RAY_ADDRESS": cluster.address}
        cluster.shutdown()


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """Choices of convolutions in a folder of the test's own."""
    from vggnet.accel.autotuning import autotuner

    monkeypatch.setenv("VGGNET_CACHE", str(tmp_path / "cache"))
    autotuner.cache_clear()
    yield
    autotuner.cache_clear()


@pytest.fixture
def as_any_user():
    """A context in which this thread, and those that it starts, read only what permissions allow, even as root."""

    @contextmanager
    def limited():
        libc = ctypes.CDLL(None, use_errno=True)
        header, rights = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        assert libc.capget(header, rights) == 0
        effective = rights[0]
        rights[0] = effective & ~READ_ALL
        assert libc.capset(header, rights) == 0
        try:
            yield
        finally:
            rights[0] = effective
            assert libc.capset(header, rights) == 0

    return limited
