"""Kernels for 64-bit ARM, compiled on another CPU: python arm64.py FOLDER [QEMU COMPILER].

Writes an assembly file for each kernel to the folder and prints its name. With QEMU and a C compiler for ARM, every
pass of the algorithms then runs in the emulator, and prints its name and its largest difference from float64, relative
to the largest value. $NUMBA_OPT must be 0, so that numba's own code is not optimized for this CPU.
"""

import ctypes
import importlib
import mmap
import re
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import torch
import torch.nn.functional as F
from llvmlite import ir
from numba import cfunc

from vggnet.accel import buffers, vectors

vectors.VECTORS = vectors.NEON  # before the kernels are imported

MODULES = ("batch_norm", "float16", "im2col", "winograd")  # of the kernels that other CPUs than Intel's can use
TRIPLE = "aarch64-unknown-linux-gnu"
START, SIZE = 0x200000000000, 64 << 20  # the memory that this process and the emulated one share
ON_EVERY_SYSTEM = 0x100000  # MAP_FIXED_NOREPLACE
PROGRAM = r"""
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
struct memory { size_t count; void *destroy, *information, *data; size_t size; void *allocator; };  /* numba's */
struct memory *NRT_MemInfo_alloc_aligned(size_t size, unsigned alignment) {
    struct memory *memory = calloc(1, sizeof *memory);
    memory->count = 1;
    memory->size = size;
    return posix_memalign(&memory->data, 64, size + 64) ? 0 : memory;
}
void NRT_MemInfo_call_dtor(struct memory *memory) {}
void NRT_Free(void *pointer) {}
void kernel(long task, long thread, long block);
int main(int count, char **arguments) {
    long start = atol(arguments[2]), size = atol(arguments[3]), task = atol(arguments[4]), blocks = atol(arguments[5]);
    int file = open(arguments[1], O_RDWR);
    if (mmap((void *)start, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) != (void *)start) return 3;
    for (long block = 0; block < blocks; block++) kernel(task, 0, block);
    return 0;
}
"""


class Arena:
    """A file in the memory of this process, and of those that map it at the same address."""

    def __init__(self, path):
        path.write_bytes(b"\0" * SIZE)
        self.path, self.used = path, 0
        with path.open("r+b") as file:
            libc = ctypes.CDLL(None)
            libc.mmap.restype = ctypes.c_void_p
            libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
            protection, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | ON_EVERY_SYSTEM
            assert libc.mmap(START, SIZE, protection, flags, file.fileno(), 0) == START
        self.bytes = torch.from_numpy(np.frombuffer((ctypes.c_char * SIZE).from_address(START), np.uint8))

    def take(self, size):
        """So many bytes."""
        start, self.used = self.used, self.used + -(-size // 64) * 64 + 64
        return self.bytes[start : start + size]

    def floats(self, *shape):
        """As buffers.floats, with nonsense in it."""
        return self.take(4 * int(np.prod(shape))).view(torch.float32).view(shape).fill_(1e3)

    def feature_maps(self, n, channels, height, width):
        """As buffers.feature_maps."""
        return self.floats(n, height, width, channels).permute(0, 3, 1, 2)

    def holding(self, tensor):
        """A copy, channels-last if it has four dimensions."""
        if tensor.ndim == 4:
            return self.feature_maps(*tensor.shape).copy_(tensor)
        return self.take(tensor.nbytes).view(tensor.dtype).view(tensor.shape).copy_(tensor)

    def address(self, tensor):
        """That of the tensor, or of a copy of one that lies elsewhere."""
        if START <= tensor.data_ptr() < START + SIZE:
            return tensor.data_ptr()
        assert tensor.is_contiguous()
        return self.take(tensor.nbytes).copy_(tensor.flatten().view(torch.uint8)).data_ptr()


def machine_code(function, target):
    """Assembly and object code of a compiled kernel, under the name "kernel"."""
    compiled = cfunc(function._signature)(function._function)
    code = re.sub(r"(?m)^(target (triple|datalayout)|attributes) .*$", "", compiled.inspect_llvm())
    module = llvm.parse_assembly(re.sub(r"(?m)( #\d+)+( \{)?$", r"\2", code))  # what fits to this CPU is gone
    module.triple, module.data_layout = TRIPLE, str(target.target_data)
    module.get_function(compiled._wrapper_name).name = "kernel"
    for level in (0, 3):  # as numba does
        options = llvm.PipelineTuningOptions(speed_level=level)
        options.loop_vectorization = options.slp_vectorization = level > 0
        builder = llvm.create_pass_builder(target, options)
        passes = builder.getModulePassManager()
        if level == 0:
            passes.add_loop_rotate_pass()
            passes.add_instruction_combine_pass()
            passes.add_jump_threading_pass()
        passes.run(module, builder)
    return target.emit_assembly(module), target.emit_object(module)


def compile_all(folder):
    """Name -> kernel, with files of each in the folder."""
    from vggnet.accel.kernels.kernel import Kernel

    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    target = llvm.Target.from_triple(TRIPLE).create_target_machine(cpu="cortex-a72", opt=3, reloc="pic")
    kernels = {
        f"{module}.{name}": value
        for module in MODULES
        for name, value in vars(importlib.import_module(f"vggnet.accel.kernels.{module}_kernels")).items()
        if isinstance(value, Kernel)
    }
    from vggnet.accel.kernels.batch_norm_kernels import for_types

    kernels |= {f"batch_norm.{name}": kernel for name, kernel in for_types(4, 4)._asdict().items()}
    for name, kernel in kernels.items():
        assembly, code = machine_code(kernel._function, target)
        (folder / f"{name}.s").write_text(assembly)
        (folder / f"{name}.o").write_bytes(code)
        print(name)
    (folder / "float_mode.s").write_text(float_mode(target))
    return kernels


def float_mode(target):
    """Assembly of a function that changes what is done with denormal numbers, and changes it back."""
    from vggnet.accel.kernels.llvm import _FLUSH, _float_mode, _set_float_mode

    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), []), "float_mode")
    builder = ir.IRBuilder(function.append_basic_block())
    before = _float_mode(builder)
    _set_float_mode(builder, builder.or_(before, before.type(_FLUSH)))
    _set_float_mode(builder, before)
    builder.ret_void()
    parsed = llvm.parse_assembly(str(module))
    parsed.triple = TRIPLE
    return target.emit_assembly(parsed)


def emulate(folder, kernels, arena, qemu, compiler):
    """From now on, kernels run in the emulator."""
    (folder / "program.c").write_text(PROGRAM)
    for name in kernels:
        files = [f"{name}.o", "program.c", "-static", "-Wl,--unresolved-symbols=ignore-all", "-o", f"{name}.bin"]
        subprocess.run([compiler, *files], cwd=folder, check=True)
    names = {id(kernel): name for name, kernel in kernels.items()}

    def call(self, *, blocks, **fields):
        values = [{"blocks": blocks, **fields}.get(name, 0) for name in self._names]
        task = [arena.address(value) if isinstance(value, torch.Tensor) else value for value in values]
        numbers = map(str, (START, SIZE, arena.address(torch.tensor(task)), blocks))
        subprocess.run([qemu, folder / f"{names[id(self)]}.bin", arena.path, *numbers], check=True)

    type(next(iter(kernels.values()))).__call__ = call


def run_all(arena):
    """Print the error of each pass."""
    from vggnet.accel.algorithms import float16_linear
    from vggnet.accel.algorithms.im2col import Im2col
    from vggnet.accel.algorithms.winograd import Winograd

    def show(name, found, expected):
        print(name, ((found.double() - expected).abs().max() / expected.abs().max()).item())

    torch.manual_seed(0)
    torch.set_num_threads(1)
    for algorithm, channels in ((Winograd(4), 48), (Winograd(2), 48), (Im2col(), 3)):
        x, weight = torch.randn(2, channels, 9, 13), torch.randn(64, channels, 3, 3)
        bias, grad = torch.randn(64), torch.randn(2, 64, 9, 13)
        exact = [tensor.double().requires_grad_() for tensor in (x, weight, bias)]
        y = F.conv2d(*exact, padding=1)
        y.backward(grad.double())
        x, weight, bias, grad = map(arena.holding, (x, weight, bias, grad))
        show(f"{algorithm.name} forward", algorithm.forward(x, weight, bias), y.detach())
        show(f"{algorithm.name} grad_weight", algorithm.grad_weight(grad, x), exact[1].grad)
        if channels > 3:
            show(f"{algorithm.name} grad_input", algorithm.grad_input(grad, weight), exact[0].grad)
    x, weight = torch.randn(3, 64), torch.randn(16, 64).half()
    show("float16", float16_linear.linear(*map(arena.holding, (x, weight)), None), x.double() @ weight.double().T)


def main(folder, *tools):
    """See above."""
    arena = Arena(folder / "memory") if tools else None
    if tools:  # before the algorithms are imported
        buffers.floats, buffers.feature_maps = arena.floats, arena.feature_maps
    kernels = compile_all(folder)
    if tools:
        emulate(folder, kernels, arena, *tools)
        run_all(arena)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
