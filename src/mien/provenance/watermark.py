"""The invisible watermark: the output's id in the coarse brightness of every frame, and its reader.

Additive spread spectrum (Cox, Kilian, Leighton and Shamoon, *Secure Spread Spectrum Watermarking
for Multimedia*, IEEE Trans. Image Processing 6(12), 1997) on a grid of 96 × 144 cells that is
stretched over the picture, so that no change of size moves it. Every coded bit owns some 52 cells
spread over the whole picture, each with a pseudo-random sign; one cell in seven belongs to a
pilot, by which a cropped picture is put back into its place.

The embedder measures what the picture itself says of each bit and adds only what is missing
(informed embedding: Malvar and Florêncio, *Improved Spread Spectrum*, IEEE Trans. Signal
Processing 51(4), 2003; Cox, Miller and McKellips, *Watermarking as Communications with Side
Information*, Proc. IEEE 87(7), 1999), within bounds that follow the local activity. The pattern
is the same in all frames of an output, and soft values of frames are added up.

The pattern is no secret: whoever reads this file can read, remove or copy a watermark.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.media import veil as veils
from mien.provenance.coding import CODED, ID_BITS, Message, decode, encode, false_alarm_log10
from mien.types import Floats, Frame, Image

VERSION = 1
"""Version of the pattern, said in the payload."""

ROWS, COLUMNS = 96, 144
"""Cells of the grid; pictures higher than wide are taken transposed."""

SMALLEST = 160
"""Pixels of the shorter side from which a picture gets a watermark at all."""

QUIETEST_PSNR = 43.0
"""The sum of all changes of a frame is held below this, dB."""

SUREST = -8.0
"""log10 of the probability of a false alarm that a find must stay below, all tries counted."""

WINDOW, WINDOWS = 50, 3
"""Frames that are read as one, and how many such windows are tried."""

_PILOT = 0.15  # share of the cells
_FLOOR, _SLOPE, _CAP = 0.8, 0.08, 1.4  # levels: what a cell may change, by the activity around it
_LEAST, _MOST = 0.3, 1.4  # times that, by what a bit needs
_EFFORTS, _GOAL = (1.0, 1.6, 2.5), 0.9  # more for pictures that are hard, up to this likeness
_KEPT = 0.75  # of a grid's energy once it is spread smoothly
_BUSY = 0.5  # power of the effort that busy cells get
_REACHES = 0.75  # of a cell's change, averaged over the cell
_BLUR, _NOISE, _LIMIT = 1.0, 0.7, 3.0  # whitening: in cells, in levels, in deviations
_FINE = 3  # samples across a cell when a crop is looked for
_NARROWEST = 0.78  # of the width or height that a crop must have left
_CANDIDATES = 5


class _Layout(NamedTuple):
    """Which cell says what.

    Attributes:
        signs: ``(ROWS * COLUMNS,)`` 1 or -1.
        owner: ``(ROWS * COLUMNS,)`` number of the coded bit, ``CODED`` for the pilot.
        counts: ``(CODED + 1,)`` cells of each.
        pilot: ``(ROWS, COLUMNS)`` signs of the pilot's cells, 0 elsewhere.
    """

    signs: Floats
    owner: NDArray[np.int64]
    counts: Floats
    pilot: Floats


@dataclass(frozen=True, slots=True)
class Found:
    """A watermark that was read.

    Attributes:
        output_id: 0..2^32-1.
        version: Of the pattern, 0..15.
        false_alarm_log10: log10 of the probability that a picture without a watermark looks this
            much like one, all placements that were tried counted; -8 or less.
        frames: How many frames it was read from.
        region: What is left of the original, ``x0, y0, x1, y1`` as shares of its width and
            height; ``(0, 0, 1, 1)`` unless it was cropped.
        turned: The picture was mirrored or turned by a half or a quarter.
    """

    output_id: int
    version: int
    false_alarm_log10: float
    frames: int
    region: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    turned: bool = False

    @property
    def confidence(self) -> float:
        """Probability that this is no false alarm."""
        return float(1 - 10**self.false_alarm_log10)


def new_output_id() -> int:
    """Return a random id for an output, 1..2^32-1."""
    return secrets.randbelow(2**ID_BITS - 1) + 1


class Watermark:
    """Writes one output's id into its frames; keeps nothing between frames.

    Attributes:
        output_id: 0..2^32-1.
        version: 0..15.
    """

    def __init__(self, output_id: int, version: int = VERSION) -> None:
        """Make the pattern.

        Raises:
            ValueError: The id or the version is out of range.
        """
        if not 0 <= output_id < 2**ID_BITS:
            raise ValueError(f"expected an output id of 0..2^{ID_BITS}-1, not {output_id}")
        if not 0 <= version < 16:
            raise ValueError(f"expected a version of 0..15, not {version}")
        self.output_id, self.version = output_id, version
        layout = _layout()
        code = np.append(encode(version, output_id), np.float32(1))
        self._pattern = (layout.signs * code[layout.owner]).reshape(ROWS, COLUMNS)

    def write(self, frame: Frame) -> Floats | None:
        """Write the watermark into a frame, or say what the sink has to add.

        Returns:
            None if the pixels have it now; the veil if ``frame.origin`` is a decoded video
            frame, to whose luma the file sink adds it.
        """
        if veils.has_planes(frame.origin):
            return self.veil(frame.image)
        self.embed(frame.image)
        return None

    def embed(self, image: Image) -> None:
        """Write the watermark into ``(H, W, 3)`` uint8 RGB pixels, in place."""
        veil = self.veil(image)
        if veil.any():
            veils.add_to_image(image, veil)

    def veil(self, image: Image) -> Floats:
        """Return the change of brightness that carries the watermark in this picture.

        Args:
            image: ``(H, W, 3)`` uint8 RGB or ``(H, W)`` uint8 luma; not changed.

        Returns:
            A grid of levels (8 bits) over the whole picture, ``(96, 144)``, or ``(144, 96)`` for
            one that is higher than wide; all zeros where it is too small to carry it.
        """
        tall = image.shape[0] > image.shape[1]
        if min(image.shape[:2]) < SMALLEST:
            return np.zeros((COLUMNS, ROWS) if tall else (ROWS, COLUMNS), np.float32)
        layout, grid = _layout(), _cells(image, quick=True)
        high, activity = _activity(grid)
        scaled, slope = _whiten(high, activity)
        own = np.bincount(layout.owner, (scaled * self._pattern).ravel(), CODED + 1)
        quietest = 255**2 / 10 ** (QUIETEST_PSNR / 10) * grid.size / _KEPT
        best, chosen = -1.0, np.zeros_like(grid)
        for effort in _EFFORTS:
            busy = effort**_BUSY
            weight = np.clip(_FLOOR + _SLOPE * busy * activity, _FLOOR, _CAP * busy)
            gain = np.bincount(layout.owner, (weight * slope).ravel(), CODED + 1)
            energy = np.bincount(layout.owner, (weight**2).ravel(), CODED + 1)
            budget = min(float(energy.sum()) * (1 + 0.5 * (effort - 1)), quietest)
            share = _strengths(own, gain, energy, budget, effort)
            veil = self._pattern * weight * share[layout.owner].reshape(ROWS, COLUMNS)
            likeness = self._likeness(grid + _REACHES * veil)
            if likeness > best:
                best, chosen = likeness, veil
            if likeness > _GOAL:
                break
        return _turned(chosen, tall)

    def _likeness(self, grid: Floats) -> float:
        """Read a grid as the reader will, knowing what is written in it."""
        scaled, _ = _whiten(*_activity(grid))
        own = np.bincount(_layout().owner, (scaled * self._pattern).ravel(), CODED + 1)
        soft = (own / np.sqrt(_layout().counts))[:CODED]
        return float(soft.mean() / math.sqrt((soft**2).mean() + 1e-12))


def _strengths(own: Any, gain: Any, energy: Any, budget: float, effort: float) -> Floats:
    """How strongly each bit is said, so that the weakest are helped most; the pilot gets 1.

    Args:
        own: ``(CODED + 1,)`` what the picture says of each bit; more is right, less is wrong.
        gain: ``(CODED + 1,)`` what a strength of 1 adds to it.
        energy: ``(CODED + 1,)`` what a strength of 1 costs, in squared levels.
        budget: What all may cost.
        effort: How much more than usual a bit may get, and less.

    Returns:
        ``(CODED + 1,)``.
    """
    counts = np.sqrt(_layout().counts)
    low, high = -1e3, 1e3

    def reach(level: float) -> Any:
        wanted = np.clip((level * counts - own) / gain, _LEAST / effort**2, _MOST * effort)
        wanted[CODED] = 1
        return wanted

    for _ in range(16):
        level = (low + high) / 2
        if (reach(level) ** 2 * energy).sum() > budget:
            high = level
        else:
            low = level
    share = reach(low)
    cost = float((share**2 * energy).sum())
    if cost > budget:
        share *= math.sqrt(budget / cost)
    return share.astype(np.float32)  # type: ignore[no-any-return]


@cache
def _layout(name: str = "mien watermark 1") -> _Layout:
    """Draw signs and owners from SHAKE-256 of a name; the same for ever, on any machine."""

    def words(what: str) -> NDArray[np.uint32]:
        data = hashlib.shake_256(f"{name} {what}".encode()).digest(4 * cells)
        return np.frombuffer(data, "<u4")

    cells = ROWS * COLUMNS
    signs = np.where(words("signs") & 1, 1, -1).astype(np.float32)
    order = np.argsort(words("cells"), kind="stable")
    owner = np.full(cells, CODED)
    said = round(cells * (1 - _PILOT))
    owner[order[:said]] = np.arange(said) % CODED
    counts = np.bincount(owner).astype(np.float32)
    pilot = np.where(owner == CODED, signs, 0).astype(np.float32).reshape(ROWS, COLUMNS)
    return _Layout(signs, owner, counts, pilot)


def _cells(image: Image, *, quick: bool = False, finer: int = 1) -> Floats:
    """Return the mean brightness of the cells, ``(ROWS, COLUMNS)``, or ``finer`` times that.

    ``quick`` looks at some of the pixels of large pictures.
    """
    height, width = image.shape[:2]
    tall = height > width
    across, down = (ROWS, COLUMNS) if tall else (COLUMNS, ROWS)
    if quick and width > 6 * across and height > 6 * down:
        image = cv2.resize(image, (3 * across, 3 * down), interpolation=cv2.INTER_LINEAR)  # type: ignore[assignment]
    if image.ndim == 3:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)  # type: ignore[assignment]
    size = across * finer, down * finer
    smaller = size[0] <= image.shape[1] and size[1] <= image.shape[0]
    how = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    grid: Any = cv2.resize(image.astype(np.float32), size, interpolation=how)
    return _turned(grid, tall)


def _turned(grid: Any, tall: bool) -> Floats:
    grid = cv2.transpose(grid) if tall else grid
    return grid  # type: ignore[no-any-return]


def _activity(grid: Floats) -> tuple[Floats, Floats]:
    """Return the high frequencies of a grid and how strong they usually are around each cell.

    The median does not see a single edge, beside which a flat wall stays flat.
    """
    high: Any = grid - cv2.GaussianBlur(grid, (0, 0), _BLUR, borderType=cv2.BORDER_REFLECT)
    codes = np.minimum(np.abs(high) * 8, 255).astype(np.uint8)
    usual: Any = cv2.blur(cv2.medianBlur(codes, 5).astype(np.float32), (3, 3))
    return high, usual / 8


def _whiten(high: Floats, activity: Floats) -> tuple[Floats, Floats]:
    """Weigh high frequencies by the inverse of their variance, the detector for known noise.

    Returns:
        What is added up, and what one level more adds to it.
    """
    spread = activity + _NOISE
    scaled = np.clip(high / spread, -_LIMIT, _LIMIT) / spread
    return scaled, (1 - 1 / (2 * math.pi * 2 * _BLUR**2)) / spread**2


# --- reading ----------------------------------------------------------------------------------


def read(frames: Image | Iterable[Image], *, search: bool = True) -> Found | None:
    """Look for a watermark in a picture or in the frames of a video.

    A video is read in up to three windows of 50 frames, with as many passed over in between; no
    more frames are taken than that, and none after a find.

    Args:
        frames: One ``(H, W, 3)`` uint8 RGB picture, or frames in their order, all of one size.
        search: Whether crops are looked for, too (down to 78 % of width and height); mirrored
            and turned pictures are in any case, but not both together.

    Returns:
        What was found, None if nothing is there that is sure enough.
    """
    if isinstance(frames, np.ndarray):
        frames = [frames]
    tried, total, taken = 0, np.zeros((ROWS, COLUMNS), np.float32), 0
    for window in _windows(frames):
        scaled = [_whiten(*_activity(_shrunk(fine)))[0] for fine in window]
        own: Floats = np.sum(scaled, axis=0)
        total, taken = total + own, taken + len(window)
        for z, count in ((own, len(window)), (total, taken)):
            if z is total and taken == len(window):
                continue
            for turned, way in enumerate((z, z[:, ::-1], z[::-1], z[::-1, ::-1])):
                tried += 1
                message, doubt = _judge(way, tried)
                if message is not None and doubt <= SUREST:
                    return Found(
                        *(message.output_id, message.version, doubt, count), turned=turned > 0
                    )
        if not search:
            continue
        places, looked = _places(window)
        tried += looked
        for place in places:
            message, doubt = _judge(_at(window, place), tried)
            if message is not None and doubt <= SUREST:
                x0, x1, y0, y1 = place
                return Found(
                    *(message.output_id, message.version, doubt, len(window)),
                    region=(x0 / COLUMNS, y0 / ROWS, x1 / COLUMNS, y1 / ROWS),
                )
    return None


def _windows(frames: Iterable[Image]) -> Iterator[list[Floats]]:
    """Yield the fine brightness of the frames of each window."""
    rest = iter(frames)
    for number in range(WINDOWS):
        if number:
            for _ in islice(rest, WINDOW):
                pass
        window = [_cells(image, finer=_FINE) for image in islice(rest, WINDOW)]
        if not window:
            return
        yield window


def _shrunk(fine: Floats) -> Floats:
    return cv2.resize(fine, (COLUMNS, ROWS), interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def _judge(scaled: Floats, tried: int) -> tuple[Message | None, float]:
    """Decode whitened cells; returns the message and the log10 of its false alarm."""
    layout = _layout()
    sums = np.bincount(layout.owner, scaled.ravel() * layout.signs, CODED + 1)
    soft = (sums / np.sqrt(layout.counts))[:CODED].astype(np.float32)
    message = decode(soft)
    if message is None:
        return None, 0.0
    return message, false_alarm_log10(message.likeness, tried)


_Place = tuple[float, float, float, float]
"""Left, right, top and bottom of what was received, in cells of the original."""


def _places(window: list[Floats]) -> tuple[list[_Place], int]:
    """Find where a crop came from: the places where the pilot fits best, the best one first.

    For every width and height in whole cells the pilot is correlated at all offsets in half
    cells at once, by FFT.

    Returns:
        The places, refined, and how many were looked at.
    """
    picture = _fine_whitened(window)
    pilot = np.kron(_layout().pilot, np.ones((2, 2), np.float32))
    spectrum = cv2.dft(pilot)
    canvas = np.zeros_like(pilot)
    looked, found = 0, []
    for rows in range(math.ceil(_NARROWEST * ROWS), ROWS + 1):
        for columns in range(math.ceil(_NARROWEST * COLUMNS), COLUMNS + 1):
            canvas[:] = 0
            part = cv2.resize(picture, (2 * columns, 2 * rows), interpolation=cv2.INTER_AREA)
            canvas[: 2 * rows, : 2 * columns] = part
            product = cv2.mulSpectrums(spectrum, cv2.dft(canvas), 0, conjB=True)
            likeness: Any = cv2.dft(product, flags=cv2.DFT_INVERSE | cv2.DFT_REAL_OUTPUT)
            free = likeness[: 2 * (ROWS - rows) + 1, : 2 * (COLUMNS - columns) + 1]
            looked += free.size
            _, best, _, (x, y) = cv2.minMaxLoc(free)
            norm = float(np.linalg.norm(part)) + 1e-9
            found.append((best / norm, (x / 2, x / 2 + columns, y / 2, y / 2 + rows)))
    found.sort(reverse=True)
    chosen: list[_Place] = []
    for _, place in found:
        if all(np.abs(np.subtract(place, other)).max() > 2 for other in chosen):
            chosen.append(place)
        if len(chosen) == _CANDIDATES:
            break
    smooth: Any = cv2.blur(picture, (_FINE, _FINE))
    refined = [_refine(smooth, place) for place in chosen]
    looked += sum(count for _, _, count in refined)
    refined.sort(key=lambda each: -each[0])
    return [place for _, place, _ in refined], looked


def _refine(smooth: Floats, place: _Place) -> tuple[float, _Place, int]:
    """Move the four sides by ever smaller steps as long as the pilot fits better."""
    pilot, looked = _layout().pilot, 1

    def fit(place: _Place) -> float:
        return float((_warped(smooth, place, cv2.BORDER_CONSTANT) * pilot).sum())

    best = fit(place)
    for step in (0.5, 0.25, 0.12):
        for _ in range(3):
            before = best
            for moved in ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (1, 1, 0, 0),
                          (0, 0, 1, 1)):  # fmt: skip
                for sign in (step, -step):
                    x0, x1, y0, y1 = (a + sign * b for a, b in zip(place, moved, strict=True))
                    looked += 1
                    value = fit((x0, x1, y0, y1))
                    if value > best:
                        best, place = value, (x0, x1, y0, y1)
            if best == before:
                break
    return best, place, looked


def _fine_whitened(window: list[Floats]) -> Floats:
    """Whiten the fine brightness of all frames with the activity of its cells, and add it up."""
    size = (COLUMNS * _FINE, ROWS * _FINE)
    total = np.zeros((size[1], size[0]), np.float32)
    for fine in window:
        blurred: Any = cv2.GaussianBlur(fine, (0, 0), _BLUR * _FINE, borderType=cv2.BORDER_REFLECT)
        activity: Any = cv2.resize(_activity(_shrunk(fine))[1], size)
        total += _whiten(fine - blurred, activity)[0]
    return total


def _warped(fine: Floats, place: _Place, border: int) -> Floats:
    """Put a picture that lies at a place of the original onto the original's grid."""
    x0, x1, y0, y1 = place
    across, down = COLUMNS * _FINE / (x1 - x0), ROWS * _FINE / (y1 - y0)
    matrix = np.array([[across, 0, (0.5 - x0) * across - 0.5], [0, down, (0.5 - y0) * down - 0.5]])
    return cv2.warpAffine(  # type: ignore[return-value]
        fine,
        matrix,
        (COLUMNS, ROWS),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=border,
    )


def _at(window: list[Floats], place: _Place) -> Floats:
    """Add up the whitened cells of all frames, put at a place; zero outside it."""
    x0, x1, y0, y1 = place
    columns, rows = np.arange(COLUMNS) + 0.5, np.arange(ROWS) + 0.5
    inside = np.outer((rows > y0) & (rows < y1), (columns > x0) & (columns < x1))
    total = np.zeros((ROWS, COLUMNS), np.float32)
    for fine in window:
        smooth: Any = cv2.blur(fine, (_FINE, _FINE))
        grid = _warped(smooth, place, cv2.BORDER_REPLICATE)
        total += _whiten(*_activity(grid))[0] * inside
    return total
