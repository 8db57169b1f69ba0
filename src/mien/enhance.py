"""Enhancers: networks that restore the detail of a face after it was swapped.

Each face is cut out upright, goes through the network, and what the network *changed* is added to
the frame. The frame's own finest detail, which a crop of limited size cannot hold, so stays; a
network that gives back what it was fed changes nothing at all, whatever the size of the face.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

import cv2
import numpy as np

from mien import geometry, runtime, zoo
from mien.errors import ModelError, UsageError
from mien.types import Face, Faces, Floats, Frame, Rect
from mien.zoo import options, pixels

BROAD: Final = 1 / 8
"""Standard deviation, as share of the crop, of what counts as light and not as detail."""

SOFT: Final = 0.08
"""Width, as share of the crop, over which the change fades out towards the crop's rim."""

GROWN: Final = 1.06
"""The face's outline is enlarged by this, so that the seam of a swap is restored as well."""

CHOICES: Final[dict[str, options.Kind]] = {
    "amount": options.Number(0, 1),
    "weight": options.Number(0, 1),
    "faces": ("swapped", "all"),
    "light": ("frame", "network"),
}


@dataclass(frozen=True, slots=True)
class Enhancer:
    """GFPGAN, CodeFormer, GPEN, RestoreFormer++ and others that are fed and read like them.

    Attributes:
        model: ``(N, 3, S, S)`` float32 by the card → the same restored; perhaps a second input.
        card: Size, template, mean and standard deviation; the answer is read by the same two.
        weight: Name → value of a second input, empty if the network has none. CodeFormer's
            (Zhou et al., 2022): 0 trusts the network's own idea of a face, 1 what it sees.
        amount: Share of the change that is made, 0..1.
        everybody: All faces of the frame, not only those that were swapped.
        light: Colours at large: the ``frame``'s stay, or the ``network``'s come with the rest.
    """

    model: runtime.Model
    card: zoo.ModelCard
    weight: dict[str, Any] = field(default_factory=dict)
    amount: float = 0.8
    everybody: bool = False
    light: Literal["frame", "network"] = "frame"

    def __call__(self, frame: Frame, faces: Faces) -> None:
        """Restore faces; writes to the frame and records the rectangles.

        Raises:
            ModelError: The network gave something else than a picture for each face.
        """
        if not faces or self.amount == 0:
            return
        size, template = self.card.size, np.array(self.card.template)
        matrices = [geometry.similarity(face.points, template) for face in faces]
        crops = np.stack(
            [geometry.warp(frame.image, m, size, border=cv2.BORDER_REPLICATE) for m in matrices]
        )
        fed = pixels.to_input(crops, self.card)
        restored = pixels.to_pixels(pixels.run(self.model, fed, self.weight), self.card)
        if restored.shape != crops.shape:
            raise ModelError(
                f"{self.model.name}: expected an answer as large as the input, {crops.shape[1:]}, "
                f"came {restored.shape[1:]}"
            )
        for face, matrix, crop, better in zip(faces, matrices, crops, restored, strict=True):
            change = better - crop
            if not np.isfinite(change.sum()):
                raise ModelError(f"{self.model.name}: its answer has values that are no numbers")
            if self.light == "frame":
                change -= _broad(change)
            change *= np.float32(self.amount) * mask(face, matrix, size)[..., None]
            _add(frame, matrix, change)


def mask(face: Face, matrix: geometry.Matrix, size: int) -> Floats:
    """Where the change goes: the face's outline where its mesh is known, soft, inside a soft box.

    Args:
        face: With or without a mesh.
        matrix: ``(2, 3)`` frame → crop.
        size: Side of the crop in pixels.

    Returns:
        ``(size, size)`` float32 0..1, 0 at the rim of the crop.
    """
    edge = np.minimum(np.arange(size), np.arange(size)[::-1]).astype(np.float32)
    ramp = np.clip(edge / np.float32(SOFT * size), 0, 1)
    box: Floats = np.minimum(ramp[:, None], ramp)
    if face.mesh is None:
        return box
    points = geometry.transform(matrix, face.mesh[:468, :2])
    hull = cv2.convexHull(points)[:, 0]
    centre = (hull.min(0) + hull.max(0)) / 2
    grown = centre + (hull - centre) * np.float32(GROWN)
    few = min(128, size)  # it is soft: drawn small, and blurred in a tenth of the time
    cells = ((grown + 0.5) * (few / size) - 0.5) * 16
    inside = np.zeros((few, few), np.uint8)
    cv2.fillPoly(inside, [np.round(cells).astype(np.int32)], 255, cv2.LINE_8, 4)
    soft = cv2.GaussianBlur(inside, (0, 0), SOFT / 4 * few)
    large = cv2.resize(soft, (size, size), interpolation=cv2.INTER_LINEAR)
    return box * (large.astype(np.float32) * np.float32(1 / 255))


def _broad(change: Floats) -> Floats:
    """The change of light at large: a wide Gaussian, computed on a 32nd of the side."""
    size = change.shape[0]
    few = min(32, size)
    small = cv2.resize(change, (few, few), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), BROAD * few, borderType=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC), np.float32)


def _add(frame: Frame, matrix: geometry.Matrix, change: Floats) -> None:
    """Add a change, given in pixels of a crop that is 0 at its rim, to the frame."""
    size = change.shape[0]
    height, width = frame.image.shape[:2]
    corners = geometry.transform(
        geometry.invert(matrix), [[0, 0], [size - 1, 0], [0, size - 1], [size - 1, size - 1]]
    )
    lo, hi = np.floor(corners.min(0)).astype(int), np.ceil(corners.max(0)).astype(int) + 1
    rect = Rect(max(0, lo[0]), max(0, lo[1]), min(width, hi[0]), min(height, hi[1]))
    if rect.empty:
        return
    # A small face is a large crop: averaged before it is sampled, else it would alias.
    zoom, k = float(np.hypot(matrix[0, 0], matrix[1, 0])), 1
    while 2 * k <= zoom and size % (2 * k) == 0:
        k *= 2
    if k > 1:
        change = np.asarray(
            cv2.resize(change, (size // k, size // k), interpolation=cv2.INTER_AREA), np.float32
        )
    # Pixel i of the shrunk crop lies at k·i + (k - 1) / 2 of the crop.
    back = matrix / k
    back[:, 2] -= (k - 1) / 2 / k
    back = geometry.invert(back)
    back[:, 2] -= rect.x0, rect.y0
    view = frame.image[rect.slices()]
    moved = cv2.warpAffine(change, back, (view.shape[1], view.shape[0]), flags=cv2.INTER_LINEAR)
    view[...] = cv2.add(view, moved, dtype=cv2.CV_8U)
    frame.mark_dirty(rect)


def load(name: str, models: zoo.Zoo | None = None) -> Enhancer:
    """An enhancer.

    Args:
        name: Of its card; options may follow, ``codeformer:weight=0.7,amount=0.5,faces=all``.
        models: Where models come from and run.

    Raises:
        ModelNotFound: No such model, or its file is missing.
        ModelError: Its inputs are not those of an enhancer.
        UsageError: It is no enhancer, or an option is unknown or out of range.
        ProviderError: The provider is not there.
    """
    name, chosen = options.split(name, CHOICES)
    models = models or zoo.Zoo()
    card = models.find(name)
    if card.task != "enhance":
        raise UsageError(f"{name}: is no enhancer but for {card.task}")
    _, model = models.open(card)
    if not card.size or len(card.template) != 5:
        raise ModelError(f"{name}: its card must say size and template, as for any enhancer")
    weight = _weight(model, chosen.get("weight"))
    return Enhancer(
        model,
        card,
        weight,
        amount=chosen.get("amount", 0.8),
        everybody=chosen.get("faces") == "all",
        light=chosen.get("light", "frame"),
    )


def _weight(model: runtime.Model, wanted: float | None) -> dict[str, Any]:
    """The second input's value in the shape that the graph declares; empty if there is none.

    Raises:
        ModelError: There is a second input, and it is no single number.
        UsageError: A weight is wanted, and there is no second input.
    """
    others = {name: shape for name, shape in model.inputs.items() if len(shape) != 4}
    if not others and wanted is not None:
        raise UsageError(f"{model.name}: has no weight to choose")
    for name, shape in others.items():
        if any(isinstance(side, int) and side != 1 for side in shape):
            raise ModelError(
                f"{model.name}: expected {name} to be a single number, came the shape {shape}"
            )
    value = 0.5 if wanted is None else wanted
    return {name: np.full((1,) * len(shape), value) for name, shape in others.items()}
