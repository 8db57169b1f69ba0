"""A window on the screen: Tk from the standard library, in a process of its own.

Tk must have a process's first thread, and drawing would hold up the swap; so frames cross by a
pipe, and keys come back.
"""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import cv2

from mien.errors import MediaError
from mien.live.types import Shown
from mien.types import Image

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from mien.live.engine import Engine

OPENS: Final = 15.0
"""Seconds within which the window must be there."""

KEYS_HELP: Final = "h head-up line, + and - strength, p pause, m next choice on a miss, q end"


def press(engine: Engine, key: str, *, toggle: Callable[[], None]) -> None:
    """Do what a key of the window asks for.

    Args:
        engine: What is controlled.
        key: The letter.
        toggle: Shows or hides the head-up line.
    """
    look = engine.look
    if key == "h":
        toggle()
    elif key in ("+", "="):
        engine.change(strength=min(1.0, round(look.strength + 0.1, 1)))
    elif key == "-":
        engine.change(strength=max(0.0, round(look.strength - 0.1, 1)))
    elif key == "p":
        engine.change(paused=not look.paused)
    elif key == "m":
        choices = ("pass", "hold", "blur", "card")
        engine.change(on_miss=choices[(choices.index(look.on_miss) + 1) % len(choices)])
    elif key == "q":
        engine.end()


class Window:
    """Shows frames in a window; keys: see :data:`KEYS_HELP`.

    Attributes:
        name: For reports.
        engine: Obeys the keys and fills the head-up line; None for neither.
        head_up: Whether the line is shown.
    """

    def __init__(self, *, target: Callable[..., None] | None = None) -> None:
        """Prepare; nothing is opened yet.

        Args:
            target: Instead of :func:`show`, what runs in the other process.
        """
        self.name = "window"
        self.engine: Engine | None = None
        self.head_up = False
        self._target = target or show
        self._process: Any = None
        self._pipe: Connection | None = None
        self._keys: threading.Thread | None = None
        self._gone = False

    def open(self, width: int, height: int, fps: float) -> None:
        """Start the process and wait for its window.

        Raises:
            MediaError: There is no display, or no Tk.
        """
        del fps
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(
            target=self._target, args=(other, width, height), name="mien-window", daemon=True
        )
        self._process.start()
        other.close()
        try:
            said = self._pipe.recv() if self._pipe.poll(OPENS) else "it does not open"
        except EOFError:
            said = "its process ended"
        if said != "open":
            self.close()
            raise MediaError(f"window: {said}; choose another output with -o")
        self._keys = threading.Thread(target=self._listen, name="mien-keys", daemon=True)
        self._keys.start()

    def _listen(self) -> None:
        pipe = self._pipe
        while pipe is not None:
            try:
                key = pipe.recv()
            except (EOFError, OSError):
                self._gone = True
                return
            if self.engine is not None:
                press(self.engine, key, toggle=self._toggle)

    def _toggle(self) -> None:
        self.head_up = not self.head_up

    def write(self, shown: Shown) -> None:
        """Show one frame.

        Raises:
            MediaError: The window was closed.
        """
        image = shown.marked.frame.image
        if self.head_up and self.engine is not None:
            image = with_line(image, self.engine.statistics().line())
        try:
            if self._pipe is None or self._gone:
                raise BrokenPipeError
            self._pipe.send_bytes(image.tobytes())
        except OSError as error:
            raise MediaError("window: it was closed") from error

    def close(self) -> None:
        """Close the window."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            self._process.join(3)
            if self._process.is_alive():
                self._process.terminate()
                self._process.join(3)


def with_line(image: Image, text: str) -> Image:
    """A copy of a picture with a line of text at its top."""
    out = image.copy()
    scale = image.shape[1] / 1600
    high = round(34 * scale) + 6
    out[:high] = out[:high] // 3
    place = (8, high - round(10 * scale) - 2)
    colour = (235, 235, 235)
    cv2.putText(out, text, place, cv2.FONT_HERSHEY_SIMPLEX, scale, colour, 1, cv2.LINE_AA)
    return out


def show(pipe: Connection, width: int, height: int) -> None:
    """The other process: a window with the newest frame, until the pipe ends.

    Args:
        pipe: Frames come as ``width · height · 3`` bytes; keys go back.
        width: Of the frames.
        height: Of the frames.
    """
    try:
        import tkinter  # noqa: PLC0415  (systems package it apart from Python)
    except ImportError:
        pipe.send("Tk is not installed (on Debian: apt install python3-tk)")
        return
    try:
        root = tkinter.Tk()
    except tkinter.TclError as error:
        pipe.send(f"there is no display ({error})")
        return
    root.title("mien: AI-generated")
    root.resizable(False, False)
    label = tkinter.Label(root, borderwidth=0)
    label.pack()
    header = f"P6 {width} {height} 255\n".encode()
    picture: list[Any] = []

    def tick() -> None:
        data = None
        try:
            while pipe.poll(0):
                data = pipe.recv_bytes()
        except (EOFError, OSError):
            root.destroy()
            return
        if data is not None:
            picture[:] = [tkinter.PhotoImage(data=header + data, format="PPM")]
            label.configure(image=picture[0])
        root.after(5, tick)

    def key(event: Any) -> None:
        if event.char:
            pipe.send(event.char)

    root.bind("<Key>", key)
    pipe.send("open")
    tick()
    root.mainloop()
