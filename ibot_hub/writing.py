"""A file appears whole, or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ibot_hub.errors import StoreError
from ibot_hub.sources import shown


@contextmanager
def whole(target: Path) -> Iterator[Path]:
    """A path beside `target`, whose folder is made; what is written there becomes `target` at the end, and is removed after an error.

    Its name is fixed: what a killed process leaves, the next one writes over. Raises StoreError where it cannot be written.
    """
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        with partial.open("r+b") as stream:
            os.fsync(stream.fileno())
        partial.replace(target)
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"{shown(str(target))} cannot be written ({reason}); free space, or choose another --out.") from error
    finally:
        with suppress(OSError):
            partial.unlink()
