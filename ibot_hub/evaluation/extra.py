"""Libraries of the extra `eval`, imported where a protocol needs them."""

from importlib import import_module
from typing import Any

from ibot_hub.errors import UsageError


def needed(module: str) -> Any:
    """A module such as "scipy.ndimage". Raises UsageError where its library is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise UsageError(f"This protocol needs {module.partition('.')[0]}: pip install 'ibot-hub[eval]'.") from error
