"""The engine's end of the page: pictures out, settings in, and cameras of browsers."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Protocol

from mien import policy
from mien.errors import MediaError, MienError
from mien.live import Look
from mien.live.types import Shown
from mien.media import Sound
from mien.pipeline import Swapper
from mien.serve import pictures, protocol
from mien.serve.control import People, Performance
from mien.serve.encoding import Encodings, Voice
from mien.serve.enrolling import Enrolment, Tell
from mien.serve.options import Boxes, PageOptions, is_loopback
from mien.serve.packets import KEY, OPUS, SWAPPED, TICKS, Packet, Packets
from mien.serve.process import serve
from mien.serve.shared import Board, Link
from mien.serve.visitors import Perform, Visitors
from mien.track import TrackOptions
from mien.types import Identity

log = logging.getLogger(__name__)

START_SECONDS: Final = 30.0
"""Within which the server's process must be there."""


class Controls(Protocol):
    """What may be changed from the page while the server's camera runs.

    The methods are called from threads of the page's own.
    """

    def settings(self) -> dict[str, Any]:
        """Setting → its value."""
        ...

    def choices(self) -> dict[str, list[Any]]:
        """Setting → the values it may take; ``[low, high]`` for a number."""
        ...

    def statistics(self) -> dict[str, Any]:
        """Figures to be shown, name → number or words; asked for twice a second."""
        ...

    def change(self, values: Mapping[str, Any]) -> None:
        """Change some settings.

        Raises:
            UsageError: There is no such setting, or not with this value; nothing was changed.
            Refused: The operator does not allow it.
        """
        ...


class BrowserOutput:
    """One page for browsers, served by a process of its own; an output of the live engine.

    Starts the process at once, so that browser cameras work without a camera here.

    Args:
        options: Where to listen, and limits.
        perform: Makes what swaps the pictures of one browser camera; None takes no such cameras.
        enrol: Makes what enrols who is before one, from a name; None enrols nobody.
        sound: What is heard beside the server's camera; None for a silent picture.

    Attributes:
        url: Of the page, with the token behind the ``#``, which browsers do not send.

    Raises:
        MediaError: The port is taken, or the server does not start.
    """

    name = "browser"

    def __init__(
        self,
        options: PageOptions | None = None,
        *,
        perform: Callable[[], Perform] | None = None,
        enrol: Callable[[str, Tell], Perform] | None = None,
        sound: Sound | None = None,
    ) -> None:
        self.options = options or PageOptions()
        self._perform, self._enrol = perform, enrol
        self.options = replace(self.options, enrol=enrol is not None and self.local)
        if perform is None:
            self.options = replace(self.options, sessions=0)
        self._controls: Controls | None = None
        self._boxes = Boxes(self.options.sessions)
        self._viewers = 0
        self._encodings = Encodings()
        self._voice = None if sound is None else Voice(sound)
        self._listeners = 0
        self._fps = 30.0
        self._told = 0.0
        self._shown: dict[str, Any] = {}
        self._closing = False
        context = multiprocessing.get_context("spawn")
        lock = context.Lock()
        self._board = Board(self._boxes.sizes, lock)
        ours, theirs = context.Pipe()
        theirs_packets, ours_packets = context.Pipe(duplex=False)
        self._link, self._packets = Link(ours), Packets(ours_packets)
        self._server = context.Process(
            target=serve,
            args=(
                self.options,
                self._boxes.sizes,
                lock,
                self._board.name,
                (theirs, theirs_packets),
            ),
            name="mien-page",
            daemon=True,
        )
        self._server.start()
        theirs.close()
        theirs_packets.close()
        try:
            port = self._wait(ours.poll)
        except BaseException:
            self._stop()
            raise
        self._visitors = Visitors(
            self._board,
            self._link,
            self._packets,
            self._boxes,
            perform=None if perform is None else self._made,
            quality=self.options.quality,
        )
        host = f"[{self.options.host}]" if ":" in self.options.host else self.options.host
        self.url = f"http://{host}:{port}/"
        if self.options.token:
            self.url += f"#token={self.options.token}"
        self.port = port
        self._hearing = threading.Thread(target=self._hear, name="mien-page", daemon=True)
        self._hearing.start()
        self._tell_state(camera=False)

    def _made(self, about: Mapping[str, Any]) -> Perform:
        """What looks at the pictures of a browser camera, by what is said of it."""
        assert self._perform is not None
        name = about.get("enrol")
        if not name or self._enrol is None:
            return self._perform()
        session = about["session"]

        def tell(words: dict[str, Any]) -> None:
            self._link.send("answer", session=session, words={"kind": "enrolment", **words})

        return self._enrol(name, tell)

    def _wait(self, poll: Callable[[float], bool]) -> int:
        if not poll(START_SECONDS):
            raise MediaError(f"the page's server did not start within {START_SECONDS:.0f} s")
        message: dict[str, Any] = next(iter(self._link), {"message": "the server ended"})
        if message.get("kind") != "ready":
            raise MediaError(f"the page cannot be served: {message['message']}")
        return int(message["port"])

    @property
    def local(self) -> bool:
        """Whether only this machine reaches the page."""
        return is_loopback(self.options.host)

    def attach(self, controls: Controls) -> None:
        """Let viewers of the server's camera change what they see; once, before ``open``."""
        self._controls = controls

    def open(self, width: int, height: int, fps: float) -> None:
        """Offer the server's camera on the page."""
        self._fps = fps
        self._tell_state(camera=True)

    def write(self, shown: Shown) -> None:
        """Encode a frame once for all viewers of one kind; without viewers nothing is done.

        Raises:
            MediaError: The server's process ended.
        """
        if not self._server.is_alive():
            raise MediaError("the page's server ended")
        if not self._encodings.wanted:
            self._encodings.free()
            if self._voice is not None:
                self._voice.free()
            if not self._viewers:
                return
        self._tell()
        self._send_video(shown)
        if not self._viewers:
            return
        message = pictures.message(
            shown,
            shown.marked.frame.index,
            round(shown.taken * 1e6),
            quality=self.options.quality,
            limit=protocol.MAX_PICTURE,
        )
        if self._board.post(self._boxes.view, message):
            self._link.send("frame")

    def _send_video(self, shown: Shown) -> None:
        image, stamp = shown.marked.frame.image, round(shown.taken * TICKS)
        for codec, key, data in self._encodings(image, stamp, self._fps):
            flags = (KEY if key else 0) | (SWAPPED if shown.swapped else 0)
            self._packets.send(Packet(0, codec, flags, stamp, data))
        if self._voice is not None and self._listeners:
            for sample, data in self._voice(shown.taken):
                self._packets.send(Packet(0, OPUS, KEY, sample, data))

    def wait(self, seconds: float | None = None) -> None:
        """Serve browser cameras until the time is over, or Ctrl-C.

        Raises:
            MediaError: The server's process ended.
        """
        with contextlib.suppress(KeyboardInterrupt):
            self._server.join(seconds)
            if not self._server.is_alive():
                raise MediaError("the page's server ended")

    def close(self) -> None:
        """End the server's process and free everything."""
        if self._closing:
            return
        self._closing = True
        self._visitors.close()
        self._stop()
        self._hearing.join(2)

    def _stop(self) -> None:
        self._link.send("stop")
        self._server.join(5)
        if self._server.is_alive():
            self._server.kill()
            self._server.join()
        self._link.close()
        self._packets.close()
        self._board.close()

    def _tell_state(self, *, camera: bool) -> None:
        controls = self._controls
        self._shown = {} if controls is None else controls.settings()
        choices = {} if controls is None else controls.choices()
        self._link.send(
            "state",
            server_camera=camera,
            settings=self._shown,
            choices=choices,
            sound=self._voice is not None,
        )

    def _tell(self) -> None:
        """Twice a second: figures, and settings that were changed elsewhere."""
        now = time.monotonic()
        if self._controls is None or now - self._told < 0.5:
            return
        self._told = now
        self._link.send("statistics", values=self._controls.statistics())
        if self._controls.settings() != self._shown:
            self._tell_state(camera=True)

    def _hear(self) -> None:
        for message in self._link:
            match message["kind"]:
                case "viewers":
                    self._viewers = message["count"]
                    self._encodings.watch(message["counts"])
                    self._listeners = message["counts"].get("opus", 0)
                case "key" if message["session"] is None:
                    self._encodings.key(message["codec"])
                case "share" if message["session"] is None:
                    self._encodings.share = message["share"]
                case "count":
                    encoders = self._encodings.count + self._visitors.encoders
                    self._link.send("count", encoders=encoders, streams=self._visitors.count)
                case "set" if message["session"] is None:
                    self._set(message)
                case _:
                    self._visitors.hear(message)
        self._visitors.close()

    def _set(self, message: Mapping[str, Any]) -> None:
        try:
            if self._controls is not None:
                self._controls.change(message["values"])
        except MienError as error:
            self._link.send("refused", client=message["client"], message=str(error))
        self._tell_state(camera=True)


def browser_output(
    swapper: Swapper,
    look: Look,
    people: Mapping[str, Identity],
    options: PageOptions | None = None,
    *,
    private: bool = False,
    tracking: TrackOptions | None = None,
    sound: Sound | None = None,
) -> BrowserOutput:
    """What ``-o browser`` stands for: the page is served when this returns, at ``url``.

    Give it to the engine as an output, and the engine to it::

        page = browser_output(swapper, look, people, PageOptions(port=8765))
        engine = Engine(camera, swapper, look, [page])
        page.attach(EngineControls(engine, people))

    It also serves browser cameras while no engine runs; whoever made it calls ``close``, which
    may be called twice.

    Args:
        swapper: Shared with the engine.
        look: What browser cameras show at first.
        people: Identities that may be chosen, by name.
        options: Where to listen, and limits.
        private: No raw face may be shown.
        tracking: How faces are followed.
        sound: What is heard beside the server's camera; None for a silent picture.

    Raises:
        MediaError: The port is taken, or the server does not start.
        Refused: The policy does not allow somebody, or live use; see :mod:`mien.policy`.
    """
    marker = look.marker
    use = policy.Use("live", target_consent=marker.target_consent, marks=marker.marks)
    for person in people.values():
        policy.permit([person], use)
    policy.permit([rule.identity for rule in look.plan.rules], use)
    prepare: Any = getattr(swapper.generate, "prepare", None)
    for person in people.values() if prepare is not None else ():
        prepare(person)

    def kept(person: Identity) -> None:
        if isinstance(people, People):
            if prepare is not None:
                prepare(person)
            people.add(person)

    return BrowserOutput(
        options,
        perform=lambda: Performance(swapper, look, people, private=private, tracking=tracking),
        enrol=lambda name, tell: Enrolment(swapper, name, tell, kept),
        sound=sound,
    )
