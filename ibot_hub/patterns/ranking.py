"""The best members of every pattern, kept while images go by: memory is patterns x members, whatever the number of images."""

import numpy as np
import numpy.typing as npt

MEMBER = np.dtype(
    [
        ("confidence", np.float32),
        ("image", np.int64),  # its number in the source, below 2^32
        ("row", np.int32),  # of the patch, from -1 to 65534
        ("column", np.int32),
        ("width", np.int32),  # of the image as given, pixels
        ("height", np.int32),
    ]
)
Members = npt.NDArray[np.void]  # of dtype MEMBER
Patterns = npt.NDArray[np.int64]

WAITING = 4096  # rows, at least, that are ranked together


class Ranking:
    """Of each pattern the `keep` members with the highest confidence, at most `per_image` of one image.

    Of equals the one of the earlier image is kept, then the one further up, then left. So what is kept does not depend on how
    the images are split into batches, nor on their order.

    Attributes:
        sizes: [K] int64, how many patches went to each pattern, kept or not.
    """

    def __init__(self, patterns: int, keep: int, per_image: int = 1) -> None:
        self.sizes = np.zeros(patterns, np.int64)
        self._per_image = per_image
        self._best = np.zeros((patterns, keep), MEMBER)
        self._counts = np.zeros(patterns, np.int64)  # of each row of `_best`, from its left
        self._worst = np.full(patterns, -np.inf, np.float32)  # what a patch must reach to be kept
        self._waiting: list[tuple[Patterns, Members]] = []  # sorting costs as much for few rows as for many

    def add(self, patterns: Patterns, members: Members) -> None:
        """Rank more patches, each with its pattern: [n] and [n]. All patches of an image come in one call."""
        self.sizes += np.bincount(patterns, minlength=len(self.sizes))
        hopeful = members["confidence"] >= self._worst[patterns]  # an equal one may be of an earlier image
        self._waiting.append((patterns[hopeful], members[hopeful]))
        if sum(len(rows) for rows, _ in self._waiting) > max(WAITING, self._best.size // 2):
            self._merge()

    def members(self) -> tuple[Patterns, Members]:
        """How many are kept of each pattern, [K], and all that are kept: those of pattern 0 in order of rank, then of pattern 1, ..."""
        self._merge()
        return self._counts, self._best[np.arange(self._best.shape[1]) < self._counts[:, None]]

    def _merge(self) -> None:
        """Rank those that wait among those that are kept."""
        if not self._waiting:
            return
        patterns, members = (np.concatenate(column) for column in zip(*self._waiting, strict=True))
        self._waiting = []
        patterns, members = _best_of_images(patterns, members, self._per_image)
        touched = np.unique(patterns)
        keep = self._best.shape[1]
        filled = np.arange(keep) < self._counts[touched, None]
        patterns = np.concatenate([np.repeat(touched, self._counts[touched]), patterns])
        members = np.concatenate([self._best[touched][filled], members])
        order = np.lexsort((_place(members), _rank(patterns, members["confidence"])))
        patterns, members = patterns[order], members[order]
        starts, counts = np.unique(patterns, return_index=True, return_counts=True)[1:]
        ranks = np.arange(len(patterns)) - np.repeat(starts, counts)
        kept = ranks < keep
        self._best[patterns[kept], ranks[kept]] = members[kept]
        self._counts[touched] = np.minimum(counts, keep)
        full = self._counts == keep
        self._worst[full] = self._best["confidence"][full, -1]


def _best_of_images(patterns: Patterns, members: Members, per_image: int) -> tuple[Patterns, Members]:
    """Of the patches of an image in one pattern the `per_image` most confident, of equals the first by row, then column."""
    order = np.lexsort((_place(members), _rank(patterns, members["confidence"]), members["image"]))
    patterns, members = patterns[order], members[order]
    new = np.ones(len(order), bool)  # another pattern or image than the one before
    new[1:] = (patterns[1:] != patterns[:-1]) | (members["image"][1:] != members["image"][:-1])
    starts = np.flatnonzero(new)
    kept = np.arange(len(order)) - starts[np.cumsum(new) - 1] < per_image
    return patterns[kept], members[kept]


def _rank(patterns: Patterns, confidences: npt.NDArray[np.float32]) -> npt.NDArray[np.uint64]:
    """One number to sort by: the pattern, then the confidence from the highest on. One sort is several times faster than two."""
    bits = (confidences + np.float32(0)).view(np.uint32)  # adding 0 makes -0 the 0 that it equals
    falling = np.where(bits >> 31, bits, ~bits & 0x7FFFFFFF)  # the bits of negative floats fall as they are
    return patterns.astype(np.uint64) << np.uint64(32) | falling


def _place(members: Members) -> npt.NDArray[np.uint64]:
    """One number to sort by: the image, then row and column."""
    image, row, column = ((members[name] + shift).astype(np.uint64) for name, shift in (("image", 0), ("row", 1), ("column", 1)))
    return image << np.uint64(32) | row << np.uint64(16) | column
