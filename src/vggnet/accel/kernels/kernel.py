"""Compiled kernels, and how the threads share their work.

A kernel is a function of one block of work. It gets a task (a record of int64: sizes, and addresses of memory), the
number of the calling thread, which selects its scratch memory, and the number of the block. Calling a `Kernel` runs it
for all blocks: every thread takes the next block until none is left.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, from_dtype, types
from numba.extending import intrinsic
from torch import Tensor

from vggnet.accel.kernels.llvm import fetch_add, flush_denormals, set_float_mode
from vggnet.accel.startup import note_compiled
from vggnet.accel.threads import run_in_threads

_HEADER = ("kernel", "next_thread", "next_block", "blocks")  # of every task; `_run_blocks` knows where they lie


def task_type(*fields: str) -> np.dtype[Any]:
    """The type of a task: its header, then these fields."""
    return np.dtype([(name, np.int64) for name in (*_HEADER, *fields)])


def kernel(task: np.dtype[Any]) -> Callable[[Callable[[Any, int, int], None]], "Kernel"]:
    """Decorate a function of (task, thread, block), to be compiled by numba."""
    return lambda function: Kernel(function, task)


class Kernel:
    """A compiled function of one block of work. Calling it runs all blocks."""

    def __init__(self, function: Callable[[Any, int, int], None], task: np.dtype[Any]) -> None:
        self._function = CFunction(function, types.void(from_dtype(task), types.int64, types.int64))
        self._names: tuple[str, ...] = task.names or ()

    def __call__(self, *, blocks: int, **fields: Tensor | int) -> None:
        """Run all blocks and wait for them. A tensor stands for its address; a field that is not given is 0."""
        self.prepare(blocks=blocks, **fields)()

    def prepare(self, *, blocks: int, **fields: Tensor | int) -> "PreparedKernel":
        """What can be called often, with other values of some fields."""
        fields |= {"kernel": self._function.address, "blocks": blocks}
        values = [fields.pop(name, 0) for name in self._names]
        if fields:
            raise TypeError(f"the task has no {', '.join(fields)}")
        return PreparedKernel(self._names, values)


class PreparedKernel:
    """A kernel with the values of its fields. It keeps the tensors among them."""

    def __init__(self, names: Sequence[str], values: Sequence[Tensor | int]) -> None:
        self._names, self._values = names, values
        self._task = np.array([_number(value) for value in values], np.int64)

    def __call__(self, **changed: Tensor | int) -> None:
        """Run all blocks and wait for them, with these fields changed for this time."""
        task = self._task.copy()  # the threads count in it
        for name, value in changed.items():
            task[self._names.index(name)] = _number(value)
        run_in_threads(_blocks.address, task.ctypes.data)


def _number(value: Tensor | int) -> int:
    return value.data_ptr() if isinstance(value, Tensor) else value


class CFunction:
    """A function that is compiled when it is first used; its machine code is cached on disk.

    notes: whether later processes may take it as a sign that kernels are compiled, see `startup`.
    """

    _compiling = threading.Lock()

    def __init__(self, function: Callable[..., None], signature: Any, *, notes: bool = True) -> None:
        self._function, self._signature, self._notes = function, signature, notes
        self._compiled: Any = None

    @property
    def address(self) -> int:
        """Of its machine code."""
        address: int = self._machine_code().address
        return address

    def call(self, *arguments: int) -> None:
        """Call it in this thread."""
        self._machine_code().ctypes(*arguments)

    def _machine_code(self) -> Any:
        if self._compiled is None:
            with self._compiling:
                if self._compiled is None:
                    self._compiled = self._compile()
        return self._compiled

    def _compile(self) -> Any:
        try:
            compiled = cfunc(self._signature, cache=True)(self._function)
        except (RuntimeError, OSError):  # no folder can be written to, or the disk is full
            return cfunc(self._signature)(self._function)
        if self._notes:
            note_compiled()
        return compiled


def _run_blocks(pointer: Any) -> None:
    """What each thread does with a task: draw the number of the thread, then blocks until none is left."""
    header = carray(pointer, 4)
    task = header.ctypes.data
    thread = fetch_add(task + 8, 1)
    mode = flush_denormals()
    while True:
        block = fetch_add(task + 16, 1)
        if block >= header[3]:
            break
        _call(header[0], task, thread, block)
    set_float_mode(mode)


@intrinsic
def _call(typing: Any, address: Any, task: Any, thread: Any, block: Any) -> Any:
    """Call the kernel at this address."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Sequence[ir.Value]) -> ir.Value:
        address, *rest = arguments
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 3)
        builder.call(builder.inttoptr(address, kind.as_pointer()), rest)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


_blocks = CFunction(_run_blocks, types.void(types.CPointer(types.int64)))
