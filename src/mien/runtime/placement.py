"""Which nodes of a graph ran on the processor, by ONNX Runtime's own profile of one run."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final

from mien.errors import ProviderError

CPU_PROVIDER: Final = "CPUExecutionProvider"

TRANSFERS: Final = frozenset({"MemcpyToHost", "MemcpyFromHost"})
"""Copies between the processor and the device."""

SHAPES: Final = frozenset({"Shape", "Size", "Constant", "ConstantOfShape", "Range"})
"""Operators whose results are sizes of tensors, wherever they run."""

SMALL: Final = 64
"""Up to so many numbers are sizes and scales, which providers leave to the processor on purpose."""


def on_processor(profile: Path) -> dict[str, int]:
    """Compute nodes that a profiled run left to the processor.

    Copies do not count, nor does the arithmetic of sizes: nodes whose results are a few integers,
    or a few numbers made from a few.

    Args:
        profile: The file that ``end_profiling`` names; chrome's trace format, an event a node.

    Returns:
        Operator → how many nodes; empty if all ran on the device.

    Raises:
        ProviderError: The profile cannot be read, or names no node at all.
    """
    try:
        events = json.loads(profile.read_text("utf-8"))
        ran = [
            e["args"] for e in events
            if e.get("cat") == "Node" and str(e.get("name", "")).endswith("_kernel_time")
        ]  # fmt: skip
        fallen: dict[str, int] = {}
        for node in ran:
            op = str(node["op_name"])
            if node.get("provider") == CPU_PROVIDER and not _bookkeeping(op, node):
                fallen[op] = fallen.get(op, 0) + 1
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ProviderError(f"{profile}: not a profile of ONNX Runtime ({error!r})") from error
    if not ran:
        raise ProviderError(f"{profile}: the profile of ONNX Runtime names no node that ran")
    return fallen


def _bookkeeping(op: str, node: dict[str, Any]) -> bool:
    """A copy, or arithmetic of a few numbers, which is not worth a device."""
    if op in TRANSFERS or op in SHAPES:
        return True
    outputs, inputs = node.get("output_type_shape"), node.get("input_type_shape")
    if not outputs:
        return False
    sizes = [math.prod(map(int, dims)) for out in outputs for dims in out.values()]
    if max(sizes) > SMALL:
        return False
    if all(kind in ("int64", "int32", "bool") for out in outputs for kind in out):
        return True
    given = [math.prod(map(int, dims)) for one in inputs or () for dims in one.values()]
    return inputs is not None and max(given, default=0) <= SMALL
