"""All convolution algorithms. A new one is a new file beside this one with a subclass of `Algorithm`, listed here.

Importing this module takes the time that numba takes to import, so `dispatch` does it when that pays.
"""

from vggnet.accel.algorithm import Algorithm
from vggnet.accel.algorithms.direct import DirectConvolution, DirectNCHW
from vggnet.accel.algorithms.matmul import MatrixProduct
from vggnet.accel.compilation import problem


def _compiled() -> tuple[Algorithm, ...]:
    """Those with kernels; none on a machine that cannot compile them."""
    if problem():
        return ()
    from vggnet.accel.algorithms.bfloat16 import Bfloat16, SplitBfloat16
    from vggnet.accel.algorithms.im2col import Im2col
    from vggnet.accel.algorithms.winograd import Winograd

    return Im2col(), Winograd(4), Winograd(2), SplitBfloat16(), Bfloat16()


ALGORITHMS: tuple[Algorithm, ...] = (  # in the order in which they are measured
    DirectConvolution(),
    DirectNCHW(),
    MatrixProduct(),
    *_compiled(),
)
