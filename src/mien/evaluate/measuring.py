"""Swapping every identity onto every target, and measuring what came out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mien import blend, landmarks, quality
from mien.evaluate.targets import Target, detected, pictures, refit
from mien.pipeline import Swapper
from mien.types import Face, Floats, Frame, Generate, Identity, Image, Patch


@dataclass(slots=True)
class Samples:
    """What was measured of one generator, identity and target; one entry for each place.

    Attributes:
        values: Measure → figures. ``flicker`` and ``seam`` come in two lists each, of the
            original and of the swapped face, whose sums are compared.
        faces: Places at which there was a face to be swapped.
        lost: Those at which the generator made nothing.
        faces_to_45: The same up to 45° of yaw.
        lost_to_45: The same up to 45° of yaw.
        detectable: Swapped faces that the detector had found before the swap.
        undetected: Those that it did not find afterwards.
        blinks: Blinks looked at.
        kept: Those that stayed.
    """

    values: dict[str, list[float]] = field(default_factory=dict)
    faces: int = 0
    lost: int = 0
    faces_to_45: int = 0
    lost_to_45: int = 0
    detectable: int = 0
    undetected: int = 0
    blinks: int = 0
    kept: int = 0

    def add(self, measure: str, value: float) -> None:
        """One more figure; what could not be measured (NaN) is left out."""
        if np.isfinite(value):
            self.values.setdefault(measure, []).append(float(value))


@dataclass(frozen=True, slots=True)
class Place:
    """One frame of a target, with what is measured of the original once for all swaps.

    Attributes:
        image: ``(H, W, 3)`` uint8.
        face: As the stream saw it; generators get this one.
        fitted: Refitted, for comparison with the refitted swapped face; with embedding.
        crop: Aligned crop.
        inside: The face in it.
        size: Of the crop at the frame's own resolution.
        bare: ``(size, size)`` uint8, the inner face without eyes and mouth.
        fine: ``(size, size)`` float32, its fine contrast at that size.
        found: Whether the detector finds it.
        before: The frame before, its face and its picture in this frame's crop; None in a photo.
        lookup: Optical flow between the two crops.
        change: What changes between them in the original.
    """

    image: Image
    face: Face
    fitted: Face
    crop: Image
    inside: Image
    size: int
    bare: Image
    fine: Floats
    found: bool
    before: tuple[Image, Face] | None = None
    lookup: Floats | None = None
    change: float = float("nan")


@dataclass(frozen=True, slots=True)
class Subject:
    """Who is put onto a target, among whom.

    Attributes:
        identity: The person.
        number: Of the person's row in ``gallery``.
        gallery: ``(N, 512)`` unit embeddings of all portraits.
    """

    identity: Identity
    number: int
    gallery: Floats


@dataclass(frozen=True, slots=True)
class Shown:
    """A swapped face for the contact sheet: aligned crops of the original and of the swap."""

    original: Image
    swapped: Image


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one target.

    Attributes:
        samples: By generator and number of the identity.
        shown: The first swapped face of each, where there is one.
        angle: The target's typology angle in degrees.
    """

    samples: dict[tuple[str, int], Samples]
    shown: dict[tuple[str, int], Shown]
    angle: float


def place_of(
    swapper: Swapper, image: Image, face: Face, before: tuple[Image, Face] | None
) -> Place:
    """Measure the original of a place."""
    fitted = refit(swapper, image, face)
    (fitted,) = swapper.embed(Frame(image), [fitted])
    mesh = mesh_of(fitted)
    crop, inside = quality.view(image, mesh), quality.face_in_view(mesh, image.shape[:2])
    size = quality.crop_size(mesh)
    lookup, changed = None, float("nan")
    if before is not None:
        earlier = quality.view(before[0], mesh)
        lookup = quality.optical_flow(earlier, crop)
        changed = quality.change(earlier, crop, lookup, inside)
    return Place(
        image, face, fitted, crop, inside, size, quality.bare_in_view(mesh, size),
        quality.fine_contrast(image, mesh, size), detected(swapper, image, fitted), before,
        lookup, changed,
    )  # fmt: skip


def measure(
    target: Target,
    identities: Sequence[Identity],
    generators: Mapping[str, Generate],
    swapper: Swapper,
    progress: Callable[[int, int | None], None] | None = None,
) -> Measured:
    """Put every identity on a target with every generator.

    Args:
        target: Looked through.
        identities: Whose faces.
        generators: By name.
        swapper: The other stages.
        progress: Called with swaps done and swaps in all.
    """
    images = pictures(target)
    places = []
    for i in target.places:
        before = None if target.still else (images[i - 1], target.faces[i - 1])
        places.append(place_of(swapper, images[i], target.faces[i], before))
    angle = float(np.median([quality.typology_angle(p.image, mesh_of(p.fitted)) for p in places]))
    # Only what the fit to a single frame sees shut in the original can be asked of a swap.
    usual_of_original = float(
        np.median([quality.eye_openings(mesh_of(p.fitted)).mean() for p in places])
    )
    blinks = [
        i
        for i in target.blinks
        if quality.blink_kept(_opening(swapper, images[i], target.faces[i]), usual_of_original)
    ]
    gallery = np.stack([identity.embedding for identity in identities])
    samples: dict[tuple[str, int], Samples] = {}
    shown: dict[tuple[str, int], Shown] = {}
    done, total = 0, len(identities) * len(generators)
    for number, identity in enumerate(identities):
        portrait = identity.portraits[0]
        sharp = [quality.sharpness(portrait.image, portrait.mesh, p.size) for p in places]
        for name, generate in generators.items():
            mine = samples[name, number] = Samples()
            usual: list[float] = []
            for place, portrait_sharpness in zip(places, sharp, strict=True):
                subject = Subject(identity, number, gallery)
                swapped = _measure_place(
                    place, subject, generate, swapper, mine, portrait_sharpness
                )
                if swapped is None:
                    continue
                image, opening = swapped
                usual.append(opening)
                if (name, number) not in shown:
                    mesh = mesh_of(place.fitted)
                    shown[name, number] = Shown(place.crop, quality.view(image, mesh))
            for i in blinks if usual else ():
                shut = _opening_of(images[i], target.faces[i], identity, generate, swapper)
                if shut is not None:
                    mine.blinks += 1
                    mine.kept += quality.blink_kept(shut, float(np.median(usual)))
            done += 1
            if progress is not None:
                progress(done, total)
    return Measured(samples, shown, angle)


def _measure_place(  # noqa: PLR0917
    place: Place,
    subject: Subject,
    generate: Generate,
    swapper: Swapper,
    mine: Samples,
    portrait_sharpness: float,
) -> tuple[Image, float] | None:
    """Swap and measure one place; the swapped picture and its eye opening, None if lost."""
    original = mesh_of(place.fitted)
    frontal = abs(np.degrees(landmarks.yaw(original))) <= 45
    mine.faces += 1
    mine.faces_to_45 += frontal
    # The neighbour first, as in a real run: a generator may remember the frame before.
    earlier: Image | None = None
    memory: dict[Any, Any] = {}
    if place.before is not None:
        earlier, _ = swap(*place.before, subject.identity, generate, memory=memory)
    image, patches = swap(
        place.image, place.face, subject.identity, generate, memory=memory, index=1
    )
    alpha = quality.mask_in_view(patches, original)
    if not ((alpha > 127) & (place.inside > 0)).any():
        mine.lost += 1
        mine.lost_to_45 += frontal
        return None
    fitted = refit(swapper, image, place.face)
    (fitted,) = swapper.embed(Frame(image), [fitted])
    if place.found:
        mine.detectable += 1
        mine.undetected += not detected(swapper, image, place.fitted)
    _measure_identity(place, fitted, subject, mine)
    mesh, crop = mesh_of(fitted), quality.view(image, original)
    mine.add("pose", quality.pose_error(original, mesh))
    mine.add("expression", quality.expression_error(original, mesh))
    mine.add("eyes", quality.eye_error(original, mesh))
    mine.add("mouth", quality.mouth_error(original, mesh))
    mine.add("lighting", quality.lighting_error(place.crop, crop, place.inside))
    _measure_sharpness(place, image, patches, mine, portrait_sharpness)
    for when, step in zip(
        ("original", "swapped"), quality.seams(place.crop, crop, alpha), strict=True
    ):
        mine.add(f"seam_{when}", step)
    if earlier is not None and place.lookup is not None:
        before = quality.view(earlier, original)
        mine.add("flicker_original", place.change)
        mine.add("flicker_swapped", quality.change(before, crop, place.lookup, place.inside))
        own = quality.optical_flow(before, crop)
        mine.add("flicker_own_original", place.change)
        mine.add("flicker_own_swapped", quality.change(before, crop, own, place.inside))
    return image, float(quality.eye_openings(mesh).mean())


def _measure_sharpness(
    place: Place, image: Image, patches: Sequence[Patch], mine: Samples, portrait: float
) -> None:
    """Of the whole bare face, and of that part of it which was painted."""
    mesh = mesh_of(place.fitted)
    fine = quality.fine_contrast(image, mesh, place.size)
    painted = place.bare & quality.solid(quality.mask_in_view(patches, mesh, place.size))
    for name, where in (("sharpness", place.bare), ("sharpness_painted", painted)):
        reference = min(portrait, quality.typical(place.fine, where))
        mine.add(name, quality.typical(fine, where) / max(reference, 1e-6))


def _measure_identity(place: Place, fitted: Face, subject: Subject, mine: Samples) -> None:
    assert fitted.embedding is not None
    assert place.fitted.embedding is not None
    to_portraits = subject.gallery @ fitted.embedding
    to_portrait = float(to_portraits[subject.number])
    to_target = float(fitted.embedding @ place.fitted.embedding)
    mine.add("to_portrait", to_portrait)
    mine.add("to_target", to_target)
    mine.add("margin", to_portrait - to_target)
    mine.add("nearer", 100.0 * (to_portrait > to_target))
    mine.add("rank1", 100.0 * (int(to_portraits.argmax()) == subject.number))


def _opening_of(
    image: Image, face: Face, identity: Identity, generate: Generate, swapper: Swapper
) -> float | None:
    """Eye opening of the swapped face; None if the generator made nothing."""
    swapped, patches = swap(image, face, identity, generate)
    if not any(patch.mask.any() for patch in patches):
        return None
    return _opening(swapper, swapped, face)


def _opening(swapper: Swapper, image: Image, face: Face) -> float:
    """Mean eye opening of a face in a single picture."""
    return float(quality.eye_openings(mesh_of(refit(swapper, image, face))).mean())


def swap(
    image: Image,
    face: Face,
    identity: Identity,
    generate: Generate,
    *,
    memory: dict[Any, Any] | None = None,
    index: int = 0,
) -> tuple[Image, list[Patch]]:
    """A swapped copy of a picture, and the patches that were put in, as ``mien swap`` does it."""
    frame = Frame(image.copy(), index)
    patches = generate(frame, [replace(face, memory=memory)], [identity])
    for patch in patches:
        blend.soft(frame, blend.match_color(patch, frame, "auto"))
    return frame.image, patches


def mesh_of(face: Face) -> Floats:
    """The mesh of a face that has one."""
    if face.mesh is None:
        raise ValueError("expected a face with a mesh; run landmarks first")
    return face.mesh
