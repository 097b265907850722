"""Features of fresh random crops of the training images, epoch by epoch, as officially in linear probing."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ibot_hub.errors import ImageError, SourceError
from ibot_hub.evaluation.images import Network
from ibot_hub.evaluation.sweep import Batch, Batches, order_of
from ibot_hub.features.columns import image_vector
from ibot_hub.images import decode
from ibot_hub.listing import Entry, write_listing
from ibot_hub.two_views import random_box

SCALE = (0.08, 1.0)  # share of the image's area
FLIP = 0.5  # probability
AHEAD = 2  # forward passes whose images are decoded before they are asked for


@dataclass(frozen=True, eq=False)
class FreshCrops:
    """Training images that come as other crops in each epoch; each call gives the epochs of some of them."""

    network: Network  # how it resizes whole images has no part in this
    entries: Sequence[Entry]  # N
    labels: Tensor  # int64 [N]
    layers: int
    pool: str
    step_images: int
    seed: int  # of the order and, with epoch and image, of the crops

    def __call__(self, rows: Tensor) -> Batches:
        """The epochs of images `rows`."""

        def epoch(number: int) -> Iterator[Batch]:
            order = order_of(rows, self.seed, number)
            vectors = self._vectors(order.tolist(), number)
            for step in order.split(self.step_images):
                passes = -(-len(step) // self.network.batch_size)
                yield torch.cat(list(islice(vectors, passes))), self.labels[step]

        return epoch

    def _vectors(self, order: Sequence[int], epoch: int) -> Iterator[Tensor]:
        """Features [b, F] of the images in this order, a forward pass at a time; no pass belongs to two steps."""
        steps = (order[first : first + self.step_images] for first in range(0, len(order), self.step_images))
        passes = (step[first : first + self.network.batch_size] for step in steps for first in range(0, len(step), self.network.batch_size))
        queue: deque[list[Future[Tensor]]] = deque()
        executor = ThreadPoolExecutor(self.network.workers, thread_name_prefix="decode")
        try:
            while True:
                for rows in islice(passes, AHEAD + 1 - len(queue)):
                    queue.append([executor.submit(self._crop, row, epoch) for row in rows])
                if not queue:
                    return
                yield self._features(torch.stack([future.result() for future in queue.popleft()]))
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

    def _crop(self, row: int, epoch: int) -> Tensor:
        entry = self.entries[row]
        try:
            image = decode(entry.read())
        except ImageError as error:
            raise ImageError(f"{entry.shown}: {error}") from error
        return random_crop(image, self.network.transform.fit(1, 1).out[0], np.random.default_rng((self.seed, epoch, row)))

    def _features(self, pixels: Tensor) -> Tensor:
        """uint8 [b, 3, side, side] -> float32 [b, F] on the backbone's device."""
        with torch.no_grad():  # not in inference mode: the classifiers' backward pass reads these
            images = self.network.normalised(pixels)
            return image_vector(self.network.backbone.last_layers(images, self.layers), self.pool).float()


def random_crop(image: Image.Image, side: int, rng: np.random.Generator) -> Tensor:
    """uint8 [3, side, side]: a random box, 8 to 100 % of the area, resized (bilinear), and flipped left to right one time in two."""
    crop = image.crop(random_box(*image.size, rng, SCALE)).resize((side, side), Image.Resampling.BILINEAR)
    pixels = np.asarray(crop)
    if rng.random() < FLIP:
        pixels = pixels[:, ::-1]
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))  # [side, side, 3] -> [3, side, side]


def entries_of(source: str | Path, paths: Sequence[str]) -> list[Entry]:
    """Where the images of a source are that it calls `paths`. Raises SourceError for one that is there no more."""
    with TemporaryDirectory(prefix="ibot-eval-") as folder:
        listing = write_listing(source, Path(folder) / "listing.parquet")
        known = {entry.shown: entry for entry in listing.entries(0, listing.count)}
    gone = [path for path in paths if path not in known]
    if gone:
        raise SourceError(f"{gone[0]} of {source} is there no more, but its features are; take another --out to see the images anew.")
    return [known[path] for path in paths]
