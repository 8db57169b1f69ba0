"""What is one tenant's cannot be read, guessed or removed with another's key.

Each operation of the OpenAPI document has a row in :data:`OPERATIONS` and is tried; one without a
row fails. The models are real, and work in this process.
"""

import http.client
import json
import os
import re
import secrets
import socket
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import select
from starlette.routing import WebSocketRoute
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from material import MEDIA, PHOTO, PORTRAIT
from mien.identity import packing
from mien.provenance import Marks
from mien.service import application, keys, people, settings
from mien.service.answering import Answering
from mien.service.database import Answer, Event, File, Job, Part, Person, Row
from mien.service.live import Session
from mien.types import Consent

with warnings.catch_warnings():  # newer ones would rather have another client
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient

OPERATIONS = {
    "GET /healthz": "open",
    "GET /readyz": "open",
    "GET /metrics": "open",
    "GET /v1/models": "any",
    "GET /v1/policy": "any",
    "POST /v1/verify": "verify",
    "POST /v1/swaps": "swaps",
    "POST /v1/identities": "identities",
    "GET /v1/identities": "identities",
    "GET /v1/identities/{identity}": "identities",
    "DELETE /v1/identities/{identity}": "identities",
    "POST /v1/jobs": "jobs",
    "GET /v1/jobs": "jobs",
    "GET /v1/jobs/{job}": "jobs",
    "GET /v1/jobs/{job}/events": "jobs",
    "GET /v1/jobs/{job}/result": "jobs",
    "GET /v1/jobs/{job}/tracks": "jobs",
    "POST /v1/jobs/{job}/cancel": "jobs",
    "POST /v1/jobs/{job}/retry": "jobs",
    "DELETE /v1/jobs/{job}": "jobs",
    "POST /v1/live": "live",
    "GET /v1/live": "live",
    "GET /v1/live/{live_id}": "live",
    "PATCH /v1/live/{live_id}": "live",
    "DELETE /v1/live/{live_id}": "live",
    "POST /v1/live/{live_id}/ticket": "live",
    "POST /v1/live/{live_id}/webrtc": "live",
}
"""Operation → the scope that its key needs; ``any`` for any key, ``open`` for none."""

CLOSED = sorted(name for name, scope in OPERATIONS.items() if scope != "open")
OF_ONE = sorted(name for name in OPERATIONS if "{" in name)
LISTS = ["GET /v1/identities", "GET /v1/jobs", "GET /v1/live"]
HIDDEN = ["HEAD /v1/jobs/{job}/result", "HEAD /v1/jobs/{job}/tracks"]
"""Not in the document either."""

SOCKETS = ["/v1/live/{live_id}/socket"]
"""Not in the document, which knows no sockets; see the test of them below."""

SECRET = "Wilhelmina-Quux"
"""Stands in everything of Ann's that has words."""

PREFIX = "https://media.example.com/clips/"


class House:
    """A server in this process, with things of Ann's and nothing of Bob's."""

    def __init__(self, folder):
        self.folder = folder
        self.settings, chain = settings.load(
            environment={
                "MIEN_SERVE_DATA": str(folder / "data"),
                "MIEN_SERVE_QUOTAS": "calls=0 jobs=100",
                "MIEN_SERVE_URL_PREFIXES": PREFIX,
            },
            folder=folder,
        )
        self.parts = application.service(self.settings, chain)
        self.people = people.People(self.parts.database, people.seal_key(self.settings))
        self._answering = None
        self.parts.calls.ask = self._ask
        self.app = application.create_app(self.parts)
        self.client = TestClient(self.app, raise_server_exceptions=False)
        self.keys = {name: keys.make(self.parts.database, name)[1] for name in ("ann", "bob")}
        self.things = {}

    def _ask(self, kind, **said):
        if self._answering is None:
            watch = people.Watch(self.parts.database)
            self._answering = Answering(self.settings, self.parts.chain, self.people, watch)
        return self._answering(kind, said)[0]

    def ask(self, who, operation, *, ids=None, secret=None, **said):
        method, path = operation.split(" ")
        for name, value in (ids or {}).items():
            path = path.replace(f"{{{name}}}", value)
        given = self.keys[who] if secret is None and who else secret
        headers = {
            **said.pop("headers", {}),
            **({"Authorization": f"Bearer {given}"} if given else {}),
        }
        return self.client.request(method, path, headers=headers, **said)

    def furnish(self):
        """An identity of Ann's, and a job that was done with everything that jobs have."""
        made = self.ask(
            "ann",
            "POST /v1/identities",
            files={"photos": (f"{SECRET}.jpg", PORTRAIT.read_bytes())},
            data={"consent": "synthetic", "name": SECRET, "note": f"form of {SECRET}"},
        )
        assert made.status_code == 201, made.text
        person, job = made.json()["id"], secrets.token_hex(16)
        stream = Session(
            secrets.token_hex(16),
            "ann",
            "",
            {person: Consent("synthetic")},
            Marks(),
            None,
            False,
            {"identity": person, "mark": SECRET},
            left=time.monotonic() + 1e6,
            ticket=SECRET,
            until=time.monotonic() + 1e6,
        )
        self.app.state.live._sessions[stream.id] = stream
        self.things = {"identity": person, "job": job, "live_id": stream.id}
        files = [
            File(tenant="ann", job=job, kind=kind, name=f"{SECRET}{suffix}", sha256="0" * 64,
                 path=f"jobs/{job}/{kind}/{kind}", size=len(SECRET), expires=time.time() + 900)
            for kind, suffix in (("upload", ".mp4"), ("result", ".mp4"), ("tracks", ".tracks"))
        ]  # fmt: skip
        source = self.folder / "file"
        source.write_bytes(SECRET.encode())
        for file in files:
            self.parts.files.put(file.path, source)
        source.unlink()
        marks = {"label_on": True}
        with self.parts.database() as rows:
            rows.add_all(files)
            rows.add(
                Job(
                    id=job,
                    tenant="ann",
                    key="",
                    kind="video",
                    state="done",
                    stage="join",
                    started=time.time(),
                    ended=time.time(),
                    total=10,
                    done=10,
                    identities=person,
                    asked={
                        "name": SECRET, "marks": marks, "target_consent": None, "target_note": "",
                        "targets": [{"name": f"{SECRET}.mp4", "url": None, "file": files[0].id}],
                        "webhook": None, "rules": [{"identity": person, "faces": "all"}],
                    },
                )
            )  # fmt: skip
            rows.flush()
            rows.add(Part(job=job, number=0, first=0, end=None, state="done", frames=10))
            rows.add(Event(tenant="ann", job=job, kind="done", data={"state": "done", "x": SECRET}))

    def state(self):
        """All rows and all files, but for when keys were used."""
        found = {}
        with self.parts.database(write=False) as rows:
            for table in Row.__subclasses__():
                columns = [c for c in table.__table__.columns if c.name != "used"]
                found[table.__tablename__] = sorted(map(repr, rows.execute(select(*columns)).all()))
        found["live"] = sorted(map(repr, self.app.state.live._sessions.values()))
        store = Path(self.parts.files.url)
        found["store"] = sorted(
            (str(p.relative_to(store)), p.read_bytes()) for p in store.rglob("*") if p.is_file()
        )
        return found


@pytest.fixture(scope="module")
def house(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tenants")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIEN_HOME", str(folder / "home"))
        made = House(folder)
        with made.client:
            made.furnish()
            yield made


def said(answer):
    """What an answer says, without what is of the moment."""
    return answer.status_code, answer.json(), sorted(set(answer.headers) - {"date"})


def body_of(operation):
    """A body with which an operation gets as far as it can."""
    if operation == "POST /v1/identities":
        return {"files": {"photos": ("a.jpg", b"x")}, "data": {"consent": "synthetic"}}
    if operation == "POST /v1/swaps":
        return {"files": {"target": ("a.jpg", b"x")}, "data": {"identity": "0" * 32}}
    if operation == "POST /v1/jobs":
        return {"files": {"target": ("a.mp4", b"x")}, "data": {"identity": "0" * 32}}
    if operation == "POST /v1/verify":
        return {"files": {"file": ("a.jpg", b"x")}}
    if operation == "POST /v1/live":
        return {"json": {"identities": ["0" * 32]}}
    if operation == "PATCH /v1/live/{live_id}":
        return {"json": {"paused": True}}
    if operation == "POST /v1/live/{live_id}/webrtc":
        return {"json": {"ticket": SECRET, "sdp": "v=0"}}
    return {}


def test_every_operation_has_a_row(house):
    document = house.client.get("/openapi.json").json()
    found = {
        f"{method.upper()} {path}"
        for path, operations in document["paths"].items()
        for method in operations
    }
    assert found == set(OPERATIONS)


def test_every_path_parameter_is_known(house):
    names = {name for each in OPERATIONS for name in re.findall(r"{(\w+)}", each)}
    assert names == set(house.things)


@pytest.mark.parametrize("operation", CLOSED)
def test_nobody_comes_in_without_a_key_that_is_for_it(house, operation):
    ids = house.things
    made, revoked = keys.make(house.parts.database, "ann")
    keys.revoke(house.parts.database, made.id)
    others = [s for s in keys.SCOPES if s != OPERATIONS[operation]]
    _, narrow = keys.make(house.parts.database, "ann", scopes=others)
    before = house.state()
    for secret in ("", "mien_", "mien_" + "A" * 43, revoked, house.keys["ann"][:-1], "é"):
        headers = {"Authorization": f"Bearer {secret}".encode()} if secret else {}
        method, path = operation.format(**ids).split(" ")
        answer = house.client.request(method, path, headers=headers, **body_of(operation))
        assert answer.status_code == 401, (secret, answer.text)
        assert answer.headers["www-authenticate"].startswith("Bearer")
    if OPERATIONS[operation] != "any":
        answer = house.ask("", operation, ids=ids, secret=narrow, **body_of(operation))
        assert answer.status_code == 403
        assert answer.json()["type"] == "urn:mien:problem:scope"
    assert house.state() == before


def test_every_route_that_the_document_leaves_out_is_known(house):
    found = set()
    for module in application.MODULES:
        prefix = getattr(module, "PREFIX", application.PREFIX)
        for route in module.router.routes:
            found |= {f"{method} {prefix}{route.path}" for method in getattr(route, "methods", ())}
    assert found - set(OPERATIONS) == set(HIDDEN)


@pytest.mark.parametrize("operation", HIDDEN)
def test_hidden_routes_tell_nothing_either(house, operation):
    theirs = house.ask("bob", operation, ids=house.things)
    assert theirs.status_code == 404
    assert "etag" not in theirs.headers
    mine = house.ask("ann", operation, ids=house.things)
    assert mine.headers["content-length"] == str(len(SECRET))


@pytest.mark.parametrize("operation", [o for o, scope in OPERATIONS.items() if scope == "open"])
def test_what_needs_no_key_says_nothing_of_anybody(house, operation):
    house.ask("ann", "GET /v1/jobs/{job}", ids=house.things)
    answer = house.ask("", operation)
    for word in (SECRET, *house.things.values()):
        assert word not in answer.text


@pytest.mark.parametrize("operation", OF_ONE)
def test_another_tenants_thing_looks_as_if_it_were_not_there(house, operation):
    before = house.state()
    body, ids = body_of(operation), dict.fromkeys(house.things, secrets.token_hex(16))
    theirs = house.ask("bob", operation, ids=house.things, **body)
    nothing = house.ask("bob", operation, ids=ids, **body)
    assert theirs.status_code == 404
    assert said(theirs) == said(nothing)
    assert SECRET not in theirs.text
    assert house.state() == before
    if not operation.startswith("DELETE"):  # that it is there for its own tenant
        mine = house.ask("ann", operation, ids=house.things, **body)
        assert mine.status_code in (200, 201, 403, 409, 410), mine.text


@pytest.mark.parametrize("operation", OF_ONE)
@pytest.mark.parametrize(
    "guess", ["%25", "_" * 32, "*", "0' OR '1'='1", "../ann", "..%2f..%2fdata", "%00", "é" * 16]
)
def test_ids_are_not_patterns(house, operation, guess):
    before = house.state()
    ids = dict.fromkeys(house.things, guess)
    answer = house.ask("bob", operation, ids=ids, **body_of(operation))
    assert answer.status_code in (404, 405, 422)
    assert SECRET not in answer.text
    assert house.state() == before


@pytest.mark.parametrize("operation", LISTS)
def test_lists_hold_what_is_the_tenants_own(house, operation):
    mine, theirs = (house.ask(who, operation) for who in ("ann", "bob"))
    assert SECRET in mine.text
    assert theirs.json()["items"] == []
    if operation == "GET /v1/live":  # has no pages
        return
    for thing in house.things.values():
        guessed = house.ask("bob", operation, params={"after": thing})
        nothing = house.ask("bob", operation, params={"after": secrets.token_hex(16)})
        assert said(guessed) == said(nothing)
        assert guessed.status_code == 422


@pytest.mark.parametrize("operation", ["POST /v1/swaps", "POST /v1/jobs"])
def test_another_tenants_face_cannot_be_used(house, operation):
    before = house.state()
    target = ("a.jpg", PHOTO.read_bytes())

    def use(who, identity):
        return house.ask(who, operation, files={"target": target}, data={"identity": identity})

    theirs = use("bob", house.things["identity"])
    assert theirs.status_code == 404
    assert said(theirs) == said(use("bob", secrets.token_hex(16)))
    assert house.state() == before
    mine = use("ann", house.things["identity"])
    assert mine.status_code in (200, 201), mine.text
    if mine.status_code == 201:
        house.ask("ann", "DELETE /v1/jobs/{job}", ids={"job": mine.json()["id"]})


def test_another_tenants_face_cannot_be_shown_live(house):
    before = house.state()

    def show(*identities):
        return house.ask("bob", "POST /v1/live", json={"identities": identities})

    theirs = show(house.things["identity"])
    assert theirs.status_code == 404
    assert said(theirs) == said(show(secrets.token_hex(16)))
    assert house.state() == before


def test_every_socket_is_known(house):
    found, routes = set(), list(house.app.routes)
    for module in application.MODULES:
        routes += module.router.routes
    for route in routes:
        if isinstance(route, WebSocketRoute):
            found.add(application.PREFIX + route.path)
    assert found == set(SOCKETS)


def test_another_tenants_stream_is_neither_seen_nor_fed(service):
    """On a real server: only the ticket of a stream opens its socket, and only once."""

    def stream(who):
        with service.client(who) as client:
            person = client.post(
                "/v1/identities",
                files={"photos": PORTRAIT.read_bytes()},
                data={"consent": "synthetic"},
            ).json()["id"]
            for _ in range(10):
                made = client.post("/v1/live", json={"identities": [person]})
                if made.status_code != 503:
                    break
                time.sleep(int(made.headers["retry-after"]))
            assert made.status_code == 201, made.text
            return made.json()

    def opened(live, token, key=None):
        headers = {"Authorization": f"Bearer {service.keys[key]}"} if key else {}
        address = service.url.replace("http", "ws", 1) + live["socket"]
        hello = {"type": "hello", "role": "camera", "accepted": True, "token": token}
        with connect(address, additional_headers=headers, compression=None) as socket:
            socket.send(json.dumps(hello))
            return json.loads(socket.recv(timeout=20))["type"]

    ann, bob = stream("ann"), stream("bob")
    for token in ("", bob["ticket"], ann["ticket"][:-1], ann["id"], service.keys["bob"]):
        assert opened(ann, token, key="bob") == "error"
    unknown = dict(ann, socket=f"/v1/live/{secrets.token_hex(16)}/socket")
    with pytest.raises(InvalidStatus):
        opened(unknown, ann["ticket"], key="ann")
    assert opened(ann, ann["ticket"]) == "welcome"
    assert opened(ann, ann["ticket"]) == "error"
    for who, live in (("ann", ann), ("bob", bob)):
        with service.client(who) as client:
            assert client.delete(f"/v1/live/{live['id']}").status_code == 204


def test_answers_are_repeated_to_their_own_tenant_alone(house):
    def enrol(who):
        return house.ask(
            who,
            "POST /v1/identities",
            headers={"Idempotency-Key": "one"},
            files={"photos": ("a.jpg", PORTRAIT.read_bytes())},
            data={"consent": "synthetic"},
        )

    first, again, other = enrol("ann"), enrol("ann"), enrol("bob")
    assert first.json()["id"] == again.json()["id"] != other.json()["id"]
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in other.headers
    for who, made in (("ann", first), ("bob", other)):
        house.ask(who, "DELETE /v1/identities/{identity}", ids={"identity": made.json()["id"]})
        with house.parts.database() as rows:
            rows.query(Answer).delete()
            rows.query(Person).filter(Person.id == made.json()["id"]).delete()


def test_rows_do_not_open_with_what_is_another_tenants(house):
    """Sealed data is bound to its tenant and identity: a row that is moved does not open."""
    with house.parts.database(write=False) as rows:
        row = rows.get(Person, house.things["identity"])
    key = people.seal_key(house.settings)
    assert packing.unseal(key, row.sealed, people._bound(row)) is not None
    row.tenant = "bob"
    assert packing.unseal(key, row.sealed, people._bound(row)) is None


# --- files and addresses -------------------------------------------------------------------------


@contextmanager
def no_lines(monkeypatch, names):
    """Nothing is connected to, names are those given; what was tried."""
    tried = []

    def connect(_, address, *rest):
        tried.append(address)
        raise ConnectionRefusedError

    def look_up(host, port, *_, **__):
        name = host.decode() if isinstance(host, bytes) else str(host)
        if name not in names:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (names[name], port or 0))]

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        patch.setattr(socket, "getaddrinfo", look_up)
        yield tried


NAMES = {
    "media.example.com": "10.0.0.7",  # an operator's own name that leads inside
    "rebind.example.com": "127.0.0.1",
    "metadata.google.internal": "169.254.169.254",
    "localhost": "127.0.0.1",
    "127.0.0.1": "127.0.0.1",
    "2130706433": "127.0.0.1",
    "0x7f.1": "127.0.0.1",
    "169.254.169.254": "169.254.169.254",
    "10.0.0.1": "10.0.0.1",
}

ADDRESSES = [
    "/etc/passwd",
    "../../etc/passwd",
    "file:///etc/passwd",
    "local:///etc/passwd",
    "file://localhost/etc/passwd",
    "data:text/plain,x",
    "concat:/etc/passwd",
    "memory://x/y",
    "s3://bucket/clip.mp4",
    "gopher://127.0.0.1:70/_x",
    "ftp://127.0.0.1/x",
    "http://127.0.0.1:22/",
    "http://localhost/",
    "http://2130706433/",
    "http://0x7f.1/",
    "http://[::1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://169.254.169.254/latest/meta-data/",
    "http://metadata.google.internal/",
    "http://10.0.0.1/",
    "https://rebind.example.com/clips/a.mp4",
    "https://media.example.com@127.0.0.1/clips/a.mp4",
    "https://media.example.com.evil.example/clips/a.mp4",
    "https://media.example.com:8443/clips/a.mp4",
    "https://media.example.com/clips/../private/a.mp4",
    "https://media.example.com/clips/%2e%2e/private/a.mp4",
    "https://media.example.com/clips%2f..%2fprivate",
    "https://media.example.com/clipsx/a.mp4",
    "https://media.example.com\\@127.0.0.1/clips/",
    "https://media.example.com/clips/a.mp4\nHost: x",
    PREFIX + "a.mp4",  # allowed by its name, and yet inside
]


@pytest.mark.parametrize("url", ADDRESSES)
def test_urls_reach_neither_files_nor_addresses_inside(house, monkeypatch, url):
    before, person = house.state(), house.things["identity"]
    with no_lines(monkeypatch, NAMES) as tried:
        as_target = house.ask("ann", "POST /v1/jobs", data={"identity": person, "url": url})
        assert as_target.status_code in (403, 422), as_target.text
        if url != PREFIX + "a.mp4":
            as_webhook = house.ask(
                "ann",
                "POST /v1/jobs",
                data={"identity": person, "webhook": url},
                files={"target": ("a.jpg", PHOTO.read_bytes())},
            )
            outside = {"s3", "https"}  # any public name may be a webhook's, where it is found
            assert as_webhook.status_code in (403, 422), (outside, as_webhook.text)
    assert tried == []
    assert "root:" not in as_target.text
    assert house.state() == before


@pytest.mark.parametrize(
    "path",
    ["/../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/v1/../etc/passwd",
     "/v1/jobs/..%2f..%2fservice.db/result", "/v1/jobs/%2fetc%2fpasswd/result", "/service.db",
     "/data/service.db", "/files/", "/v1/jobs/\\..\\..\\key/tracks", "/.git/config", "/key"],
)  # fmt: skip
def test_paths_reach_no_files(service, path):
    """As they are, on the wire: clients would tidy them."""
    line = http.client.HTTPConnection(service.url.removeprefix("http://"), timeout=30)
    line.putrequest("GET", path, skip_host=False)
    line.putheader("Authorization", f"Bearer {service.keys['bob']}")
    line.endheaders()
    answer = line.getresponse()
    body = answer.read()
    line.close()
    assert answer.status in (400, 404, 422)
    assert b"root:" not in body
    assert b"SQLite" not in body


@pytest.mark.parametrize(
    "name", ["../../../outside.mp4", "/tmp/outside.mp4", "..\\..\\outside.mp4", "a\x00b.mp4",
             "outside.mp4/..", "." * 300, "C:\\outside.mp4", "\u202egpj.exe"]
)  # fmt: skip
def test_names_of_uploads_name_no_files(house, name):
    def outside():
        home = house.folder
        return sorted(p for p in home.rglob("*") if house.settings.folder not in (p, *p.parents))

    before, person = outside(), house.things["identity"]
    made = house.ask(
        "ann",
        "POST /v1/jobs",
        data={"identity": person},
        files={"target": (name, (MEDIA / "clip.mp4").read_bytes())},
    )
    assert outside() == before
    if made.status_code == 201:
        job = made.json()["id"]
        shown = made.json()["targets"][0]
        assert not set(shown) & set("/\\\x00\u202e")
        with house.parts.database(write=False) as rows:
            paths = rows.scalars(select(File.path).where(File.job == job)).all()
        assert all(
            re.fullmatch(r"jobs/[0-9a-f]{32}/\w+/[0-9a-f]{32}(\.\w{1,7})?", p) for p in paths
        )
        house.ask("ann", "DELETE /v1/jobs/{job}", ids={"job": job})
    else:
        assert made.status_code in (400, 422), made.text


# --- logs ----------------------------------------------------------------------------------------

PERSON, NOTE, TARGET = "Ottoline-Zebedee", "form-of-Zebedee", "holiday-at-Zebedees.jpg"


def test_logs_hold_nothing_of_anybody(service):
    """A whole session, also with what goes wrong; then its logs, and the audit log."""
    portrait, photo = PORTRAIT.read_bytes(), PHOTO.read_bytes()
    said = {"consent": "synthetic", "name": PERSON, "note": NOTE}
    with service.client("ann") as client:

        def post(path, **more):
            return client.post(f"/v1/{path}", **more)

        broken = (TARGET, portrait[:3000])
        assert post("identities", data=said, files={"photos": broken}).status_code == 422
        person = post("identities", data=said, files={"photos": (TARGET, portrait)}).json()["id"]
        target = {"target": (TARGET, photo)}
        swapped = post("swaps", data={"identity": person}, files=target)
        assert swapped.status_code == 200
        assert post("swaps", data={"identity": person}, files={"target": broken}).status_code == 422
        assert post("verify", files={"file": (TARGET, swapped.content)}).status_code == 200
        job = post("jobs", data={"identity": person, "name": PERSON}, files=target).json()["id"]
        assert "event: done" in client.get(f"/v1/jobs/{job}/events").text
        client.get(f"/v1/identities/{PERSON}")
        client.get("/v1/identities", params={"after": PERSON})
        client.post(f"/v1/{PERSON}", content=portrait)
        client.delete(f"/v1/identities/{person}")
    logs = [service.log, *(service.folder.parent / "home").rglob("audit*")]
    assert any("audit" in log.name for log in logs)
    for log in logs:
        text = log.read_text("utf-8", "replace")
        for word in (PERSON, "Zebedee", NOTE, TARGET, "holiday", service.keys["ann"], "mien_"):
            assert word not in text, f"{log.name}: {word}"
        assert not re.search(r"array\(|dtype|\\x[0-9a-f]{2}\\x|Traceback", text)
        assert not re.search(r"(-?\d+\.\d+[,\s]+){8}", text), "looks like an embedding"
        # Base64 of more than a hash; hexadecimal hashes are shorter.
        assert not re.search(r"[A-Za-z0-9+/=_-]{100,}", text), "looks like data"


def test_the_search_of_logs_finds_what_it_looks_for():
    import base64

    import numpy as np

    embedding = np.linspace(-1, 1, 512, dtype=np.float32)
    assert re.search(r"(-?\d+\.\d+[,\s]+){8}", json.dumps(embedding.tolist()))
    assert re.search(r"array\(|dtype", repr(embedding))
    assert re.search(r"[A-Za-z0-9+/=_-]{100,}", base64.b64encode(embedding.tobytes()).decode())
    assert os.environ["MIEN_HOME"]
