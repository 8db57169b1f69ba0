"""API keys: made, found, listed, revoked; scopes and quotas."""

from __future__ import annotations

import json
import sqlite3

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("fastapi")

from typer.testing import CliRunner

import serviceparts
from mien.cli import app
from mien.errors import UsageError
from mien.service import keys
from mien.service.database import Database
from mien.service.limits import Rates


@pytest.fixture
def rows(tmp_path):
    made = Database(f"sqlite:///{tmp_path / 'rows.db'}")
    made.upgrade()
    yield made
    made.close()


def test_a_key_is_found_by_its_secret_alone(rows):
    row, secret = keys.make(rows, "ann", scopes=("swaps", "identities"), quotas={"jobs": 2})
    found = keys.find(rows, secret)
    assert found == keys.Caller(row.id, "ann", frozenset({"identities", "swaps"}), {"jobs": 2})
    for wrong in ("", row.id, row.sha256, secret[:-1], secret + "x", secret.upper()):
        assert keys.find(rows, wrong) is None


def test_the_secret_is_in_no_file(rows, tmp_path):
    _, secret = keys.make(rows, "ann")
    rows.close()
    files = [p for p in tmp_path.iterdir() if p.is_file()]
    assert files
    assert not any(secret.encode() in p.read_bytes() for p in files)


def test_a_revoked_key_holds_no_more(rows):
    row, secret = keys.make(rows, "ann")
    assert keys.there_are(rows)
    keys.revoke(rows, row.id)
    assert keys.find(rows, secret) is None
    assert not keys.there_are(rows)
    with pytest.raises(UsageError, match="was revoked already"):
        keys.revoke(rows, row.id)
    with pytest.raises(UsageError, match="no key of that id"):
        keys.revoke(rows, "0" * 32)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"tenant": ""}, "tenant"),
        ({"tenant": "a/b"}, "tenant"),
        ({"tenant": "a" * 65}, "tenant"),
        ({"tenant": "ann", "scopes": ("everything",)}, "scope 'everything' is unknown"),
        ({"tenant": "ann", "quotas": {"jobs": -1}}, "quota jobs=-1"),
        ({"tenant": "ann", "quotas": {"coffee": 1}}, "quota coffee=1"),
    ],
)
def test_what_no_key_can_be(rows, said, words):
    with pytest.raises(UsageError, match=words):
        keys.make(rows, **said)


def test_the_last_use_is_noted(rows):
    _, secret = keys.make(rows, "ann")
    assert keys.listed(rows)[0].used is None
    keys.find(rows, secret)
    assert keys.listed(rows)[0].used is not None


def test_a_scope_is_asked_for(tmp_path):
    with serviceparts.serving(serviceparts.settings(tmp_path)) as parts:
        swaps = parts.key(scopes=("swaps",))
        denied = parts.client.get("/v1/identities", headers=swaps)
        assert (denied.status_code, denied.json()["type"]) == (403, "urn:mien:problem:scope")
        assert parts.client.get("/v1/models", headers=swaps).status_code == 200
        for route in ("/v1/swaps", "/v1/verify"):
            other = parts.key(scopes=("live",))
            files = {"target": b"x", "file": b"x"}
            assert parts.client.post(route, headers=other, files=files).status_code == 403


def test_requests_a_minute():
    now = [0.0]
    rates = Rates(lambda: now[0])
    burst = sum(rates.wait("a", 60) == 0 for _ in range(100))
    assert burst == 10  # ten seconds' worth
    assert rates.wait("b", 60) == 0  # each key has its own
    assert rates.wait("a", 60) == pytest.approx(1.0)
    served = 0
    for _ in range(6000):
        now[0] += 0.01
        served += rates.wait("a", 60) == 0
    assert served in (59, 60)  # the last is due at the very end
    assert all(rates.wait("c", 0) == 0 for _ in range(1000))
    assert rates.wait("d", 1) == 0
    assert rates.wait("d", 1) == pytest.approx(60.0)


def test_too_many_requests_are_told_when_to_come_back(tmp_path):
    with serviceparts.serving(serviceparts.settings(tmp_path)) as parts:
        slow, other = parts.key(quotas={"calls": 6}), parts.key()
        first, second = (parts.client.get("/v1/models", headers=slow) for _ in range(2))
        assert (first.status_code, second.status_code) == (200, 429)
        assert 1 <= int(second.headers["Retry-After"]) <= 10
        assert second.json()["type"] == "urn:mien:problem:rate"
        assert parts.client.get("/v1/models", headers=other).status_code == 200


def test_the_command_line_makes_lists_and_revokes(tmp_path):
    def run(*words: str) -> dict:
        done = CliRunner().invoke(app, ["keys", *words, "--data", str(tmp_path), "--json"])
        assert not done.exception, done.output
        return json.loads(done.stdout)

    made = run("add", "ann", "--name", "game", "--scope", "swaps", "--jobs", "3")
    assert (made["tenant"], made["scopes"], made["quotas"]) == ("ann", ["swaps"], {"jobs": 3})
    (listed,) = run("list")["keys"]
    assert listed["id"] == made["id"]
    assert "key" not in listed
    assert run("revoke", made["id"])["revoked"] is not None
    held = sqlite3.connect(tmp_path / "service.db").execute("SELECT * FROM keys").fetchall()
    assert made["key"] not in str(held)
