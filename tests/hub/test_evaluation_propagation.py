"""Labels go where the patches go: as a plain implementation says, on made-up clips, and on photographs moved by a known homography."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ibot_hub.errors import UsageError
from ibot_hub.evaluation import propagation as module
from ibot_hub.evaluation.masks import region_similarity
from ibot_hub.evaluation.options import PropagationOptions
from ibot_hub.evaluation.propagation import carry, carry_labels, frame_features, label_grid, seen_size, strongest_label
from ibot_hub.images import ImageTransform, decode
from ibot_hub.loading import load
from ibot_hub.model import Card, Model
from ibot_hub.swin import Swin
from ibot_hub.vit import ViT

Labels = npt.NDArray[np.uint8]
SMALL = PropagationOptions(size=128, device="cpu")


@pytest.fixture(scope="module")
def tiny() -> Model:
    return load("tiny", head=False)


@pytest.fixture(scope="module")
def blind() -> Model:
    """An untrained ViT that sees colours and edges, and whose tokens move along with the patches, since its position table is zero."""
    torch.manual_seed(0)
    network = ViT(img_size=64, patch_size=8, embed_dim=64, depth=1, num_heads=1).eval()
    torch.nn.init.zeros_(network.pos_embed)
    return Model(network, None, None, ImageTransform(64, patch=8), Card("blind", "ViT-64x1/8", None))


def plain(target: Tensor, sources: Tensor, labels: Tensor, options: PropagationOptions) -> npt.NDArray[np.float64]:
    """One patch after the other, as the official script means it."""
    height, width = target.shape[:2]
    answer = np.zeros((height, width, labels.shape[-1]))
    for row, column in np.ndindex(height, width):
        votes = []
        for frame, i, j in np.ndindex(len(sources), height, width):
            if max(abs(i - row), abs(j - column)) <= options.radius:
                votes.append((float(target[row, column] @ sources[frame, i, j]), labels[frame, i, j].numpy()))
        votes.sort(key=lambda vote: -vote[0])
        least = votes[min(options.neighbours, len(votes)) - 1][0]
        weights = [(np.exp(similarity / options.temperature), label) for similarity, label in votes if similarity >= least]
        answer[row, column] = sum(weight * label for weight, label in weights) / sum(weight for weight, _ in weights)
    return answer


@pytest.mark.parametrize(("radius", "neighbours", "tile"), [(1, 5, 8), (2, 5, 3), (12, 5, 2), (2, 1, 1), (0, 5, 4)])
def test_equals_a_plain_implementation(radius: int, neighbours: int, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is carried at a time."""
    monkeypatch.setattr(module, "TILE", tile)
    torch.manual_seed(0)
    target, sources = F.normalize(torch.randn(5, 7, 6), dim=-1), F.normalize(torch.randn(3, 5, 7, 6), dim=-1)
    labels = torch.rand(3, 5, 7, 2)
    options = PropagationOptions(radius=radius, neighbours=neighbours)
    assert carry(target, sources, labels, options).numpy() == pytest.approx(plain(target, sources, labels, options), abs=1e-5)


def test_patches_that_are_equally_like_all_count() -> None:
    same = torch.ones(1, 2, 3, 1)
    labels = torch.arange(6.0).view(1, 2, 3, 1)
    assert carry(same[0], same, labels, PropagationOptions(neighbours=2)).flatten().tolist() == pytest.approx([2.5] * 6)


def test_labels_follow_features_that_move() -> None:
    torch.manual_seed(0)
    first = F.normalize(torch.randn(9, 11, 32), dim=-1)
    labels = F.one_hot(torch.randint(0, 3, (9, 11)), 3).float()
    moved, true = first.roll((1, -2), dims=(0, 1)), labels.roll((1, -2), dims=(0, 1))
    found = carry(moved, first[None], labels[None], PropagationOptions(radius=2, neighbours=1))
    assert found[1:, :-2].equal(true[1:, :-2])
    too_far = carry(moved, first[None], labels[None], PropagationOptions(radius=1, neighbours=1))
    assert not too_far[1:, :-2].equal(true[1:, :-2])


@pytest.mark.parametrize(
    ("given", "size", "patch", "seen"),
    [
        ((854, 480), 480, 16, (832, 480)),  # DAVIS
        ((480, 854), 480, 8, (480, 832)),
        ((1920, 1080), 480, 16, (832, 480)),
        ((500, 500), 480, 16, (448, 480)),
        ((854, 480), 480, 14, (826, 476)),
        ((854, 480), 480, 32, (832, 480)),
        ((100, 70), 64, 80, (80, 80)),
    ],
)
def test_the_size_of_frames(given: tuple[int, int], size: int, patch: int, seen: tuple[int, int]) -> None:
    assert seen_size(given, size, patch) == seen


def test_labels_of_patches_and_back() -> None:
    labels = np.zeros((64, 96), dtype=np.uint8)
    labels[16:48, 32:64] = 7
    labels[:, 80:] = 255
    grid = label_grid(labels, np.array([0, 7], dtype=np.uint8), 12, 8)
    assert grid[..., 1].sum() == grid[2:6, 4:8, 1].sum() == 16
    assert grid.sum(dim=-1).eq(1).all()  # what is undecided is background
    large = strongest_label(grid, 8, (96, 64))
    assert region_similarity(large == 1, labels == 7) > 0.9  # corners become round
    assert not large[labels != 7].any()
    weak = torch.stack([1 - grid[..., 1] * 0.2, grid[..., 1] * 0.2], dim=-1)  # each is stretched to its own range
    assert np.array_equal(strongest_label(weak, 8, (96, 64)), large)
    assert np.array_equal(strongest_label(grid, 8, (48, 32)), large[1::2, 1::2])
    gone = torch.stack([torch.ones(8, 12), torch.zeros(8, 12)], dim=-1)
    assert not strongest_label(gone, 8, (96, 64)).any()


def test_frames_are_seen_as_the_official_script_sees_them(tiny: Model, photos: Path) -> None:
    frame = decode(photos / "coffee.jpg").resize((192, 128))
    with torch.no_grad():
        features = frame_features(tiny, frame, 128)
    assert features.shape == (16, 24, 192)
    assert features.norm(dim=-1).numpy() == pytest.approx(np.ones((16, 24)), abs=1e-5)
    pixels = torch.from_numpy(np.array(frame)).permute(2, 0, 1) / 255

    @torch.no_grad()
    def by_hand(std: tuple[float, ...]) -> Tensor:
        mean = torch.tensor(tiny.transform.mean).view(3, 1, 1)
        return F.normalize(tiny((pixels - mean)[None] / torch.tensor(std).view(3, 1, 1)).patches[0], dim=-1)

    assert features.numpy() == pytest.approx(by_hand((0.228, 0.224, 0.225)).numpy(), abs=1e-4)
    assert abs(features - by_hand((0.229, 0.224, 0.225))).max() > 1e-4
    other = Model(tiny.backbone, None, None, replace(tiny.transform, std=(0.5, 0.5, 0.5)), tiny.card)  # a model with its own
    with torch.no_grad():
        assert frame_features(other, frame, 128).numpy() == pytest.approx(by_hand((0.5, 0.5, 0.5)).numpy(), abs=1e-4)


def moving_square(steps: int) -> Iterator[tuple[Image.Image, Labels]]:
    """A chequered square and a striped one cross a grey ground that has some grain."""
    rng = np.random.default_rng(0)
    ground = rng.integers(90, 130, (128, 192, 3), dtype=np.uint8)
    chequers = np.kron(np.indices((4, 4)).sum(0) % 2, np.ones((10, 10)))[..., None] * np.array([220, 40, 30])
    stripes = np.tile(np.kron(np.arange(4) % 2, np.ones(10)), (40, 1))[..., None] * np.array([20, 60, 230])
    for step in range(steps):
        frame, labels = ground.copy(), np.zeros((128, 192), dtype=np.uint8)
        for number, texture, (top, left) in ((1, chequers, (10 + 4 * step, 20)), (4, stripes, (70, 130 - 8 * step))):
            frame[top : top + 40, left : left + 40] = texture
            labels[top : top + 40, left : left + 40] = number
        yield Image.fromarray(frame), labels


def test_objects_of_a_made_up_clip_are_followed(tiny: Model) -> None:
    clip = list(moving_square(7))
    found = list(carry_labels(tiny, (frame for frame, _ in clip), clip[0][1], SMALL))
    assert len(found) == 6
    for number in (1, 4):
        still = region_similarity(clip[0][1] == number, clip[-1][1] == number)
        assert still < 0.3
        assert region_similarity(found[-1] == number, clip[-1][1] == number) > 0.7


def homography_to(corners: npt.NDArray[np.float64], others: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """[3, 3] that takes four points [4, 2] to four others."""
    rows = []
    for (x, y), (u, v) in zip(corners, others, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    matrix: npt.NDArray[np.float64] = np.append(np.linalg.solve(np.array(rows), others.ravel()), 1).reshape(3, 3)
    return matrix


@pytest.mark.parametrize(("name", "box"), [("clock", (120, 60, 260, 200)), ("fruits", (120, 80, 240, 200))])
def test_objects_of_a_photograph_that_moves_and_tilts_are_followed(
    blind: Model, photos: Path, name: str, box: tuple[int, int, int, int]
) -> None:
    """It tilts a little too; where the object lies in each frame is known by the homography that made it."""
    photo = decode(photos / f"{name}.jpg").resize((384, 256))
    first = np.zeros((256, 384), dtype=np.uint8)
    first[box[1] : box[3], box[0] : box[2]] = 1
    corners = np.array([[0.0, 0], [384, 0], [384, 256], [0, 256]])
    frames, truth = [], []
    for step in range(5):
        seen = corners + step * np.array([[16, 0], [16, 1], [17, 0], [16, -1]])
        back = homography_to(seen, corners)  # Pillow asks where each pixel comes from
        coefficients = (back / back[2, 2]).ravel()[:8].tolist()
        frames.append(photo.transform(photo.size, Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BILINEAR))
        truth.append(np.asarray(Image.fromarray(first).transform(photo.size, Image.Transform.PERSPECTIVE, coefficients)) > 0)
    found = list(carry_labels(blind, frames, first, replace(SMALL, size=256)))
    still = region_similarity(truth[0], truth[-1])
    assert region_similarity(found[-1] == 1, truth[-1]) > max(0.6, still + 0.2)


def test_earlier_frames_than_the_first_can_be_left_out(blind: Model) -> None:
    """Without them each frame asks the first one alone, so that frames between do not matter."""
    clip = list(moving_square(5))
    alone = replace(SMALL, frames=0)
    whole = list(carry_labels(blind, (frame for frame, _ in clip), clip[0][1], alone))
    ends = list(carry_labels(blind, [clip[0][0], clip[-1][0]], clip[0][1], alone))
    assert np.array_equal(whole[-1], ends[-1])
    assert not np.array_equal(whole[-1], list(carry_labels(blind, (frame for frame, _ in clip), clip[0][1], SMALL))[-1])


def test_a_swin_carries_labels_too() -> None:
    torch.manual_seed(0)
    network = Swin(patch_size=4, window_size=7, embed_dim=24, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8)).eval()
    model = Model(network, None, None, ImageTransform(224, patch=network.patch), Card("swin", "", None))
    clip = list(moving_square(2))
    (found,) = carry_labels(model, [frame for frame, _ in clip], clip[0][1], SMALL)
    assert found.shape == (128, 192)
    assert set(np.unique(found)) <= {0, 1, 4}


def test_what_cannot_be_carried_is_refused(blind: Model) -> None:
    (frame, labels), (other, _) = moving_square(2)
    with pytest.raises(UsageError, match="has no object"):
        next(carry_labels(blind, [frame, other], np.zeros_like(labels), SMALL))
    with pytest.raises(UsageError, match="The labels are 191 x 128, and the first frame 192 x 128"):
        next(carry_labels(blind, [frame, other], labels[:, :-1], SMALL))
    with pytest.raises(UsageError, match="A frame is 128 x 192, and the first one 192 x 128"):
        next(carry_labels(blind, [frame, other.rotate(90, expand=True)], labels, SMALL))
