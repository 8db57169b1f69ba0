"""The tables of policy.toml; an unknown key is an error."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from mien import deny as deny_


class Table(BaseModel):
    """Knows its keys and no others, and does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class MarksTable(Table):
    """``[marks]``: who may turn a mark off, and what the label has to be.

    Attributes:
        label_off: Names of users who may turn the visible label off; ``*`` for everybody.
        watermark_off: The same for the invisible watermark.
        credentials_off: The same for content credentials.
        preset: ``regulated`` demands the large label.
        languages: Of the label; empty for any.
    """

    label_off: tuple[str, ...] = ()
    watermark_off: tuple[str, ...] = ()
    credentials_off: tuple[str, ...] = ()
    preset: Literal["usual", "regulated"] = "usual"
    languages: tuple[str, ...] = ()


class AuditTable(Table):
    """``[audit]``: the log of what was done.

    Attributes:
        on: Whether there is one.
        megabytes: Size at which a new file is begun.
        files: Full files that are kept, 0 for all.
        names: Whether entries hold the names of files besides their hashes.
        key: File whose bytes make the hashes HMACs; it belongs where those who could forge the
            log cannot read it.
    """

    on: bool = True
    megabytes: Annotated[float, Field(gt=0, le=100_000)] = 16
    files: Annotated[int, Field(ge=0)] = 0
    names: bool = False
    key: Path | None = None


class DenyTable(Table):
    """``[deny]``: people who must not be used or replaced.

    Attributes:
        threshold: Cosine from which a face is the person of an entry.
        keys: Name → public key in Base64, of those whose shared lists are taken.
        lists: Signed lists that are read at each start, besides those that were imported.
    """

    threshold: Annotated[float, Field(ge=0, le=1)] = deny_.THRESHOLD
    keys: dict[str, str] = {}
    lists: tuple[Path, ...] = ()


class ClassifierTable(Table):
    """``[[classifier]]``: a network that refuses pictures, see :mod:`mien.classify`.

    Attributes:
        name: Of the rule.
        model: The ONNX file.
        sha256: Of the file; one that is another is refused. Empty: not looked at.
        size: Side of what it sees, in pixels.
        layout: Of its input.
        mean: Taken off 0..255.
        std: Then divided by.
        output: Column that means refuse.
        threshold: From which it does.
        sees: ``picture`` or ``face``.
        roles: ``portrait``, ``target`` or both.
        every: Seconds of a video between two pictures that it is asked about.
    """

    name: Annotated[str, Field(min_length=1)]
    model: Path
    sha256: str = ""
    size: Annotated[int, Field(ge=8, le=2048)]
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (255.0, 255.0, 255.0)
    output: Annotated[int, Field(ge=0)] = 0
    threshold: float = 0.5
    sees: Literal["picture", "face"] = "picture"
    roles: tuple[Literal["portrait", "target"], ...] = ("portrait", "target")
    every: Annotated[float, Field(ge=0)] = 1.0
