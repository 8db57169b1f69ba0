"""People whose faces may be used, each with the consent that it rests on."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, File, Form, Path, Response, UploadFile
from pydantic import BaseModel, Field
from sqlalchemy import select

from mien import policy
from mien.errors import MienError
from mien.service import people
from mien.service.asking import Parts, Route, asks, keep, scratch
from mien.service.database import Person
from mien.service.keys import Caller
from mien.service.problems import Problem, documented
from mien.service.routes.fields import (
    ID,
    TEXT,
    WHICH,
    After,
    Basis,
    Limit,
    Once,
    created,
    moment,
    page,
    sha256_of,
    which_of,
)
from mien.types import Consent, Scope

router = APIRouter(tags=["identities"], route_class=Route)

EXAMPLE: Final[dict[str, Any]] = {
    "id": "0f5e2ab07d0c4d6f9c1b1f6d2a9f4e11",
    "name": "Ada",
    "consent": "written",
    "note": "form 17, 2031-05-02",
    "scope": ["photo", "video"],
    "expires": "2032-12-31",
    "verified": "",
    "state": "valid",
    "added": "2031-05-02T10:00:00Z",
    "revoked": None,
}

Asks = Annotated[Caller, Depends(asks("identities"))]
Which_ = Annotated[str, Path(description="Id of an identity.", pattern=ID)]


class IdentityOut(BaseModel):
    """An identity, without anything of the face."""

    model_config = {"json_schema_extra": {"examples": [EXAMPLE]}}

    id: str
    name: str = Field(description="Empty once revoked.")
    consent: str = Field(description="On what the use rests.")
    note: str = Field(description="Empty once revoked.")
    scope: list[Scope] = Field(description="What the face may be used for; empty for everything.")
    expires: date | None = Field(description="The last day; null for no end.")
    verified: Literal["", "liveness"]
    state: Literal["valid", "expired", "revoked"]
    added: datetime
    revoked: datetime | None


class IdentityList(BaseModel):
    """Some identities, newest first."""

    model_config = {"json_schema_extra": {"examples": [{"items": [EXAMPLE], "next": None}]}}

    items: list[IdentityOut]
    next: str | None = Field(description="For `after`, if there are more.")


@router.post(
    "/identities",
    status_code=201,
    response_model=IdentityOut,
    responses=documented(409, 507),
    summary="Enrol a person",
)
def create_identity(  # noqa: PLR0917
    service: Parts,
    caller: Asks,
    photos: Annotated[
        list[UploadFile],
        File(description="Photos of one person: JPEG, PNG, WebP or BMP.", min_length=1),
    ],
    consent: Annotated[Basis, Form(description="On what the use of the face rests.")],
    name: Annotated[str, Form(max_length=80, pattern=TEXT, examples=["Ada"])] = "",
    note: Annotated[
        str,
        Form(max_length=1000, pattern=TEXT, description="For instance where the form is kept."),
    ] = "",
    scope: Annotated[
        list[Scope] | None, Form(description="What for; nothing for everything.")
    ] = None,
    expires: Annotated[date | None, Form(description="The last day.")] = None,
    source_face: Annotated[
        str | None,
        Form(pattern=WHICH, description="Which face, where a photo has several."),
    ] = None,
    again: Once = None,
) -> Response:
    """Keep a person: portraits and what they rest on, sealed.

    Everything that is biometric is encrypted, and removed at once when the identity is deleted.
    """
    if len(photos) > service.settings.limits.photos:
        most = service.settings.limits.photos
        raise Problem(
            422, "invalid", f"photos: at most {most}", errors=[("body.photos", f"at most {most}")]
        )
    given = Consent(
        consent,
        note,
        scope=tuple(s for s in ("live", "video", "photo") if s in (scope or ())),
        expires="" if expires is None else expires.isoformat(),
    )
    said = {
        "photos": [sha256_of(photo) for photo in photos],
        "consent": [given.basis, given.note, given.scope, given.expires],
        "name": name,
        "which": source_face,
    }

    def work() -> dict[str, Any]:
        with scratch(service) as folder:
            names = [f"photo {n}" for n in range(1, len(photos) + 1)]
            for photo, called in zip(photos, names, strict=True):
                keep(photo, folder / called)
            made = service.calls.ask(
                "enrol",
                whose=caller.key,
                folder=str(folder),
                photos=names,
                consent=given,
                which=which_of(source_face),
                name=name,
                tenant=caller.tenant,
                key=caller.key,
            )
        row = people.show(service.database, caller.tenant, made["id"])
        return shown(row).model_dump(mode="json")

    return created(service, caller, "/v1/identities", again, said, work)


@router.get("/identities", responses=documented(), summary="List identities")
def list_identities(
    service: Parts,
    caller: Asks,
    limit: Limit = 50,
    after: After = None,
) -> IdentityList:
    """The tenant's identities, newest first, with those that were revoked."""
    with service.database(write=False) as rows:
        own = select(Person).where(Person.tenant == caller.tenant)
        found, more = page(rows, own, Person.added, Person.id, limit, after, "identity")
    return IdentityList(items=[shown(row) for row in found], next=more)


@router.get("/identities/{identity}", responses=documented(), summary="Show an identity")
def show_identity(service: Parts, caller: Asks, identity: Which_) -> IdentityOut:
    """What is known of an identity, without anything of the face."""
    return shown(people.show(service.database, caller.tenant, identity))


@router.delete(
    "/identities/{identity}",
    status_code=204,
    response_class=Response,
    responses=documented(),
    summary="Revoke an identity",
)
def delete_identity(service: Parts, caller: Asks, identity: Which_) -> Response:
    """Withdraw the consent.

    What is biometric, the name and the note are gone at once; jobs and streams that use the
    identity stop within seconds, and their results are removed. The fact stays.
    """
    row = people.revoke(service.database, caller.tenant, identity)
    for ended in service.ended:  # again, too, in case the server died in between
        ended(service, caller.tenant, identity)
    if row is not None:
        try:
            policy.load().note(
                "revoked", record=row.id, consent=row.basis, tenant=caller.tenant, key=caller.key
            )
        except MienError as error:
            raise Problem(
                503, "storage", "it was revoked, but the log cannot be written", retry_after=60
            ) from error
    return Response(status_code=204)


def shown(row: Person) -> IdentityOut:
    """A row as it is sent."""
    state: Literal["valid", "expired", "revoked"] = "valid"
    if row.revoked is not None:
        state = "revoked"
    elif row.expires and date.today().isoformat() > row.expires:
        state = "expired"
    return IdentityOut.model_validate(
        {
            "id": row.id,
            "name": row.name,
            "consent": row.basis,
            "note": row.note,
            "scope": [s for s in row.scope.split(",") if s],
            "expires": row.expires or None,
            "verified": row.verified,
            "state": state,
            "added": moment(int(row.added)),
            "revoked": None if row.revoked is None else moment(int(row.revoked)),
        }
    )
