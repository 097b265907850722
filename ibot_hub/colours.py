"""Colours that tell values or things apart, for colour-blind readers too."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

Colour = tuple[int, int, int]  # red, green, blue in 0..255

# Viridis at eighths of its way: equal steps of a value look equally large, in grey and to the colour-blind too.
VIRIDIS = np.array(
    [
        (68, 1, 84),
        (71, 45, 123),
        (59, 82, 139),
        (44, 114, 142),
        (33, 145, 140),
        (40, 174, 128),
        (94, 201, 98),
        (173, 220, 48),
        (253, 231, 37),
    ]
)

FIRST = ((230, 159, 0), (86, 180, 233))  # orange and sky blue of Okabe and Ito
GROUND: Colour = (30, 30, 30)  # what colours are painted on: each is far from it as well
STEP = 15  # between two candidates, in each channel
LIGHTNESS = (0.5, 0.93)  # in Oklab: seen on a dark ground, and on white paper
CHROMA = 0.08  # in Oklab, at least: a grey would be lost in a grey picture

# How linear red, green and blue are seen: as they are, and without one kind of cone (Machado, Oliveira and Fernandes 2009).
EYES = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],  # protanopia
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],  # deuteranopia
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],  # tritanopia
    ]
)
# Oklab (Ottosson 2020): linear red, green and blue -> cones -> lightness, green to red, blue to yellow.
CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def viridis(values: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """Values in 0..1 [...] -> colours from dark blue to yellow, uint8 [..., 3]; what lies outside is taken to the nearer end."""
    places = np.asarray(values, dtype=np.float64) * (len(VIRIDIS) - 1)
    channels = [np.interp(places, np.arange(len(VIRIDIS)), channel) for channel in VIRIDIS.T]
    colours: npt.NDArray[np.uint8] = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    return colours


@lru_cache
def distinct(count: int) -> tuple[Colour, ...]:
    """Colours far apart to normal eyes and to eyes that lack one kind of cone: the same each time, `distinct(3)` begins `distinct(9)`.

    The first two are Okabe's and Ito's orange and sky blue; each further one is, of all candidates, the one whose nearest
    neighbour (among the earlier ones and a dark ground) is farthest off, in Oklab, for the eyes that tell them apart least.
    Raises ValueError where there are fewer candidates than that, of which there are some thousands.
    """
    levels = np.arange(0, 256, STEP)
    candidates = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)  # [n, 3]
    normal = _seen(candidates)[0]
    chroma = np.hypot(normal[:, 1], normal[:, 2])
    candidates = candidates[(normal[:, 0] >= LIGHTNESS[0]) & (normal[:, 0] <= LIGHTNESS[1]) & (chroma >= CHROMA)]
    seen = _seen(candidates)  # [eyes, n, 3]

    def distance(colour: Colour) -> npt.NDArray[np.float64]:
        """Of each candidate, [n], to the eyes that see least of it."""
        least: npt.NDArray[np.float64] = np.linalg.norm(seen - _seen(np.array([colour])), axis=-1).min(axis=0)
        return least

    colours: list[Colour] = list(FIRST)
    nearest = np.minimum.reduce([distance(colour) for colour in (GROUND, *colours)])
    while len(colours) < count:
        best = int(nearest.argmax())
        if nearest[best] == 0:
            raise ValueError(f"there are no {count} colours, only {len(colours)}")
        red, green, blue = candidates[best].tolist()
        colours.append((red, green, blue))
        nearest = np.minimum(nearest, distance(colours[-1]))
        nearest[best] = 0  # exactly: no colour is chosen twice
    return tuple(colours[:count])


def _seen(colours: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Colours [n, 3] in 0..255 -> Oklab as each of the four kinds of eyes sees them, [eyes, n, 3]."""
    values = colours / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    seen = (linear @ EYES.transpose(0, 2, 1)).clip(0, 1)  # [eyes, n, 3]
    lab: npt.NDArray[np.float64] = np.cbrt(seen @ CONES.T) @ LAB.T
    return lab
