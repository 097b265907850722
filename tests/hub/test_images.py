import io
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

import ibot_hub.images
from ibot_hub.errors import ImageError, UsageError
from ibot_hub.images import ImageTransform, as_images, decode, image_extensions, to_rgb

ROOT = Path(ibot_hub.images.__file__).parents[1]
PHOTOS = sorted((ROOT / "examples/photos").glob("*.jpg"))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def reason(source: object) -> str:
    with pytest.raises(ImageError) as caught:
        decode(source)
    return str(caught.value)


def png(width: int, height: int, *more: tuple[bytes, bytes]) -> bytes:
    """A grey PNG that says it is so large, whatever its data."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), *more, (b"IDAT", zlib.compress(b"\0" * 9)), (b"IEND", b"")]
    packed = (struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def photo(width: int = 61, height: int = 47) -> Image.Image:
    return Image.open(PHOTOS[0]).convert("RGB").resize((width, height))


def difference(first: torch.Tensor, second: torch.Tensor) -> int:
    assert first.shape == second.shape
    return int((first.int() - second.int()).abs().max())


# decode: what works


def test_decode_takes_a_path_bytes_and_a_stream(tmp_path: Path) -> None:
    file = tmp_path / "one.png"
    file.write_bytes(encoded(photo(), "PNG"))
    expected = photo().tobytes()
    with file.open("rb") as stream:
        assert [decode(source).tobytes() for source in (file, str(file), file.read_bytes(), stream)] == [expected] * 4


def test_the_extension_does_not_matter(tmp_path: Path) -> None:
    file = tmp_path / "png.jpg"
    file.write_bytes(encoded(photo(), "PNG"))
    assert decode(file).tobytes() == photo().tobytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    stored = Image.new("RGB", (48, 32))
    stored.paste((255, 0, 0), (0, 0, 16, 16))  # red marks the stored top left
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode(encoded(stored, kind, exif=exif))
    corner = {1: (0, 0), 2: (1, 0), 3: (1, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 1), 8: (0, 1)}[orientation]
    assert image.size == ((48, 32) if orientation < 5 else (32, 48))
    corners = {(x, y): image.getpixel((x * (image.width - 1), y * (image.height - 1))) for x in (0, 1) for y in (0, 1)}
    assert {place for place, colour in corners.items() if colour[0] > 128} == {corner}


def test_an_odd_or_damaged_exif_block_does_not_lose_the_image() -> None:
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack(">HHI4s", 0x0213, 2, 4, b"odd\0")
    assert decode(encoded(photo(), "JPEG", exif=exif + bytes(4))).size == (47, 61)
    assert decode(encoded(photo(), "WEBP", exif=b"no exif at all")).size == (61, 47)


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        animation = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert decode(animation).getpixel((4, 4)) == (255, 0, 0), kind


def test_cmyk() -> None:
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    for kind in ("JPEG", "TIFF"):
        red, green, blue = decode(encoded(cyan, kind)).getpixel((8, 8))
        assert red < 3, kind
        assert min(green, blue) > 252, kind


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_grey_of_16_bits_is_scaled_not_clipped(kind: str) -> None:
    values = np.array([[0, 257, 128 * 257 + 100, 65535]], np.uint16)
    image = decode(encoded(Image.fromarray(values), kind))
    assert image.mode == "RGB"
    assert np.asarray(image)[0, :, 0].tolist() == [0, 1, 128, 255]


def test_integers_and_floats_keep_their_range() -> None:
    def grey(values: list[float], dtype: str) -> list[int]:
        return np.asarray(to_rgb(Image.fromarray(np.array([values], dtype))))[0, :, 1].tolist()

    assert grey([0, 257, 65535], "int32") == [0, 1, 255]
    assert grey([-1000, 0, 1000], "int32") == [0, 128, 255]
    assert grey([0, 1_000_000], "int32") == [0, 255]
    assert grey([-5, -5], "int32") == [0, 0]
    assert grey([0, 0.5, 1], "float32") == [0, 128, 255]
    assert grey([0, 1, 200], "float32") == [0, 1, 200]
    assert grey([0, 65535], "float32") == [0, 255]
    assert grey([-0.5, 0.5], "float32") == [0, 255]
    for bad in (np.nan, np.inf):
        with pytest.raises(ImageError, match="not finite"):
            grey([0, bad], "float32")


def test_transparency_is_composited_on_white() -> None:
    layer = Image.new("RGBA", (3, 1))
    for x, colour in enumerate([(255, 0, 0, 255), (0, 0, 0, 0), (0, 0, 0, 128)]):
        layer.putpixel((x, 0), colour)
    assert np.asarray(decode(encoded(layer, "PNG")))[0].tolist() == [[255, 0, 0], [255, 255, 255], [127, 127, 127]]
    assert np.asarray(decode(encoded(layer.convert("LA"), "PNG")))[0].tolist() == [[76] * 3, [255] * 3, [127] * 3]

    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        assert np.asarray(decode(encoded(palette, kind, transparency=0)))[0].tolist() == [[255] * 3, [200, 100, 50]], kind
    assert np.asarray(decode(encoded(palette, "PNG")))[0].tolist() == [[10, 20, 30], [200, 100, 50]]
    assert np.asarray(decode(encoded(palette, "PNG", transparency=bytes([255, 0]))))[0].tolist() == [[10, 20, 30], [255] * 3]
    assert np.asarray(to_rgb(layer.convert("PA")))[0, 1].tolist() == [255] * 3


def test_lab() -> None:
    red, green, blue = decode(encoded(Image.new("LAB", (1, 1), (136, 208, 195)), "TIFF")).getpixel((0, 0))
    assert red > 245
    assert max(green, blue) < 16


def test_one_bit_and_grey() -> None:
    assert np.asarray(decode(encoded(Image.fromarray(np.array([[True, False]])), "PNG")))[0].tolist() == [[255] * 3, [0] * 3]
    assert np.asarray(decode(encoded(Image.fromarray(np.array([[7, 250]], np.uint8)), "PNG")))[0].tolist() == [[7] * 3, [250] * 3]


def test_an_rgb_image_is_not_copied() -> None:
    image = photo()
    assert to_rgb(image) is image


def test_an_image_below_the_limit_neither_warns_nor_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(photo(61, 47), "PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)  # Pillow warns above this, and raises above twice as much
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(io.BytesIO(data))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(data).size == (61, 47)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert decode(data).size == (61, 47)


# decode: what does not


def test_broken_files_have_one_short_reason(tmp_path: Path) -> None:
    text, empty, short = tmp_path / "text.jpg", tmp_path / "empty.jpg", tmp_path / "short.jpg"
    text.write_text("no image, but a letter to its author")
    empty.touch()
    short.write_bytes(b"\xff\xd8\xff")
    assert reason(text) == "no image that can be read, whatever its name says"
    assert reason(empty) == "the file is empty"
    assert reason(short).startswith("broken JPEG: ")
    assert reason(tmp_path / "absent.jpg") == "no such file"
    assert reason(tmp_path) == "a folder, not an image"
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    assert reason(tmp_path / "loop.jpg") == "cannot be read: too many levels of symbolic links"
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason(tmp_path / "pipe.jpg") == "not a regular file"
    assert (
        reason(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n") == "no image that can be read, whatever its name says"
    )  # no Ghostscript


def test_a_bomb_is_refused_before_it_is_decoded() -> None:
    assert reason(png(50_000, 50_000)) == "it claims 50000 x 50000 pixels, more than 178956970: a decompression bomb?"
    assert "a decompression bomb?" in reason(png(178_956_971, 1))
    assert reason(png(1, 2_000)).startswith("broken PNG: ")  # the same file with a size that is allowed


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")  # as Pillow calls the directory of a TIFF
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF", "TGA"])
def test_truncated_files(kind: str) -> None:
    whole = encoded(photo(), kind)
    assert decode(whole).size == (61, 47)
    for part in (1, 2, 3, 5, 17, 40, len(whole) // 4, len(whole) // 2, len(whole) * 3 // 4):
        first = reason(whole[:part])
        assert len(first) < 250
        assert "\n" not in first
        assert first == reason(whole[:part])  # the same each time: no address of an object in it


def test_damaged_bytes_never_raise_anything_else() -> None:
    generator = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    seeds = [encoded(photo(), kind, exif=exif) for kind in ("JPEG", "PNG", "WEBP")]
    seeds += [encoded(photo(), kind) for kind in ("GIF", "BMP", "TIFF", "ICO", "PCX", "SGI", "DDS", "QOI")]
    seeds += [encoded(photo(), "TIFF", compression="raw"), encoded(photo().convert("P"), "PNG", transparency=3)]
    failures = 0
    for data in seeds:
        for _ in range(60):
            damaged = bytearray(data)
            for place in generator.integers(0, min(len(data), 400), size=4):
                damaged[place] = generator.integers(256)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow remarks on odd tags of a TIFF
                try:
                    assert decode(bytes(damaged)).mode == "RGB"
                except ImageError:
                    failures += 1
    assert failures > 200


def test_a_programming_error_is_not_a_broken_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(image: Image.Image) -> Image.Image:
        raise MemoryError if image.width == 61 else ZeroDivisionError

    monkeypatch.setattr(ibot_hub.images, "to_rgb", fail)
    with pytest.raises(MemoryError):
        decode(encoded(photo(61, 47), "PNG"))
    with pytest.raises(ZeroDivisionError):
        decode(encoded(photo(62, 47), "PNG"))


UNREADABLE = """
import os, sys
from ibot_hub.errors import ImageError
from ibot_hub.images import decode
if os.getuid() == 0:  # no permission stops root
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    decode(sys.argv[1])
except ImageError as error:
    print(error)
"""


def test_an_unreadable_file() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        file = Path(folder) / "secret.png"
        file.write_bytes(encoded(photo(), "PNG"))
        file.chmod(0)
        done = subprocess.run([sys.executable, "-c", UNREADABLE, file], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "no permission to read it\n"


def test_extensions_are_those_of_images_that_decode_reads() -> None:
    assert image_extensions() >= {".jpg", ".jpeg", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".avif", ".jp2", ".ppm"}
    assert not image_extensions() & {".pdf", ".eps", ".h5", ".mpg", ".wmf", ".txt", ".tar"}


# ImageTransform


def test_resizing_is_pillows_but_for_a_grey_level() -> None:
    assert len(PHOTOS) >= 10
    away = []
    for path in PHOTOS:
        image = decode(path)
        width, height = (256 if length == min(image.size) else int(256 * length / min(image.size)) for length in image.size)
        left, top = round((width - 224) / 2), round((height - 224) / 2)
        cropped = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + 224, top + 224))
        squashed = image.resize((448, 448), Image.Resampling.BICUBIC)
        for resize, expected in (("crop", cropped), ("squash", squashed)):
            pixels = ImageTransform(expected.width, resize).pixels(image)
            away.append((pixels.int() - torch.from_numpy(np.array(expected)).permute(2, 0, 1)).abs().flatten())
    levels = torch.cat(away)
    assert levels.max() <= 2
    assert (levels > 1).float().mean() < 1e-5
    assert levels.float().mean() < 0.02


def test_crop_is_the_official_evaluation() -> None:
    """Widths and corners as torchvision's Resize(256) and CenterCrop(224) choose them, seen in an image of its own coordinates."""
    for width, height in ((500, 375), (375, 500), (256, 256), (333, 257), (341, 256), (1000, 251)):
        columns = np.broadcast_to(np.linspace(0, 255, width, dtype=np.float32)[None, :], (height, width))
        rows = np.broadcast_to(np.linspace(0, 255, height, dtype=np.float32)[:, None], (height, width))
        image = Image.fromarray(np.rint(np.stack([columns, rows, rows * 0], -1)).astype(np.uint8))
        pixels = ImageTransform().pixels(image)
        assert pixels.shape == (3, 224, 224)
        assert pixels.dtype == torch.uint8
        for channel, length in ((0, width), (1, height)):
            resized = 256 if length == min(width, height) else int(256 * length / min(width, height))
            corner = int(round((resized - 224) / 2.0))  # noqa: RUF046  as torchvision writes it
            middle = (corner + 112 + 0.5) * length / resized - 0.5
            assert abs(int(pixels[channel, 112, 112]) - 255 * middle / (length - 1)) <= 1


def test_sides_are_multiples_of_the_patch() -> None:
    image = photo(300, 200)

    def sides(size: int, resize: str, patch: int) -> tuple[int, ...]:
        return tuple(ImageTransform(size, resize, patch).pixels(image).shape[1:])

    assert sides(230, "crop", 16) == (224, 224)
    assert sides(232, "crop", 16) == (240, 240)  # half up
    assert sides(231, "squash", 16) == (224, 224)
    assert sides(3, "squash", 16) == (16, 16)
    assert sides(224, "crop", 32) == (224, 224)
    assert sides(224, "keep", 16) == (224, 336)
    assert sides(100, "keep", 16) == (96, 144)  # 100 x 150
    assert sides(45, "keep", 7) == (42, 70)  # 45 x 67.5


def test_crop_at_another_size_keeps_the_share_of_the_image() -> None:
    image = Image.fromarray(np.tile(np.arange(256, dtype=np.uint8), (256, 1))).convert("RGB")
    for size in (64, 224, 448):
        pixels = ImageTransform(size).pixels(image)
        assert abs(int(pixels[0, 0, 0]) - 16) <= 3
        assert abs(int(pixels[0, 0, -1]) - 239) <= 3


def test_keep_refuses_ribbons() -> None:
    with pytest.raises(ImageError, match=r"aspect ratio of 1 x 17 is over 16: use --resize squash or crop"):
        ImageTransform(resize="keep").pixels(Image.new("RGB", (1, 17)))
    assert ImageTransform(32, "keep").pixels(Image.new("RGB", (1, 16))).shape == (3, 512, 32)


def test_ribbons_and_single_pixels_are_cropped_without_a_giant_between() -> None:
    for size in ((1, 1), (1, 10_000), (10_000, 1), (100_000, 3)):
        pixels = ImageTransform().pixels(Image.new("RGB", size, (10, 20, 30)))
        assert pixels.shape == (3, 224, 224)
        assert pixels.amin((1, 2)).tolist() == pixels.amax((1, 2)).tolist() == [10, 20, 30]
    line = Image.fromarray(np.linspace(0, 255, 10_001).astype(np.uint8)[None]).convert("RGB")
    assert abs(int(ImageTransform().pixels(line)[0, 0, 112]) - 127) <= 1  # the middle


def test_cropping_first_gives_what_resizing_the_whole_gives() -> None:
    for path in PHOTOS[:8]:
        image = decode(path)
        fit = ImageTransform().fit(*image.size)
        first = ibot_hub.images._cropped_first(image, fit)
        corner = fit.corner
        whole = image.resize(fit.resized, Image.Resampling.BICUBIC).crop((*corner, corner[0] + 224, corner[1] + 224))
        away = (first.int() - torch.from_numpy(np.array(whole)).permute(2, 0, 1).int()).abs()
        assert away.max() <= 2, path.name
        assert away.float().mean() < 0.01


def test_large_images_whose_memory_is_in_pieces() -> None:
    image = photo(2100, 2100)
    expected = torch.from_numpy(np.array(image.resize((224, 224), Image.Resampling.BICUBIC))).permute(2, 0, 1)
    assert difference(ImageTransform(224, "squash").pixels(image), expected) <= 1


def test_normalise_is_what_torchvision_does() -> None:
    transform = ImageTransform()
    pixels = torch.arange(256, dtype=torch.uint8).repeat(2, 3, 1, 1)
    expected = pixels.float().div(255).sub(torch.tensor(transform.mean).view(3, 1, 1)).div(torch.tensor(transform.std).view(3, 1, 1))
    assert torch.equal(transform.normalise(pixels), expected)
    assert pixels.max() == 255  # left as it was
    own = ImageTransform(mean=(0.0, 0.0, 0.0), std=(1.0, 0.5, 0.25)).normalise(pixels)
    assert own[0, :, 0, 255].tolist() == [1.0, 2.0, 4.0]


def test_the_transform_works_in_anyones_data_loader() -> None:
    class Photos(torch.utils.data.Dataset):
        def __init__(self, transform: ImageTransform) -> None:
            self.transform = transform

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> torch.Tensor:
            return self.transform(Image.open(PHOTOS[index]))

    transform = pickle.loads(pickle.dumps(ImageTransform(64)))
    assert transform == ImageTransform(64)
    (batch,) = torch.utils.data.DataLoader(Photos(transform), batch_size=4)
    assert batch.shape == (4, 3, 64, 64)
    assert batch.dtype == torch.float32
    assert torch.equal(batch[2], transform.normalise(transform.pixels(decode(PHOTOS[2]))))


def test_images_that_are_not_rgb_are_converted() -> None:
    grey = photo().convert("L")
    assert torch.equal(ImageTransform(32).pixels(grey), ImageTransform(32).pixels(grey.convert("RGB")))


def test_an_image_that_the_caller_opened_may_turn_out_broken() -> None:
    whole = encoded(photo(), "PNG")
    with pytest.raises(ImageError, match="broken PNG"):
        ImageTransform().pixels(Image.open(io.BytesIO(whole[: len(whole) // 2])))


def test_pixels_do_not_share_memory_with_the_image() -> None:
    image = photo(32, 32)
    before = image.tobytes()
    ImageTransform(32, "squash").pixels(image).zero_()
    assert image.tobytes() == before


def test_threads_get_the_same_pixels() -> None:
    transform = ImageTransform()
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda path: transform.pixels(decode(path)), PHOTOS * 3))
    for index, path in enumerate(PHOTOS):
        expected = transform.pixels(decode(path))
        assert all(torch.equal(expected, found[index + turn * len(PHOTOS)]) for turn in range(3))


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"size": 0}, "size is 0"),
        ({"patch": 0}, "patch 0"),
        ({"resize": "stretch"}, "crop, squash, keep"),
        ({"std": (1.0, 0.0, 1.0)}, "std"),
        ({"mean": (0.5, 0.5)}, "three numbers"),
        ({"std": (0.5,) * 4}, "three numbers"),
    ],
)
def test_fields_are_checked(fields: dict[str, object], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        ImageTransform(**fields)


# as_images


def test_as_images_takes_what_a_model_takes(tmp_path: Path) -> None:
    file = tmp_path / "one.png"
    file.write_bytes(encoded(photo(), "PNG"))
    image, array = photo(), np.array(photo())
    assert [found.tobytes() for found in as_images([file, str(file), image, array])] == [photo().tobytes()] * 4
    for one in (file, str(file), image, array, (image,)):
        (found,) = as_images(one)
        assert found.tobytes() == photo().tobytes()
    turned = ImageOps.mirror(photo())
    assert as_images(turned)[0] is turned


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (np.zeros((4, 5, 3), np.float32), r"a float32 array of shape \(4, 5, 3\)"),
        (np.zeros((4, 5), np.uint8), r"a uint8 array of shape \(4, 5\)"),
        (np.zeros((4, 5, 4), np.uint8), r"shape \(4, 5, 4\)"),
        (np.zeros((2, 4, 5, 3), np.uint8), r"shape \(2, 4, 5, 3\)"),
        (np.zeros((0, 5, 3), np.uint8), r"shape \(0, 5, 3\)"),
        (b"bytes", "'bytes'"),
        (3, "'int'"),
        ([None], "'NoneType'"),
        ([], "empty"),
    ],
)
def test_as_images_names_what_it_does_not_take(wrong: object, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        as_images(wrong)


def test_as_images_names_the_file_that_is_broken(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9.jpg")
    file.touch()
    with pytest.raises(ImageError, match=r"caf\\xe9.jpg: the file is empty"):
        as_images(file)
