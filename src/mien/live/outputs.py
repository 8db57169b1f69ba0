"""Outputs of the live engine: files and streams, the virtual camera."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mien import media
from mien.errors import MediaError
from mien.live.types import Shown


@dataclass(slots=True)
class Encoded:
    """A video file, or a stream over the network.

    Attributes:
        name: The file or the address.
        metadata: Goes into the container.
        options: Of the encoder.
        overwrite: Whether an existing file may be replaced.
    """

    name: str
    metadata: Mapping[str, str]
    options: media.SinkOptions = field(default_factory=media.SinkOptions)
    overwrite: bool = False
    _sink: media.LiveSink | None = None

    def open(self, width: int, height: int, fps: float) -> None:
        """Open encoder and target, see :class:`mien.media.LiveSink`."""
        self._sink = media.LiveSink(
            self.name,
            (width, height),
            fps,
            metadata=self.metadata,
            options=self.options,
            overwrite=self.overwrite,
        )

    def write(self, shown: Shown) -> None:
        """Encode and send one frame."""
        assert self._sink is not None
        self._sink.write(shown.marked, shown.taken)

    def close(self) -> None:
        """Finish."""
        if self._sink is not None:
            self._sink.close()


@dataclass(slots=True)
class Virtual:
    """A camera that other programs can choose: v4l2loopback on Linux.

    Attributes:
        device: ``/dev/videoN``; None takes the first loopback device.
        name: For reports.
    """

    device: Path | None = None
    name: str = "virtual"
    _camera: media.VirtualCamera | None = None

    def open(self, width: int, height: int, fps: float) -> None:
        """Open the device.

        Raises:
            MediaError: There is none, or it does not take the size.
        """
        del fps  # readers get frames as they come
        self._camera = media.VirtualCamera(self.device or media.find_loopback(), (width, height))

    def write(self, shown: Shown) -> None:
        """Show one frame."""
        if self._camera is None:
            raise MediaError("virtual: not open")
        self._camera.write(shown.marked)

    def close(self) -> None:
        """Give the device back."""
        if self._camera is not None:
            self._camera.close()
