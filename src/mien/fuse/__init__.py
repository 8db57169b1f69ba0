"""The whole face path as one graph: crop, generator, colour match, mask and paste-back."""

from __future__ import annotations

from mien.fuse.graph import Form, compose
from mien.fuse.paint import Fused, Outline, check, faster, load

__all__ = ["Form", "Fused", "Outline", "check", "compose", "faster", "load"]
