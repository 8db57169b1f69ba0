"""The service without its models: settings, problems, limits, calls, the OpenAPI document."""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import logging
import multiprocessing
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("fastapi")

import httpx
from typer.testing import CliRunner

import serviceparts
from mien.cli import app
from mien.errors import NoFace, UsageError
from mien.service import settings as settings_
from mien.service.calls import Calls
from mien.service.limits import fingerprint, once
from mien.service.problems import MEDIA_TYPE, Problem
from serviceparts import settings

PHOTO = {"target": b"not looked at"}
ME = {"identity": "0" * 32}


def problem(answer, status: int, name: str) -> dict:
    """The problem details of an answer, of which status and kind are as expected."""
    assert (answer.status_code, answer.headers["content-type"]) == (status, MEDIA_TYPE)
    said = answer.json()
    assert set(said) == {"type", "title", "status", "detail", "errors"}
    assert (said["type"], said["status"]) == (f"urn:mien:problem:{name}", status)
    assert said["title"]
    assert said["detail"]
    if status in (429, 503):
        assert int(answer.headers["Retry-After"]) >= 1
    return said


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A server without workers, for what never comes to one."""
    with serviceparts.serving(settings(tmp_path_factory.mktemp("plain"))) as parts:
        yield parts


# --- settings -----------------------------------------------------------------------------------


def test_settings_come_from_file_environment_and_flags(tmp_path):
    (tmp_path / "mien.toml").write_text(
        'generator = "mesh"\n[serve]\nport = 1\nworkers = 2\n[serve.limits]\npixels = 7\n'
    )
    environment = {"MIEN_SERVE_WORKERS": "3", "MIEN_SERVE_QUOTAS": "jobs=4 calls=5"}
    made, chain = settings_.load(folder=tmp_path, environment=environment, flags={"port": 9})
    assert (made.port, made.workers, made.limits.pixels) == (9, 3, 7)
    assert (made.quotas.jobs, made.quotas.calls) == (4, 5)
    assert chain.generator == "mesh"


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"MIEN_SERVE_COFFEE": "1"}, "MIEN_SERVE_COFFEE: unknown key"),
        ({"MIEN_SERVE_LIMITS": "coffee=1"}, r"MIEN_SERVE_LIMITS\.coffee: unknown key"),
        ({"MIEN_SERVE_PORT": "x"}, "MIEN_SERVE_PORT: input should be"),
        ({"MIEN_SERVE_FILES_OPTIONS": "a", "MIEN_SERVE_EXECUTOR": "s3cret"}, "MIEN_SERVE_EXECUTOR"),
    ],
)
def test_wrong_settings_are_named_and_their_values_are_not(tmp_path, environment, words):
    with pytest.raises(UsageError, match=words) as caught:
        settings_.load(folder=tmp_path, environment=environment)
    assert "s3cret" not in str(caught.value)


def test_others_need_keys(tmp_path):
    with pytest.raises(UsageError, match="others reach the service, so it needs keys"):
        settings(tmp_path, host="0.0.0.0", keys=False).prepare()
    settings(tmp_path, host="::1", keys=False).prepare()
    settings(tmp_path, host="0.0.0.0").prepare()


@pytest.mark.parametrize("cors", ["*", "app.example.com", "https://app.example.com/"])
def test_what_is_no_origin(tmp_path, cors):
    with pytest.raises(UsageError, match="expected an origin"):
        settings(tmp_path, cors=(cors,)).prepare()


# --- the document -------------------------------------------------------------------------------


def routes(parts) -> list[tuple[str, str]]:
    document = parts.client.get("/openapi.json").json()
    return [(m.upper(), p) for p, methods in document["paths"].items() for m in methods]


def test_the_document_holds_together(plain):
    document = plain.client.get("/openapi.json").json()
    text = json.dumps(document)
    schemas = document["components"]["schemas"]
    for ref in {piece.split('"')[0] for piece in text.split('"$ref": "')[1:]}:
        assert ref.removeprefix("#/components/schemas/") in schemas, ref
    assert "HTTPValidationError" not in text
    names = [m["operationId"] for methods in document["paths"].values() for m in methods.values()]
    assert len(names) == len(set(names))
    for path, methods in document["paths"].items():
        for said in methods.values():
            assert said["summary"], path
            if path.startswith("/v1"):
                assert said["security"], path
                assert {"401", "422", "429", "503"} <= set(said["responses"]), path


def test_every_route_asks_for_a_key(plain):
    found = [(m, p) for m, p in routes(plain) if p.startswith("/v1")]
    assert len(found) >= 8
    for method, path in found:
        where = path.replace("{identity}", "0" * 32).replace("{job}", "0" * 32)
        answer = plain.client.request(method, where)
        problem(answer, 401, "no-key")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        wrong = {"Authorization": "Bearer mien_wrong"}
        problem(plain.client.request(method, where, headers=wrong), 401, "wrong-key")


# --- problems -----------------------------------------------------------------------------------


def test_what_is_not_there(plain):
    key = plain.key()
    problem(plain.client.get("/v1/nothing", headers=key), 404, "not-found")
    problem(plain.client.get("/nothing"), 404, "not-found")
    answer = plain.client.put("/v1/swaps", headers=key)
    problem(answer, 405, "method")
    assert answer.headers["Allow"] == "POST"
    answer = plain.client.put(f"/v1/identities/{'0' * 32}", headers=key)
    assert answer.headers["Allow"] == "DELETE, GET"


def test_fields_are_named(plain):
    key = plain.key()

    def swap(data, files=PHOTO):
        answer = plain.client.post("/v1/swaps", headers=key, data=data, files=files)
        return [e["field"] for e in problem(answer, 422, "invalid")["errors"]]

    assert swap({}) == ["body.identity"]
    assert swap(ME | {"consent": "self"}) == ["body.consent"]
    assert swap({}, PHOTO | {"source": b"x"}) == ["body.consent"]
    assert swap(ME, PHOTO | {"source": b"x"}) == ["body.identity"]
    assert swap(ME, {"source": b"x"}) == ["body.target"]
    assert swap(ME | {"faces": "0"}) == ["body.faces"]
    assert swap(ME | {"quality": "101", "format": "gif"}) == ["body.format", "body.quality"]
    assert swap({"identity": "../../etc/passwd"}) == ["body.identity"]
    assert swap(ME | {"note": "a\0b"}) == ["body.note"]
    answer = plain.client.post("/v1/identities", headers=key, data={"consent": "none"})
    assert {e["field"] for e in answer.json()["errors"]} == {"body.photos", "body.consent"}
    answer = plain.client.get("/v1/identities", params={"limit": 1000}, headers=key)
    assert problem(answer, 422, "invalid")["errors"][0]["field"] == "query.limit"


def test_a_body_that_is_no_form(plain):
    head = plain.key() | {"Content-Type": "multipart/form-data; boundary=x"}
    for body in (b"", b"--x\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\n\r\n--x--", b"\0"):
        answer = plain.client.post("/v1/swaps", headers=head, content=body)
        assert answer.status_code in (400, 422)
        assert answer.headers["content-type"] == MEDIA_TYPE
    many = [("source", (f"{n}.jpg", b"x")) for n in range(25)]
    answer = plain.client.post("/v1/swaps", headers=plain.key(), files=many)
    assert "Too many files" in problem(answer, 400, "unreadable")["detail"]


def test_what_nobody_foresaw_is_not_told_and_not_logged(tmp_path, caplog):
    def answer(_):
        def fails(kind, said):
            raise NoFace("/srv/secret.jpg") from None

        return fails

    with serviceparts.serving(settings(tmp_path), answer) as parts, caplog.at_level("ERROR"):
        parts.service.calls.ask = lambda *_, **__: {}["Ada"]  # type: ignore[method-assign]
        got = parts.client.post("/v1/swaps", headers=parts.key(), data=ME, files=PHOTO)
        assert "Ada" not in problem(got, 500, "failed")["detail"]
    assert "KeyError at" in caplog.text
    assert "Ada" not in caplog.text


def test_a_database_that_is_gone_comes_back(tmp_path):
    with serviceparts.serving(settings(tmp_path)) as parts:
        key, path = parts.key(), tmp_path / "data" / "service.db"
        parts.service.database.close()
        path.rename(path.with_suffix(".away"))
        path.mkdir()  # no database, and nothing that SQLite could make one of
        problem(parts.client.get("/v1/identities", headers=key), 503, "database")
        problem(parts.client.get("/readyz"), 503, "not-ready")
        assert parts.client.get("/healthz").status_code == 200
        path.rmdir()
        path.with_suffix(".away").rename(path)
        assert parts.client.get("/v1/identities", headers=key).status_code == 200


# --- limits -------------------------------------------------------------------------------------


def test_a_body_that_says_it_is_too_large_is_not_read(tmp_path):
    small = settings(tmp_path, limits={"photo_bytes": 1000, "json_bytes": 10})
    with serviceparts.serving(small) as parts:
        host, port = parts.client.base_url.host, parts.client.base_url.port
        head = "".join(f"{k}: {v}\r\n" for k, v in parts.key().items())
        with socket.create_connection((host, port), 10) as line:
            said = f"POST /v1/swaps HTTP/1.1\r\nHost: x\r\n{head}Content-Length: 99999\r\n\r\n"
            line.sendall(said.encode())
            assert b" 413 " in line.recv(1000)  # and not a byte of it was sent
        answer = parts.client.request("GET", "/v1/models", content=b"x" * 11, headers=parts.key())
        problem(answer, 413, "too-large")


def test_a_body_that_turns_out_too_large_is_cut_off(tmp_path):
    with serviceparts.serving(settings(tmp_path, limits={"photo_bytes": 100_000})) as parts:
        sent = 0

        def body():
            nonlocal sent
            yield b"--x\r\nContent-Disposition: form-data; name=target; filename=a\r\n\r\n"
            for _ in range(4000):
                sent += 10_000
                yield b"x" * 10_000

        head = parts.key() | {"Content-Type": "multipart/form-data; boundary=x"}
        with contextlib.suppress(httpx.TransportError):  # the server closed while we wrote
            problem(parts.client.post("/v1/swaps", headers=head, content=body()), 413, "too-large")
        assert sent < 40_000_000  # what follows the answer is read for a while


def test_a_body_that_does_not_come_is_not_waited_for(tmp_path):
    with serviceparts.serving(settings(tmp_path, limits={"idle_seconds": 0.2})) as parts:
        line = http.client.HTTPConnection(
            parts.client.base_url.host, parts.client.base_url.port, timeout=10
        )
        line.putrequest("POST", "/v1/swaps")
        for name, value in parts.key().items():
            line.putheader(name, value)
        line.putheader("Content-Type", "multipart/form-data; boundary=x")
        line.putheader("Content-Length", "1000")
        line.endheaders(b"--x")
        answer = line.getresponse()
        assert answer.status == 408
        assert json.loads(answer.read())["type"] == "urn:mien:problem:slow"
        line.close()


def test_pages_of_others_are_kept_out(tmp_path):
    (tmp_path / "b").mkdir()
    with serviceparts.serving(settings(tmp_path, keys=False)) as parts:
        ask = parts.client.get
        assert ask("/v1/models").status_code == 200
        problem(ask("/v1/models", headers={"Host": "evil.example"}), 403, "foreign")
        problem(ask("/v1/models", headers={"Origin": "https://evil.example"}), 403, "foreign")
        answer = ask("/v1/models", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in answer.headers
    mine = "https://app.example.com"
    with serviceparts.serving(settings(tmp_path / "b", cors=(mine,))) as parts:
        for origin, allowed in ((mine, mine), ("https://evil.example", None)):
            answer = parts.client.get("/v1/models", headers=parts.key() | {"Origin": origin})
            assert answer.headers.get("access-control-allow-origin") == allowed
        answer = parts.client.get("/v1/models", headers={"Origin": mine})
        problem(answer, 401, "no-key")  # and the page may read why
        assert answer.headers["access-control-allow-origin"] == mine


# --- idempotency --------------------------------------------------------------------------------


def test_what_is_asked_twice_is_done_once(plain):
    from mien.service import keys

    ann = keys.Caller("k", "ann", frozenset(), {})
    bob = keys.Caller("k", "bob", frozenset(), {})
    done = []

    def work():
        done.append(1)
        return 201, {"n": len(done)}

    def ask(caller, key, request="r"):
        return once(plain.service, caller, key, request, work)

    assert ask(ann, "one") == (201, {"n": 1}, False)
    assert ask(ann, "one") == (201, {"n": 1}, True)
    assert ask(bob, "one") == (201, {"n": 2}, False)  # a tenant's keys are its own
    assert ask(ann, None) == (201, {"n": 3}, False)
    with pytest.raises(Problem) as caught:
        ask(ann, "one", "another request")
    assert caught.value.status_code == 422

    def fails():
        raise NoFace("none")

    with pytest.raises(NoFace):
        once(plain.service, ann, "two", "r", fails)
    assert ask(ann, "two") == (201, {"n": 4}, False)  # an error is not kept

    def meanwhile():
        with pytest.raises(Problem) as caught:
            ask(ann, "three")
        assert caught.value.status_code == 409
        return 200, {}

    once(plain.service, ann, "three", "r", meanwhile)
    for bad in ("", "x" * 256, "a\nb"):
        with pytest.raises(Problem) as caught:
            ask(ann, bad)
        assert caught.value.status_code == 400


def test_of_many_at_once_one_is_carried_out(plain):
    from mien.service import keys

    caller, done = keys.Caller("k", "many", frozenset(), {}), []

    def ask(_):
        try:
            return once(plain.service, caller, "k", "r", lambda: (done.append(1), (200, {}))[1])[0]
        except Problem as error:
            return error.status_code

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(16)))
    assert len(done) == 1
    assert set(found) <= {200, 409}


def test_a_fingerprint_is_of_what_is_said():
    one = fingerprint("POST", "/v1/x", {"a": 1, "b": ["2"]})
    assert one == fingerprint("POST", "/v1/x", {"b": ["2"], "a": 1})
    assert len({one, fingerprint("POST", "/v1/x", {"a": 1}), fingerprint("PUT", "/v1/x", {})}) == 3


# --- calls --------------------------------------------------------------------------------------


class Slow:
    """A worker that does nothing until it may."""

    def __init__(self) -> None:
        self.go, self.begun = threading.Event(), threading.Semaphore(0)
        self.done: list[int] = []

    def __call__(self, _):
        return self.answer

    def answer(self, kind, said):
        self.begun.release()
        assert self.go.wait(10)
        self.done.append(said.get("n", -1))
        return {"n": said.get("n", -1)}, []


def test_calls_wait_in_order_and_too_many_are_sent_away(tmp_path):
    slow = Slow()
    with (
        serviceparts.serving(settings(tmp_path, limits={"waiting": 3}), slow) as parts,
        ThreadPoolExecutor(4) as pool,
    ):
        calls = parts.service.calls
        asked = []
        for n in range(4):  # one is worked on, three wait
            asked.append(pool.submit(calls.ask, "swap", n=n))
            if n == 0:
                assert slow.begun.acquire(timeout=10)
            serviceparts.until(lambda n=n: calls.waiting == n)
        answer = parts.client.post("/v1/swaps", headers=parts.key(), data=ME, files=PHOTO)
        problem(answer, 503, "busy")
        assert list((tmp_path / "data" / "scratch").iterdir()) == []
        slow.go.set()
        assert [a.result(10)["n"] for a in asked] == slow.done == [0, 1, 2, 3]


def test_a_worker_that_dies_over_a_call_is_said_to(tmp_path):
    def dies(_):
        def work(kind, said):
            raise RuntimeError

        return work

    with serviceparts.serving(settings(tmp_path), dies) as parts:
        key = parts.key()
        answer = parts.client.post("/v1/swaps", headers=key, data=ME, files=PHOTO)
        problem(answer, 503, "worker")
        serviceparts.until(lambda: parts.service.calls.ready == 0)
        answer = parts.client.post("/v1/swaps", headers=key, data=ME, files=PHOTO)
        problem(answer, 503, "not-ready")
        problem(parts.client.get("/readyz"), 503, "not-ready")


def test_a_call_that_takes_too_long_ends_its_worker(tmp_path):
    slow = Slow()
    with serviceparts.serving(settings(tmp_path, limits={"call_seconds": 0.2}), slow) as parts:
        begun = time.monotonic()
        answer = parts.client.post("/v1/swaps", headers=parts.key(), data=ME, files=PHOTO)
        problem(answer, 503, "too-long")
        assert time.monotonic() - begun < 5
        serviceparts.until(lambda: parts.service.calls.ready == 0)
        slow.go.set()


def test_figures(tmp_path, caplog):
    def works(_):
        return lambda kind, said: ({}, [("stages", {"work": "swap", "seconds": {"detect": 0.02}})])

    with serviceparts.serving(settings(tmp_path), works) as parts:
        key = parts.key()
        parts.client.get("/v1/models", headers=key)
        parts.client.get("/v1/guessed/path", headers=key)
        parts.service.calls.ask("swap")
        text = parts.client.get("/metrics").text
        assert 'mien_requests_total{method="GET",route="/v1/models",status="200"} 1.0' in text
        assert 'route="none",status="404"} 1.0' in text
        assert "guessed" not in text
        assert 'mien_stage_seconds_count{stage="detect",work="swap"} 1.0' in text
        assert "mien_workers_ready 1.0" in text
        assert 'mien_jobs{state="queued"} 0.0' in text
        assert "ann" not in text.split()
    (tmp_path / "off").mkdir()
    with serviceparts.serving(settings(tmp_path / "off", metrics=False)) as parts:
        problem(parts.client.get("/metrics"), 404, "not-found")


def test_a_server_without_workers_of_its_own_is_ready(tmp_path):
    with serviceparts.serving(settings(tmp_path, workers=0)) as parts:
        assert parts.client.get("/readyz").json() == {"status": "ok"}


def test_no_log_is_wanted_of_what_goes_well(plain, caplog):
    with caplog.at_level(logging.INFO):
        plain.client.get("/v1/models", headers=plain.key())
    assert "v1" not in "".join(r.getMessage() for r in caplog.records if "mien" in r.name)


def test_an_address_that_is_taken_is_named(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = ["serve", "--port", str(port), "--data", str(tmp_path), "--workers", "0"]
        done = CliRunner().invoke(app, said)
    assert f"127.0.0.1:{port}: cannot listen there" in done.output
    assert "mien_" not in done.output  # no key was made


def test_a_key_for_others_is_not_printed(tmp_path, monkeypatch):
    async def served(*_):
        pass

    monkeypatch.setattr("mien.cli.serve._served", served)
    said = ["serve", "--port", "0", "--data", str(tmp_path), "--workers", "0"]
    done = CliRunner().invoke(app, [*said, "--host", "0.0.0.0"])
    assert "make one with: mien keys add" in done.output
    assert "mien_" not in done.output
    assert "mien_" in CliRunner().invoke(app, said).output


def test_who_was_refused_comes_before_who_was_just_answered():
    """Six keys that ask again at once, and a queue of two: each gets its share."""
    calls = Calls(2, 10.0)
    ours, theirs = multiprocessing.Pipe()
    calls.attach(ours, ours.close)
    ended = threading.Event()

    def work() -> None:
        theirs.send(("ready", {}))
        with contextlib.suppress(EOFError, OSError):
            while True:
                theirs.recv()
                time.sleep(0.005)
                theirs.send(("done", {}))

    answered = dict.fromkeys("abcdef", 0)

    def ask(key: str) -> None:
        while not ended.is_set():
            try:
                calls.ask("swap", whose=key)
                answered[key] += 1
            except Problem:
                time.sleep(0.02)

    threads = [threading.Thread(target=work, daemon=True)]
    threads += [threading.Thread(target=ask, args=(key,)) for key in answered]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    ended.set()
    for thread in threads[1:]:
        thread.join()
    theirs.close()
    assert min(answered.values()) >= 0.4 * max(answered.values()), answered


class Held:
    """A worker that answers when it is told to, two calls that wait, and no place for a third."""

    def __init__(self) -> None:
        self.calls = Calls(2, 10.0)
        ours, self.pipe = multiprocessing.Pipe()
        self.calls.attach(ours, ours.close)
        self.pipe.send(("ready", {}))
        until(lambda: self.calls.ready)
        self.threads: list[threading.Thread] = []
        self.ask("first")
        assert self.pipe.poll(5)
        for key in ("second", "third"):
            self.ask(key)
        until(lambda: self.calls.waiting == 2)

    def ask(self, key: str) -> None:
        ask = functools.partial(self.calls.ask, "swap", whose=key)
        self.threads.append(threading.Thread(target=ask))
        self.threads[-1].start()

    def refused(self, key: str) -> float:
        with pytest.raises(Problem) as caught:
            self.calls.ask("swap", whose=key)
        return float(caught.value.headers["Retry-After"])

    def answer(self) -> None:
        self.pipe.recv()
        self.pipe.send(("done", {}))

    def end(self, left: int) -> None:
        for _ in range(left):
            self.answer()
        for thread in self.threads:
            thread.join()
        self.pipe.close()


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_of_those_who_were_refused_the_first_comes_first():
    held = Held()
    waits = [held.refused(key) for key in ("a", "b", "c")]
    assert waits == sorted(waits)
    held.answer()  # "second" is worked on now, and a place is free
    until(lambda: held.calls.waiting == 1)
    for key in ("c", "new", "b"):
        held.refused(key)
    held.ask("a")
    until(lambda: held.calls.waiting == 2)
    held.end(3)


def test_who_was_refused_and_went_away_keeps_nobody_out():
    held = Held()
    for gone in "abcdefgh":
        held.refused(gone)
    for left in (1, 0):
        held.answer()
        until(lambda left=left: held.calls.waiting == left)
    held.ask("new")
    until(lambda: held.calls.waiting == 1)
    held.end(2)
