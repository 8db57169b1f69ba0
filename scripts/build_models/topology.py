"""MediaPipe's face tessellation as triangles, and the left-right partner of every point."""

from __future__ import annotations

import ast

import numpy as np
from numpy.typing import NDArray

TOP, BELOW_TOP = 10, 151
"""Two points of the mesh's midline that an edge joins: top of the forehead and the one below."""


def triangles(source: str) -> NDArray[np.uint16]:
    """Read the 852 triangles out of ``face_landmarker.py``.

    The file lists 2,556 directed edges, three in a row to a triangle, each triangle
    counter-clockwise as one sees it in a picture of a face that looks at the camera.

    Args:
        source: Text of MediaPipe's ``tasks/python/vision/face_landmarker.py``.

    Returns:
        ``(852, 3)`` uint16 indices into the 468 points.

    Raises:
        ValueError: The list is missing or is not made of such triangles.
    """
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and node.target.id == "FACE_LANDMARKS_TESSELATION"
            and isinstance(node.value, ast.List)
        ):
            edges = np.array(
                [[ast.literal_eval(a) for a in e.args] for e in node.value.elts]  # type: ignore[attr-defined]
            ).reshape(-1, 3, 2)
            found = edges[:, :, 0]
            if not np.array_equal(edges[:, :, 1], np.roll(found, -1, axis=1)):
                raise ValueError("FACE_LANDMARKS_TESSELATION: edges do not close to triangles")
            if len({(a, b) for t in edges.tolist() for a, b in t}) != edges[..., 0].size:
                raise ValueError("FACE_LANDMARKS_TESSELATION: triangles differ in winding")
            return found.astype(np.uint16)
    raise ValueError("face_landmarker.py holds no FACE_LANDMARKS_TESSELATION")


def mirror(triangles: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Find the point on the other side of the face for each of the 468 points.

    Walks outward from one edge of the midline: what lies left of an edge is the partner of what
    lies right of the mirrored edge. A few quads are cut along different diagonals on the two
    sides, which gives some points a wrong partner; theirs is then taken from the other side,
    where it is right.

    Returns:
        ``(468,)`` uint16; points of the midline are their own partners.
    """
    apex: dict[tuple[int, int], int] = {}
    for a, b, c in triangles.tolist():
        apex.update({(a, b): c, (b, c): a, (c, a): b})
    partner = {TOP: TOP, BELOW_TOP: BELOW_TOP}
    todo, seen = [(TOP, BELOW_TOP), (BELOW_TOP, TOP)], set()
    while todo:
        a, b = edge = todo.pop()
        opposite = apex.get((partner[b], partner[a]))
        if edge in seen or edge not in apex or opposite is None:
            continue
        seen.add(edge)
        c = apex[edge]
        if partner.setdefault(c, opposite) == opposite:
            todo += [(b, c), (c, a), (c, b), (a, c)]
    back = {v: k for k, v in partner.items() if partner.get(partner.get(v, -1)) != v}
    result = {k: v if partner[v] == k else back[k] for k, v in partner.items()}
    if sorted(result) != list(range(468)) or any(result[v] != k for k, v in result.items()):
        raise ValueError("the tessellation is not symmetric enough to find mirrored points")
    return np.array([result[i] for i in range(468)], np.uint16)
