"""Kernels on 64-bit ARM: machine code for every one, which an emulator runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
COMPILER = shutil.which("aarch64-linux-gnu-gcc")
KERNELS = {
    "batch_norm": {"moments", "join_moments", "join_gradient_sums", "normalize", "gradient_sums", "gradient"},
    "float16": {"linear"}, "im2col": {"forward", "grad_weight"},
    "winograd": {"forward", "transform_both", "products", "transform_kernels", "transform_kernel_gradients"},
}  # fmt: skip


def run(folder, *tools):
    script = Path(__file__).parent / "arm64.py"
    environment = {**os.environ, "NUMBA_OPT": "0"}
    command = [sys.executable, script, folder, *tools]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def loops(assembly):
    """The instructions from each label to a conditional branch back to it."""
    return re.findall(r"(?ms)^(\.LBB\w+):[^\n]*$((?:(?!^\.LBB).)*?)\bb\.\w+\s+\1$", assembly)


def test_every_kernel_compiles_to_vectors(tmp_path):
    """Oracle: the names; the one loop of a product, counted by hand: 6 rows of 4 vectors, each in its register."""
    assert set(run(tmp_path)) == {f"{module}.{name}" for module, names in KERNELS.items() for name in names}
    for name in ("im2col.forward", "im2col.grad_weight", "winograd.forward", "winograd.products"):
        (product,) = (body for _, body in loops((tmp_path / f"{name}.s").read_text()) if body.count("fmla") == 24)
        assert len(set(re.findall(r"fmla\s+(v\d+)\.4s", product))) == 24
        assert not re.search(r"\b(fmadd|fmul|str|stp|bl)\b", product)  # nothing by single numbers, nothing spilled
    for name in ("transform_both", "transform_kernels", "transform_kernel_gradients"):
        assert re.search(r"(fmla|fadd|fmul)\s+v\d+\.4s", (tmp_path / f"winograd.{name}.s").read_text())
    for name in ("moments", "normalize", "gradient_sums"):  # LLVM does not vectorize `gradient` for ARM
        assert re.search(r"(fmul|fadd)\s+v\d+\.4s", (tmp_path / f"batch_norm.{name}.s").read_text())
    assert re.search(r"fcvtl", (tmp_path / "float16.linear.s").read_text())
    lines = [line.split(maxsplit=1) for line in (tmp_path / "float_mode.s").read_text().splitlines()]
    assert [line[0] for line in lines if line and "FPCR" in line[-1]] == ["mrs", "msr", "msr"]
    assert any(line[-1].endswith("#0x1000000") for line in lines if line)  # FZ is bit 24


@pytest.mark.slow
@pytest.mark.skipif(not (QEMU and COMPILER), reason="needs qemu-user-static and gcc-aarch64-linux-gnu (Debian's)")
def test_every_pass_is_right_in_the_emulator(tmp_path):
    """Oracle: convolution and its gradients, and a product, in float64."""
    lines = run(tmp_path, QEMU, COMPILER)[sum(map(len, KERNELS.values())) :]
    errors = {name: float(error) for name, _, error in (line.rpartition(" ") for line in lines)}
    passes = {
        f"{name} {work}" for name in ("winograd4", "winograd2") for work in ("forward", "grad_weight", "grad_input")
    }
    assert set(errors) == passes | {"im2col forward", "im2col grad_weight", "float16"}
    assert max(errors.values()) < 5e-5
