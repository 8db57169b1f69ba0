"""Other precisions of a network: fp16 with a block list, int8 by calibration, and what it costs.

Nothing here knows cards, stages or media: it takes a graph and samples of what goes into it.
Making a graph needs the ``onnx`` package (``pip install 'mien[quantize]'``); running one does not.
"""

from __future__ import annotations

from mien.precision.compare import Difference, differences, speed
from mien.precision.fp16 import KEPT, MARGIN, to_fp16, too_large
from mien.precision.graph import Sample, simplify
from mien.precision.guard import Guarded, guarded
from mien.precision.int8 import METHODS, Choice, choose_int8, ranges, to_int8, write_table

__all__ = [
    "KEPT", "MARGIN", "METHODS", "Choice", "Difference", "Guarded", "Sample", "choose_int8",
    "differences", "guarded", "ranges", "simplify", "speed", "to_fp16", "to_int8", "too_large",
    "write_table",
]  # fmt: skip
