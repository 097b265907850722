"""Class folders whose classes are colours: any network's features tell them apart."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"ape": (200, 40, 40), "bee": (40, 200, 40), "cat": (40, 40, 200)}


def write_classes(folder: Path, count: int = 4, seed: int = 0, side: int = 32) -> Path:
    """`count` images a class, of one colour with a little noise: ape/0.png, ..."""
    rng = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.clip(colour + rng.normal(0, 20, (side, side, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder
