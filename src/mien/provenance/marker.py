"""What every output says of itself: a visible label and words inside the file.

:class:`Marker` alone makes :class:`Marked` frames, and sinks accept nothing else, so nothing
leaves without its mark. An invisible watermark belongs into :meth:`Marker.__call__`, beside the
label, and is read back by :func:`read`; content credentials are made of :func:`metadata` and the
finished file.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from mien import __version__
from mien.media import Marked, read_metadata
from mien.types import Consent, Face, Frame, Rect

__all__ = ["Marked", "Marker", "Marks", "metadata", "read", "untouched"]

SYNTHETIC = "AI-generated"
"""What the output is, in the words of the label and of the metadata."""

DIGITAL_SOURCE_TYPE = (
    "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
)
"""IPTC's term for footage in which a part was made by a trained model; XMP has a field for it."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Which marks an output carries, and what its label says.

    Whether a mark may be off is the policy's to say; see :mod:`mien.policy`.

    Attributes:
        label_on: The visible label is drawn.
        preset: ``usual`` is small; ``regulated`` is at least 5 % of the shorter side high, as
            China's GB 45438-2025 asks for.
        language: Of the label.
        words: Said after the label's own words.
        watermark_on: The invisible watermark is written.
        credentials_on: Files carry signed content credentials (C2PA).
    """

    label_on: bool = True
    preset: Literal["usual", "regulated"] = "usual"
    language: str = "en"
    words: str = ""
    watermark_on: bool = True
    credentials_on: bool = True


class _Label(NamedTuple):
    """A label rendered for one frame size; all planes repeat the value for three channels."""

    rect: Rect
    light: NDArray[np.uint8]
    keep: NDArray[np.uint8]


class Marker:
    """Marks frames: draws the visible label in the bottom right corner.

    White letters on a translucent dark plate stay legible on any background. The label is
    rendered once for each frame size, and blending it touches its own rectangle only.

    Args:
        marks: Which marks, and what the label says.
        consent: On what the use of the portrait rests.
        target_consent: The same for the person who is replaced, None if unsaid.
        output_id: Hexadecimal; empty for a new one. One marker is for one output.
        label_on: Instead of ``marks.label_on``, where given.

    Attributes:
        marks: Which marks, and what the label says.
        label: All words of the label.
        consent: On what the use of the portrait rests.
        target_consent: The same for the person who is replaced, None if unsaid.
        output_id: Hexadecimal; new for every file and every live session.
    """

    def __init__(
        self,
        marks: Marks = Marks(),
        *,
        consent: Consent,
        target_consent: Consent | None = None,
        output_id: str = "",
        label_on: bool | None = None,
    ) -> None:
        self.marks = marks if label_on is None else replace(marks, label_on=label_on)
        self.consent, self.target_consent = consent, target_consent
        self.output_id = output_id or secrets.token_hex(4)
        self.label = f"{SYNTHETIC}: {marks.words}" if marks.words else SYNTHETIC
        self._labels: dict[tuple[int, int], _Label] = {}

    def __call__(self, frame: Frame, faces: Sequence[Face] = ()) -> Marked:
        """Draw the label into ``frame.image``, record the rectangle, and hand the frame over.

        Args:
            frame: Written to.
            faces: Of the frame, in pixels of it; the label keeps clear of them.
        """
        if self.marks.label_on:
            label = self._label(*frame.image.shape[:2])
            if not label.rect.empty:
                region = frame.image[label.rect.slices()]
                cv2.multiply(region, label.keep, region, scale=1 / 255)
                cv2.add(region, label.light, region)
                frame.mark_dirty(label.rect)
        return Marked(frame)

    def changed(self, *, marks: Marks | None = None, consent: Consent | None = None) -> Marker:
        """A marker of the same output that says something else from now on."""
        return Marker(
            marks or self.marks,
            consent=consent or self.consent,
            target_consent=self.target_consent,
            output_id=self.output_id,
        )

    def anew(self) -> Marker:
        """A marker that says the same of another output."""
        return Marker(self.marks, consent=self.consent, target_consent=self.target_consent)

    def metadata(self) -> dict[str, str]:
        """Return the words that go into the output; see :func:`metadata`."""
        return metadata(self.consent, self.target_consent, self.output_id)

    def _label(self, height: int, width: int) -> _Label:
        key = (height, width)
        if key not in self._labels:
            self._labels[key] = _render(self.label, height, width)
        return self._labels[key]


def _render(text: str, height: int, width: int) -> _Label:
    """Render white letters on a dark plate, antialiased, as ``region * keep + light``."""
    over = 4  # letters are drawn four times larger and scaled down
    font, letters = cv2.FONT_HERSHEY_SIMPLEX, max(9.0, 0.022 * min(height, width))
    scale = letters * over / 22  # capitals of this font are 22 px high at scale 1
    stroke = round(0.12 * letters * over)
    (text_width, text_height), base = cv2.getTextSize(text, font, scale, stroke)
    pad = round(0.55 * letters) * over
    plate = np.zeros((text_height + base + 2 * pad, text_width + 2 * pad), np.uint8)
    cv2.putText(plate, text, (pad, pad + text_height), font, scale, 255, stroke)
    size = (min(width, plate.shape[1] // over), min(height, plate.shape[0] // over))
    glyphs = cv2.resize(plate, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    margin = min(round(0.6 * letters), width - size[0], height - size[1])
    rect = Rect(
        width - margin - size[0], height - margin - size[1], width - margin, height - margin
    )
    dark, light = 0.55, 0.95
    keep = (1 - glyphs * light) * (1 - dark)
    return _Label(rect, _three(glyphs * light), _three(keep))


def _three(plane: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.repeat(np.rint(plane * 255).astype(np.uint8)[:, :, None], 3, axis=2)


def metadata(
    consent: Consent, target_consent: Consent | None = None, output_id: str = ""
) -> dict[str, str]:
    """Return what an output says of itself; keys are names that every container can hold."""
    words = {
        "mien_version": __version__,
        "mien_content": SYNTHETIC,
        "mien_output": output_id,
        "digital_source_type": DIGITAL_SOURCE_TYPE,
        "mien_consent": consent.basis,
        "mien_consent_note": consent.note,
    }
    if target_consent is not None:
        words["mien_target_consent"] = target_consent.basis
        words["mien_target_consent_note"] = target_consent.note
    return {key: value for key, value in words.items() if value}


def untouched(frames: Iterable[Frame]) -> Iterator[Marked]:
    """Hand over frames in which nothing was made, without marks, since those would be untrue.

    Args:
        frames: As they come from a source.

    Raises:
        ValueError: Something was painted into a frame.
    """
    for frame in frames:
        if frame.dirty:
            raise ValueError(f"frame {frame.index} was painted, so it has to be marked")
        yield Marked(frame)


def read(path: Path | str) -> dict[str, str]:
    """Read back what :func:`metadata` wrote into a PNG, JPEG, WebP, MP4, MOV, MKV or WebM file.

    Returns:
        The same keys; empty if the file carries no mark of mien.

    Raises:
        MediaError: The file is missing or is no image or video.
    """
    found: Mapping[str, str] = read_metadata(path)
    if "mien_version" not in found:
        return {}
    return {k: v for k, v in found.items() if k.startswith("mien_") or k == "digital_source_type"}
