"""The exceptions of styleplug.

Misuse raises ``ValueError`` or ``TypeError`` instead, and files that cannot be read or
written raise ``OSError``.

::

    StyleplugError
    ├── StyleNotFoundError    no style with that name, path or Hub id
    ├── InvalidStyleError     a style file that is damaged, foreign or unsafe
    ├── DownloadError         the Hub cannot be reached, or refuses
    ├── InvalidImageError     a file or object that is not a usable image
    ├── ImageTooLargeError    more pixels than the caller allowed
    ├── DeviceError           a device that is missing or cannot compute
    ├── MemoryLimitError      the smallest tile does not fit the memory limit
    └── TrainingError         training data or a checkpoint that cannot be used
"""


class StyleplugError(Exception):
    """Base class of the errors below; catch it to show its message to a user."""


class StyleNotFoundError(StyleplugError):
    """No bundled style, file or Hub repository has that name."""


class InvalidStyleError(StyleplugError):
    """The file is not a style this version can load safely."""


class DownloadError(StyleplugError):
    """The Hugging Face Hub cannot be reached, or refuses the request."""


class InvalidImageError(StyleplugError):
    """The file or object cannot be read as an image."""


class ImageTooLargeError(StyleplugError):
    """The image has more pixels than the caller allowed."""


class DeviceError(StyleplugError):
    """The requested device is not available on this machine, or cannot compute."""


class MemoryLimitError(StyleplugError):
    """Even the smallest tile needs more memory than the limit allows."""


class TrainingError(StyleplugError):
    """Training cannot start or continue with the data or checkpoint given."""
