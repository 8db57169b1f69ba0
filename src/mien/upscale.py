"""Upscalers: networks of the ESRGAN family that make the whole frame larger, tile by tile.

Tiles overlap. A strip at each inner edge, where the network saw too little around it, is thrown
away, and over the next strip one tile fades into the other, so that no seam is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

import cv2
import numpy as np

from mien import runtime, zoo
from mien.errors import ModelError, UsageError
from mien.types import Floats, Frame, Image, Rect
from mien.zoo import options, pixels

TILE: Final = 256
"""Side of a tile where neither card nor graph says one."""

BATCH: Final = 4
"""Tiles in one run of a network that takes any number."""


@dataclass(frozen=True, slots=True)
class Upscaler:
    """Makes frames larger.

    Attributes:
        model: ``(N, 3, T, T)`` float32 by the card → ``(N, 3, scale·T, scale·T)``.
        card: Scale, mean and standard deviation; the answer is read by the same two.
        tile: T, side of a tile in pixels of the frame.
        overlap: Pixels that neighbouring tiles share, a multiple of 4: a quarter of them is thrown
            away at each side, and over the half between tiles fade into each other.
        factor: Of the output to the frame, from 1 to the card's scale; what the network makes is
            shrunk to it.
        most: Pixels of the largest picture that the network may make.
    """

    model: runtime.Model
    card: zoo.ModelCard
    tile: int
    overlap: int
    factor: Fraction
    most: int = 134_217_728

    def __call__(self, frame: Frame) -> Frame:
        """The frame, larger, with pts and origin of the old one; all of it is marked as written.

        Raises:
            ModelError: The network gave something else than tiles ``scale`` times as large.
        """
        height, width = frame.image.shape[:2]
        image = self.enlarge(frame.image)
        size = self.size(width, height)
        if size != (image.shape[1], image.shape[0]):
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
        return replace(frame, image=image, dirty=[Rect(0, 0, *size)])

    def check(self, width: int, height: int, what: str) -> None:
        """Refuse a picture that would become too large.

        Raises:
            UsageError: It would; begins with ``what``.
        """
        wide, tall = width * self.card.scale, height * self.card.scale
        if wide * tall > self.most:
            raise UsageError(
                f"{what}: {self.card.name} would make {wide}x{tall} of {width}x{height}, "
                f"{wide * tall} pixels; the limit is {self.most} (limits.output_pixels)"
            )

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height that a frame of this size becomes; even sides stay even."""
        return _times(width, self.factor), _times(height, self.factor)

    def enlarge(self, image: Image) -> Image:
        """A picture as large as the network makes it.

        Besides the result, one row of tiles is held in memory.

        Args:
            image: ``(H, W, 3)`` uint8 RGB.

        Returns:
            ``(scale·H, scale·W, 3)`` uint8 RGB.

        Raises:
            UsageError: That is more than ``most`` pixels.
        """
        tile, scale = self.tile, self.card.scale
        height, width = image.shape[:2]
        self.check(width, height, "a picture")
        bottom, right = max(0, tile - height), max(0, tile - width)
        if bottom or right:
            image = np.asarray(
                cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_REPLICATE), np.uint8
            )
        tall, wide = image.shape[:2]
        out = np.empty((tall * scale, wide * scale, 3), np.uint8)
        columns = list(_places(wide, tile, self.overlap))
        before = None
        for top in _places(tall, tile, self.overlap):
            row = np.empty((tile * scale, wide * scale, 3), np.uint8)
            tiles = self._tiles([image[top : top + tile, x : x + tile] for x in columns])
            last = None
            for x, made in zip(columns, tiles, strict=True):
                _fade(row.swapaxes(0, 1), made.swapaxes(0, 1), x * scale, self._ramp(last, x))
                last = x
            _fade(out, row, top * scale, self._ramp(before, top))
            before = top
        return np.ascontiguousarray(out[: height * scale, : width * scale])

    def _tiles(self, tiles: list[Image]) -> Iterator[Image]:
        side = self.tile * self.card.scale
        for first in range(0, len(tiles), BATCH):
            batch = pixels.to_input(np.stack(tiles[first : first + BATCH]), self.card)
            made = pixels.run(self.model, batch)
            if made.size != len(batch) * 3 * side * side:
                raise ModelError(
                    f"{self.model.name}: expected tiles of {side} pixels, {self.card.scale} times "
                    f"{self.tile}, came {made.shape[1:]}"
                )
            if not np.isfinite(made.sum()):
                raise ModelError(f"{self.model.name}: its answer has values that are no numbers")
            yield from (pixels.to_image(each, self.card) for each in made)

    def _ramp(self, before: int | None, at: int) -> Floats:
        """Weight of a tile along its first pixels, given where the one before it begins."""
        if before is None:
            return np.ones(0, np.float32)
        scale, shared = self.card.scale, self.tile - (at - before)
        cut = self.overlap // 4 * scale
        length = shared * scale - 2 * cut
        rise = (np.arange(length, dtype=np.float32) + np.float32(0.5)) / np.float32(length)
        return np.concatenate([np.zeros(cut, np.float32), rise])


def load(name: str, models: zoo.Zoo | None = None) -> Upscaler:
    """An upscaler.

    Args:
        name: Of its card; options may follow, ``real_esrgan_x4:size=2,tile=192``: how many times
            as large the output is, and the side of a tile where the network leaves it open.
        models: Where models come from and run.

    Raises:
        ModelNotFound: No such model, or its file is missing.
        ModelError: Its inputs are not those of an upscaler.
        UsageError: It is no upscaler, or an option is unknown or out of range.
        ProviderError: The provider is not there.
    """
    models = models or zoo.Zoo()
    card = models.find(name.partition(":")[0])
    if card.task != "upscale":
        raise UsageError(f"{card.name}: is no upscaler but for {card.task}")
    known = {"size": options.Number(1, card.scale), "tile": options.Number(32, 2048)}
    _, chosen = options.split(name, known)
    _, model = models.open(card)
    shape = next(iter(model.inputs.values()))
    sides = {s for s in (shape[2:] if card.layout == "NCHW" else shape[1:3]) if isinstance(s, int)}
    if len(sides) > 1:
        raise ModelError(f"{card.name}: expected square tiles, came an input of {shape}")
    tile = int(chosen.get("tile", next(iter(sides), card.size or TILE)))
    tile -= tile % card.multiple
    if sides and tile not in sides:
        raise UsageError(f"{card.name}: its tiles are of {sides.pop()} pixels and no other size")
    factor = Fraction(str(chosen.get("size", card.scale)))
    return Upscaler(model, card, tile, max(8, tile // 8 // 4 * 4), factor)


def _times(side: int, factor: Fraction) -> int:
    larger = side * factor
    # Most encoders of video want even sides.
    return 2 * round(larger / 2) if side % 2 == 0 else max(1, round(larger))


def _places(length: int, tile: int, overlap: int) -> Iterator[int]:
    """Where tiles begin that cover a length; the last one ends where it ends."""
    yield from range(0, length - tile, tile - overlap)
    yield length - tile


def _fade(out: Image, tile: Image, at: int, ramp: Floats) -> None:
    """Write a tile along the first axis into what is there, over the ramp mixed with it."""
    n = len(ramp)
    old, new = out[at : at + n].astype(np.float32), tile[:n].astype(np.float32)
    out[at : at + n] = np.rint(old + (new - old) * ramp[:, None, None]).astype(np.uint8)
    out[at + n : at + len(tile)] = tile[n:]
