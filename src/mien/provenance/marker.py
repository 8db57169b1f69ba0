"""The marks of an output: a visible label, and words inside the file.

:class:`Marker` alone makes :class:`Marked` frames, and sinks accept nothing else, so nothing
leaves without its mark.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import cv2

from mien import __version__
from mien.errors import UsageError
from mien.media import Marked, read_metadata
from mien.provenance.label import PLACES, SAID, Drawn, Layout, Preset, check, layout, render
from mien.provenance.placing import Placer
from mien.provenance.watermark import SMALLEST, Watermark, new_output_id
from mien.types import Consent, Face, Frame

log = logging.getLogger(__name__)

__all__ = ["Marked", "Marker", "Marks", "metadata", "read", "untouched"]

SYNTHETIC = SAID["en"]
"""What the output is, in the words of the metadata."""

DIGITAL_SOURCE_TYPE = (
    "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
)
"""IPTC's term for footage in which a part was made by a trained model; XMP has a field for it."""


AIGC = "AIGC"
"""The metadata field of GB 45438-2025, clause 6.1 and appendix E: one JSON object."""


LONGEST = 60
"""Letters that may be added to the label's own."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Which marks an output carries, and what its label says.

    Whether a mark may be off is the policy's to say; see :mod:`mien.policy`.

    Attributes:
        label_on: The visible label is drawn.
        preset: ``usual`` is small; ``regulated`` has capitals of at least 5 % of the picture's
            shorter side, as GB 45438-2025 asks for.
        language: Of the label, a key of :data:`mien.provenance.label.SAID`.
        words: Said after the label's own words.
        watermark_on: The invisible watermark is written.
        credentials_on: Files carry signed content credentials (C2PA).
        producer: Who makes the output, for the field ``AIGC``: in China a provider's name or code.

    Raises:
        UsageError: Preset or language is unknown, or a letter cannot be drawn.
    """

    label_on: bool = True
    preset: Preset = "usual"
    language: str = "en"
    words: str = ""
    watermark_on: bool = True
    credentials_on: bool = True
    producer: str = "mien"

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn before there is anything to be drawn on."""
        if self.preset not in get_args(Preset):
            known = ", ".join(get_args(Preset))
            raise UsageError(f"label preset {self.preset!r} is unknown; known are {known}")
        if len(self.words) > LONGEST:
            raise UsageError(f"label words: at most {LONGEST} letters, not {len(self.words)}")
        check(self.language, self.words)


class Marker:
    """Marks the frames of one output.

    The label is rendered once for each frame size and place, and blending it touches its own
    rectangle only.

    Args:
        marks: Which marks, and what the label says; None for the usual ones.
        consent: On what the use of the portrait rests.
        target_consent: The same for the person who is replaced, None if unsaid.
        output_id: Eight hexadecimal digits; empty for new ones. One marker is for one output.
        label_on: Instead of ``marks.label_on``, where given.

    Attributes:
        marks: Which marks, and what the label says.
        label: All words of the label.
        consent: On what the use of the portrait rests.
        target_consent: The same for the person who is replaced, None if unsaid.
        output_id: Eight hexadecimal digits, others for every file and every live session.
    """

    def __init__(
        self,
        marks: Marks | None = None,
        *,
        consent: Consent,
        target_consent: Consent | None = None,
        output_id: str = "",
        label_on: bool | None = None,
    ) -> None:
        self.marks = marks or Marks()
        if label_on is not None:
            self.marks = replace(self.marks, label_on=label_on)
        self.consent, self.target_consent = consent, target_consent
        self.output_id = output_id or f"{new_output_id():08x}"
        self._watermark = Watermark(int(self.output_id, 16))
        said = SAID[self.marks.language]
        self.label = f"{said}: {self.marks.words}" if self.marks.words else said
        self._layouts: dict[tuple[int, int], dict[str, Layout]] = {}
        self._labels: dict[tuple[tuple[int, int], str], Drawn] = {}
        self._placer = Placer()
        self._sizes: set[tuple[int, int]] = set()
        self._warned: set[tuple[int, int]] = set()  # shared by all markers made of this one

    def __call__(self, frame: Frame, faces: Sequence[Face] = ()) -> Marked:
        """Draw the label into ``frame.image``, write the watermark, and hand the frame over.

        The watermark of a decoded video frame is written by the file sink; see
        :class:`mien.media.Marked`.

        Args:
            frame: Written to.
            faces: Of the frame, in pixels of it; the label keeps clear of them.
        """
        if self.marks.label_on:
            self._draw(frame, faces)
        if not self.marks.watermark_on:
            return Marked(frame)
        height, width = frame.image.shape[:2]
        self.fit(width, height)
        return Marked(frame, self._watermark.write(frame))

    def fit(self, width: int, height: int) -> None:
        """Take note of the size of frames, which may be too small for the watermark.

        For outputs whose frames are marked elsewhere; calling the marker does it, too. A size
        that is too small is warned of once.

        Args:
            width: Of the frames of the output, in pixels.
            height: The same.
        """
        if (width, height) in self._sizes or not self.marks.watermark_on:
            return
        self._sizes.add((width, height))
        if min(width, height) < SMALLEST and (width, height) not in self._warned:
            self._warned.add((width, height))
            log.warning(
                "a picture of %dx%d pixels is too small for the invisible watermark, "
                "which needs %d on the shorter side; it goes without",
                *(width, height, SMALLEST),
            )

    @property
    def missing(self) -> tuple[str, ...]:
        """The marks that are on and that no frame was large enough for, as the policy calls them.

        Known once there were frames, or their size was told with :meth:`fit`.
        """
        small = bool(self._sizes) and all(min(size) < SMALLEST for size in self._sizes)
        return ("watermark",) if small and self.marks.watermark_on else ()

    @property
    def account(self) -> dict[str, Any]:
        """What the audit log says of the finished output: its id, and the marks it lacks."""
        said: dict[str, Any] = {"output_id": self.output_id}
        if self.missing:
            said["marks_missing"] = list(self.missing)
        return said

    def changed(self, *, marks: Marks | None = None, consent: Consent | None = None) -> Marker:
        """A marker of the same output that says something else from now on."""
        other = Marker(
            marks or self.marks,
            consent=consent or self.consent,
            target_consent=self.target_consent,
            output_id=self.output_id,
        )
        other._placer = self._placer  # the label stays where it is
        other._sizes, other._warned = set(self._sizes), self._warned
        return other

    def anew(self, output_id: str = "") -> Marker:
        """A marker that says the same of another output, or of the one with this id."""
        other = Marker(
            self.marks,
            consent=self.consent,
            target_consent=self.target_consent,
            output_id=output_id,
        )
        other._warned = self._warned
        return other

    def metadata(self) -> dict[str, str]:
        """Return the words that go into the output; see :func:`metadata`."""
        return metadata(
            self.consent, self.target_consent, self.output_id, producer=self.marks.producer
        )

    def recall(self, height: int, width: int, seen: Iterable[tuple[float, Sequence[Face]]]) -> None:
        """Take note of frames that were marked elsewhere, so that the label is where it was.

        Args:
            height: Of the frames.
            width: The same.
            seen: Seconds and faces of each, in order.
        """
        for now, faces in seen if self.marks.label_on else ():
            self._place(height, width, faces, now)

    def _draw(self, frame: Frame, faces: Sequence[Face]) -> None:
        height, width = frame.image.shape[:2]
        timed = frame.pts is not None and frame.time_base is not None
        now = float(frame.pts * frame.time_base) if timed else None  # type: ignore[operator]
        place = self._place(height, width, faces, now)
        key = height, width
        if (key, place) not in self._labels:
            self._labels[key, place] = render(self._layouts[key][place])
        label = self._labels[key, place]
        region = frame.image[label.rect.slices()]
        cv2.multiply(region, label.keep, region, scale=1 / 255)
        cv2.add(region, label.light, region)
        frame.mark_dirty(label.rect)

    def _place(self, height: int, width: int, faces: Sequence[Face], now: float | None) -> str:
        key = height, width
        if key not in self._layouts:
            self._layouts[key] = {
                place: layout(
                    *(height, width, place),
                    preset=self.marks.preset,
                    language=self.marks.language,
                    words=self.marks.words,
                )
                for place in PLACES
            }
        return self._placer({p: one.rect for p, one in self._layouts[key].items()}, faces, now)


def metadata(
    consent: Consent,
    target_consent: Consent | None = None,
    output_id: str = "",
    *,
    producer: str = "mien",
) -> dict[str, str]:
    """Return what an output says of itself; keys are names that every container can hold."""
    aigc = {
        "Label": "1",  # is generated; 2 would be: may be, 3: is suspected to be
        "ContentProducer": producer,
        "ProduceID": output_id,
        "ReservedCode1": "",
        "ContentPropagator": "",  # who passes it on fills in these
        "PropagateID": "",
        "ReservedCode2": "",
    }
    words = {
        "mien_version": __version__,
        "mien_content": SYNTHETIC,
        "mien_output": output_id,
        "digital_source_type": DIGITAL_SOURCE_TYPE,
        AIGC: json.dumps(aigc, ensure_ascii=False, separators=(",", ":")),
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
    ours = {k: v for k, v in found.items() if k.startswith("mien_") or k == "digital_source_type"}
    field = found.get(AIGC) or found.get(AIGC.lower())
    return ours if field is None else ours | {AIGC: field}
