"""Which marks a file carries."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, File, UploadFile
from pydantic import BaseModel, Field

from mien.service.asking import Parts, Route, asks, keep, scratch
from mien.service.keys import Caller
from mien.service.problems import documented

router = APIRouter(tags=["verify"], route_class=Route)

Asks = Annotated[Caller, Depends(asks("verify"))]

EXAMPLE: Final[dict[str, Any]] = {
    "status": 0,
    "verdict": "marked, and not changed since",
    "kind": "image",
    "output_id": "5b9c01e7",
    "manifest": {"state": "trusted", "signer": "mien"},
    "watermark": {"output_id": "5b9c01e7", "version": 1},
    "label": {"place": "bottom left", "language": "en"},
    "metadata": {"mien_output": "5b9c01e7"},
    "seconds": 0.4,
}


class VerdictOut(BaseModel):
    """What was found in a file; see `docs/marks.md`."""

    model_config = {"json_schema_extra": {"examples": [EXAMPLE]}}

    status: Literal[0, 1, 2, 3] = Field(
        description="0: marked and intact; 1: marked, but altered or not proven; 2: no mark; "
        "3: it cannot be read."
    )
    verdict: str = Field(description="The same in a sentence.")
    kind: Literal["", "image", "video"]
    output_id: str
    manifest: dict[str, Any] = Field(description="Content credentials.")
    watermark: dict[str, Any] | None
    label: dict[str, Any] | None
    metadata: dict[str, str]
    seconds: float


@router.post("/verify", responses=documented(507), summary="Read the marks of a file")
def verify_file(
    service: Parts,
    caller: Asks,
    file: Annotated[UploadFile, File(description="A photo or a video.")],
) -> VerdictOut:
    """Say which marks a photo or a video carries, and whether it was altered since."""
    with scratch(service) as folder:
        keep(file, folder / "file")
        return VerdictOut(**service.calls.ask("verify", whose=caller.key, folder=str(folder)))
