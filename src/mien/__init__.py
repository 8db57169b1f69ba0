"""mien: the face in a picture becomes a consenting person's.

>>> import mien
>>> me = mien.enrol("portrait.jpg", consent="self")     # doctest: +SKIP
>>> mien.swap("clip.mp4", me, "out.mp4")                # doctest: +SKIP
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# ONNX Runtime's wheels report their use to its makers, and look at this when they are imported;
# later calls that turn it off come too late. Whoever wants it on sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from mien.api import Person as Person
    from mien.api import Result as Result
    from mien.api import enrol as enrol
    from mien.api import list_faces as list_faces
    from mien.api import load as load
    from mien.api import reference as reference
    from mien.api import swap as swap
    from mien.api import swap_folder as swap_folder
    from mien.api import swap_image as swap_image
    from mien.errors import MienError as MienError
    from mien.media import SinkOptions as SinkOptions
    from mien.pipeline import Stream as Stream
    from mien.types import Consent as Consent
    from mien.types import Identity as Identity
    from mien.types import Rule as Rule
    from mien.types import SwapPlan as SwapPlan

_HOME = {
    "Consent": "types",
    "Identity": "types",
    "MienError": "errors",
    "Person": "api",
    "Result": "api",
    "Rule": "types",
    "SinkOptions": "media",
    "Stream": "pipeline",
    "SwapPlan": "types",
    "enrol": "api",
    "list_faces": "api",
    "load": "api",
    "reference": "api",
    "swap": "api",
    "swap_folder": "api",
    "swap_image": "api",
}
"""Public name → module; imported on first use, so that ``import mien`` costs nothing."""

__all__ = [
    "Consent",
    "Identity",
    "MienError",
    "Person",
    "Result",
    "Rule",
    "SinkOptions",
    "Stream",
    "SwapPlan",
    "__version__",
    "enrol",
    "list_faces",
    "load",
    "reference",
    "swap",
    "swap_folder",
    "swap_image",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mien' has no attribute {name!r}")
    return getattr(import_module(f"mien.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
