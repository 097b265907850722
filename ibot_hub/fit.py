"""How an image is fitted to a network, which tells where its patches lie in the image as given."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Fit:
    """An image is resized whole, then `out` pixels of it are taken from `corner` on, and cut into patches.

    Points are (x, y) in pixels of the image as given, which spans [0, width] x [0, height]: the centre of its first pixel is
    (0.5, 0.5). Patches are (row, column).
    """

    width: int  # of the image as given, pixels
    height: int
    resized: tuple[int, int]  # width and height of the whole image once resized
    corner: tuple[int, int]  # x and y of what is taken, in resized pixels
    out: tuple[int, int]  # width and height of what is taken: what the network sees
    patch: int  # side in resized pixels

    @property
    def rows(self) -> int:
        """H, the rows of patches."""
        return self.out[1] // self.patch

    @property
    def columns(self) -> int:
        """W, the columns of patches."""
        return self.out[0] // self.patch

    def centre(self, row: float, column: float) -> tuple[float, float]:
        """(x, y) of the centre of a patch."""
        return self._point((column + 0.5) * self.patch, (row + 0.5) * self.patch)

    def centres(self) -> npt.NDArray[np.float64]:
        """The centres of all patches, [H, W, 2] as (x, y)."""
        x, y = np.meshgrid((np.arange(self.columns) + 0.5) * self.patch, (np.arange(self.rows) + 0.5) * self.patch)
        return np.stack(self._point(x, y), axis=-1)

    def patch_at(self, x: float, y: float) -> tuple[int, int] | None:
        """The patch that holds a point; None outside of what the network sees."""
        row = (y * self.resized[1] / self.height - self.corner[1]) // self.patch
        column = (x * self.resized[0] / self.width - self.corner[0]) // self.patch
        return (int(row), int(column)) if 0 <= row < self.rows and 0 <= column < self.columns else None

    def box(self, row: int, column: int, context: int = 0) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of a patch with `context` patches around it on each side; it may reach out of the image."""
        first, last = -context * self.patch, (context + 1) * self.patch
        x, y = column * self.patch, row * self.patch
        return (*self._point(x + first, y + first), *self._point(x + last, y + last))

    def _point(self, x: float, y: float) -> tuple[float, float]:
        """(x, y) in what the network sees -> in the image as given; numbers or arrays."""
        return (x + self.corner[0]) * self.width / self.resized[0], (y + self.corner[1]) * self.height / self.resized[1]


def crop_fit(width: int, height: int, short: int, side: int, patch: int) -> Fit:
    """The centre of the image once its short side is `short`, rounded as torchvision rounds."""
    shortest = min(width, height)
    resized = [short if length == shortest else int(short * length / shortest) for length in (width, height)]
    corner = [round((length - side) / 2) for length in resized]
    return Fit(width, height, (resized[0], resized[1]), (corner[0], corner[1]), (side, side), patch)


def whole_fit(width: int, height: int, out: tuple[int, int], patch: int) -> Fit:
    """The whole image, resized to `out`."""
    return Fit(width, height, out, (0, 0), out, patch)


def nearest_multiple(numerator: int, denominator: int, patch: int) -> int:
    """numerator / denominator rounded to the nearest multiple of `patch`, half up, at least one: exact, in integers."""
    return max(1, (2 * numerator + patch * denominator) // (2 * patch * denominator)) * patch
