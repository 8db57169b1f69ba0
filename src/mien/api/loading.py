"""Loading the models of a chain."""

from __future__ import annotations

from typing import Any

from mien import pipeline
from mien.config import Settings
from mien.pipeline import Swapper
from mien.runtime import PROVIDERS, Device
from mien.zoo import Zoo


def load(
    generator: str = "relight",
    *,
    provider: str = "cpu",
    threads: int = 0,
    models: Zoo | None = None,
    **chain: Any,
) -> Swapper:
    """Load the models once; what is returned may be shared between threads.

    Args:
        generator: Name of what makes the faces; options may follow.
        provider: Where models run, as on the command line.
        threads: Of each model; 0 chooses for the machine.
        models: Where models come from and run; instead of ``provider`` and ``threads``. None
            takes the folder of ``mien models``, with the cards that the user added.
        chain: ``detector``, ``landmarker``, ``embedder``, ``masks``, ``enhancer``, ``upscaler``
            and ``fused`` of :func:`mien.pipeline.load`.

    Raises:
        ModelNotFound: No such model, or its file is missing.
        ModelError: A model's file is damaged or does not keep its contract.
        ProviderError: The provider is not there.
        UsageError: An option is unknown, or the models do not go together.
    """
    models = models or Zoo.at(device=Device(provider, threads))
    return pipeline.load(generator, models=models, **chain)


def chain_of(settings: Settings, *, generator: str = "", **other: Any) -> Swapper:
    """Load the models that settings name.

    Args:
        settings: As :func:`mien.config.load` reads them.
        generator: Instead of that of the settings.
        other: For :func:`load`, instead of what the settings say.

    Raises:
        MienError: As :func:`load`.
    """
    chain: dict[str, Any] = {
        "detector": settings.detector,
        "landmarker": settings.landmarks,
        "embedder": settings.embedder,
        "masks": settings.mask,
        "enhancer": settings.enhance,
        "upscaler": settings.upscale,
        "fused": settings.fused,
        "models": zoo_of(settings),
        "limits": settings.limits,
    }
    return load(generator or settings.generator, **chain | other)


def device_of(settings: Settings) -> Device:
    """Where models run, by the settings."""
    return Device(
        settings.provider,
        settings.threads,
        allow_fallback=settings.allow_fallback,
        cache=settings.cache,
        precision=settings.precision if _by_provider(settings) else "auto",
        sessions=1 + settings.workers,  # faces are followed beside the painting
    )


def zoo_of(settings: Settings) -> Zoo:
    """Where models come from and run, by the settings."""
    return Zoo.at(
        settings.models,
        device_of(settings),
        offline=settings.offline,
        commercial=settings.licence == "commercial",
        precision="fp32" if _by_provider(settings) else settings.precision,
    )


def _by_provider(settings: Settings) -> bool:
    """Whether a provider computes in the precision itself, from the fp32 model."""
    names = Device(settings.provider).names() if settings.precision not in ("auto", "fp32") else ()
    return any(settings.precision in PROVIDERS[name].precision for name in names)
