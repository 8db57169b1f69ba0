"""Where the five points of a face belong in a crop, for every published network.

Left and right eye, nose, left and right corner of the mouth, as shares of the crop's side. The
numbers are facts of how those networks were trained; a card gives them in pixels of its input.
"""

from __future__ import annotations

from typing import Final

from mien.zoo.card import Template

TEMPLATES: Final[dict[str, Template]] = {
    "arcface_112_v1": (
        (0.35473214, 0.45658929), (0.64526786, 0.45658929), (0.5, 0.61154464),
        (0.37913393, 0.77687500), (0.62086607, 0.77687500),
    ),
    "arcface_112_v2": (
        (0.34191607, 0.46157411), (0.65653393, 0.45983393), (0.50022500, 0.64050536),
        (0.37097589, 0.82469196), (0.63151696, 0.82325089),
    ),
    "arcface_128": (
        (0.36167656, 0.40387734), (0.63696719, 0.40235469), (0.50019687, 0.56044219),
        (0.38710391, 0.72160547), (0.61507734, 0.72034453),
    ),
    "ffhq_512": (
        (0.37691676, 0.46864664), (0.62285697, 0.46912813), (0.50123859, 0.61331904),
        (0.39308822, 0.72541100), (0.61150205, 0.72490465),
    ),
    "mtcnn_512": (
        (0.36562865, 0.46733799), (0.63305391, 0.46585885), (0.50019127, 0.61942959),
        (0.39032951, 0.77598822), (0.61178945, 0.77476328),
    ),
    "dfl_whole_face": (
        (0.35342266, 0.39285716), (0.62797622, 0.39285716), (0.48660713, 0.54017860),
        (0.38839287, 0.68750011), (0.59821427, 0.68750011),
    ),
}  # fmt: skip


def scaled(name: str, size: int) -> Template:
    """A template in pixels of a crop of ``size``.

    Shares are of pixel edges to edges, as the networks' own code uses them: multiplied by the
    side, with no half pixel between.
    """
    return tuple((x * size, y * size) for x, y in TEMPLATES[name])
