"""Class folders whose classes any network tells apart."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (30, 60, 200), "green": (40, 180, 60), "red": (210, 40, 30)}


def class_folders(folder: Path, count: int, broken: int = 0, seed: int = 0) -> Path:
    """`count` images a class of noise around the colour of the class; the first `broken` ones of the last class are no images."""
    rng = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = np.clip(np.array(colour) + rng.integers(-25, 26, (36, 36, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{name}_{index}.png")
    for index in range(broken):
        (folder / "red" / f"red_{index}.png").write_bytes(b"no image")
    return folder


ANIMALS = {"ape": (200, 40, 40), "bee": (40, 200, 40), "cat": (40, 40, 200)}


def write_classes(folder: Path, count: int = 4, seed: int = 0, side: int = 32) -> Path:
    """`count` images a class, of one colour with a little noise: ape/0.png, ..."""
    rng = np.random.default_rng(seed)
    for name, colour in ANIMALS.items():
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.clip(colour + rng.normal(0, 20, (side, side, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder
