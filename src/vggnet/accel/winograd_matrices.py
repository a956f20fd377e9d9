"""Winograd's minimal filtering F(m x m, 3 x 3): the constant matrices (Lavin & Gray, arXiv:1509.09308).

A tile of m x m outputs Y comes from (m + 2) x (m + 2) inputs d and the kernel g by

    Y = A^T [ (G g G^T) * (B^T d B) ] A

with (m + 2)^2 multiplications instead of 9 m^2.
"""

from dataclasses import dataclass

Matrix = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Winograd:
    """The matrices of F(m x m, 3 x 3)."""

    m: int  # side of an output tile
    input: Matrix  # B^T, (m + 2, m + 2)
    kernel: Matrix  # G, (m + 2, 3)
    output: Matrix  # A^T, (m, m + 2)

    @property
    def side(self) -> int:
        """Of an input tile, m + 2; its square is the number of products."""
        return self.m + 2


def transposed(matrix: Matrix) -> Matrix:
    """Rows become columns."""
    return tuple(zip(*matrix, strict=True))


F2 = Winograd(  # interpolation points 0, 1, -1
    m=2,
    input=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
    kernel=((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1)),
    output=((1, 1, 1, 0), (0, 1, -1, -1)),
)

F4 = Winograd(  # interpolation points 0, 1, -1, 2, -2
    m=4,
    input=(
        (4, 0, -5, 0, 1, 0),
        (0, -4, -4, 1, 1, 0),
        (0, 4, -4, -1, 1, 0),
        (0, -2, -1, 2, 1, 0),
        (0, 2, -1, -2, 1, 0),
        (0, 4, 0, -5, 0, 1),
    ),
    kernel=(
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    ),
    output=((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
)
