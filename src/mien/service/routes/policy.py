"""What the operator allows."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

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

    preset: str = Field(description="The least that a label may be: usual or regulated.")
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


EXAMPLE: Final[dict[str, Any]] = {
    "contact": "abuse@example.org",
    "consent": ["self", "written"],
    "target_consent": "required",
    "target_bases": ["self", "written", "licensed"],
    "live": True,
    "several_people": True,
    "max_faces": 0,
    "self_liveness": False,
    "marks": {"preset": "usual", "languages": [], "may_be_off": []},
    "limits": {
        "photo_bytes": 67_108_864,
        "body_bytes": 4_294_967_296,
        "pixels": 50_000_000,
        "frame_pixels": 33_554_432,
        "seconds": 7200.0,
        "frames": 1_000_000,
        "photos": 16,
        "identities": 1000,
        "calls_a_minute": 600,
        "jobs": 20,
        "bytes_kept": 53_687_091_200,
    },
    "url_prefixes": [],
}


class PolicyOut(BaseModel):
    """What is allowed."""

    model_config = {"json_schema_extra": {"examples": [EXAMPLE]}}

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
