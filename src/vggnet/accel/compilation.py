"""Whether kernels can be compiled on this machine. Where they cannot, PyTorch does all the work."""

import platform
from functools import cache

from vggnet.accel.vectors import VECTORS, X86
from vggnet.devices import cpu_features
from vggnet.errors import one_line


@cache
def problem() -> str | None:
    """Why kernels cannot be used, in one line; None if they can. Imports numba, and compiles one small function."""
    if VECTORS is None and platform.machine().lower() not in X86:
        return f"there are no kernels for CPUs of the kind {platform.machine()}"
    if VECTORS is None:
        return "this CPU has no AVX2" if cpu_features() else "LLVM does not say what this CPU can do"
    try:
        from vggnet.accel.kernels import probe

        probe.run()
    except Exception as error:  # numba is not installed, does not fit to NumPy, or cannot compile: all mean the same
        return f"numba cannot be used ({one_line(error)})"
    return None
