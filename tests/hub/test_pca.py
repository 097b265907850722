"""Components: exact, joint over images, in colours and with a foreground that do not depend on chance."""

import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import ibot_hub.pca
from ibot_hub.errors import ImageError, UsageError
from ibot_hub.loading import load
from ibot_hub.model import Model
from ibot_hub.pca import _split, components, otsu_threshold, principal_components


@pytest.fixture(scope="module")
def tiny() -> Model:
    return load("tiny")


@pytest.fixture(scope="module")
def swin(golden: Path) -> Model:
    return load(golden / "swin_micro_w7_checkpoint.pth")


@pytest.fixture(scope="module")
def size(tiny: Model) -> int:
    """Eight patches."""
    return 8 * tiny.transform.patch


def halves(width: int = 96, height: int = 64) -> Image.Image:
    """Orange at the left, dark blue at the right."""
    image = Image.new("RGB", (width, height), (240, 150, 40))
    image.paste((10, 20, 60), (width // 2, 0, width, height))
    return image


def random_rows(count: int = 200, width: int = 6) -> torch.Tensor:
    scales = torch.arange(width, 0, -1)
    return torch.randn(count, width, generator=torch.Generator().manual_seed(0)) * scales + 100


# Principal components


def test_they_are_those_of_a_singular_value_decomposition_however_the_rows_come_in_pieces() -> None:
    rows = random_rows()
    centred = rows.double().numpy() - rows.double().numpy().mean(0)
    _, lengths, axes = np.linalg.svd(centred, full_matrices=False)
    for pieces in ([rows], list(rows.split(37)), [rows[:0], rows]):
        basis = principal_components(pieces)
        np.testing.assert_allclose(basis.mean, rows.double().mean(0), rtol=1e-12)
        np.testing.assert_allclose(basis.explained, (lengths**2 / (lengths**2).sum())[:3], rtol=1e-9)
        np.testing.assert_allclose((basis.axes.numpy() * axes[:3]).sum(1).__abs__(), 1, rtol=1e-9)
        np.testing.assert_allclose(basis.project(rows).numpy(), centred @ basis.axes.numpy().T, atol=1e-9)


def test_the_sign_of_an_axis_is_that_of_its_largest_entry() -> None:
    rows = random_rows()
    for turned in (rows, -rows):
        axes = principal_components([turned]).axes
        assert (axes.gather(1, axes.abs().argmax(1, keepdim=True)) > 0).all()


@pytest.mark.parametrize(
    ("rows", "real"),
    [
        (torch.full((50, 6), 0.1), 0),
        (torch.randn(1, 6), 0),
        (torch.randn(2, 6).repeat(9, 1), 1),
        (torch.randn(3, 6).repeat(9, 1), 2),
        (torch.randn(90, 1) + 3, 1),
        (torch.randn(90, 2) + 3, 2),
        (torch.randn(90, 6) + 3, 3),
    ],
)
def test_a_component_that_does_not_exist_is_nothing(rows: torch.Tensor, real: int) -> None:
    basis = principal_components([rows])
    assert basis.axes.shape == (3, rows.shape[1])
    np.testing.assert_allclose(basis.axes.norm(dim=1), [1.0] * real + [0.0] * (3 - real), atol=1e-12)
    assert (basis.explained[real:] == 0).all()
    assert (basis.project(rows)[..., real:] == 0).all()


# Foreground


def test_otsus_threshold_is_the_best_of_all_splits() -> None:
    values = torch.cat([torch.randn(40), torch.randn(15) + 4]).double()

    def between(threshold: float) -> float:
        low, high = values[values <= threshold], values[values > threshold]
        return len(low) * len(high) * (low.mean() - high.mean()).item() ** 2

    best = otsu_threshold(values)
    assert all(between(best) >= between(value) - 1e-9 for value in values.sort().values[:-1].tolist())
    assert otsu_threshold(torch.tensor([0.0, 0.0, 0.0, 8.0])) == 4


def patches_of(mask: torch.Tensor, shift: float = 0.0) -> torch.Tensor:
    """[H, W, 4]: one direction tells where the mask is."""
    noise = torch.randn(*mask.shape, 4, generator=torch.Generator().manual_seed(1)) * 0.01
    return noise + shift + mask[..., None] * torch.tensor([0.0, 3.0, -1.0, 0.0])


def test_the_foreground_is_the_side_with_more_attention() -> None:
    mask = torch.zeros(6, 8, dtype=torch.bool)
    mask[:, 5:] = True
    for attended in (mask, ~mask):
        split = _split([patches_of(mask)], [attended * 0.9 + 0.1])
        assert split is not None
        assert torch.equal(split.foreground(patches_of(mask)), attended)


def test_without_attention_it_is_the_side_that_keeps_off_the_border() -> None:
    mask = torch.zeros(6, 8, dtype=torch.bool)
    mask[2:5, 2:5] = True
    for given in (mask, ~mask):
        split = _split([patches_of(given)], [None])
        assert split is not None
        assert torch.equal(split.foreground(patches_of(given)), mask)


def test_unlike_images_do_not_end_up_on_one_side_whole() -> None:
    mask = torch.zeros(6, 8, dtype=torch.bool)
    mask[2:5, 2:5] = True
    images = [patches_of(mask), patches_of(mask, shift=50.0)]  # they differ far more than their parts
    split = _split(images, [None, None])
    assert split is not None
    for image in images:
        assert torch.equal(split.foreground(image), mask)


def test_an_image_counts_by_its_share_of_attention_not_by_its_size() -> None:
    mask = torch.zeros(4, 4, dtype=torch.bool)
    mask[1:3, 1:3] = True
    large = torch.zeros(12, 12, dtype=torch.bool)
    large[3:9, 3:9] = True
    weights = [(part * 0.9 + 0.1) / (part * 0.9 + 0.1).sum() for part in (mask, large)]
    split = _split([patches_of(mask), patches_of(large)], weights)
    assert split is not None
    assert torch.equal(split.foreground(patches_of(large)), large)


# The whole of it, by real networks


def test_two_regions_have_two_colours_and_one_is_foreground(tiny: Model, size: int) -> None:
    found = components(tiny, halves(), size=size)
    (only,) = found.maps
    assert only.projections.shape == only.colours.shape == (8, 12, 3)
    assert only.colours.dtype == torch.uint8
    left, right = only.foreground[:, :5].float().mean(), only.foreground[:, 7:].float().mean()
    assert abs(left - right) > 0.8
    every = components(tiny, halves(), size=size, background=True).maps[0]
    assert every.foreground.all()
    columns = every.colours.float().mean(0)  # [12, 3]
    assert (columns[2] - columns[9]).abs().max() > 150


def test_the_same_part_has_the_same_colour_in_each_image(tiny: Model, size: int) -> None:
    image = halves()
    first, second = components(tiny, [image, ImageOps.mirror(image)], size=size, background=True).maps
    orange, again = first.colours[:, :4].float().mean((0, 1)), second.colours[:, 8:].float().mean((0, 1))
    blue = first.colours[:, 8:].float().mean((0, 1))
    assert (orange - again).abs().max() < 0.3 * (orange - blue).abs().max()


def test_they_are_the_exact_components_of_the_models_patches(tiny: Model, photos: Path, size: int) -> None:
    paths = [photos / "graf1.jpg", photos / "coffee.jpg"]
    found = components(tiny, paths, size=size, background=True)
    patches = [tiny(path, transform=found.transform).patches[0] for path in paths]
    rows = torch.cat([image.flatten(0, 1) for image in patches]).double().numpy()
    _, lengths, axes = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    np.testing.assert_allclose(found.basis.explained, (lengths**2 / (lengths**2).sum())[:3], rtol=1e-6)
    for image, of_image in zip(patches, found.maps, strict=True):
        expected = (image.double().numpy() - rows.mean(0)) @ axes[:3].T
        np.testing.assert_allclose(of_image.projections.abs(), np.abs(expected), atol=1e-3)
    shown = torch.cat([of_image.projections.flatten(0, 1) for of_image in found.maps]).double().numpy()
    np.testing.assert_allclose(np.stack([found.low, found.high]), np.quantile(shown, [0.01, 0.99], axis=0), atol=1e-4)
    darkest = found.maps[0].colours[found.maps[0].projections[..., 0] <= found.low[0]]
    assert (darkest[:, 0] == 0).all()


def test_with_a_foreground_they_are_those_of_its_patches_alone(tiny: Model, photos: Path, size: int) -> None:
    found = components(tiny, photos / "graf1.jpg", size=size)
    patches = tiny(photos / "graf1.jpg", transform=found.transform).patches[0]
    mask = found.maps[0].foreground
    assert 0 < mask.sum() < mask.numel()
    np.testing.assert_allclose(found.basis.mean, patches[mask].double().mean(0), atol=1e-5)
    np.testing.assert_allclose(found.basis.explained, principal_components([patches[mask]]).explained, rtol=1e-4)
    inside = tiny.attention(photos / "graf1.jpg", transform=found.transform)[0].mean(0)
    assert inside[mask].mean() >= inside[~mask].mean()


def test_other_images_are_projected_into_the_same_frame(tiny: Model, swin: Model, photos: Path, size: int) -> None:
    found = components(tiny, photos / "graf1.jpg", size=size)
    same, other = found.project(tiny, [photos / "graf1.jpg", photos / "graf3.jpg"])
    assert torch.equal(same.colours, found.maps[0].colours)
    assert torch.equal(same.foreground, found.maps[0].foreground)
    assert other.colours.shape == (8, 10, 3)
    with pytest.raises(UsageError, match=r"features \d+ wide; these components are of \d+"):
        found.project(swin, photos / "graf1.jpg")


def test_a_swin_has_components_too(swin: Model, photos: Path) -> None:
    found = components(swin, photos / "coffee.jpg", size=224)
    assert found.maps[0].foreground.shape == (7, 11)
    assert 0 < found.maps[0].foreground.sum() < 77


def test_the_same_call_gives_the_same(tiny: Model, photos: Path, size: int) -> None:
    first, second = (components(tiny, photos / "coffee.jpg", size=size) for _ in range(2))
    assert torch.equal(first.maps[0].projections, second.maps[0].projections)
    assert torch.equal(first.maps[0].colours, second.maps[0].colours)


def test_by_default_the_whole_image_is_seen_at_28_patches(tiny: Model) -> None:
    fit = components(tiny, halves(192, 128)).maps[0].fit
    assert (fit.rows, fit.columns, fit.corner) == (28, 42, (0, 0))
    assert (fit.width, fit.height) == (192, 128)


def test_a_single_patch_is_grey_foreground(tiny: Model) -> None:
    (only,) = components(tiny, Image.new("RGB", (30, 30), "red"), size=1).maps
    assert only.colours.tolist() == [[[128, 128, 128]]]
    assert only.foreground.tolist() == [[True]]


def test_of_a_generator_no_more_than_two_images_are_held(tiny: Model) -> None:
    def images() -> Iterator[Image.Image]:
        given: list[weakref.ref[Image.Image]] = []
        for _ in range(4):
            image = halves()
            given.append(weakref.ref(image))
            yield image
            del image
            assert sum(earlier() is not None for earlier in given) <= 1

    assert len(components(tiny, images(), size=16).maps) == 4


def test_what_cannot_be_done_is_told(tiny: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no images"):
        components(tiny, [])
    with pytest.raises(ImageError, match=r"missing.jpg: no such file"):
        components(tiny, tmp_path / "missing.jpg")
    monkeypatch.setattr(ibot_hub.pca, "MAX_BYTES", tiny(halves()).patches.nbytes)
    with pytest.raises(UsageError, match="features of 2 images fill 0 MiB; give fewer images, or a smaller size"):
        components(tiny, [halves()] * 3, size=tiny.transform.size, resize="crop")
