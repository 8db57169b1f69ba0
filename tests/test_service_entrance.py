"""An answer arrives even where the body was not wanted, and whoever sends on is not served."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("uvicorn")

import serviceparts
from mien.service import entrance

MOST = 1 << 16


@pytest.fixture(scope="module")
def port(tmp_path_factory) -> Iterator[int]:
    settings = serviceparts.settings(
        tmp_path_factory.mktemp("site"), keys=False, limits={"body_bytes": MOST}
    )
    with serviceparts.serving(settings) as parts:
        yield parts.client.base_url.port


def head(fields: str) -> bytes:
    return (
        f"POST /v1/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    ).encode()


def answered(line: socket.socket) -> bytes:
    found = b""
    while block := line.recv(1 << 16):
        found += block
    return found


@pytest.mark.parametrize("length", [MOST + 1, 6 << 20])
def test_the_answer_to_a_body_that_is_too_large_arrives(port, length):
    with socket.create_connection(("127.0.0.1", port), 20) as line:
        line.sendall(head(f"Content-Length: {length}") + bytes(length))  # and only then listens
        found = answered(line)
    assert found.startswith(b"HTTP/1.1 413 ")
    assert found.endswith(b"}")
    assert b"urn:mien:problem:too-large" in found


def test_the_answer_arrives_where_the_length_was_not_said(port):
    block = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    part = b'--x\r\nContent-Disposition: form-data; name="target"; filename="a"\r\n\r\n'
    body = b"%x\r\n%s\r\n" % (len(part), part) + block * 40 + b"0\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), 20) as line:
        line.sendall(head("Transfer-Encoding: chunked") + body)
        assert answered(line).startswith(b"HTTP/1.1 413 ")


def test_who_waits_for_the_answer_has_it_at_once(port):
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), 20) as line:
        line.sendall(head("Content-Length: 99999999\r\nExpect: 100-continue"))
        first = line.recv(1 << 16)
        assert time.monotonic() - begun < 1
        assert first.startswith(b"HTTP/1.1 413 ")
        assert b"100 Continue" not in first + answered(line)


def test_who_sends_on_for_ever_is_cut_off(port, monkeypatch):
    monkeypatch.setattr(entrance, "LINGER", 0.5)
    begun, sent = time.monotonic(), 0
    with socket.create_connection(("127.0.0.1", port), 20) as line:
        line.sendall(head("Content-Length: 9999999999"))
        with suppress(OSError):  # a reset, or a broken pipe
            while time.monotonic() - begun < 10:
                sent += line.send(bytes(1 << 16))
    assert time.monotonic() - begun < 5
    assert sent < 64 << 20
