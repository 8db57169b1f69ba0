"""The only importer of ONNX Runtime: sessions, providers, and proof of what ran where."""

from __future__ import annotations

from mien.runtime.device import (
    CPU,
    PRECISIONS,
    PROVIDERS,
    Device,
    Precision,
    Provider,
    cores,
    int8_is_quick,
    threads_for,
)
from mien.runtime.model import Bound, Model
from mien.runtime.onnxfile import initialiser
from mien.runtime.session import load

__all__ = [
    "CPU", "PRECISIONS", "PROVIDERS", "Bound", "Device", "Model", "Precision", "Provider",
    "cores", "initialiser", "int8_is_quick", "load", "threads_for",
]  # fmt: skip
