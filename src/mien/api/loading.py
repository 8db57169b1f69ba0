"""Loading the models of a chain."""

from __future__ import annotations

from typing import Any

from mien import pipeline
from mien.pipeline import Swapper
from mien.runtime import Device
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
