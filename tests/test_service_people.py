"""Identities of the service: sealed, each tenant's own, and gone once revoked."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("fastapi")

from sqlalchemy import select, update

import serviceparts
from material import PHOTO, PORTRAIT
from mien.errors import MediaError, Refused
from mien.service import people as people_
from mien.service.database import Answer, Database, Person
from mien.service.people import People, Watch, consent_of, revoke, seal_key
from mien.service.problems import Problem
from mien.types import Consent, Identity, Portrait
from serviceparts import settings

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def parts(tmp_path_factory, swapper):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIEN_HOME", str(tmp_path_factory.mktemp("home")))
        made = settings(tmp_path_factory.mktemp("people"), limits={"identities": 9})
        with serviceparts.serving(made, serviceparts.real(swapper)) as parts:
            yield parts


@pytest.fixture
def ann(parts):
    return parts.key("ann")


@pytest.fixture
def bob(parts):
    return parts.key("bob")


@pytest.fixture
def rows(tmp_path):
    made = Database(f"sqlite:///{tmp_path / 'rows.db'}")
    made.upgrade()
    yield made
    made.close()


def create(parts, key, *photos: Path, **said) -> dict:
    files = [("photos", (p.name, p.read_bytes())) for p in photos or (PORTRAIT,)]
    said = {"consent": "synthetic"} | said
    answer = parts.client.post("/v1/identities", headers=key, files=files, data=said)
    assert answer.status_code == 201, answer.text
    assert answer.headers["Location"] == f"/v1/identities/{answer.json()['id']}"
    return answer.json()


def someone(consent: Consent | None = None) -> Identity:
    random = np.random.default_rng(3)
    picture = random.integers(0, 255, (64, 64, 3), np.uint8)
    mesh = random.random((468, 3)).astype(np.float32)
    unit = np.full(512, 512**-0.5, np.float32)
    return Identity("Ada", unit, (Portrait(picture, mesh),), consent or Consent("self", "form 1"))


# --- the API ------------------------------------------------------------------------------------


def test_an_identity_is_made_shown_and_listed(parts, ann):
    made = create(
        parts, ann, PORTRAIT, PORTRAIT.with_name("portrait-2.jpg"), name="Ada", note="form 17",
        scope=["photo", "live"], expires=str(date.today()),
    )  # fmt: skip
    assert (made["name"], made["consent"], made["note"]) == ("Ada", "synthetic", "form 17")
    assert made["scope"] == ["live", "photo"]
    assert (made["state"], made["revoked"]) == ("valid", None)
    assert parts.client.get(f"/v1/identities/{made['id']}", headers=ann).json() == made
    listed = parts.client.get("/v1/identities", headers=ann).json()
    assert made in listed["items"]
    # Nothing but facts is told.
    assert set(made) == {
        *("id", "name", "consent", "note", "scope", "expires", "verified", "state", "added"),
        "revoked",
    }


def test_lists_come_in_pages(parts, rows):
    key = parts.key("pages")
    with parts.service.database() as rows:
        for n in range(5):
            rows.add(Person(tenant="pages", basis="self", name=str(n), added=float(n // 2)))
    seen, after = [], None
    while True:
        asked = {"limit": 2} | ({"after": after} if after else {})
        page = parts.client.get("/v1/identities", headers=key, params=asked).json()
        seen += [one["name"] for one in page["items"]]
        after = page["next"]
        if after is None:
            break
    assert sorted(seen) == ["0", "1", "2", "3", "4"]
    assert seen[0] == "4"


def test_what_is_another_tenants_is_not_there(parts, ann, bob):
    made = create(parts, ann, name="Ada")
    where = f"/v1/identities/{made['id']}"
    for method in ("GET", "DELETE"):
        theirs = parts.client.request(method, where, headers=bob)
        none = parts.client.request(method, f"/v1/identities/{'0' * 32}", headers=bob)
        assert theirs.status_code == none.status_code == 404
        assert theirs.json() == none.json()
    said = {"identity": made["id"]}
    answer = parts.client.post(
        "/v1/swaps", headers=bob, data=said, files={"target": PHOTO.read_bytes()}
    )
    assert answer.status_code == 404
    after = parts.client.get("/v1/identities", headers=bob, params={"after": made["id"]})
    assert after.status_code == 422
    listed = parts.client.get("/v1/identities", headers=bob).json()["items"]
    assert made["id"] not in str(listed)
    assert parts.client.get(where, headers=ann).json()["state"] == "valid"


def test_revoking_takes_everything_but_the_fact(parts, ann):
    told = []
    parts.service.ended.append(lambda _, tenant, which: told.append((tenant, which)))
    made = create(parts, ann, name="Grace", note="her form")
    where = f"/v1/identities/{made['id']}"
    for _ in range(2):  # again is no error: who did not hear the answer asks again
        assert parts.client.delete(where, headers=ann).status_code == 204
    parts.service.ended.pop()
    assert told == [("ann", made["id"])] * 2
    left = parts.client.get(where, headers=ann).json()
    assert (left["state"], left["name"], left["note"]) == ("revoked", "", "")
    assert left["revoked"] is not None
    with parts.service.database(write=False) as rows:
        assert rows.get(Person, made["id"]).sealed is None
    answer = parts.client.post(
        "/v1/swaps",
        headers=ann,
        data={"identity": made["id"]},
        files={"target": PHOTO.read_bytes()},
    )
    assert answer.status_code == 403
    assert "consent.revoked" in answer.json()["detail"]
    log = (Path(os.environ["MIEN_HOME"]) / "audit.jsonl").read_text()
    events = [json.loads(line) for line in log.splitlines()]
    mine = [e for e in events if e.get("record") == made["id"]]
    assert [e["event"] for e in mine] == ["enrolled", "revoked"]
    assert "Grace" not in log
    assert "her form" not in log


def test_a_request_that_is_repeated_makes_one_identity(parts):
    key = parts.key("once")
    said = {"consent": "synthetic", "name": "One"}
    head = key | {"Idempotency-Key": "k1"}
    files = {"photos": PORTRAIT.read_bytes()}
    first, again = (
        parts.client.post("/v1/identities", headers=head, data=said, files=files) for _ in range(2)
    )
    assert first.json() == again.json()
    assert again.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    other = parts.client.post(
        "/v1/identities", headers=head, data=said | {"name": "Two"}, files=files
    )
    assert other.status_code == 422
    assert len(parts.client.get("/v1/identities", headers=key).json()["items"]) == 1


def test_photos_that_will_not_do(parts, ann):
    def ask(photo: bytes, **said):
        return parts.client.post(
            "/v1/identities", headers=ann, files={"photos": ("Ada.jpg", photo)},
            data={"consent": "synthetic"} | said,
        )  # fmt: skip

    several = ask(PHOTO.read_bytes())
    assert several.status_code == 422
    assert several.json()["errors"][0]["field"] == "body.photos"
    assert "2 faces found" in several.text
    assert "source_face" in several.text
    assert "--" not in several.json()["detail"]
    assert ask(PHOTO.read_bytes(), source_face="left").status_code == 201
    for bad in (b"", b"text", PORTRAIT.read_bytes()[:3000]):
        answer = ask(bad)
        assert answer.status_code == 422
        assert "/tmp" not in answer.text
    answer = ask(PORTRAIT.read_bytes(), consent="licensed")
    assert answer.json()["errors"][0]["field"] == "body.consent"


def test_a_policy_holds_for_portraits(parts, ann):
    path = Path(os.environ["MIEN_HOME"]) / "policy.toml"
    path.write_text('consent = ["written"]\n')
    try:
        made = create(parts, ann, name="x")  # enrolling is not yet a use
        answer = parts.client.post(
            "/v1/swaps",
            headers=ann,
            data={"identity": made["id"]},
            files={"target": PHOTO.read_bytes()},
        )
        assert answer.status_code == 403
        assert "'synthetic' is not accepted" in answer.json()["detail"]
        assert str(path) not in answer.text
        assert parts.client.get("/v1/policy", headers=ann).json()["consent"] == ["written"]
        path.write_text("nonsense = [")
        answer = parts.client.get("/v1/policy", headers=ann)
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:mien:problem:policy")
    finally:
        path.unlink()


# --- rows ---------------------------------------------------------------------------------------


def test_what_is_sealed_comes_back_as_it_was(rows):
    people, me = People(rows, b"k" * 32), someone(Consent("self", "n", scope=("photo",)))
    row = people.add("ann", me, embedder="e", most=9)
    back = people.get("ann", row.id)
    assert np.array_equal(back.embedding, me.embedding)
    assert np.array_equal(back.portraits[0].image, me.portraits[0].image)
    assert back.consent == Consent("self", "n", row.id, ("photo",))
    with pytest.raises(Problem) as caught:
        people.get("bob", row.id)
    assert caught.value.status_code == 404
    with pytest.raises(MediaError, match="sealed with another key"):
        People(rows, b"x" * 32).get("ann", row.id)


@pytest.mark.parametrize(
    "changed", [{"basis": "written"}, {"scope": "live"}, {"expires": "2099-01-01"}, {"tenant": "b"}]
)
def test_facts_cannot_be_exchanged(rows, changed):
    people = People(rows, b"k" * 32)
    row = people.add("ann", someone(), embedder="e", most=9)
    with rows() as session:
        session.execute(update(Person).values(**changed))
    with pytest.raises(MediaError, match="was changed"):
        people.get(changed.get("tenant", "ann"), row.id)


def test_nothing_is_left_in_the_file(rows, tmp_path):
    people, me = People(rows, b"k" * 32), someone()
    row = people.add("ann", me, embedder="e", most=9)
    with rows(write=False) as session:
        sealed = session.get(Person, row.id).sealed

    def somewhere(what: bytes) -> bool:
        return any(what in p.read_bytes() for p in tmp_path.iterdir())

    assert somewhere(sealed[100:300])
    assert not somewhere(me.embedding.tobytes()[:64])
    revoke(rows, "ann", row.id)
    assert not somewhere(sealed[100:300])
    assert not somewhere(b"form 1")
    with pytest.raises(Refused, match=r"consent\.revoked"):
        people.get("ann", row.id)


def test_a_tenant_has_so_many(rows):
    people = People(rows, b"k" * 32)
    first = people.add("ann", someone(), embedder="e", most=1)
    with pytest.raises(Problem) as caught:
        people.add("ann", someone(), embedder="e", most=1)
    assert caught.value.status_code == 507
    people.add("bob", someone(), embedder="e", most=1)
    revoke(rows, "ann", first.id)
    people.add("ann", someone(), embedder="e", most=1)


def test_who_watches_sees_it(rows):
    people = People(rows, b"k" * 32)
    one, two = (people.add("ann", someone(), embedder="e", most=9) for _ in range(2))
    watch = Watch(rows, every=0.02)
    consents = [consent_of(row) for row in (one, two)]
    assert [watch.objection(c, "photo") for c in consents] == ["", ""]
    revoke(rows, "ann", one.id)
    serviceparts.until(lambda: "consent.revoked" in watch.objection(consents[0], "photo"))
    assert watch.objection(consents[1], "photo") == ""
    assert watch() == {one.id}
    assert "consent.revoked" in watch.objection(Consent("self", record="f" * 32), "photo")
    over = Consent("self", record=two.id, expires=str(date.today() - DAY))
    assert "consent.expires" in watch.objection(over, "photo")
    live = Consent("self", record=two.id, scope=("live",))
    assert "consent.scope" in watch.objection(live, "photo")


def test_who_watches_forgets(rows, monkeypatch):
    """A worker lives for months, and sees a great many people."""
    monkeypatch.setattr(people_, "KNOWN", 3)
    made = [People(rows, b"k" * 32).add("ann", someone(), embedder="e", most=9) for _ in range(6)]
    watch = Watch(rows)
    for row in (*made, made[3], made[4]):
        assert watch.objection(consent_of(row), "photo") == ""
        assert len(watch._standing) == len(watch._asked) <= 3
    assert list(watch._standing) == [made[n].id for n in (5, 3, 4)]
    monkeypatch.setattr(people_, "FRESH", -1.0)  # all are old by now
    assert watch.objection(consent_of(made[0]), "photo") == ""
    assert list(watch._standing) == [made[0].id]
    revoke(rows, "ann", made[1].id)  # that was forgotten, and is asked for anew
    assert "consent.revoked" in watch.objection(consent_of(made[1]), "photo")


def test_of_two_who_revoke_one_does(rows):
    row = People(rows, b"k" * 32).add("ann", someone(), embedder="e", most=9)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: revoke(rows, "ann", row.id), range(4)))
    assert sum(one is not None for one in found) == 1


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path):
    made = settings(tmp_path)
    made.prepare()
    first = seal_key(made)
    assert seal_key(made) == first
    assert len(first) == 32
    assert stat.S_IMODE((made.folder / "key").stat().st_mode) == 0o600
    shared = settings(tmp_path, seal=tmp_path / "there" / "key")
    with pytest.raises(MediaError, match="there is no such key; make one with: mien keys seal"):
        seal_key(shared)


def test_a_kept_answer_goes_with_its_identity(parts):
    key = parts.key("kept")
    head = key | {"Idempotency-Key": "k"}
    said = {"consent": "synthetic", "name": "Grace"}
    files = {"photos": PORTRAIT.read_bytes()}
    made = parts.client.post("/v1/identities", headers=head, data=said, files=files).json()

    def kept() -> list[Answer]:
        with parts.service.database(write=False) as rows:
            return list(rows.scalars(select(Answer).where(Answer.tenant == "kept")))

    assert [one.body["name"] for one in kept()] == ["Grace"]
    parts.client.delete(f"/v1/identities/{made['id']}", headers=key)
    assert kept() == []
