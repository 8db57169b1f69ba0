"""What the operator allows."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from mien import policy
from mien.errors import MienError
from mien.service.asking import Parts, asks
from mien.service.keys import Caller
from mien.service.limits import quota
from mien.service.problems import Problem, documented

router = APIRouter(tags=["policy"])


class MarksOut(BaseModel):
    """What is asked of marks."""

    preset: Literal["any", "usual", "regulated"] | str
    languages: list[str] = Field(description="Of the label; empty for any.")
    may_be_off: list[str] = Field(description="Marks that this tenant may turn off.")


class LimitsOut(BaseModel):
    """What a request may ask for, and this key."""

    photo_bytes: int
    body_bytes: int
    pixels: int
    frame_pixels: int
    seconds: float
    frames: int
    photos: int
    identities: int
    calls_a_minute: int
    jobs: int
    bytes_kept: int


class PolicyOut(BaseModel):
    """What is allowed."""

    contact: str = Field(description="Where abuse is reported.")
    consent: list[str] = Field(description="Bases of portraits that are accepted.")
    target_consent: Literal["optional", "required"]
    target_bases: list[str]
    live: bool
    several_people: bool
    max_faces: int = Field(description="Faces replaced in one picture; 0 for any number.")
    self_liveness: bool = Field(description="`self` needs an identity enrolled before a camera.")
    marks: MarksOut
    limits: LimitsOut
    url_prefixes: list[str] = Field(description="Addresses that targets may be fetched from.")


@router.get("/policy", responses=documented(), summary="What is allowed")
def show_policy(service: Parts, caller: Annotated[Caller, Depends(asks())]) -> PolicyOut:
    """The operator's rules, and the limits of this key."""
    try:
        rules = policy.load()
    except MienError as error:
        raise Problem(
            503, "policy", "the policy in force cannot be read", retry_after=60
        ) from error
    limits = service.settings.limits
    return PolicyOut(
        contact=rules.contact,
        consent=list(rules.consent),
        target_consent=rules.target_consent,
        target_bases=list(rules.target_bases),
        live=rules.live and service.settings.live,
        several_people=rules.several_people,
        max_faces=rules.max_faces,
        self_liveness=rules.self_liveness,
        marks=MarksOut(
            preset=str(rules.marks.preset),
            languages=list(rules.marks.languages),
            may_be_off=[
                mark
                for mark in policy.MARKS
                if {"*", caller.tenant} & set(getattr(rules.marks, f"{mark}_off"))
            ],
        ),
        limits=LimitsOut(
            photo_bytes=limits.photo_bytes,
            body_bytes=limits.body_bytes,
            pixels=limits.pixels,
            frame_pixels=limits.frame_pixels,
            seconds=limits.seconds,
            frames=limits.frames,
            photos=limits.photos,
            identities=limits.identities,
            calls_a_minute=quota(service, caller, "calls"),
            jobs=quota(service, caller, "jobs"),
            bytes_kept=quota(service, caller, "bytes"),
        ),
        url_prefixes=list(service.settings.url_prefixes),
    )
