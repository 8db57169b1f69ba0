"""Outputs of the live engine: files and streams, the virtual camera."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mien import media
from mien.errors import MediaError
from mien.live.types import Shown

log = logging.getLogger(__name__)

PAUSES: Final = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds between tries to connect again; the last one is for all that follow."""

STABLE: Final = 5.0
"""Seconds after which a connection counts as made."""

GIVE_UP: Final = 300.0
"""Seconds without a connection that lasts, after which the output is taken away."""


@dataclass(slots=True)
class Encoded:
    """A video file, or a stream over the network.

    A connection that breaks is made again, with growing pauses, while the others go on; frames
    until then are lost to it. What frames rest on may change while they are encoded: a file says
    all of it when it is finished, a stream of FLV begins anew.

    Attributes:
        name: The file or the address.
        metadata: Goes into the container.
        options: Of the encoder.
        overwrite: Whether an existing file may be replaced.
        sound: What is heard; None for a silent picture.
        now: The metadata of the moment, asked for with every frame; None if it does not change.
        reconnected: How often the connection was made again.
        lost: Frames that came while there was none.
        patience: Seconds that finishing may take.
        finish: What is still to be done to a whole file before it takes its name.
    """

    name: str
    metadata: Mapping[str, str]
    options: media.SinkOptions = field(default_factory=media.SinkOptions)
    overwrite: bool = False
    sound: media.Sound | None = None
    now: Callable[[], Mapping[str, str]] | None = None
    reconnected: int = 0
    lost: int = 0
    patience: float = 120.0
    finish: media.Finish | None = None
    _sink: media.LiveSink | None = None
    _size: tuple[int, int, float] = (0, 0, 0.0)
    _said: dict[str, list[str]] = field(default_factory=dict)
    _last: Mapping[str, str] | None = None
    _made: float = 0.0
    _broke: float | None = None
    _tries: int = 0
    _due: float = 0.0

    @property
    def streamed(self) -> bool:
        """Whether this is a connection, and no file."""
        return "://" in self.name

    @property
    def said(self) -> dict[str, str]:
        """All that was said of its frames so far: the metadata, values joined by semicolons."""
        return self._words()

    @property
    def writing(self) -> bool:
        """Whether it is open: from ``open`` to ``close``, or until a file failed."""
        return self._sink is not None

    def open(self, width: int, height: int, fps: float) -> None:
        """Open encoder and target, see :class:`mien.media.LiveSink`."""
        self._size = width, height, fps
        self._note(self.metadata)
        self._note(self.now() if self.now is not None else self.metadata)
        self._open()

    def _open(self) -> None:
        width, height, fps = self._size
        self._sink = media.LiveSink(
            self.name,
            (width, height),
            fps,
            metadata=self._words(),
            options=self.options,
            overwrite=self.overwrite,
            sound=self.sound,
            finish=self.finish,
        )
        self._made = time.monotonic()

    def _note(self, metadata: Mapping[str, str]) -> bool:
        """Remember what frames rest on; whether that is new."""
        if metadata == self._last:
            return False
        self._last = dict(metadata)
        before = self._words()
        for key, value in metadata.items():
            values = self._said.setdefault(key, [])
            if value not in values:
                values.append(value)
        return self._words() != before

    def _words(self) -> dict[str, str]:
        return {key: "; ".join(values) for key, values in self._said.items()}

    def write(self, shown: Shown) -> None:
        """Encode and send one frame.

        Raises:
            MediaError: The file cannot be written, or a connection did not come back for long.
        """
        new = self.now is not None and self._note(self.now())
        if new and self.name.startswith("rtmp") and self._sink is not None:
            log.warning("%s: begins anew, since what it shows rests on another consent", self.name)
            self._hang_up()
            self._broke, self._due = time.monotonic(), 0.0
        if self._sink is None and not self._again():
            self.lost += 1
            return
        assert self._sink is not None
        try:
            self._sink.write(shown.marked, shown.taken)
        except MediaError as error:
            if not self.streamed:
                raise
            self.lost += 1
            if self._broke is None or time.monotonic() - self._made > STABLE:
                self._broke, self._tries = time.monotonic(), 0
            self._break(error)

    def _break(self, error: MediaError) -> None:
        """Let a connection go that is gone."""
        self._hang_up()
        pause = PAUSES[min(self._tries, len(PAUSES) - 1)]
        self._due = time.monotonic() + pause
        self._tries += 1
        log.warning("%s; tried again in %g s", error, pause)

    def _again(self) -> bool:
        """Try to connect, if it is time to.

        Raises:
            MediaError: It has been tried for long enough.
        """
        now = time.monotonic()
        if now < self._due:
            return False
        try:
            self._open()
        except MediaError as error:
            if self._broke is not None and now - self._broke > GIVE_UP:
                raise MediaError(f"{error}; given up after {GIVE_UP:g} s") from error
            self._break(error)
            return False
        self.reconnected += 1
        log.warning("%s: connected again", self.name)
        return True

    def _hang_up(self) -> None:
        sink, self._sink = self._sink, None
        if sink is not None:
            with suppress(MediaError):
                sink.close()

    def close(self) -> None:
        """Finish."""
        sink, self._sink = self._sink, None
        if sink is None:
            return
        if self.streamed:
            with suppress(MediaError):  # who watched has gone first
                sink.close()
        else:
            sink.close(self._words())


@dataclass(slots=True)
class Virtual:
    """A camera that other programs can choose: v4l2loopback on Linux, else pyvirtualcam's.

    Attributes:
        device: ``/dev/videoN``; None takes the first loopback device. On Linux alone.
        name: For reports.
    """

    device: Path | None = None
    name: str = "virtual"
    _camera: media.VirtualCamera | media.LentCamera | None = None

    def open(self, width: int, height: int, fps: float) -> None:
        """Open the device.

        Raises:
            MediaError: There is none, or it does not take the size.
        """
        if sys.platform.startswith("linux"):  # where readers get frames as they come
            device = self.device or media.find_loopback()
            self._camera = media.VirtualCamera(device, (width, height))
        else:
            self._camera = media.LentCamera((width, height), fps)

    def write(self, shown: Shown) -> None:
        """Show one frame."""
        if self._camera is None:
            raise MediaError("virtual: not open")
        self._camera.write(shown.marked)

    def close(self) -> None:
        """Give the device back."""
        if self._camera is not None:
            self._camera.close()
