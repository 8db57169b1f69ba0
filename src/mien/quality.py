"""The measures: how a swapped face compares with the face that was there and with the portrait.

Pure functions on meshes and pictures; ``docs/quality.md`` gives unit, direction, formula and
limits of each. Pictures are aligned crops (:func:`view`), so that a measure means the same for a
small face and a large one. :data:`MEASURES` lists what a report holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mien import geometry, landmarks, mask, motion
from mien.types import Floats, Image, Patch

SIDE: Final = 256
"""Side in pixels of the aligned crop that flicker, seam and lighting are measured in."""


@dataclass(frozen=True, slots=True)
class Measure:
    """What one figure of a report is.

    Attributes:
        title: In words.
        unit: Of the figure.
        better: Which way is better: ``more``, ``less``, or ``one`` for a ratio that should be 1.
        step: A difference that counts when two reports are compared; of ``one``, by the ratio.
        digits: After the point.
    """

    title: str
    unit: str
    better: Literal["more", "less", "one"]
    step: float
    digits: int = 1

    def gain(self, now: float, then: float) -> float:
        """How much better it is now, in its unit; negative is worse."""
        if self.better == "one":
            return abs(float(np.log(max(then, 1e-3)))) - abs(float(np.log(max(now, 1e-3))))
        return now - then if self.better == "more" else then - now


MEASURES: Final[dict[str, Measure]] = {
    "margin": Measure("identity: nearer to the portrait by", "cosine", "more", 0.01, 3),
    "nearer": Measure("portrait nearer than who was there", "%", "more", 2),
    "rank1": Measure("right portrait found among all", "%", "more", 2),
    "pose": Measure("pose error", "°", "less", 0.1, 2),
    "expression": Measure("expression error", "% of eye distance", "less", 0.1, 2),
    "eyes": Measure("eye opening error", "% of eye distance", "less", 0.1, 2),
    "mouth": Measure("mouth opening error", "% of eye distance", "less", 0.1, 2),
    "blinks": Measure("blinks kept", "%", "more", 2),
    "flicker": Measure("flicker, to the original's", "ratio", "less", 0.02, 3),
    "flicker_own": Measure("flicker, each by its own flow", "ratio", "less", 0.02, 3),
    "seam": Measure("seam, to the original's", "ratio", "less", 0.02, 3),
    "sharpness": Measure("sharpness, to portrait or target", "ratio", "one", 0.03, 3),
    "sharpness_painted": Measure("sharpness of what is painted", "ratio", "one", 0.03, 3),
    "lighting": Measure("lighting error", "L*", "less", 0.1, 2),
    "lost": Measure("faces lost", "%", "less", 0.5),
    "lost_to_45": Measure("faces lost up to 45° of yaw", "%", "less", 0.5),
    "undetected": Measure("swapped faces not detected", "%", "less", 0.5),
}
"""In the order in which they are shown."""


# --- Crops ------------------------------------------------------------------------------------


def view(image: Image, mesh: Floats, side: int = SIDE) -> Image:
    """The ``(side, side, 3)`` aligned crop of a face; see :func:`mien.motion.aligned`."""
    return geometry.warp(
        image, motion.aligned(mesh, side), side, border=cv2.BORDER_REPLICATE
    )  # nothing beyond the frame counts as an edge


def face_in_view(mesh: Floats, frame: tuple[int, int] | None = None, side: int = SIDE) -> Image:
    """``(side, side)`` uint8, 255 inside the face's contour, in the crop of the same mesh.

    Args:
        mesh: ``(468+, 3)`` in pixels of the frame.
        frame: Its height and width; nothing beyond it counts. None for no bounds.
        side: Of the crop in pixels.
    """
    matrix = motion.aligned(mesh, side)
    inside = _filled([geometry.transform(matrix, mesh[list(landmarks.OVAL), :2])], side)
    if frame is not None:
        h, w = frame
        corners = np.array([[0, 0], [w - 1, 0], [w - 1, h - 1], [0, h - 1]], np.float32)
        inside &= _filled([geometry.transform(matrix, corners)], side)
    return inside


def bare_in_view(mesh: Floats, side: int) -> Image:
    """The inner face without eyes and mouth interior, which most generators leave alone."""
    points = geometry.transform(motion.aligned(mesh, side), mesh[:468, :2])
    oval = points[list(landmarks.OVAL)]
    inner = _filled([oval.mean(0) + (oval - oval.mean(0)) * np.float32(0.8)], side)
    rings = (landmarks.LEFT_EYE, landmarks.RIGHT_EYE, landmarks.INNER_LIPS)
    holes = _filled([points[list(ring)] for ring in rings], side)
    grow = np.ones((2 * (side // 64) + 1,) * 2, np.uint8)
    return np.asarray(inner & ~np.asarray(cv2.dilate(holes, grow), np.uint8), np.uint8)


def mask_in_view(patches: Sequence[Patch], mesh: Floats, side: int = SIDE) -> Image:
    """``(side, side)`` uint8: the patches' masks, seen in the crop of a mesh."""
    matrix = np.vstack([motion.aligned(mesh, side), [0, 0, 1]])
    out = np.zeros((side, side), np.uint8)
    for patch in (p for p in patches if not p.surround):
        back = np.vstack([geometry.invert(patch.matrix), [0, 0, 1]])
        seen = geometry.warp(patch.mask, (matrix @ back)[:2], side)
        np.maximum(out, seen, out=out)
    return out


def _filled(rings: Sequence[Floats], side: int) -> Image:
    canvas = np.zeros((side, side), np.uint8)
    for ring in rings:
        cv2.fillPoly(canvas, [np.round(ring * 16).astype(np.int32)], 255, cv2.LINE_8, 4)
    return canvas


def _luma(image: Image) -> Floats:
    """Rec. 601 luma of RGB, 0..255."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.float32)


# --- Shape: pose, expression, openings, blinks --------------------------------------------------

RIGID: Final = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 127, 162, 21, 54, 103, 67, 109, 234, 93,
    151, 9, 8, 168, 6, 197, 195, 5, 4, 1, 2, 98, 327, 33, 133, 362, 263,
)  # fmt: skip
"""Vertices that no expression moves much: forehead, temples, nose, corners of the eyes."""

FEATURES: Final = tuple(dict.fromkeys(
    landmarks.LEFT_EYE + landmarks.RIGHT_EYE + landmarks.INNER_LIPS + landmarks.OUTER_LIPS
    + (70, 63, 105, 66, 107, 300, 293, 334, 296, 336)
))  # fmt: skip
"""Vertices that tell an expression: lids, lips, brows."""


def rigid_fit(
    source: Floats, target: Floats
) -> tuple[NDArray[np.float64], float, NDArray[np.float64]]:
    """Least-squares rotation, scale and shift in space that take ``source`` to ``target``.

    Closed form of Umeyama, "Least-squares estimation of transformation parameters between two
    point patterns" (1991).

    Args:
        source: ``(N, 3)``.
        target: ``(N, 3)``.

    Returns:
        ``(3, 3)`` rotation R, scale s and ``(3,)`` shift t: target ≈ s·R·source + t.
    """
    a, b = np.asarray(source, np.float64), np.asarray(target, np.float64)
    ma, mb = a.mean(0), b.mean(0)
    u, d, vt = np.linalg.svd((b - mb).T @ (a - ma))
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = u @ np.diag(sign) @ vt
    scale = float((d * sign).sum() / max(float(((a - ma) ** 2).sum()), 1e-12))
    return rotation, scale, mb - scale * rotation @ ma


def pose_error(original: Floats, swapped: Floats) -> float:
    """Angle in degrees by which the swapped head is turned against the original.

    Args:
        original: ``(468+, 3)`` mesh.
        swapped: ``(468+, 3)`` mesh.
    """
    rotation, _, _ = rigid_fit(original[list(RIGID)], swapped[list(RIGID)])
    # The angle by its sine as well: the cosine alone cannot tell small ones.
    skew = rotation - rotation.T
    sine = float(np.linalg.norm([skew[2, 1], skew[0, 2], skew[1, 0]])) / 2
    return float(np.degrees(np.arctan2(sine, (np.trace(rotation) - 1) / 2)))


def eye_distance(mesh: Floats) -> float:
    """Distance in space between the centres of the eyes, in units of the mesh."""
    left, right = mesh[[33, 133]].mean(0), mesh[[362, 263]].mean(0)
    return max(float(np.linalg.norm(left - right)), 1e-6)


def expression_error(original: Floats, swapped: Floats) -> float:
    """Mean distance of lids, lips and brows once pose and scale are removed, % of eye distance."""
    rotation, scale, shift = rigid_fit(swapped[list(RIGID)], original[list(RIGID)])
    moved = scale * swapped[list(FEATURES)].astype(np.float64) @ rotation.T + shift
    apart = np.linalg.norm(moved - original[list(FEATURES)], axis=1)
    return 100 * float(apart.mean()) / eye_distance(original)


def eye_openings(mesh: Floats) -> Floats:
    """``(2,)``: distance between the lids of the left and the right eye, % of eye distance."""
    lids = np.linalg.norm(mesh[[159, 386]] - mesh[[145, 374]], axis=1)
    return np.asarray(100 * lids / eye_distance(mesh), np.float32)


def mouth_opening(mesh: Floats) -> float:
    """Distance between the inner lips, % of eye distance."""
    return 100 * float(np.linalg.norm(mesh[13] - mesh[14])) / eye_distance(mesh)


def eye_error(original: Floats, swapped: Floats) -> float:
    """Mean difference of both eyes' openings, % of eye distance."""
    return float(np.abs(eye_openings(original) - eye_openings(swapped)).mean())


def mouth_error(original: Floats, swapped: Floats) -> float:
    """Difference of the mouth's openings, % of eye distance."""
    return abs(mouth_opening(original) - mouth_opening(swapped))


SHUT: Final = 0.6
"""Share of its usual opening below which an eye counts as shut."""

STILL_SHUT: Final = 0.7
"""The same for the swapped eye; a little more, or a hair would decide between kept and lost."""


class Blink(NamedTuple):
    """Frames ``start <= i < stop`` with the eyes shut, most of all at ``deepest``."""

    start: int
    stop: int
    deepest: int


def blinks(openings: Sequence[float], fps: float) -> list[Blink]:
    """Where a clip's face blinks: runs of shut eyes of half a second at most, open at both ends.

    Args:
        openings: Of each frame, mean of both eyes; NaN where the face is not seen.
        fps: Frames a second.
    """
    values = np.asarray(openings, np.float64)
    if not np.isfinite(values).any():
        return []
    shut = np.nan_to_num(values, nan=np.inf) < SHUT * float(np.nanmedian(values))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], shut.astype(np.int8), [0]])))
    found = []
    for start, stop in edges.reshape(-1, 2).tolist():
        inner = start > 0 and stop < len(values) and np.isfinite(values[[start - 1, stop]]).all()
        if inner and stop - start <= max(0.5 * fps, 1):
            found.append(Blink(start, stop, start + int(np.argmin(values[start:stop]))))
    return found


def blink_kept(opening: float, usual: float) -> bool:
    """Whether the swapped eye is shut, by its own usual opening."""
    return opening < STILL_SHUT * usual


# --- Pictures: flicker, seam, sharpness, lighting -----------------------------------------------


def optical_flow(before: Image, after: Image) -> Floats:
    """Where each pixel of ``after`` was in ``before``, ``(h, w, 2)`` float32 x and y.

    Dense inverse search (Kroeger et al., "Fast optical flow using dense inverse search", 2016).

    Args:
        before: ``(h, w, 3)`` uint8.
        after: ``(h, w, 3)`` uint8.
    """
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (after, before)]
    # What it is given to write into is where it starts from, so it must hold zeros.
    none = np.zeros((*grey[0].shape, 2), np.float32)
    flow = np.asarray(dis.calc(grey[0], grey[1], none), np.float32)
    h, w = flow.shape[:2]
    flow[..., 0] += np.arange(w, dtype=np.float32)
    flow[..., 1] += np.arange(h, dtype=np.float32)[:, None]
    return flow


def change(before: Image, after: Image, lookup: Floats, inside: Image) -> float:
    """Mean change of luma, in grey levels, between two frames once motion is removed.

    Args:
        before: ``(h, w, 3)`` uint8 crop.
        after: ``(h, w, 3)`` uint8, the same place one frame later.
        lookup: :func:`optical_flow` of the *original* frames, for original and swapped alike.
        inside: ``(h, w)`` uint8, 255 where it is measured.
    """
    x, y = lookup[..., 0], lookup[..., 1]
    h, w = inside.shape
    moved = cv2.remap(_luma(before), x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    where = (inside > 0) & (x >= 0) & (y >= 0) & (x <= w - 1) & (y <= h - 1)
    return float(np.abs(_luma(after) - moved)[where].mean()) if where.any() else float("nan")


SEAM: Final = 4
"""Pixels of the crop between the mask's edge and where colours are compared on either side."""


def seams(original: Image, swapped: Image, alpha: Image) -> tuple[float, float]:
    """Mean colour step across the mask's outer edge: of the original, of the swapped crop.

    At each place of the edge (mask one half) the colours 4 pixels inside and outside are
    compared, slightly blurred, by their distance in RGB.

    Args:
        original: ``(SIDE, SIDE, 3)`` uint8.
        swapped: The same place after the swap.
        alpha: ``(SIDE, SIDE)`` uint8 mask of the patch.

    Returns:
        Grey levels; NaN if the mask has no edge in the crop.
    """
    side = alpha.shape[0]
    smooth = cv2.GaussianBlur(alpha.astype(np.float32), (0, 0), 2.0)
    solid = (smooth > 127).astype(np.uint8)
    edges = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0]
    if not edges:
        return float("nan"), float("nan")
    # Holes (eyes, mouth) are no border of the face: normals are those of the filled mask.
    cv2.drawContours(solid, edges, -1, 1, cv2.FILLED)
    ramp = cv2.GaussianBlur(solid.astype(np.float32), (0, 0), 3.0)
    points = np.concatenate(edges)[:, 0].astype(np.float32)
    x, y = points.astype(int).T
    normal = np.stack([cv2.Sobel(ramp, cv2.CV_32F, *d)[y, x] for d in ((1, 0), (0, 1))], axis=1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    within, beyond = points + SEAM * normal, points - SEAM * normal
    inner = ((np.minimum(within, beyond) >= 2) & (np.maximum(within, beyond) <= side - 3)).all(1)
    if not inner.any():
        return float("nan"), float("nan")

    def step(image: Image) -> float:
        soft = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.5)
        ends = [
            cv2.remap(soft, p[inner, 0], p[inner, 1], cv2.INTER_LINEAR) for p in (within, beyond)
        ]
        return float(np.linalg.norm(np.asarray(ends[0]) - ends[1], axis=-1).mean())

    return step(original), step(swapped)


def sharpness(image: Image, mesh: Floats, size: int) -> float:
    """Fine contrast of a face at a size: RMS of (Y - G) / (G + 8), G the luma Y blurred by σ 1.

    Args:
        image: ``(H, W, 3)`` uint8.
        mesh: ``(468+, 3)`` in its pixels.
        size: Side of the aligned crop that it is brought to, in pixels.
    """
    return typical(fine_contrast(image, mesh, size), bare_in_view(mesh, size))


def fine_contrast(image: Image, mesh: Floats, size: int) -> Floats:
    """``(size, size)``: (Y - G) / (G + 8) of each pixel; see :func:`sharpness`."""
    large = view(image, mesh, 2 * size)  # and averaged, else what is shrunk would alias
    luma = _luma(_shrunk(large, size))
    smooth = cv2.GaussianBlur(luma, (0, 0), 1.0)
    return np.asarray((luma - smooth) / (smooth + 8), np.float32)


def typical(fine: Floats, where: Image) -> float:
    """RMS over the pixels that are not 0 in ``where``; NaN if there are none."""
    seen = fine[where > 0]
    return float(np.sqrt((seen**2).mean())) if seen.size else float("nan")


def solid(alpha: Image) -> Image:
    """255 where a mask, ``(S, S)`` uint8, covers by nine tenths or more, and 3 pixels around.

    Beside what stays in front, an edge of it shines through.
    """
    covers = (alpha > 229).astype(np.uint8) * 255
    return np.asarray(cv2.erode(covers, np.ones((7, 7), np.uint8)), np.uint8)


def crop_size(mesh: Floats) -> int:
    """Side of the aligned crop at the frame's own resolution, 64 to 1024 pixels."""
    matrix = motion.aligned(mesh, 1024)
    return int(np.clip(1024 / np.hypot(matrix[0, 0], matrix[1, 0]), 64, 1024))


def lighting_error(original: Image, swapped: Image, inside: Image) -> float:
    """Mean difference of low-frequency lightness inside the face, in CIE L*, 0..100.

    Low frequency: a quarter of the crop's resolution, then a Gaussian of a tenth of the crop,
    weighted by the face.

    Args:
        original: ``(SIDE, SIDE, 3)`` uint8.
        swapped: ``(SIDE, SIDE, 3)`` uint8.
        inside: ``(SIDE, SIDE)`` uint8.
    """
    size = inside.shape[0] // 4
    weight = _shrunk(inside, size).astype(np.float32) * np.float32(1 / 255)
    total = cv2.GaussianBlur(weight, (0, 0), size / 10) + 1e-6

    def low(image: Image) -> Floats:
        lightness = cv2.cvtColor(_shrunk(image, size).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        return np.asarray(cv2.GaussianBlur(lightness[..., 0] * weight, (0, 0), size / 10) / total)

    apart = np.abs(low(original) - low(swapped))
    return float((apart * weight).sum() / max(float(weight.sum()), 1e-6))


def _shrunk(image: Image, size: int) -> Image:
    return np.asarray(cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


TONES: Final = (
    (55.0, "very light"), (41.0, "light"), (28.0, "intermediate"), (10.0, "tan"),
    (-30.0, "brown"), (-90.0, "dark"),
)  # fmt: skip
"""Least individual typology angle of each skin tone group (Chardon et al. 1991; Del Bino 2006)."""


def typology_angle(image: Image, mesh: Floats) -> float:
    """Individual typology angle of a face as pictured, degrees: atan((L* - 50) / b*).

    Medians over vertices on bare skin. It takes the light for the skin: a light face in the dark
    counts as dark.
    """
    crop = cv2.GaussianBlur(view(image, mesh, 128), (0, 0), 1.5)
    lab = cv2.cvtColor(crop.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    points = geometry.transform(motion.aligned(mesh, 128), mesh[list(mask.SKIN), :2])
    x, y = np.clip(np.round(points), 0, 127).astype(int).T
    lightness, _, yellow = np.median(lab[y, x], axis=0)
    return float(np.degrees(np.arctan((lightness - 50) / max(float(yellow), 1.0))))


def tone(angle: float) -> str:
    """The skin tone group of a typology angle."""
    return next(name for least, name in TONES if angle > least or name == "dark")
