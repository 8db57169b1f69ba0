"""The only importer of ONNX Runtime: sessions, providers, and proof of what ran where."""

from __future__ import annotations

from mien.runtime.onnxfile import initialiser
from mien.runtime.session import CPU, PROVIDERS, Device, Model, load

__all__ = ["CPU", "PROVIDERS", "Device", "Model", "initialiser", "load"]
