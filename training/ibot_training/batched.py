"""Drawn views of a batch of images as tensors on any device, as Pillow would have made them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ibot_hub.catalog import IMAGENET_MEAN, IMAGENET_STD
from ibot_training.recipe import Crops
from ibot_training.views import CONTRAST, HUE, SATURATION, Booleans, Floats, Integers, Views

CHUNK = 1 << 24  # padded pixels that are resized together
ALIGNED = 8  # float16 numbers in 16 bytes, where rows have to begin for products to be fast
RED, GREEN, BLUE = 0.299, 0.587, 0.114  # of a grey level


def augment(images: Tensor | Sequence[Tensor], views: Views, crops: Crops) -> tuple[Tensor, Tensor | None]:
    """Images and their views [B, C] -> global crops [G * B, 3, size, size] and local ones (None if there are none), on the images' device.

    `images` is uint8 [B, 3, H, W], or B times uint8 [3, H, W] of any sizes. Crops are float32, normalised and view-major: all
    images of view 0, then all of view 1. Grey levels differ from those of `reference.crops_of` by less than one on average.
    Nothing here waits for a GPU: all indices are made on the host.
    """
    chunks = [(chunk, _padded([images[index] for index in chunk])) for chunk in _chunks([image.shape[1:] for image in images])]
    global_crops = _crops(chunks, views[:, : crops.global_count], crops.global_size)
    return global_crops, _crops(chunks, views[:, crops.global_count :], crops.local_size) if crops.local_count else None


def normalise(pixels: Tensor) -> Tensor:
    """Grey levels 0..255 [..., 3, H, W] of any type -> float32, less the mean of ImageNet and divided by its standard deviation."""
    mean, std = 255 * np.array(IMAGENET_MEAN), 255 * np.array(IMAGENET_STD)
    shift, scale = _sent(np.stack([-mean / std, 1 / std]), pixels.device)[..., None, None]  # [3, 1, 1] each
    return torch.addcmul(shift, pixels, scale)


def _precision(device: torch.device) -> torch.dtype:
    """Of grey levels: float16 holds each of them, and halves the bytes that a GPU moves; a CPU has no arithmetic for it."""
    return torch.float16 if device.type == "cuda" else torch.float32


def _sent(numbers: npt.NDArray[Any], device: torch.device) -> Tensor:
    """A copy on the device, integers as they are and others as float32; the host goes on before it is there."""
    tensor = torch.from_numpy(numbers if numbers.dtype == np.int64 else numbers.astype(np.float32))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _chunks(sizes: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Numbers of the images, those of similar size together, so that one large image does not pad all the others."""
    chunk: list[int] = []
    for index in np.prod(sizes, 1).argsort(kind="stable").tolist():
        height, width = np.max([sizes[other] for other in [*chunk, index]], 0)
        if chunk and (len(chunk) + 1) * height * width > CHUNK:
            yield chunk
            chunk = []
        chunk.append(index)
    yield chunk


def _padded(images: Sequence[Tensor]) -> Tensor:
    """[n, 3, H, W], each image at the top left."""
    height, width = (_aligned(max(image.shape[axis] for image in images)) for axis in (1, 2))
    device = images[0].device
    padded = torch.zeros(len(images), 3, height, width, dtype=_precision(device), device=device)
    for image, place in zip(images, padded, strict=True):
        place[:, : image.shape[1], : image.shape[2]] = image
    return padded


def _aligned(length: int) -> int:
    return -(-length // ALIGNED) * ALIGNED


def _crops(chunks: Sequence[tuple[list[int], Tensor]], views: Views, size: int) -> Tensor:
    """Views [B, V] of padded chunks of the B images -> [V * B, 3, size, size], normalised.

    The hue does not commute with the blends (brightness, contrast, saturation), which come in any order around it. Sorted by
    the number of blends before the hue, each blend before it, the hue, and each blend after it work on a slice.
    """
    batch, count = views.flip.shape
    device = chunks[0][1].device
    resized = torch.cat([part for chunk, pixels in chunks for part in _resized(pixels, views[chunk], size)])
    image = np.concatenate([np.tile(chunk, count) for chunk, _ in chunks])  # [V * B], of the rows of `resized`
    view = np.concatenate([np.repeat(np.arange(count), len(chunk)) for chunk, _ in chunks])
    views = views[image, view]
    before = np.where(views.factors[:, HUE] == 0, 4, (views.order == HUE).argmax(1))  # 4: no hue at all
    before[~views.jitter] = -1
    rank = np.argsort(-before, kind="stable")
    pixels = resized.index_select(0, _sent(rank, device))
    _jitter(pixels, views[rank], before[rank])
    _finish(pixels, views[rank])
    back = np.argsort((view * batch + image)[rank])
    return normalise(pixels.index_select(0, _sent(back, device)))


def _resized(pixels: Tensor, views: Views, size: int) -> Iterator[Tensor]:
    """The boxes [n, V] of images [n, 3, H, W], resized and flipped: V times [n, 3, size, size]."""
    boxes = np.concatenate([views.box, views.flip[..., None]], 2).swapaxes(0, 1).reshape(-1, 5)  # [V * n, 5]
    top, left, height, width, flip = _sent(boxes, pixels.device)[..., None, None].unbind(1)  # [V * n, 1, 1] each
    tall, wide = views.box[..., 2:].max((0, 1)).tolist()
    down = _bicubic(top, height, torch.zeros_like(flip), tall, size, pixels.shape[2])
    across = _bicubic(left, width, flip, wide, size, pixels.shape[3])
    return map(_product, (pixels for _ in range(views.flip.shape[1])), down.split(len(pixels)), across.split(len(pixels)))


def _bicubic(start: Tensor, length: Tensor, flip: Tensor, longest: int, size: int, source: int) -> Tensor:
    """Weights [n, size, source] of Pillow's bicubic filter (a = -0.5) from `length` pixels after `start` to `size`, flipped or not.

    `start`, `length` and `flip` (0 or 1) are [n, 1, 1]; `longest` is the largest of `length`.
    """
    taps = 2 * int(np.ceil(2 * max(longest / size, 1)))
    scale = length / size
    support = scale.clamp(min=1)  # of half the filter; wider than a pixel where the image shrinks
    target = (flip * (size - 1) - torch.arange(size, device=start.device)[:, None]).abs()  # [n, size, 1]
    centre = start + (target + 0.5) * scale
    column = (centre - 2 * support + 0.5).floor() + torch.arange(taps, device=start.device)  # [n, size, taps]
    distance = ((column + 0.5 - centre) / support).abs()
    outer, inner = (2 - distance).clamp_(min=0), (1 - distance).clamp_(min=0)
    weight = outer * outer * (outer - 1) / 2 + inner * inner * (1 - 2 * inner)  # both pieces of the cubic, without a condition
    weight *= (column >= start) & (column < start + length)
    weight /= weight.sum(2, keepdim=True)
    margin = _aligned(taps)  # columns outside of the image have weight 0
    dense = torch.zeros(*weight.shape[:2], source + 2 * margin, dtype=_precision(start.device), device=start.device)
    return dense.scatter_(2, column.long() + margin, weight.to(dense.dtype))[..., margin:-margin]


def _product(pixels: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """[n, 3, H, W], weights [n, h, H] and [n, w, W] -> [n, 3, h, w], rounded after each direction, as Pillow does it."""
    columns = torch.bmm(pixels.flatten(1, 2), across.mT).round_().clamp_(0, 255)  # [n, 3 * H, w]
    return torch.matmul(down[:, None], columns.unflatten(1, (3, -1))).round_().clamp_(0, 255)


def _jitter(pixels: Tensor, views: Views, before: Integers) -> None:
    """Brightness, contrast, saturation and hue, in place, of crops sorted by the number of blends before the hue."""
    blends = views.order[views.order != HUE].reshape(-1, 3)  # [N, 3], which come first, second and third
    factor = np.take_along_axis(views.factors, blends, 1)
    shift = np.trunc(views.factors[:, HUE:] * 255) % 256
    table = np.concatenate([factor, blends == CONTRAST, blends == SATURATION, shift], 1)
    terms = _sent(table, pixels.device).to(pixels.dtype)[..., None, None]  # [N, 10, 1, 1]
    none, *ends = (int((before >= count).sum()) for count in range(5))
    leading = [(step, slice(0, ends[step])) for step in range(3)]
    trailing = [(step, slice(ends[step], none)) for step in range(3)]
    for step, part in leading:
        _blend(pixels[part], *terms[part, step:9:3].unbind(1))
    _turn(pixels[ends[3] : none], terms[ends[3] : none, 9])
    for step, part in trailing:
        _blend(pixels[part], *terms[part, step:9:3].unbind(1))


def _blend(pixels: Tensor, factor: Tensor, contrast: Tensor, saturation: Tensor) -> None:
    """Away from black by `factor`; or, where that is 1 and not 0, from the mean grey of the crop or the grey of the pixel; in place.

    Each is [n, 1, 1].
    """
    grey = _grey(pixels)
    mean = grey.mean((1, 2), keepdim=True).round_()
    origin = grey.mul_(saturation).add_(mean * contrast)
    torch.lerp(origin[:, None], pixels, factor[:, None], out=pixels).clamp_(0, 255).floor_()


def _grey(pixels: Tensor) -> Tensor:
    """[n, 3, H, W] -> [n, H, W]."""
    red, green, blue = pixels.unbind(1)
    return (red * RED).add_(green, alpha=GREEN).add_(blue, alpha=BLUE).round_()


def _turn(pixels: Tensor, shift: Tensor) -> None:
    """Turn the hue by `shift` [n, 1, 1] of its 256 steps, in place; hue and saturation are rounded as Pillow rounds them.

    On the scale of six, where red is 0, green 2 and blue 4, the hue's distance from cyan is 1 + (max + r - g - b) / (max - min),
    and a primary is missing where the hue is more than two from it: formulas without a condition, which a CPU would pay for.
    """
    red, green, blue = pixels.unbind(1)
    top = torch.maximum(torch.maximum(red, green), blue)
    chroma = top - torch.minimum(torch.minimum(red, green), blue)
    distance = (top + red).sub_(green).sub_(blue).div_(chroma.clamp(min=1)).add_(1)
    side = (green - blue).mul_(2).add_(1).clamp_(-1, 1)  # 1 for a hue up to cyan, -1 beyond
    hue = distance.mul_(side).neg_().add_(3).mul_(255 / 6).floor_()
    hue = hue.add_(shift).div_(256).frac_().mul_(256 * 6 / 255)
    depth = chroma.div_(top.clamp(min=1)).mul_(255).floor_().mul_(top).div_(255)  # how far down the missing primary is
    torch.sub(hue, 3, out=red)
    torch.sub(hue, 2, out=green)
    torch.sub(hue, 4, out=blue)
    pixels.abs_().sub_(1).clamp_(0, 1)
    red.neg_().add_(1)  # measured from cyan, the opposite
    torch.addcmul(top[:, None], pixels, depth[:, None], value=-1, out=pixels).round_()


def _finish(pixels: Tensor, views: Views) -> None:
    """Losing colour, blur and solarisation, in place, of the crops that are to have them."""
    blurred = views.radius > 0
    blur = _blur(views.radius[blurred], pixels.shape[3], pixels.device).to(pixels.dtype)
    _change(pixels, views.grey, lambda some: _grey(some)[:, None].expand_as(some))
    _change(pixels, blurred, lambda some: _product(some, blur, blur))
    _change(pixels, views.solarise, lambda some: 127.5 - (some - 127.5).abs())


def _change(pixels: Tensor, chosen: Booleans, change: Callable[[Tensor], Tensor]) -> None:
    index = _sent(np.flatnonzero(chosen), pixels.device)
    pixels.index_copy_(0, index, change(pixels.index_select(0, index)))


def _blur(radius: Floats, size: int, device: torch.device) -> Tensor:
    """Weights [n, size, size] of Pillow's Gaussian blur: a box, wide enough for the deviation `radius` [n], passed three times."""
    variance = radius**2 / 3
    whole = np.floor((np.sqrt(12 * variance + 1) - 1) / 2)  # pixels on either side of the box's centre that count in full
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    reach = _sent(whole + part, device)[:, None, None]
    pixel = torch.arange(size, device=device)
    upto = (pixel[:-1] - pixel[:, None] + reach + 1).clamp_(min=0)  # the box, added up from the left; [n, size, size - 1]
    upto = torch.minimum(upto / (2 * reach + 1), torch.ones_like(reach))
    ends = upto.new_zeros(len(radius), size, 1), upto.new_ones(len(radius), size, 1)  # all beyond an edge counts as the edge
    box = torch.cat([ends[0], upto, ends[1]], 2).diff(dim=2)
    return box @ box @ box
