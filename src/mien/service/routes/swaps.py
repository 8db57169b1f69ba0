"""One picture in, one picture out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, File, Form, Response, UploadFile
from fastapi.responses import StreamingResponse

from mien.service.asking import Parts, Route, asks, keep, make_scratch
from mien.service.keys import Caller
from mien.service.problems import Problem, documented
from mien.service.routes.fields import (
    FACES,
    ID,
    WHICH,
    Basis,
    Generator,
    LabelLanguage,
    LabelPreset,
    MarksOff,
    Note,
    marks_of,
    which_of,
)
from mien.types import Consent, TargetBasis

router = APIRouter(tags=["swaps"], route_class=Route)

TYPES: Final = {".jpg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}

Asks = Annotated[Caller, Depends(asks("swaps"))]

_PICTURE: Final = {"schema": {"type": "string", "format": "binary"}}
_SWAPPED: Final[dict[str, Any]] = {
    "description": "The picture, with its marks.",
    "content": dict.fromkeys(TYPES.values(), _PICTURE),
    "headers": {
        "Mien-Output-Id": {
            "description": "In the picture's watermark, too.",
            "schema": {"type": "string", "pattern": "^[0-9a-f]{8}$"},
        },
        "Mien-Faces": {
            "description": "Faces that were replaced.",
            "schema": {"type": "integer", "minimum": 1},
        },
    },
}


@router.post(
    "/swaps",
    response_class=Response,
    responses={200: _SWAPPED, **documented(507)},
    summary="Swap the faces of a picture",
)
def swap_picture(  # noqa: PLR0917
    service: Parts,
    caller: Asks,
    target: Annotated[
        UploadFile, File(description="The picture to change: JPEG, PNG, WebP or BMP.")
    ],
    identity: Annotated[
        str | None,
        Form(
            pattern=ID,
            description="Id of an identity; or send `source`.",
            examples=["0f5e2ab07d0c4d6f9c1b1f6d2a9f4e11"],
        ),
    ] = None,
    source: Annotated[
        list[UploadFile] | None,
        File(description="Photos of one person, used once; with `consent`."),
    ] = None,
    consent: Annotated[Basis | None, Form(description="On what the use of `source` rests.")] = None,
    note: Note = "",
    source_face: Annotated[
        str | None, Form(pattern=WHICH, description="Which face of `source`, if several.")
    ] = None,
    target_consent: Annotated[
        TargetBasis | None, Form(description="The same for the person who is replaced.")
    ] = None,
    target_note: Note = "",
    faces: Annotated[
        str,
        Form(
            pattern=FACES,
            description="all, largest, left, right, or a number from the left.",
            examples=["largest"],
        ),
    ] = "all",
    generator: Generator = None,
    blend: Annotated[Literal["soft", "poisson"] | None, Form()] = None,
    color: Annotated[Literal["auto", "none", "lab", "histogram"] | None, Form()] = None,
    format: Annotated[
        Literal["jpeg", "png", "webp"] | None, Form(description="None for the target's own.")
    ] = None,
    quality: Annotated[int | None, Form(ge=1, le=100, description="Of JPEG and WebP.")] = None,
    label_language: LabelLanguage = None,
    label_preset: LabelPreset = None,
    marks_off: MarksOff = None,
) -> Response:
    """Put a person's face on the faces of a picture.

    The picture comes back with a visible label, an invisible watermark and signed content
    credentials. Neither picture is kept. A picture in which no face can be swapped is answered
    with 422 (`no-face`).
    """
    photos = source or []
    _check(service.settings.limits.photos, identity, photos, consent)
    given = None if consent is None else Consent(consent, note)
    marks = marks_of(service, label_language, label_preset, marks_off or ())
    about = None if target_consent is None else Consent(target_consent, target_note)
    folder = make_scratch(service)
    try:
        keep(target, folder / "target")
        names = [f"source {n}" for n in range(1, len(photos) + 1)]
        for photo, called in zip(photos, names, strict=True):
            keep(photo, folder / called)
        made = service.calls.ask(
            "swap",
            whose=caller.key,
            folder=str(folder),
            tenant=caller.tenant,
            key=caller.key,
            identity=identity,
            photos=names,
            consent=given,
            which=which_of(source_face),
            target_consent=about,
            faces=which_of(faces),
            generator=generator or "",
            blend=blend or service.chain.blend,
            color=color or service.chain.color,
            format=format or "",
            quality=quality or service.chain.quality,
            marks=marks,
        )
        output = folder / made["output"]
        headers = {
            "Content-Length": str(output.stat().st_size),
            "Mien-Output-Id": made["output_id"],
            "Mien-Faces": str(made["faces"]),
        }
        return StreamingResponse(
            _read(output, folder), 200, headers, media_type=TYPES[output.suffix]
        )
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _check(most: int, identity: str | None, photos: list[UploadFile], consent: str | None) -> None:
    """See that it is clear whose face is meant, and on what that rests.

    Raises:
        Problem: 422.
    """
    wrong = ""
    if (identity is None) == (not photos):
        wrong, field = "give an identity, or photos as source, and not both", "body.identity"
    elif len(photos) > most:
        wrong, field = f"at most {most} photos", "body.source"
    elif photos and consent is None:
        wrong, field = "photos need the basis that their use rests on", "body.consent"
    elif identity is not None and consent is not None:
        wrong, field = "an identity has its own", "body.consent"
    if wrong:
        raise Problem(422, "invalid", f"{field}: {wrong}", errors=[(field, wrong)])


def _read(path: Path, folder: Path) -> Iterator[bytes]:
    """What is in a file, whose folder is gone at the end."""
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 18):
                yield block
    finally:
        shutil.rmtree(folder, ignore_errors=True)
