"""Where published files lie, and numbers that many of their cards share."""

from __future__ import annotations

from typing import Final

from mien.zoo.card import Triple

BYTE: Final[Triple] = (255.0, 255.0, 255.0)
"""Standard deviation of networks that take 0..1."""

HALF: Final[Triple] = (127.5, 127.5, 127.5)
"""Mean and standard deviation of networks that take -1..1."""

IMAGENET_MEAN: Final[Triple] = (123.675, 116.28, 103.53)
IMAGENET_STD: Final[Triple] = (58.395, 57.12, 57.375)
"""ImageNet's mean (.485, .456, .406) and deviation (.229, .224, .225), times 255."""

_REACTOR: Final = "https://huggingface.co/datasets/Gourieff/ReActor/resolve/main/models"
_VISOMASTER: Final = "https://github.com/visomaster/visomaster-assets/releases/download/v0.1.0"


def facefusion(release: str, file: str) -> tuple[str, str]:
    """Where FaceFusion keeps a file: its releases on GitHub, and the same on Hugging Face."""
    return (
        "https://github.com/facefusion/facefusion-assets/releases/download/"
        f"models-{release}/{file}",
        f"https://huggingface.co/facefusion/models-{release}/resolve/main/{file}",
    )


def reactor(file: str) -> tuple[str, ...]:
    """Where ReActor keeps a file."""
    return (f"{_REACTOR}/{file}",)


def visomaster(file: str) -> tuple[str, ...]:
    """Where VisoMaster keeps a file."""
    return (f"{_VISOMASTER}/{file}",)
