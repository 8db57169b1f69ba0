"""Virtual cameras: v4l2loopback by the kernel's interface on Linux, pyvirtualcam elsewhere.

``struct v4l2_format`` and the numbers are those of ``linux/videodev2.h``. pyvirtualcam is under
the GPL-2.0 and optional; it runs in a process of its own, which frames reach by shared memory.
"""

from __future__ import annotations

import multiprocessing
import os
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from mien.errors import MediaError
from mien.media.colour import plane_rows
from mien.media.info import Marked

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

OPENS: Final = 15.0
"""Seconds within which the process of pyvirtualcam must be there."""

STUCK: Final = 2.0
"""Seconds that a frame may take there."""

FORMAT_SIZE: Final = 208
"""Bytes of ``struct v4l2_format`` on 64-bit systems."""

SET_FORMAT: Final = (3 << 30) | (FORMAT_SIZE << 16) | (ord("V") << 8) | 5
"""``VIDIOC_S_FMT``, ``_IOWR('V', 5, struct v4l2_format)``."""

VIDEO_OUTPUT: Final = 2
"""``V4L2_BUF_TYPE_VIDEO_OUTPUT``."""

YUV420: Final = int.from_bytes(b"YU12", "little")
"""``V4L2_PIX_FMT_YUV420``, what browsers and meeting programs take from a camera."""

PROGRESSIVE: Final = 1
"""``V4L2_FIELD_NONE``."""

REC709: Final = 3
"""``V4L2_COLORSPACE_REC709``."""


def format_request(width: int, height: int) -> bytearray:
    """``struct v4l2_format`` that asks for planar YUV 4:2:0 of this size."""
    picture = struct.pack(
        "=8I", width, height, YUV420, PROGRESSIVE, width, width * height * 3 // 2, REC709, 0
    )
    # The union begins at its own alignment, 8 bytes in.
    return bytearray(struct.pack("=II", VIDEO_OUTPUT, 0) + picture).ljust(FORMAT_SIZE, b"\0")


def find_loopback(devices: Path = Path("/sys/class/video4linux")) -> Path:
    """The first v4l2loopback device, as the kernel lists them.

    Raises:
        MediaError: There is none; says how to make one.
    """
    for entry in sorted(devices.glob("video*")) if devices.is_dir() else []:
        if "virtual" in str(entry.resolve()):
            return Path("/dev") / entry.name
    raise MediaError(
        "virtual: no virtual camera found; install v4l2loopback and load it with "
        "'sudo modprobe v4l2loopback exclusive_caps=1 card_label=mien'"
    )


class VirtualCamera:
    """Frames as a camera that other programs can choose."""

    def __init__(self, device: Path, size: tuple[int, int], *, ioctl: Any = None) -> None:
        """Open the device and set its format.

        Args:
            device: ``/dev/videoN``.
            size: Width and height, even.
            ioctl: Instead of ``fcntl.ioctl``.

        Raises:
            MediaError: The device is no loopback, is busy, or refuses the format.
        """
        self._size, self._swscale = size, VideoReformatter()
        if ioctl is None:
            if not sys.platform.startswith("linux"):
                raise MediaError("virtual: through v4l2loopback on Linux only")
            from fcntl import ioctl  # noqa: PLC0415  (there is none on Windows)
        try:
            self._file = os.open(device, os.O_RDWR)
        except OSError as error:
            raise MediaError(f"{device}: cannot be opened ({error.strerror})") from error
        request = format_request(*size)
        try:
            ioctl(self._file, SET_FORMAT, request)
        except OSError as error:
            os.close(self._file)
            raise MediaError(
                f"{device}: takes no frames ({error.strerror}); is it a v4l2loopback device, and "
                f"is no other program writing to it?"
            ) from error
        width, height, kind = struct.unpack_from("=3I", request, 8)
        if (width, height, kind) != (*size, YUV420):
            os.close(self._file)
            raise MediaError(
                f"{device}: expected {size[0]}x{size[1]} YUV 4:2:0, the device keeps to "
                f"{width}x{height}; close the programs that use it"
            )
        self.device = device

    def write(self, marked: Marked) -> None:
        """Show one frame.

        Raises:
            TypeError: It carries no mark.
            MediaError: The device is gone.
        """
        if not isinstance(marked, Marked):
            raise TypeError(f"a sink takes what provenance marked, not {type(marked).__name__}")
        made = self._swscale.reformat(
            av.VideoFrame.from_numpy_buffer(marked.frame.image, "rgb24"),
            format="yuv420p",
            src_color_range=ColorRange.JPEG,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )
        data = np.concatenate([rows.reshape(-1) for rows in plane_rows(made)])
        try:
            os.write(self._file, data.tobytes())
        except OSError as error:
            raise MediaError(f"{self.device}: cannot be written ({error.strerror})") from error

    def close(self) -> None:
        """Give the device back."""
        os.close(self._file)


class LentCamera:
    """Frames as a camera of OBS or Unity Capture, on Windows and macOS, through pyvirtualcam.

    Two frames lie in shared memory: one is shown while the other is written.
    """

    def __init__(
        self, size: tuple[int, int], fps: float, *, target: Callable[..., None] | None = None
    ) -> None:
        """Start the process and wait for its camera.

        Args:
            size: Width and height, even.
            fps: About how many frames will come in a second.
            target: Instead of :func:`lend`, what runs in the other process.

        Raises:
            MediaError: pyvirtualcam is not installed, or it finds no virtual camera.
        """
        context = multiprocessing.get_context("spawn")
        width, height = size
        self._size = size
        self._memory = SharedMemory(create=True, size=2 * width * height * 3)
        self._frames = np.ndarray((2, height, width, 3), np.uint8, self._memory.buf)
        self._slot, self._waiting = 0, 0
        self._pipe, other = context.Pipe()
        self._process: Any = context.Process(
            target=target or lend,
            args=(other, self._memory.name, width, height, fps),
            name="mien-virtual",
            daemon=True,
        )
        try:
            self._process.start()
            other.close()
            said = self._pipe.recv() if self._pipe.poll(OPENS) else "it does not open"
        except EOFError:
            said = "its process ended"
        if said != "open":
            self.close()
            raise MediaError(f"virtual: {said}")

    def write(self, marked: Marked) -> None:
        """Show one frame.

        Raises:
            TypeError: It carries no mark.
            MediaError: The camera is gone.
        """
        if not isinstance(marked, Marked):
            raise TypeError(f"a sink takes what provenance marked, not {type(marked).__name__}")
        try:
            while self._waiting == 2 or (self._waiting and self._pipe.poll(0)):
                if not self._pipe.poll(STUCK):
                    raise MediaError(f"virtual: took no frame for {STUCK:g} s")
                said = self._pipe.recv()
                if isinstance(said, str):
                    raise MediaError(f"virtual: {said}")
                self._waiting -= 1
            np.copyto(self._frames[self._slot], marked.frame.image)
            self._pipe.send(self._slot)
        except (EOFError, BrokenPipeError, ConnectionError) as error:
            raise MediaError("virtual: the camera is gone") from error
        self._slot = 1 - self._slot
        self._waiting += 1

    def close(self) -> None:
        """Give the camera back."""
        with suppress(OSError):
            self._pipe.send(-1)
        self._process.join(3)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join(3)
        self._pipe.close()
        del self._frames
        self._memory.close()
        self._memory.unlink()


def lend(pipe: Connection, memory: str, width: int, height: int, fps: float) -> None:
    """The other process: shows frames until it is told to end, or until its pipe does.

    Args:
        pipe: Takes the place of each frame, 0 or 1, or -1 for the end; places that are free
            again go back.
        memory: Name of the shared memory, ``(2, height, width, 3)`` uint8 RGB.
        width: Of the frames.
        height: Of the frames.
        fps: About how many frames will come in a second.
    """
    try:
        import pyvirtualcam  # noqa: PLC0415  (GPL-2.0: in this process alone)
    except ImportError:
        pipe.send(
            "there is no pyvirtualcam; install it with: pip install mien[virtual] (it is under "
            "the GPL-2.0, unlike mien)"
        )
        return
    shared = SharedMemory(memory)
    frames: Any = np.ndarray((2, height, width, 3), np.uint8, shared.buf)
    try:
        with pyvirtualcam.Camera(width, height, fps) as camera:
            pipe.send("open")
            while (slot := pipe.recv()) >= 0:
                camera.send(frames[slot])
                pipe.send(slot)
    except RuntimeError as error:
        with suppress(OSError):
            pipe.send(f"no virtual camera ({error}); install OBS Studio and start its camera once")
    except (EOFError, OSError):  # whoever wrote is gone
        return
    finally:
        del frames
        shared.close()
