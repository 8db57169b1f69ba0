"""Webhooks and targets that lie elsewhere: signed, tried again, and to no address inside."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")

from sqlalchemy import select

from mien.errors import Refused, UsageError
from mien.service.addresses import Place
from mien.service.database import Database, Delivery, Job
from mien.service.fetching import Unanswered, answered, check, fetch, name_of
from mien.service.files import Files
from mien.service.jobs import Jobs
from mien.service.settings import KeepTable
from mien.service.webhooks import WAITS, Webhooks, key_of, new_secret, signature


class Receiver:
    """A server on loopback that keeps what it got, and answers as it is told."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.statuses: list[int] = []
        self.body, self.headers = b"", {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                said = {k.lower(): v for k, v in self.headers.items()}
                outer.got.append((self.path, said, self.rfile.read(length)))
                self.send_response(outer.statuses.pop(0) if outer.statuses else 200)
                for name, value in outer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(outer.body)))
                self.end_headers()
                self.wfile.write(outer.body)

            do_GET = do_POST  # noqa: N815 - as the library calls it

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    one = Receiver()
    yield one
    one.close()


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def jobs(tmp_path) -> Jobs:
    database = Database(f"sqlite:///{tmp_path / 'rows.db'}")
    database.upgrade()
    return Jobs(database, Files(str(tmp_path / "files")), KeepTable(), 5.0, clock=Clock())


def ended(jobs: Jobs, url: str, secret: str = "") -> tuple[str, str]:
    """A job that was canceled, with a webhook; its id and the secret."""
    secret = secret or new_secret()
    asked = {"name": "take 3", "targets": [], "webhook": {"url": url, "secret": secret}}
    job = Job(tenant="a", key="k", kind="video", asked=asked)
    with jobs.database() as rows:
        jobs.add(rows, job)
    jobs.cancel("a", job.id)
    return job.id, secret


def hooks(jobs: Jobs, **more: Any) -> Webhooks:
    said = {"prefixes": None, "inner": True, "clock": jobs._clock} | more
    return Webhooks(jobs.database, said.pop("prefixes"), **said)


def delivery(jobs: Jobs) -> Delivery:
    with jobs.database(write=False) as rows:
        return rows.scalars(select(Delivery)).one()


def test_the_end_of_a_job_is_told_and_signed(jobs, receiver):
    job, secret = ended(jobs, f"http://hooks.example:{receiver.port}/x?y=1")
    asked: list[tuple[str, int]] = []

    def resolve(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return ["127.0.0.1"]

    assert hooks(jobs, resolve=resolve).deliver_once()
    assert not hooks(jobs).deliver_once()
    assert asked == [("hooks.example", receiver.port)]  # once: what was looked at is called
    ((path, headers, body),) = receiver.got
    assert path == "/x?y=1"
    assert headers["host"] == f"hooks.example:{receiver.port}"
    said = json.loads(body)
    assert (said["type"], said["data"]["id"], said["data"]["name"]) == (
        "job.canceled", job, "take 3",
    )  # fmt: skip
    # As a receiver checks it, by the specification alone.
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    wanted = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{wanted}"
    assert int(headers["webhook-timestamp"]) == int(Clock.now)
    assert secret not in body.decode()
    assert delivery(jobs).due is None


def test_the_specification_s_own_example():
    """Of the Standard Webhooks specification, 1.0, and its libraries' tests."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    assert (
        signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


def test_who_does_not_answer_well_is_called_again(jobs, receiver):
    ended(jobs, f"http://127.0.0.1:{receiver.port}/")
    receiver.statuses = [500] * 99
    clock, waited = jobs._clock, []
    while True:
        assert hooks(jobs).deliver_once()
        due = delivery(jobs).due
        if due is None:
            break
        assert not hooks(jobs).deliver_once()
        waited.append(due - clock.now)
        clock.now = due
    assert waited == list(WAITS)
    assert len(receiver.got) == len(WAITS) + 1
    assert len({headers["webhook-id"] for _, headers, _ in receiver.got}) == 1
    assert delivery(jobs).status == 500


def test_who_asks_for_no_more_is_called_no_more(jobs, receiver):
    ended(jobs, f"http://127.0.0.1:{receiver.port}/")
    receiver.statuses = [410]
    hooks(jobs).deliver_once()
    assert (delivery(jobs).due, delivery(jobs).status) == (None, 410)


def test_redirections_are_not_followed(jobs, receiver):
    ended(jobs, f"http://127.0.0.1:{receiver.port}/first")
    receiver.statuses, receiver.headers = [302], {"Location": "/second"}
    hooks(jobs).deliver_once()
    assert [path for path, _, _ in receiver.got] == ["/first"]
    assert delivery(jobs).status == 302
    assert delivery(jobs).due is not None


@pytest.mark.parametrize("answers", [["127.0.0.1"], ["93.184.215.14", "10.0.0.1"], ["::1"]])
def test_an_address_inside_is_never_called(jobs, receiver, answers):
    ended(jobs, f"http://hooks.example:{receiver.port}/")
    hooks(jobs, inner=False, resolve=lambda *_: answers).deliver_once()
    assert receiver.got == []
    assert (delivery(jobs).due, delivery(jobs).status) == (None, 0)


def test_a_name_that_is_not_found_is_looked_for_again(jobs):
    def nowhere(host: str, port: int) -> list[str]:
        raise UsageError("not found")

    ended(jobs, "http://hooks.example/")
    hooks(jobs, resolve=nowhere).deliver_once()
    assert delivery(jobs).due == jobs._clock.now + WAITS[0]


def test_one_who_died_over_a_delivery_leaves_it_to_others(jobs, receiver, monkeypatch):
    ended(jobs, f"http://127.0.0.1:{receiver.port}/")

    class Killed(BaseException):
        pass

    def killed(*_: object) -> None:
        raise Killed

    first = hooks(jobs)
    monkeypatch.setattr(first, "_post", killed)
    with pytest.raises(Killed):
        first.deliver_once()
    assert not hooks(jobs).deliver_once()
    jobs._clock.now += 61
    assert hooks(jobs).deliver_once()
    assert len(receiver.got) == 1


@pytest.mark.parametrize("secret", ["", "abc", "whsec_", "whsec_!!", "whsec_QUJD", "QUJD" * 8])
def test_secrets_have_the_form_of_the_specification(secret):
    with pytest.raises(UsageError, match="whsec_"):
        key_of(secret)
    assert len(key_of(new_secret())) == 24


# --- certificates ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hooks.example")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("hooks.example")]), False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


@pytest.mark.parametrize(("host", "good"), [("hooks.example", True), ("other.example", False)])
def test_the_certificate_is_that_of_the_name_though_a_number_is_called(certificate, host, good):
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(certificate)
    receiver = Receiver(ours)
    theirs = ssl.create_default_context(cafile=str(certificate))
    place = Place(f"https://{host}:{receiver.port}/", host, receiver.port, "127.0.0.1")
    try:
        if good:
            with answered("POST", place, content=b"x", verify=theirs) as answer:
                assert answer.status_code == 200
        else:
            with pytest.raises(Unanswered), answered("POST", place, verify=theirs):
                pass
    finally:
        receiver.close()


# --- fetching -------------------------------------------------------------------------------------


def fetched(url: str, path: Path, **more: Any) -> bytes:
    said = {"prefixes": [url.rpartition("/")[0]], "inner": True, "most": 1000} | more
    fetch(url, path, **said)
    return path.read_bytes()


def test_a_target_is_fetched(receiver, tmp_path):
    receiver.body = b"clip" * 10
    url = f"http://127.0.0.1:{receiver.port}/clips/a.mp4"
    assert fetched(url, tmp_path / "a") == receiver.body
    with pytest.raises(UsageError, match="more than 39 bytes"):
        fetched(url, tmp_path / "a", most=39)
    with pytest.raises(Refused, match=r"service\.urls"):
        fetched(url, tmp_path / "a", prefixes=["http://127.0.0.1/"])
    with pytest.raises(Refused, match=r"service\.addresses"):
        fetched(url, tmp_path / "a", inner=False)
    receiver.statuses = [404]
    with pytest.raises(UsageError, match="404"):
        fetched(url, tmp_path / "a")
    receiver.statuses = [503]
    with pytest.raises(Unanswered, match="503"):
        fetched(url, tmp_path / "a")
    receiver.body = b""
    with pytest.raises(UsageError, match="empty"):
        fetched(url, tmp_path / "a")


def test_a_target_in_a_store_is_fetched(tmp_path):
    import fsspec

    with fsspec.open("memory://bucket/clips/a.mp4", "wb") as file:
        file.write(b"clip")
    said = {"prefixes": ["memory://bucket/clips"], "inner": False, "most": 100}
    fetch("memory://bucket/clips/a.mp4", tmp_path / "a", **said)
    assert (tmp_path / "a").read_bytes() == b"clip"
    with pytest.raises(UsageError, match="no such file"):
        fetch("memory://bucket/clips/b.mp4", tmp_path / "a", **said)


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/other/a", "s3://bucket/clips", "s3://bucket/clipsy/a", "s3://bucket/clips/../a",
        "s3://bucket/clips//a", "s3://bucket/clips/*", "s3://bucket/clips/a::file:///etc/passwd",
        "file:///etc/passwd", "local:///etc/passwd", "/etc/passwd", "gs://bucket/clips/a",
        "zip://a::s3://bucket/clips/b", "S3://bucket/other/a", "s3://bucket/clips/\x00", "",
        "simplecache::s3://bucket/clips/a",
    ],
)  # fmt: skip
def test_stores_are_reached_below_what_is_allowed_alone(url):
    with pytest.raises((UsageError, Refused)):
        check(url, prefixes=["s3://bucket/clips", "file:///etc", "/etc"], inner=False)


def test_names_of_targets():
    assert name_of("https://x.example/a/b%20c.mp4?sig=1") == "b c.mp4"
    assert name_of("s3://bucket/a/b.mp4") == "b.mp4"
    assert name_of("https://x.example/") == "target"
