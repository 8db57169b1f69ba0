"""Targets that lie elsewhere: fetched from an address that the operator allows."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import httpx

from mien.errors import Refused, UsageError
from mien.service import addresses
from mien.service.addresses import Place
from mien.service.files import patient

BLOCK: Final = 1 << 20

WEB: Final = ("http", "https")

SECONDS: Final = 30.0
"""Without a byte."""

ALL_SECONDS: Final = 3600.0
"""For a whole file."""


class Unanswered(Exception):
    """An address did not answer, or not well; it may do so later."""


def check(
    url: str, *, prefixes: Sequence[str], inner: bool, resolve: addresses.Resolve | None = None
) -> Place | None:
    """Let the address of a target pass, or refuse it.

    Args:
        url: As a user said it.
        prefixes: What it may begin with.
        inner: Whether private addresses are allowed.
        resolve: Of names.

    Returns:
        Where to connect to; None for an object store, which the operator's own access reaches.

    Raises:
        UsageError: It is no address, or the host is not found.
        Refused: The operator does not allow it.
    """
    scheme = url.partition("://")[0].lower()
    if scheme in WEB or "://" not in url:
        web = [p for p in prefixes if p.partition("://")[0].lower() in WEB]
        more: dict[str, Any] = {} if resolve is None else {"resolve": resolve}
        return addresses.check(url, what="url", prefixes=web, inner=inner, **more)
    good = len(url) <= addresses.LONGEST and url.isprintable() and "\\" not in url
    steps = url.partition("://")[2].split("/")
    good = good and not any(mark in url for mark in ("::", "*", "?", "[", "{", "#"))
    if not good or any(step in ("", ".", "..") for step in steps):
        raise UsageError("url: expected an address like s3://bucket/folder/clip.mp4")
    for prefix in prefixes:
        # A path of this machine is never a target, whatever a prefix says.
        if prefix.partition("://")[0] == scheme and scheme not in ("", "file", "local"):
            base = prefix if prefix.endswith("/") else prefix + "/"
            if url.startswith(base):
                return None
    raise Refused("url: the operator does not allow this address (rule service.urls)")


def name_of(url: str) -> str:
    """Name of the file that an address leads to, without what stands before it."""
    path = unquote(urlsplit(url).path) if url.partition("://")[0].lower() in WEB else url
    return PurePosixPath(path).name or "target"


@contextmanager
def answered(
    method: str,
    place: Place,
    *,
    headers: Mapping[str, str] | None = None,
    content: bytes | None = None,
    seconds: float = SECONDS,
    verify: ssl.SSLContext | bool = True,
) -> Iterator[httpx.Response]:
    """Ask an address that was looked at; the connection goes to that one and no other.

    Redirections are not followed, as they may lead anywhere, and no proxy or password of the
    environment is used.

    Raises:
        Unanswered: It does not answer.
    """
    url = httpx.URL(place.url)
    pinned = url.copy_with(host=place.address)
    try:
        with httpx.Client(
            trust_env=False, follow_redirects=False, timeout=seconds, verify=verify
        ) as client:
            request = client.build_request(
                method,
                pinned,
                headers={
                    **(headers or {}),
                    "Host": url.netloc.decode(),
                    "Accept-Encoding": "identity",
                },
                content=content,
                # The certificate is that of the name, not of the number.
                extensions={"sni_hostname": place.host},
            )
            response = client.send(request, stream=True)
            try:
                yield response
            finally:
                response.close()
    except (httpx.HTTPError, httpx.InvalidURL, ssl.SSLError) as error:
        raise Unanswered(f"{place.host}: does not answer ({type(error).__name__})") from error


def fetch(
    url: str,
    path: Path,
    *,
    prefixes: Sequence[str],
    inner: bool,
    most: int,
    progress: Callable[[], None] = lambda: None,
    options: Mapping[str, Any] | None = None,
    resolve: addresses.Resolve | None = None,
) -> None:
    """Fetch a file.

    Args:
        url: Of it.
        path: To be written.
        prefixes: What the operator allows.
        inner: Whether private addresses are allowed.
        most: Bytes that it may have.
        progress: Called after each block; may raise.
        options: For the operator's object store.
        resolve: Of names.

    Raises:
        UsageError: It is no address, there is no such file, or it is too large.
        Refused: The operator does not allow it.
        Unanswered: It cannot be had now.
        OSError: The disk is full.
    """
    place = check(url, prefixes=prefixes, inner=inner, resolve=resolve)
    blocks = _of_store(url, options or {}) if place is None else _of_web(place)
    got, until = 0, time.monotonic() + ALL_SECONDS
    with path.open("wb") as out:
        for block in blocks:
            got += len(block)
            if got > most:
                raise UsageError(f"url: the file has more than {most} bytes")
            if time.monotonic() > until:
                raise Unanswered(f"url: {got} bytes took longer than {ALL_SECONDS:g} s")
            out.write(block)
            progress()
    if not got:
        raise UsageError("url: the file is empty")


def _of_web(place: Place) -> Iterator[bytes]:
    with answered("GET", place) as response:
        status = response.status_code
        if status in (408, 425, 429) or status >= 500:
            raise Unanswered(f"{place.host}: answers with status {status}")
        if status != 200:
            raise UsageError(f"url: {place.host} answers with status {status}, 200 was expected")
        yield from response.iter_bytes(BLOCK)


def _of_store(url: str, options: Mapping[str, Any]) -> Iterator[bytes]:
    import fsspec  # noqa: PLC0415 - slow

    try:
        with fsspec.open(url, "rb", **patient(url, options)) as file:
            while block := file.read(BLOCK):
                yield block
    except FileNotFoundError as error:
        raise UsageError("url: there is no such file in the store") from error
    except GeneratorExit:
        raise
    except Exception as error:  # each kind of store has its own
        raise Unanswered(f"url: the store does not answer ({type(error).__name__})") from error
