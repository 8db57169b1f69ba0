"""Networks put together: a quick look for every frame and a thorough one for now and then."""

from __future__ import annotations

from typing import Final

import numpy as np

from mien.detect.boxes import best_of
from mien.detect.feed import Network
from mien.detect.pictures import shrink_to, to_scale, turn, turn_back
from mien.types import Face, Faces, Frame, Image


class Detector:
    """Finds faces in stills and videos, with two networks or with one for both looks.

    Args:
        fast: Looks in between, and at turned pictures: the full-range BlazeFace.
        fine: Looks thoroughly: CenterFace. May be the same as ``fast``.
    """

    def __init__(self, fast: Network, fine: Network) -> None:
        self.fast = fast
        self.fine = fine
        self.alone = fast is fine

    def __call__(self, frame: Frame) -> Faces:
        """Look at a frame thoroughly (the ``Detect`` alias); at a still without hurry."""
        return self.thorough(frame.image, still=frame.pts is None)

    def quick(self, image: Image) -> Faces:
        """Look for larger faces that are about upright, within milliseconds.

        Args:
            image: ``(H, W, 3)`` uint8 RGB.

        Returns:
            Faces with boxes in pixels, best first.
        """
        return self.fast(image)

    def thorough(self, image: Image, *, still: bool = False) -> Faces:
        """Look for faces from 5 % of the picture's height, at any tilt.

        The fine network looks twice, the second time at a tiny picture, because it overlooks
        faces that fill its input. What lies on its side is found in the turned picture: always by
        the fast one, which is cheap, and in a still, or where nothing was found, by the fine one
        too. A network that is alone looks at each picture once. In a still those of several finds
        of one face count in which it stood upright as it was seen.

        Args:
            image: ``(H, W, 3)`` uint8 RGB.
            still: Take the time for a larger input, and for all four turns with both networks.

        Returns:
            Faces with boxes in pixels, best first.
        """
        height, width = image.shape[:2]
        small = shrink_to(image, _side(width, height, SMALLEST))
        rows, cols = small.shape[:2]
        fine = image if still else small
        side = _side(width, height, SMALLEST_STILL if still else SMALLEST)
        found = self.fine(small, COARSE_SIDE)
        if not self.alone:
            found += self.fast(small)
        found = to_scale(found, small, image)
        found += to_scale(self.fine(fine, side), fine, image)
        ranks = [face.score for face in found]
        search = still or not found
        turned_side = max(cols, rows) // (1 if still else 2)
        for turns in (1, 3, 2) if search else (1, 3):
            turned = turn(small, turns)
            faces = []
            if not (self.alone and still):
                faces += self.fast(turned)
            if search and (still or not self.alone):
                faces += self.fine(turned, turned_side)
            ranks += [_rank(face, max(rows, cols)) for face in faces]
            found += to_scale(turn_back(faces, turns, cols, rows), small, image)
        return best_of(found, inside=0.6, weak=0.65, ranks=ranks if still else None)


COARSE_SIDE: Final = 256
"""Longer side of the second input, in which faces that fill the picture are found."""

SMALLEST: Final = 20
"""Height in input pixels that a face of 5 % of the picture's height gets in the fine network."""

SMALLEST_STILL: Final = 32
"""The same for a still, where time matters less."""

LARGEST_SIDE: Final = 1600
SMALLEST_SIDE: Final = 320


def _rank(face: Face, side: int) -> float:
    """How far to trust a face in a turned picture of which the longer side is this.

    A face that fills the picture is found in turned ones as well, often with the highest score
    and its points anywhere.

    Returns:
        The score; less than any score if the face takes more than 0.7 of the side and the line of
        the eyes, or the way from them to the mouth, is tilted by more than 60 degrees.
    """
    eyes = face.points[1] - face.points[0]
    down = face.points[3:].mean(0) - face.points[:2].mean(0)
    upright = eyes[0] > np.hypot(*eyes) / 2 and down[1] > np.hypot(*down) / 2
    fills = float((face.box[2:] - face.box[:2]).max()) > 0.7 * side
    return face.score - 1 if fills and not upright else face.score


def _side(width: int, height: int, smallest: int) -> int:
    """The fine network's longer side, so that 5 % of the height become ``smallest`` pixels."""
    wanted = smallest / 0.05 * max(width, height) / height
    return int(min(LARGEST_SIDE, max(SMALLEST_SIDE, wanted)))
