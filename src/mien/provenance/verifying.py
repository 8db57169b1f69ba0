"""What a file shows of its making, and whether it was changed since: all marks read at once."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import cv2

from mien import media
from mien.errors import MediaError
from mien.media.limits import USUAL, Limits
from mien.provenance import credentials, label, marker, watermark
from mien.provenance.manifest import ABSENT, Manifest, clean
from mien.signing import OWN, Signing
from mien.types import Image

SECONDS: Final = 120.0
"""Time that one file may take; a gigabyte needs about two seconds."""

_LOOKS: Final = (0, 12, 30)
"""Frames of a video in which the label is looked for, until it is found."""

_LARGE: Final = 2560
"""Longer side in pixels to which larger pictures are brought before the label is looked for."""

Status = Literal[0, 1, 2, 3]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found in one file.

    Attributes:
        path: The file.
        status: 0: marked and intact; 1: marked but altered, or nothing proves that it was not;
            2: no mark was found; 3: it could not be read.
        text: The same in a sentence.
        kind: ``image``, ``video``, or empty where it could not be read.
        manifest: Content credentials.
        watermark: The invisible watermark; None if there is none that can be read.
        label: The visible label, likewise.
        words: What the file's metadata says, keys as :func:`mien.provenance.metadata` writes them.
        seconds: How long it took.
    """

    path: Path
    status: Status
    text: str
    kind: Literal["", "image", "video"] = ""
    manifest: Manifest = ABSENT
    watermark: watermark.Found | None = None
    label: label.Found | None = None
    words: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def output_id(self) -> str:
        """Hexadecimal, by the watermark, the manifest or the metadata; empty if none says it."""
        if self.watermark is not None:
            return f"{self.watermark.output_id:08x}"
        if self.manifest.facts is not None and self.manifest.state in ("valid", "trusted"):
            return self.manifest.facts.output_id
        return clean(self.words.get("mien_output", ""))

    def as_dict(self) -> dict[str, Any]:
        """The same in types that JSON has."""
        manifest, mark, drawn = self.manifest, self.watermark, self.label
        facts = manifest.facts
        return {
            "file": str(self.path),
            "status": self.status,
            "verdict": self.text,
            "kind": self.kind,
            "output_id": self.output_id,
            "manifest": {
                "state": manifest.state,
                "reason": manifest.reason,
                "where": manifest.where,
                "signer": manifest.signer,
                "known": manifest.known,
                "generator": manifest.generator,
                "synthetic": manifest.synthetic,
                "facts": None
                if facts is None
                else {
                    "output_id": facts.output_id,
                    "consent": facts.consent,
                    "target_consent": facts.target_consent,
                    "label": facts.label,
                    "watermark": facts.watermark,
                    "target": facts.target,
                    "portraits": list(facts.portraits),
                    "models": [{"name": name, "sha256": sha} for name, sha in facts.models],
                },
            },
            "watermark": None
            if mark is None
            else {
                "output_id": f"{mark.output_id:08x}",
                "version": mark.version,
                "false_alarm_log10": round(mark.false_alarm_log10, 1),
                "frames": mark.frames,
                "region": [round(share, 4) for share in mark.region],
                "turned": mark.turned,
            },
            "label": None
            if drawn is None
            else {
                "place": drawn.place,
                "language": drawn.language,
                "rect": [int(edge) for edge in drawn.rect],
                "score": round(float(drawn.score), 3),
            },
            "metadata": {clean(key): clean(value) for key, value in self.words.items()},
            "seconds": round(self.seconds, 3),
        }


def verify(
    path: Path | str,
    *,
    signing: Signing = OWN,
    seconds: float = SECONDS,
    limits: Limits = USUAL,
) -> Verdict:
    """Read all marks of a file and judge it.

    A manifest beside the file (``.c2pa``) is found by its name. Nothing is raised for what
    a stranger's file may be: such a file could not be read.

    Args:
        path: A photo or a video.
        signing: Whose signatures are trusted besides this machine's own.
        seconds: How long it may take; looking at pixels stops then, and says what was found
            until then.
        limits: Of what is read at all.

    Raises:
        UsageError: The operator's authorities cannot be read.
    """
    path, begun = Path(path), time.monotonic()
    until = begun + seconds
    seen = _Seen()
    try:
        _check_plain(path, limits)
        seen.manifest = credentials.check(path, signing=signing, until=until)
        seen.kind = media.kind_of(path)
        seen.words = marker.read(path)
        _look(path, seen, until, limits)
    except MediaError as error:
        seen.failed = clean(str(error).removeprefix(f"{path}: "))
    status, text = _judge(seen)
    return Verdict(
        path,
        status,
        text,
        "" if status == 3 else seen.kind,
        seen.manifest,
        seen.watermark,
        seen.label,
        seen.words,
        time.monotonic() - begun,
    )


@dataclass(slots=True)
class _Seen:
    """What has been found so far."""

    kind: Literal["", "image", "video"] = ""
    manifest: Manifest = ABSENT
    watermark: watermark.Found | None = None
    label: label.Found | None = None
    words: Mapping[str, str] = field(default_factory=dict)
    failed: str = ""


def _check_plain(path: Path, limits: Limits) -> None:
    """Refuse what is no file, since reading a pipe or a device may never end."""
    try:
        found = path.stat()
    except OSError as error:
        raise MediaError(f"{path}: cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(found.st_mode):
        raise MediaError(f"{path}: is no file")
    if found.st_size > limits.video_bytes:
        raise MediaError(f"{path}: is longer than {limits.video_bytes} bytes")


def _look(path: Path, seen: _Seen, until: float, limits: Limits) -> None:
    """Look at the pixels for watermark and label."""
    if seen.kind == "image":
        image = media.read_image(path, max_pixels=limits.pixels)
        seen.watermark = watermark.read(image)
        seen.label = label.find(_smaller(image))
        return
    with media.open_source(path, limits=limits) as source:

        def frames() -> Iterator[Image]:
            for number, frame in enumerate(source):
                if time.monotonic() > until:
                    return
                if number in _LOOKS and seen.label is None:
                    seen.label = label.find(_smaller(frame.image))
                yield frame.image

        seen.watermark = watermark.read(frames())


def _smaller(image: Image) -> Image:
    """A picture in which the label is found as well, and sooner."""
    over = max(image.shape[:2]) / _LARGE
    if over <= 1:
        return image
    size = round(image.shape[1] / over), round(image.shape[0] / over)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[return-value]


def _judge(seen: _Seen) -> tuple[Status, str]:
    manifest = seen.manifest
    others = _listed(
        ["a watermark"] * (seen.watermark is not None)
        + ["the visible label"] * (seen.label is not None)
        + ["metadata"] * bool(seen.words)
    )
    told = manifest.synthetic or manifest.facts is not None
    if manifest.state in ("valid", "trusted") and told:
        return 0, f"marked and intact; signed by {_signer(manifest)}"
    unknown = not manifest.generator  # so damaged that nobody can tell whose it was
    if manifest.state == "broken" and (told or others or unknown):
        return 1, f"marked but altered: {manifest.reason}"
    if others:
        why = (
            "its manifest is another program's and says nothing of it"
            if manifest.state in ("valid", "trusted")
            else "it has no manifest, so nothing tells whether it was altered"
        )
        return 1, f"marked ({others}), but {why}"
    if seen.failed:
        return 3, f"could not be read: {seen.failed}"
    if manifest.state != "absent":
        intact = "broken" if manifest.state == "broken" else "intact"
        return 2, f"no mark found; it carries a manifest of {manifest.generator}, which is {intact}"
    return 2, "no mark found"


def _listed(words: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _signer(manifest: Manifest) -> str:
    if manifest.known == "here":
        return "this machine"
    name = manifest.signer or "a certificate without a name"
    known = ", whom the operator trusts" if manifest.known else ", who is not known here"
    return f"{name}{known}"
