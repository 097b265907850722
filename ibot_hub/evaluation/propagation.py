"""Labels of a first frame are carried through a clip by the nearest patches of earlier frames."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ibot_hub.catalog import IMAGENET_STD
from ibot_hub.errors import UsageError
from ibot_hub.evaluation.clips import VOID, Labels, objects_of
from ibot_hub.evaluation.options import PropagationOptions
from ibot_hub.images import ImageTransform
from ibot_hub.model import Model

TILE = 8  # patches of the side of what is carried at a time; larger ones ask more patches that are too far, smaller ones take longer each
STEP = 64  # pixels that the long side is a multiple of
OFFICIAL_STD = (0.228, 0.224, 0.225)  # the official script's; ImageNet's has 0.229


@torch.no_grad()
def carry_labels(
    model: Model, frames: Iterable[Image.Image], first: Labels, options: PropagationOptions | None = None
) -> Iterator[Labels]:  # fmt: skip
    """The labels of each frame after the first one, in its size, as the frames come (Table 16, official script).

    A patch takes the mean label of the patches that are most like it in the first frame and in the last ones, weighted by
    exp(cosine / temperature); only patches near its own place are asked. Labels of patches are enlarged (bilinear), each object's
    is stretched to 0..1, and the strongest has the pixel. Undecided pixels of the first labels are background.

    Args:
        frames: RGB, the first one included.
        first: labels of the first frame, [height, width].

    Raises:
        UsageError: labels without an object, or of another size than the first frame.
    """
    options = options or PropagationOptions()
    numbers = np.array([0, *objects_of(first)], dtype=np.uint8)
    if len(numbers) == 1:
        raise UsageError("The mask of the first frame has no object, so there is nothing to carry on.")
    remaining = iter(frames)
    start = next(remaining)
    if first.shape != (start.height, start.width):
        raise UsageError(f"The labels are {first.shape[1]} x {first.shape[0]}, and the first frame {start.width} x {start.height}.")
    origin = frame_features(model, start, options.size)  # [H, W, D]
    mask = label_grid(first, numbers, origin.shape[1], origin.shape[0]).to(origin.device)
    recent: deque[tuple[Tensor, Tensor]] = deque(maxlen=options.frames)
    for frame in remaining:
        features = frame_features(model, frame, options.size)
        if features.shape != origin.shape:
            raise UsageError(f"A frame is {frame.width} x {frame.height}, and the first one {start.width} x {start.height}.")
        sources = torch.stack([origin, *(known for known, _ in recent)])
        masks = torch.stack([mask, *(carried for _, carried in recent)])
        carried = carry(features, sources, masks, options)
        recent.append((features, carried))
        yield numbers[strongest_label(carried, model.transform.patch, frame.size)]


def frame_features(model: Model, frame: Image.Image, size: int) -> Tensor:
    """The final-norm tokens of the patches of a frame, float32 [H, W, D], each of length 1."""
    transform = model.transform
    pixels = torch.from_numpy(np.array(frame.resize(seen_size(frame.size, size, transform.patch), Image.Resampling.BILINEAR)))
    prepared = replace(transform, std=frame_std(transform)).normalise(pixels.permute(2, 0, 1))
    return F.normalize(model(prepared[None]).patches[0].float(), dim=-1)


def frame_std(transform: ImageTransform) -> tuple[float, float, float]:
    """What frames are divided by: the official script's numbers, but for a model that has others than ImageNet's."""
    return OFFICIAL_STD if transform.std == IMAGENET_STD else transform.std


def seen_size(given: tuple[int, int], size: int, patch: int) -> tuple[int, int]:
    """Width and height of a frame as the network sees it: the short side `size`, the long one by the aspect, down to a multiple of 64.

    Where patches do not divide these, both sides are the next smaller multiples of the patch.
    """
    width, height = given
    long = size * max(given) // min(given) // STEP * STEP
    short, long = (max(1, side // patch) * patch for side in (size, long))
    return (short, long) if height > width else (long, short)


def label_grid(labels: Labels, numbers: Labels, columns: int, rows: int) -> Tensor:
    """What the centre of each patch shows, float32 [rows, columns, C]: 1 for the one of `numbers` [C] that it is, 0 else."""
    known = np.where(labels == VOID, 0, labels).astype(np.uint8)
    small = np.asarray(Image.fromarray(known).resize((columns, rows), Image.Resampling.NEAREST))
    return torch.from_numpy((small[..., None] == numbers).astype(np.float32))


def carry(target: Tensor, sources: Tensor, labels: Tensor, options: PropagationOptions) -> Tensor:
    """Labels of earlier frames -> those of a later one, tile by tile: neither memory nor work grows with the square of the patches.

    Args:
        target: features [H, W, D] of length 1.
        sources: [frames, H, W, D], likewise.
        labels: [frames, H, W, C].

    Returns:
        [H, W, C]: of each patch the mean label of the `neighbours` patches of all frames that are most like it, at most `radius` rows
        and columns away; of patches as like as the last of these all count.
    """
    height, width = target.shape[:2]
    carried = labels.new_empty(height, width, labels.shape[-1])
    for top, left in product(range(0, height, TILE), range(0, width, TILE)):
        rows, near_rows, far_rows = _stretch(top, height, options.radius)
        columns, near_columns, far_columns = _stretch(left, width, options.radius)
        part, asked = (rows, columns), (slice(None), near_rows, near_columns)
        similarity = target[part].flatten(0, 1) @ sources[asked].flatten(0, 2).T  # [patches of the tile, frames * patches near it]
        far = (far_rows[:, None, :, None] | far_columns[None, :, None, :]).reshape(len(similarity), 1, -1).to(similarity.device)
        similarity.view(len(similarity), len(sources), -1).masked_fill_(far, -torch.inf)
        least = similarity.topk(min(options.neighbours, similarity.shape[1]), dim=1).values[:, -1:]
        weights = similarity.masked_fill_(similarity < least, -torch.inf).div_(options.temperature).softmax(dim=1)
        carried[part] = (weights @ labels[asked].flatten(0, 2)).view(carried[part].shape)
    return carried


def strongest_label(labels: Tensor, patch: int, size: tuple[int, int]) -> Labels:
    """Labels of patches [H, W, C] -> the place in C of each pixel's, [height, width] for that width and height."""
    large = F.interpolate(labels.permute(2, 0, 1)[None], scale_factor=patch, mode="bilinear", align_corners=False)[0]
    low, high = (bound.view(-1, 1, 1) for bound in (large.amin(dim=(1, 2)), large.amax(dim=(1, 2))))
    stretched = (large - low) / torch.where(high > low, high - low, 1)
    places = stretched.argmax(dim=0).to(torch.uint8).cpu().numpy()
    return np.asarray(Image.fromarray(places).resize(size, Image.Resampling.NEAREST))


def _stretch(start: int, end: int, radius: int) -> tuple[slice, slice, Tensor]:
    """A tile's rows, or columns, of 0 to `end`; those near them; and which of these are too far from which, bool [tile, near]."""
    tile = slice(start, min(start + TILE, end))
    near = slice(max(0, start - radius), min(end, tile.stop + radius))
    places = torch.arange(end)
    return tile, near, (places[tile, None] - places[near]).abs() > radius
