"""What can go wrong, as types: every message says what was looked for, where, and what to type next."""


class IBotError(Exception):
    """Something the caller can put right; commands print its one sentence and exit with `exit_code`."""

    exit_code = 1


class UsageError(IBotError):
    """Options that contradict each other, or a value outside its range."""

    exit_code = 2


class UnknownModelError(IBotError):
    """A model name that neither the catalogue nor the disk knows."""


class WeightsError(IBotError):
    """A checkpoint that cannot be read, or does not hold exactly what it must hold."""


class DownloadError(IBotError):
    """A checkpoint that could not be fetched, or arrived with the wrong bytes."""


class CacheError(IBotError):
    """A cache that cannot be looked through or cleared."""


class PublishError(IBotError):
    """A repository that could not be published, and is as it was."""


class ImageError(IBotError):
    """One image that cannot be decoded or prepared."""


class SourceError(IBotError):
    """A source of images that cannot be listed: a missing folder, an empty one, a broken archive."""


class StoreError(IBotError):
    """A folder of features that cannot be written, resumed or opened."""


class TrainingError(IBotError):
    """A run that cannot start or go on."""


class StoppedError(IBotError):
    """A run that was asked to stop, and saved what it had; `exit_code` is the shell's for that signal."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal
