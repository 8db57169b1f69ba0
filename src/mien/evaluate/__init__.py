"""The tool behind ``mien evaluate``: every identity on every target, measured.

It stands on top of the pipeline and takes any generator that the pipeline can load, so models can
be compared on one's own footage. ``docs/quality.md`` says what the figures mean.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import cv2

from mien import __version__, api, pipeline, policy, zoo
from mien.api.files import for_file
from mien.errors import MediaError, UsageError
from mien.evaluate import report as reporting
from mien.evaluate.measuring import Samples, measure
from mien.evaluate.page import html_of
from mien.evaluate.report import compare, read, table
from mien.evaluate.sheet import Sheet
from mien.evaluate.targets import look_through
from mien.identity import Store, Watch
from mien.media.metadata import with_xmp, xmp
from mien.provenance import Marker, Marks, certificate, credentials, manifest
from mien.types import Consent, Frame, Image

__all__ = ["FRAMES", "Result", "compare", "evaluate", "read", "table"]

log = logging.getLogger(__name__)

FRAMES: Final = 8
"""Frames of each clip that are measured; each is swapped with its neighbour, for flicker."""

FILES: Final = ("report.json", "report.html", "sheet.jpg")


@dataclass(frozen=True, slots=True)
class Result:
    """What an evaluation gave.

    Attributes:
        report: As in ``report.json``.
        folder: Where it was written.
        changes: Lines that say what became better and worse; empty without an earlier report.
    """

    report: dict[str, Any]
    folder: Path
    changes: list[str] = field(default_factory=list)


def evaluate(  # noqa: PLR0915
    identities: Sequence[Path | str],
    targets: Sequence[Path | str],
    output: Path | str,
    *,
    consent: Consent | None = None,
    target_consent: Consent | None = None,
    marks: Marks | None = None,
    generators: Sequence[str] = ("mesh",),
    detector: str = "mien",
    landmarker: str = "facemesh",
    embedder: str = "faceres512",
    frames: int = FRAMES,
    against: Path | str | None = None,
    pictures: bool = True,
    overwrite: bool = False,
    models: zoo.Zoo | None = None,
    progress: api.FileProgress | None = None,
) -> Result:
    """Put every identity on every target, measure, and write a report.

    Args:
        identities: Portraits, one of each person, of several faces the largest; or the names of
            kept identities.
        targets: Photos and videos; the largest face of each is swapped.
        output: Folder for ``report.json``, ``report.html`` and ``sheet.jpg``.
        consent: What the use of the portraits rests on; kept identities have their own.
        target_consent: The same for the people who are replaced, if said.
        marks: Of the contact sheet; None for the usual ones.
        generators: Names as :func:`mien.pipeline.load` takes them.
        detector: What finds faces, for all of them.
        landmarker: What fits meshes, likewise.
        embedder: What says who somebody is, and measures identity with that.
        frames: How many frames of a clip are measured, besides up to four blinks.
        against: An earlier ``report.json``.
        pictures: Make the contact sheet; without it a report shows nobody.
        overwrite: Replace an earlier report.
        models: Where models come from and run.
        progress: Called with a file, steps done in it and steps in all.

    Raises:
        UsageError: Nothing to do, or there is a report already.
        NoFace: An identity or a target has no face; names the file.
        MediaError: A file cannot be read, or the folder cannot be written.
        ModelNotFound: A generator is unknown.
        Refused: The policy does not allow it; see :mod:`mien.policy`.
    """
    kept = [str(p) for p in identities if not Path(p).exists() and Store.open().has(str(p))]
    photos = [p for p in identities if str(p) not in kept]
    portraits = _files(photos, "identities") if photos or not kept else []
    files = _files(targets, "targets")
    if portraits and consent is None:
        raise UsageError(f"{portraits[0]}: is a photo, whose use needs a consent")
    given = _together(kept, consent if portraits else None)
    names = list(dict.fromkeys(generators))
    if not names:
        raise UsageError("no generator was given; one is needed")
    if frames < 1:
        raise UsageError(f"frames {frames}: at least one is needed")
    earlier = None if against is None else read(Path(against))
    output = Path(output)
    mark = Marker(marks, consent=given, target_consent=target_consent)
    use = policy.Use("video", target_consent=target_consent, marks=mark.marks)
    rules = policy.load()
    signs = None
    if pictures and mark.marks.credentials_on:
        signs = certificate.signatory(rules.credentials)
    with _Folder(output, overwrite=overwrite) as folder, ExitStack() as stack:
        stages: dict[str, Any] = {
            "detector": detector,
            "landmarker": landmarker,
            "embedder": embedder,
        }
        swappers = {n: pipeline.load(n, **stages, models=models) for n in names}
        swapper = swappers[names[0]]
        people = [api.stored(name, swapper=swapper) for name in kept]
        once = api.noted(consent) if consent is not None and portraits else given
        people += [api.enrol(p, once, which="largest", swapper=swapper) for p in portraits]
        watch = Watch()
        # Each goes on all targets by itself, so no two people are used at a time.
        for one in people:
            rules.permit([one], use)
        run = stack.enter_context(rules.begin(people[:1], use))
        for one in people[1:]:
            rules.note("also", run=run.id, **policy.facts([one], use))
        for file in files if rules.audit.on else ():
            rules.note("target", run=run.id, target=rules.hashes(file))
        # All targets are looked through before any is measured, so that a bad one shows at once.
        looked = [look_through(f, swapper, frames, for_file(progress, f)) for f in files]
        samples: dict[str, dict[tuple[int, int], Samples]] = {name: {} for name in names}
        listed: list[dict[str, Any]] = []
        sheet = Sheet(people, names)
        for number, target in enumerate(looked):
            watch.permit(people, "video")
            log.info("%s: measuring %d frames", target.path, len(target.wanted))
            found = measure(
                target,
                people,
                {name: s.generate for name, s in swappers.items()},
                swapper,
                for_file(progress, target.path),
            )
            for (name, person), values in found.samples.items():
                samples[name][person, number] = values
            sheet.add(target.path.stem, found.shown)
            listed.append(reporting.about(target, found.angle))
        made = {
            "report": reporting.VERSION,
            "mien": __version__,
            "frames": frames,
            "identities": [
                {"name": one.name, "file": str(file)}
                for one, file in zip(people, [*[""] * len(kept), *portraits], strict=True)
            ],
            "targets": listed,
            "generators": {n: reporting.summary(samples[n], listed, len(people)) for n in names},
        }
        changes = [] if earlier is None else compare(made, earlier)
        picture = _marked(sheet.picture(), mark) if pictures else None
        if picture is not None and signs is not None:
            weights = [w for s in swappers.values() for w in s.weights]
            facts = manifest.facts_of(mark, people, weights)
            picture = credentials.seal(picture, facts, signs, str(output / "sheet.jpg"))
        folder.write("report.json", (json.dumps(made, indent=1) + "\n").encode())
        folder.write("report.html", html_of(made, changes, picture).encode())
        if picture is not None:
            folder.write("sheet.jpg", picture)
        run.end("evaluated", output_id=mark.output_id, pictures=pictures)
    return Result(made, output, changes)


def _together(kept: Sequence[str], consent: Consent | None) -> Consent:
    """What all portraits of an evaluation rest on."""
    store = Store.open()
    entries = [store.show(name) for name in kept]
    bases = [e.basis for e in entries] + ([consent.basis] if consent else [])
    notes = [e.note for e in entries if e.note] + ([consent.note] if consent else [])
    return Consent(", ".join(dict.fromkeys(bases)), "; ".join(filter(None, dict.fromkeys(notes))))


def _files(given: Sequence[Path | str], what: str) -> list[Path]:
    """The files, folders replaced by what is in them."""
    files: list[Path] = []
    for path in map(Path, given):
        if path.is_dir():
            files += api.list_media(path)
        elif not path.exists():
            raise MediaError(f"{path}: no such file")
        else:
            files.append(path)
    if not files:
        raise UsageError(f"no {what} were given; at least one file is needed")
    return files


def _marked(image: Image, mark: Marker) -> bytes:
    """A JPEG file of a picture, with label and watermark, and the words inside."""
    frame = mark(Frame(image)).frame
    done, data = cv2.imencode(".jpg", frame.image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    if not done:
        raise MediaError("the contact sheet cannot be encoded as JPEG")
    return with_xmp(data.tobytes(), xmp(mark.metadata()))


class _Folder:
    """A hidden folder beside the output whose files take their place when all is well."""

    def __init__(self, output: Path, *, overwrite: bool) -> None:
        """Refuse, before any work, a folder that cannot be.

        Raises:
            UsageError: It is a file, or has a report already and ``overwrite`` is not set.
            MediaError: The folder that it is to be made in is missing or cannot be written.
        """
        if output.exists() and not output.is_dir():
            raise UsageError(f"{output}: is a file; the report goes into a folder")
        if not output.parent.is_dir():
            raise MediaError(f"{output}: the folder {output.parent} does not exist")
        there = [name for name in FILES if (output / name).exists()]
        if there and not overwrite:
            raise UsageError(
                f"{output}: has a {there[0]} already; choose another folder or add --overwrite"
            )
        self.output = output
        beside = output if output.is_dir() else output.parent
        try:
            self._hidden = Path(tempfile.mkdtemp(prefix=".mien-report-", dir=beside))
        except OSError as error:
            raise MediaError(f"{output}: cannot be written ({error.strerror})") from error

    def __enter__(self) -> _Folder:
        return self

    def write(self, name: str, content: bytes) -> None:
        """Put a file among those that will take their place."""
        try:
            (self._hidden / name).write_bytes(content)
        except OSError as error:
            raise MediaError(
                f"{self.output / name}: cannot be written ({error.strerror})"
            ) from error

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.output.mkdir(exist_ok=True)
                for name in FILES:
                    if (self._hidden / name).exists():
                        (self._hidden / name).replace(self.output / name)
                    else:  # of an earlier report
                        (self.output / name).unlink(missing_ok=True)
        except OSError as error:
            raise MediaError(f"{self.output}: cannot be written ({error.strerror})") from error
        finally:
            shutil.rmtree(self._hidden, ignore_errors=True)
