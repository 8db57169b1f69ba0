"""Which models are at work."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from mien.service.asking import Parts, asks
from mien.service.keys import Caller
from mien.service.problems import documented

router = APIRouter(tags=["models"])


class Stage(BaseModel):
    """A stage of the chain."""

    stage: str
    model: str
    provider: str = Field(description="Where it runs.")


class Weights(BaseModel):
    """The file of a model."""

    name: str
    sha256: str


class ModelsOut(BaseModel):
    """Models of the workers."""

    model_config = {
        "json_schema_extra": {
            "examples": [
                {
                    "generator": "relight",
                    "generators": ["relight"],
                    "stages": [{"stage": "generate", "model": "relight", "provider": "cpu"}],
                    "weights": [{"name": "relight", "sha256": "0" * 64}],
                }
            ]
        }
    }

    generator: str = Field(description="Used where a request names none.")
    generators: list[str] = Field(description="That a request may name.")
    stages: list[Stage] = Field(description="Empty until a worker has warmed up.")
    weights: list[Weights]


@router.get("/models", responses=documented(), summary="Models at work")
def list_models(service: Parts, caller: Annotated[Caller, Depends(asks())]) -> ModelsOut:
    """Which models make the results, where they run, and the hashes of their files."""
    about = service.calls.about
    own = service.chain.generator
    return ModelsOut(
        generator=own,
        generators=list(dict.fromkeys((own, *service.settings.generators))),
        stages=[
            Stage(stage=stage, model=model, provider=provider)
            for stage, (model, provider) in about.get("models", {}).items()
        ],
        weights=[Weights(name=name, sha256=sha) for name, sha in about.get("weights", ())],
    )
