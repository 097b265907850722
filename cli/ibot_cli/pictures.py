"""Pictures that a command writes: `-o` must name a format before any work is done."""

from pathlib import Path
from typing import TYPE_CHECKING

from ibot_hub.errors import UsageError

if TYPE_CHECKING:
    from PIL.Image import Image


def check_picture(out: Path) -> None:
    """Raises UsageError where the ending of `out` names no format that a picture can be saved in, or its folder is not there."""
    from PIL import Image

    Image.init()
    if Image.registered_extensions().get(out.suffix.lower()) not in Image.SAVE:
        raise UsageError(f"{out} names no format of pictures; call it .png, .jpg or .webp.")
    if not out.parent.is_dir():
        raise UsageError(f"There is no folder {out.parent} to write {out.name} in; make it first.")


def write_picture(picture: "Image", out: Path) -> None:
    """Save a picture in the format that its name says, over an earlier one. Raises UsageError where it cannot be written."""
    try:
        picture.save(out)
    except OSError as error:
        raise UsageError(f"Cannot write {out}: {error.strerror or error}.") from error
    except ValueError as error:
        raise UsageError(
            f"{picture.width} x {picture.height} pixels do not go into {out.name}: {error}; .png has no such limit."
        ) from error
