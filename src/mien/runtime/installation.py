"""Which ONNX Runtime is installed, and what its providers need to be there."""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Final

import onnxruntime as ort

from mien.runtime.device import PROVIDERS

BUILDS: Final = tuple(sorted({p.package.partition("[")[0] for p in PROVIDERS.values()}))
"""Packages that all install the module ``onnxruntime``, so that only one may be there."""

LIBRARIES: Final = {"cuda": "providers_cuda", "tensorrt": "providers_tensorrt"}
"""Provider → part of the name of its library."""

NEEDED: Final = re.compile(
    rb"lib(?:cudart|cublas|cudnn|cufft|nvinfer)\.so\.\d+"
    rb"|(?:cudart64_|cublas64_|cudnn64_|cufft64_|nvinfer_)\d+\.dll"
)
"""Names of the libraries of others that a provider's library asks for."""


@dataclass(frozen=True, slots=True)
class Installation:
    """What is installed of ONNX Runtime.

    Attributes:
        version: Of the module.
        packages: Package → version, of all that install the module.
        built: Short names of the providers it has.
        needed: Provider → libraries of others that it needs, by file name.
    """

    version: str
    packages: dict[str, str] = field(default_factory=dict)
    built: tuple[str, ...] = ()
    needed: dict[str, tuple[str, ...]] = field(default_factory=dict)


def installation() -> Installation:
    """Look at what is installed; loads no provider."""
    packages = {}
    for name in BUILDS:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    have = ort.get_available_providers()
    built = tuple(name for name, p in PROVIDERS.items() if p.ort in have)
    folder = Path(ort.__file__).parent / "capi"
    needed = {name: libraries(folder, LIBRARIES[name]) for name in built if name in LIBRARIES}
    return Installation(ort.__version__, packages, built, needed)


def libraries(folder: Path, part: str) -> tuple[str, ...]:
    """What the library with ``part`` in its name asks for, by the names that stand in it."""
    found: set[str] = set()
    for path in folder.glob(f"*{part}*"):
        with path.open("rb") as stream:
            if path.stat().st_size:
                with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                    found |= {name.decode("ascii") for name in NEEDED.findall(data)}
    return tuple(sorted(found))
