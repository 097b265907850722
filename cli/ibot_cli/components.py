"""`ibot components`: images become a sheet of their patches' principal components in colour."""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ibot_cli.models import Device, ModelName, chosen_model
from ibot_cli.options import options_from
from ibot_cli.pictures import check_picture, write_picture
from ibot_hub.errors import ImageError, SourceError
from ibot_hub.options import ComponentsOptions

if TYPE_CHECKING:
    from PIL.Image import Image

    from ibot_hub.images import ImageTransform
    from ibot_hub.listing import Entry

PAGE = 24  # images on one sheet


@options_from(ComponentsOptions)
def components(
    images: Annotated[list[str], typer.Argument(help="Images, folders, text files of paths, or .tar shards.")],
    model: ModelName = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="The picture to write; 24 images each, further ones beside it.")] = Path(
        "components.png"
    ),
    device: Device = "auto",
    *,
    options: ComponentsOptions,
) -> None:
    """Draw the first three principal components of patches as colours.

    The same colours mean the same in all images of one call; what is background stays grey.
    """
    from ibot_hub.devices import choose_devices
    from ibot_hub.draw.components import draw_components
    from ibot_hub.loading import load
    from ibot_hub.pca import components as find_components
    from ibot_hub.pca import components_transform

    check_picture(out)
    entries = [entry for source in images for entry in _listed(source)]
    chosen = choose_devices(device)[0]  # all this before a model is fetched for nothing
    loaded = load(chosen_model(model), head=False, device=chosen)
    print(f"{loaded.card.name}: {loaded.card.in_words()}", file=sys.stderr)
    names: list[str] = []
    small: list[Image] = []
    transform = components_transform(loaded, options)
    found = find_components(loaded, _readable(entries, transform, names, small), options)
    for page, first in enumerate(range(0, len(names), PAGE), 1):
        target = out if page == 1 else out.with_stem(f"{out.stem}-{page}")
        part = slice(first, first + PAGE)
        write_picture(draw_components(small[part], found.maps[part], names[part]), target)
        print(f"{len(names[part])} images -> {target}", file=sys.stderr)
    shares = ", ".join(f"{share:.0%}" for share in found.basis.explained.tolist())
    print(
        f"red, green and blue hold {shares} of what varies {'in all patches' if options.background else 'in the foreground'}",
        file=sys.stderr,
    )


def _listed(source: str) -> Sequence["Entry"]:
    from ibot_hub.listing import write_listing

    with tempfile.TemporaryDirectory() as folder:
        listing = write_listing(source, Path(folder) / "listing.parquet")
        return listing.entries(0, listing.count)


def _readable(entries: Sequence["Entry"], transform: "ImageTransform", names: list[str], small: list["Image"]) -> Iterator["Image"]:
    """The images that can be read, one at a time; their names and small copies are kept, and what is wrong with others is told."""
    from ibot_hub.draw.components import SIDE
    from ibot_hub.draw.sheet import shrink
    from ibot_hub.images import decode

    for entry in entries:
        try:
            image = decode(entry.read())
            transform.fit(*image.size)
        except ImageError as error:
            print(f"left out: {entry.shown}: {error}", file=sys.stderr)
            continue
        names.append(entry.shown)
        small.append(shrink(image, SIDE))
        yield image
    if not names:
        raise SourceError("None of these images can be read.")
