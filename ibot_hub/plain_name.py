"""Any text, such as the name of a model or a path, becomes part of a file's name."""

import re


def plain_name(text: str) -> str:
    """`text` with a hyphen for all but letters of any script, digits, points and _."""
    return re.sub(r"[^\w.]+", "-", text).strip("-.")
