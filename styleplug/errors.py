"""The errors of styleplug, but for misuse (``ValueError``, ``TypeError``) and files
that cannot be read or written (``OSError``).

::

    StyleplugError
    ├── StyleNotFoundError    no style of that name, path or Hub id
    ├── InvalidStyleError     a style file that is damaged, foreign or unsafe
    ├── DownloadError         the Hub could not be reached or refused
    ├── InvalidImageError     a file or object that is not a usable image
    ├── ImageTooLargeError    more pixels than the caller allowed
    ├── DeviceError           a device that is not there or cannot compute
    ├── MemoryLimitError      the smallest tile does not fit the memory limit
    └── TrainingError         training data or a checkpoint that cannot be used
"""


class StyleplugError(Exception):
    """Base of all errors below; catch it to report a sentence to a user."""


class StyleNotFoundError(StyleplugError):
    """No bundled style, file or Hub repository answers to that name."""


class InvalidStyleError(StyleplugError):
    """The file is not a style this version can load safely."""


class DownloadError(StyleplugError):
    """The Hugging Face Hub could not be reached, or refused."""


class InvalidImageError(StyleplugError):
    """The file or object cannot be read as an image."""


class ImageTooLargeError(StyleplugError):
    """The image has more pixels than the caller allowed."""


class DeviceError(StyleplugError):
    """The requested device is not available on this machine, or cannot compute."""


class MemoryLimitError(StyleplugError):
    """Even the smallest tile needs more memory than the limit allows."""


class TrainingError(StyleplugError):
    """Training cannot start or go on with what it was given."""
