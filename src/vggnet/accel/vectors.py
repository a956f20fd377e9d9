"""The vectors that kernels are written for on this CPU, and the tiles of products that fill its registers."""

import os
import platform
from typing import NamedTuple

from vggnet.devices import cpu_features


class Vectors(NamedTuple):
    """A product's tile, ROWS x COLUMNS sums, stays in registers beside `per_row` vectors of B and one of A."""

    lanes: int  # of float32
    rows: int
    per_row: int
    float16: bool  # whether vectors of float16 are converted to float32

    @property
    def columns(self) -> int:
        """Of a product's tile."""
        return self.lanes * self.per_row


X86 = ("x86_64", "amd64")  # as `platform.machine()` calls them
AVX512 = Vectors(lanes=16, rows=14, per_row=2, float16=True)  # 32 registers
AVX2 = Vectors(lanes=8, rows=6, per_row=2, float16=True)  # 16 registers
NEON = Vectors(lanes=4, rows=6, per_row=4, float16=True)  # 32 registers; every 64-bit ARM has them


def choose_vectors(machine: str, features: frozenset[str]) -> Vectors | None:
    """The widest vectors of a CPU.

    Args:
        machine: as `platform.machine()` calls the architecture.
        features: LLVM's names of what the CPU can do.

    Returns:
        None if there are no kernels for it: they need sums of products in one rounding, and 64-bit addresses.

    >>> choose_vectors("AMD64", frozenset({"avx2", "fma", "f16c"}))
    Vectors(lanes=8, rows=6, per_row=2, float16=True)
    >>> choose_vectors("riscv64", frozenset())
    """
    if machine.lower() in ("aarch64", "arm64"):
        return NEON
    if machine.lower() not in X86:
        return None
    if "avx512f" in features:
        return AVX512
    return AVX2._replace(float16="f16c" in features) if features >= {"avx2", "fma"} else None


def compiled_features() -> frozenset[str]:
    """What numba compiles for: $NUMBA_CPU_FEATURES, such as "+avx2,-avx512f", or what this CPU can do."""
    named = os.environ.get("NUMBA_CPU_FEATURES")
    if named is None:
        return cpu_features()
    return frozenset(name[1:] for name in named.split(",") if name.startswith("+"))


VECTORS = choose_vectors(platform.machine(), compiled_features())  # None: PyTorch does all the work
