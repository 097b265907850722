"""An image is asked of an index: the nearest images, or the nearest patches to one of its patches."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from PIL import Image

from ibot_hub.backbones import Backbone
from ibot_hub.errors import ImageError, UnknownModelError, UsageError, WeightsError
from ibot_hub.features.columns import image_features
from ibot_hub.features.plan import transform_of, weights_digest
from ibot_hub.features.shards import FloatArray
from ibot_hub.fit import Fit
from ibot_hub.images import ImageLike, as_images, decode
from ibot_hub.listing import Entry
from ibot_hub.loading import load
from ibot_hub.model import Model
from ibot_hub.options import Of, SearchOptions
from ibot_hub.retrieval.index import Index

DIGESTS: WeakKeyDictionary[Backbone, str] = WeakKeyDictionary()  # hashing the weights takes longer than asking


@dataclass(frozen=True)
class Hit:
    """An image of the index, or a patch of one."""

    path: str  # as the source of the extraction named it
    score: float  # cosine with the query, -1..1
    image: int  # row of the features
    patch: tuple[int, int] | None  # (row, column); None in an index of images
    fit: Fit  # where its patches lie in it
    entry: Entry  # where it was when it was extracted

    def read(self) -> Image.Image:
        """The image, RGB. Raises ImageError if it is gone, or is another by now."""
        image = decode(self.entry.read())
        if image.size != (self.fit.width, self.fit.height):
            raise ImageError(f"{image.width} x {image.height} now, was {self.fit.width} x {self.fit.height}")
        return image


@dataclass(frozen=True, eq=False)
class Hits:
    """What an index answered."""

    of: Of
    patch: tuple[int, int] | None  # of the query, (row, column)
    fit: Fit  # where the patches of the query lie in it
    hits: tuple[Hit, ...]  # best first


def search(
    index: Index,
    model: Model,
    image: ImageLike,
    k: int = SearchOptions.k,
    *,
    patch: tuple[int, int] | None = None,
    at: tuple[float, float] | None = None,
    per_image: int = SearchOptions.per_image,
) -> Hits:
    """The k nearest images by the cosine of their features; in an index of patches, the nearest to one patch of `image`.

    The image is prepared as those of the index were. An image that is in the index itself is found first.

    Args:
        index: what `open_index` gives.
        model: the one that made the features, in float32; `model_of(index)` loads it.
        image: the query.
        k: how many; of a smaller index, all.
        patch: the patch of the query, (row, column).
        at: or a point in it, (x, y) in its pixels.
        per_image: of patches, how many of one image at most.

    Raises:
        UsageError: a patch in an index of images, none in one of patches, or one outside; WeightsError: another model.
    """
    SearchOptions(k=k, per_image=per_image)
    check_model(index, model)
    picture = as_images(image)[0]
    features = index.manifest.features
    transform = transform_of(features)
    fit = transform.fit(*picture.size)
    chosen = _chosen_patch(index, fit, patch, at)
    with torch.no_grad():
        tensor = transform(picture)[None].to(model.device, model.dtype)
        answer = image_features(model.backbone, tensor, features)
    vector = answer["feature"][0] if chosen is None else answer["patches"][0][chosen]
    found = _nearest(index, vector.float().cpu().numpy(), k, per_image)
    hits = []
    for score, number, place in found:
        shown = index.image(number)
        hits.append(Hit(shown.path, score, number, place, transform.fit(shown.width, shown.height), shown.entry))
    return Hits(index.manifest.of, chosen, fit, tuple(hits))


def model_of(index: Index, name: str | None = None, device: torch.device | str | None = None) -> Model:
    """The model that made the features of an index: by the name it had then, or by `name`, where its weights are now.

    Raises UsageError if that name leads nowhere any more, WeightsError if it leads to other weights.
    """
    made = index.manifest.features
    try:
        model = load(name or made.model, network=made.network, head=False, device=device)
    except UnknownModelError as error:
        raise UsageError(f"{index.folder} was made with {made.model}, which is not here: {error} --model says where it is now.") from error
    check_model(index, model)
    return model


def check_model(index: Index, model: Model) -> None:
    """Raises WeightsError if the features are of other weights; these are hashed once for each loaded model."""
    if model.backbone not in DIGESTS:
        DIGESTS[model.backbone] = weights_digest(model.backbone)
    made, digest = index.manifest.features, DIGESTS[model.backbone]
    if digest != made.weights:
        network = f" ({made.network})" if made.network else ""
        raise WeightsError(
            f"{index.folder} was made with {made.model}{network}, weights {made.weights[:12]}...; {model.card.name} has others, "
            f"{digest[:12]}...: ask with the model that made it, in the same precision, or extract and index again."
        )


def _chosen_patch(index: Index, fit: Fit, patch: tuple[int, int] | None, at: tuple[float, float] | None) -> tuple[int, int] | None:
    """The patch that is asked for, None in an index of images."""
    given = (patch is not None) + (at is not None)
    if index.manifest.of == "images":
        if given:
            raise UsageError(f"{index.folder} finds images, not patches; `ibot index FEATURES --of patches` makes an index that does.")
        return None
    if given != 1:
        raise UsageError(f"{index.folder} finds patches; say which of the image's: --patch ROW,COLUMN, or --at X,Y in its pixels.")
    if patch is not None:
        if not (0 <= patch[0] < fit.rows and 0 <= patch[1] < fit.columns):
            raise UsageError(f"There is no patch {patch[0]},{patch[1]}: the image has {fit.rows} rows and {fit.columns} columns of them.")
        return patch
    found = fit.patch_at(*at) if at is not None else None
    if found is None:
        left, top = fit.box(0, 0)[:2]
        right, bottom = fit.box(fit.rows - 1, fit.columns - 1)[2:]
        raise UsageError(
            f"Of this image, the model sees x from {left:.0f} to {right:.0f} and y from {top:.0f} to {bottom:.0f}; choose a point there."
        )
    return found


def _nearest(index: Index, vector: FloatArray, k: int, per_image: int) -> list[tuple[float, int, tuple[int, int] | None]]:
    """(score, image, patch) of the best k, at most `per_image` of one image."""
    asked = k
    while True:
        chosen = list(_spread(index, vector, asked, per_image))[:k]
        if len(chosen) == k or asked >= len(index):
            return chosen
        asked *= 4  # too many were of the same images


def _spread(index: Index, vector: FloatArray, asked: int, per_image: int) -> Iterator[tuple[float, int, tuple[int, int] | None]]:
    scores, numbers = index.nearest(vector[None], asked)
    counts: Counter[int] = Counter()
    # of equal scores the first in the index comes first
    for negative, number in sorted(zip((-scores[0]).tolist(), numbers[0].tolist(), strict=True)):
        if number < 0:
            continue
        image, patch = index.place(number)
        counts[image] += 1
        if counts[image] <= per_image:
            yield -negative, image, patch
