"""Control from outside: one JSON object a line, over a local socket.

``{"set": {"strength": 0.5}}``, ``{"set": {"identity": ["me.jpg"], "consent": "self"}}``, where
``"identity": "NAME"`` takes a kept one with its own consent, or
``{"get": "statistics"}``; ``{"record": true}``, ``{"record": "take1.mp4"}`` and
``{"record": false}``; each line is answered by one, ``{"ok": true, …}`` or
``{"ok": false, "error": "…"}``.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from mien import api
from mien.errors import MediaError, MienError, UsageError
from mien.live.engine import Engine
from mien.live.recording import Recorder
from mien.pipeline import Swapper

log = logging.getLogger(__name__)

LONGEST: Final = 65536
"""Bytes of a line."""

_REQUEST: Final = re.compile(rb"[A-Za-z]+ \S* ?HTTP/|PRI \*", re.IGNORECASE)
"""How HTTP begins; the body of a request could hold a line for us."""

MANY: Final = 16
"""Connections at a time."""


class Commands:
    """What a line asks for, done to an engine.

    Attributes:
        engine: What is controlled.
        swapper: For enrolling.
        consent_note: Of identities that come without one.
        recorder: Records; None where that is not offered.
    """

    def __init__(
        self,
        engine: Engine,
        swapper: Swapper,
        *,
        consent_note: str = "",
        recorder: Recorder | None = None,
    ) -> None:
        self.engine, self.swapper, self.consent_note = engine, swapper, consent_note
        self.recorder = recorder
        self._one = threading.Lock()

    def __call__(self, line: str) -> dict[str, Any]:
        """Do what one line says.

        Args:
            line: One JSON object.

        Returns:
            The answer, to be sent as JSON; what is wrong is said in it, nothing is raised.
        """
        try:
            with self._one:
                return {"ok": True} | self._do(line)
        except MienError as error:
            return {"ok": False, "error": str(error)}

    def _do(self, line: str) -> dict[str, Any]:
        try:
            asked = json.loads(line)
        except ValueError as error:
            raise UsageError(f"expected one JSON object a line ({error})") from error
        match asked:
            case {"get": "statistics"} if len(asked) == 1:
                figures = asdict(self.engine.statistics())
                return {"statistics": figures | {"head_up": self.engine.statistics().line()}}
            case {"record": bool() | str()} if len(asked) == 1:
                return {"recording": self._record(asked["record"])}
            case {"set": dict(values)} if values and len(asked) == 1:
                return self._set(dict(values))
        raise UsageError('expected {"set": {…}}, {"get": "statistics"} or {"record": true}')

    def _record(self, what: bool | str) -> str:
        """Begin or end a recording; the file."""
        if self.recorder is None:
            raise UsageError("record: not offered here")
        if what is False:
            return self.recorder.stop()
        return self.recorder.start(what if isinstance(what, str) else "")

    def _set(self, values: dict[str, Any]) -> dict[str, Any]:
        consent, note = values.pop("consent", None), values.pop("consent_note", self.consent_note)
        photos = values.pop("identity", None)
        if photos is not None:
            photos = [photos] if isinstance(photos, str) else photos
            if not isinstance(photos, list) or not all(isinstance(p, str) for p in photos):
                raise UsageError(f"identity: expected photos of one person, came {photos!r}")
            if not photos:
                raise UsageError("identity: no photo was given")
            # Outputs say all bases, see Encoded.
            given = None if consent is None else api.consent_of(str(consent), str(note))
            values["identity"] = api.whose(photos, given, swapper=self.swapper)
        elif consent is not None:
            raise UsageError("consent: goes with an identity")
        self.engine.change(**values)
        return {}


class ControlSocket:
    """Listens, and gives each connection a thread. A context.

    A path makes a Unix socket that only its owner may use; a number is a TCP port on 127.0.0.1,
    which all users of the machine reach.
    """

    def __init__(self, where: str, commands: Commands) -> None:
        """Begin to listen.

        Raises:
            MediaError: The path is taken, or the port.
        """
        self.where, self._commands = where, commands
        self._path = None if where.isdecimal() else Path(where)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        try:
            self._socket = self._listen()
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise MediaError(f"--control {where}: cannot listen there ({reason})") from error
        self._thread = threading.Thread(target=self._accept, name="mien-control", daemon=True)
        self._thread.start()

    def _listen(self) -> socket.socket:
        if self._path is None:
            return socket.create_server(("127.0.0.1", int(self.where)))
        if not hasattr(socket, "AF_UNIX"):
            raise UsageError(f"--control {self.where}: give a port number on this system")
        self._forget_dead(self._path)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.bind(str(self._path))
            self._path.chmod(0o600)
            made.listen(MANY)
        except OSError:
            made.close()
            raise
        return made

    @staticmethod
    def _forget_dead(path: Path) -> None:
        """Remove a socket that nobody listens on, left by a run that was killed."""
        if not path.is_socket():
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()

    @property
    def port(self) -> int:
        """Of a TCP socket; with ``0`` the system has chosen it."""
        return int(self._socket.getsockname()[1])

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed
                return
            with self._lock:
                room = len(self._open) < MANY
                if room:
                    self._open.add(connection)
            if not room:
                connection.close()
                continue
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, connection.makefile("rb") as lines, suppress(OSError):
                while line := lines.readline(LONGEST):
                    if not line.strip():
                        continue
                    if _REQUEST.match(line):  # a page in a browser, which can reach local ports
                        return
                    if not line.endswith(b"\n") and len(line) == LONGEST:
                        answer: dict[str, Any] = {"ok": False, "error": "the line is too long"}
                        connection.sendall(json.dumps(answer).encode() + b"\n")
                        return
                    text = line.decode("utf-8", "replace")
                    answer = self._commands(text)
                    connection.sendall(json.dumps(answer).encode() + b"\n")
        finally:
            with self._lock:
                self._open.discard(connection)

    def close(self) -> None:
        """Stop listening, and hang up."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        with self._lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        self._thread.join(5)

    def __enter__(self) -> ControlSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
