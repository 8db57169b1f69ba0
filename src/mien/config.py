"""Settings: defaults < ``mien.toml`` < environment < flags. An unknown key is an error.

Consent is no setting: on what the use of a face rests is said anew for each job.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from mien.errors import UsageError
from mien.media.limits import Limits
from mien.signing import TOKEN

FILE: Final = "mien.toml"
"""Read from the working folder unless another file is named."""

PREFIX: Final = "MIEN_"
"""Environment variables are the keys in capitals behind this."""

NO_SETTING: Final = (
    "MIEN_CONFIG", "MIEN_HOME", "MIEN_POLICY", "MIEN_SERVE_", TOKEN, "MIEN_TEST_",
)  # fmt: skip
"""Names, or beginnings of names, that carry the prefix and are no keys."""


class MarksTable(BaseModel):
    """What outputs carry. A mark can be off only where the policy allows it.

    Attributes:
        label: The visible label.
        preset: Its size; ``regulated`` is at least 5 % of the shorter side high.
        language: Of the label.
        words: Said after the label's own words.
        watermark: The invisible watermark.
        credentials: Signed content credentials.
        producer: Who makes the outputs, for the metadata field ``AIGC``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: bool = True
    preset: Literal["usual", "regulated"] = "usual"
    language: str = "en"
    words: str = Field(default="", max_length=60)
    watermark: bool = True
    credentials: bool = True
    producer: str = Field(default="mien", min_length=1, max_length=100)


class Settings(BaseModel):
    """Everything that stays the same from job to job.

    Attributes:
        generator: Which generator makes the faces.
        detector: What finds faces: ``mien`` for the default pair, or the card of one network.
        landmarks: Card of what fits the mesh, or of a network that refines its five points.
        embedder: Card of what says who somebody is.
        provider: ONNX Runtime's execution providers, by mien's short names, joined by commas.
        allow_fallback: What should run there and does not is a warning instead of an error.
        precision: Of models, where there is one in it or the provider computes in it.
        threads: Threads of each model; 0 chooses for the machine.
        cache: Folder for what is kept between starts; ``auto`` is the user's own, ``off`` none.
        models: Folder of models that do not come with mien; None takes the system's usual one.
        offline: Nothing is fetched, not even when asked.
        licence: ``commercial`` refuses every model whose licence forbids commercial use.
        workers: Frames painted at a time.
        blend: How patches go into the frame.
        color: Colour matching; ``auto`` matches for generators that do not relight.
        mask: Mask networks that keep patches off what is no face.
        enhance: Enhancer of swapped faces, or ``none``.
        upscale: Upscaler of frames, or ``none``.
        fused: Crop, generator, colours and pasting as one graph; ``auto`` measures on a GPU which
            way is faster, and leaves it on the processor, where it is slower.
        white_balance: Remove the colour cast of portraits.
        similarity: Cosine from which a face is the person of a reference photo; None takes the
            embedder's own.
        steady: What takes the tremble out of a live face's landmarks: ``one-euro``, ``flow``, which
            asks the picture too and costs some milliseconds, or ``off``.
        steady_cutoff: Of the One-Euro filter, in hertz: less is steadier at rest.
        steady_beta: Likewise, in hertz for each face width a second: more lags less in motion.
        encoder: libav's name; None takes the container's usual one.
        preset: The encoder's speed setting.
        quality: CRF for video, 1 to 100 for JPEG and WebP.
        pixel_format: libav's name; None keeps the source's.
        limits: What files may ask for, a table; see :class:`mien.media.Limits`. In the
            environment ``MIEN_LIMITS="pixels=50000000 frames=9000"``.
        marks: What outputs carry, a table. In the environment ``MIEN_MARKS="language=de"``.
        serve: Of the service, a table, which :mod:`mien.service.settings` reads.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    generator: str = "relight"
    detector: str = "mien"
    landmarks: str = "facemesh"
    embedder: str = "faceres512"
    provider: str = "cpu"
    allow_fallback: bool = False
    precision: Literal["auto", "fp32", "fp16", "int8"] = "auto"
    threads: int = Field(0, ge=0, le=256)
    cache: str = "auto"
    models: Path | None = None
    offline: bool = False
    licence: Literal["any", "commercial"] = "any"
    workers: int = Field(1, ge=1, le=64)
    blend: Literal["soft", "poisson"] = "soft"
    color: Literal["auto", "none", "lab", "histogram"] = "auto"
    mask: tuple[str, ...] = ()
    enhance: str = "none"
    upscale: str = "none"
    fused: bool | Literal["auto"] = "auto"
    white_balance: bool = False
    similarity: float | None = Field(None, ge=-1, le=1)
    steady: Literal["one-euro", "flow", "off"] = "one-euro"
    steady_cutoff: float = Field(0.3, gt=0, le=100)
    steady_beta: float = Field(80.0, ge=0, le=10_000)
    encoder: str | None = None
    preset: str | None = None
    quality: int | None = Field(None, ge=0, le=100)
    pixel_format: str | None = None
    limits: Limits = Limits()
    marks: MarksTable = MarksTable()
    serve: dict[str, Any] = {}

    @field_validator("limits", "marks", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        """``key=value`` with spaces between, as an environment variable gives them."""
        if not isinstance(value, str):
            return value
        return {key: number for key, _, number in (pair.partition("=") for pair in value.split())}

    @field_validator("mask", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        """Several words with spaces between, as an environment variable gives them."""
        return tuple(value.split()) if isinstance(value, str) else value


TABLES: Final = {"limits": asdict(Limits()), "marks": MarksTable.model_fields}
"""Keys that are tables, and their keys."""


def load(
    file: Path | str | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    folder: Path | str = ".",
) -> Settings:
    """Put the settings together.

    Args:
        file: A settings file that must be there; None takes ``MIEN_CONFIG`` or, if it is there,
            ``mien.toml`` in ``folder``.
        environment: Instead of ``os.environ``.
        flags: Key → value as given on the command line; None means not given.
        folder: The working folder.

    Raises:
        UsageError: A file that is missing or no TOML, an unknown key, or a value of the wrong
            kind; names the file, variable or flag.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, Any] = {}
    path = _file(file or environment.get("MIEN_CONFIG"), Path(folder))
    if path is not None:
        values |= _checked({key: (f"{path}: {key}", v) for key, v in _read(path).items()})
    values |= _checked(
        {
            name.removeprefix(PREFIX).lower(): (f"environment variable {name}", value)
            for name, value in environment.items()
            if name.startswith(PREFIX) and not name.startswith(NO_SETTING)
        }
    )
    values |= _checked(
        {
            key: (f"--{key.replace('_', '-')}", value)
            for key, value in (flags or {}).items()
            if value is not None
        }
    )
    return Settings(**values)


def _file(named: Path | str | None, folder: Path) -> Path | None:
    if named is not None:
        path = Path(named)
        if not path.is_file():
            raise UsageError(f"{path}: no such settings file")
        return path
    path = folder / FILE
    return path if path.is_file() else None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is not valid TOML ({error})") from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error


def _checked(given: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    """Validate key → (where it stands, value); errors say where."""
    try:
        settings = Settings(**{key: value for key, (_, value) in given.items()})
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        where, value = given[key]
        inner = ".".join(str(part) for part in first["loc"][1:])
        where = f"{where}.{inner}" if inner and key in TABLES else where
        if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            known = ", ".join(TABLES.get(key, Settings.model_fields))
            raise UsageError(f"{where}: unknown key; known are {known}") from error
        said = first["msg"][0].lower() + first["msg"][1:]
        raise UsageError(f"{where}: {said}, not {value!r}") from error
    return {key: getattr(settings, key) for key in given}
