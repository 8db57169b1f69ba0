"""Look for answers of the service that its OpenAPI document does not allow.

    python scripts/check_schema.py [--seconds 600] [--examples 200] [--seed 1]
    python scripts/check_schema.py --url http://127.0.0.1:8000 --key mien_…

Without `--url` it starts a server of its own in a temporary folder. First schemathesis makes
requests out of the document, good ones and wrong ones; then each operation gets bodies that no
generator thinks of. Any status from 500 on is a failure, save 503 with Retry-After, and so is
whatever the document does not say. Ends with 1 if anything was found.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MEDIA = ROOT / "examples" / "media"

CONFIG = """\
[checks]
# 503 with Retry-After is a promise, not an error; what it must carry is looked at elsewhere.
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "503"]
# Random bytes fit the document's "binary" and are no photo: 422 is right.
positive_data_acceptance.enabled = false

[[operations]]
# A form knows no null: it is sent as a file with the bytes "null", which is a file like any other,
# and one without marks is answered, not refused.
include-name = "POST /v1/verify"
checks.negative_data_rejection.enabled = false
"""

PROBLEM = "application/problem+json"

Ask = Callable[..., Any]
"""Method, URL, and what httpx takes besides → an answer with status_code, headers, content."""


def hostile(
    files: list[str],
    texts: list[str],
    good: dict[str, str],
    keys: dict[str, Any],
    *,
    large: bool = False,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Bodies and fields that are wrong in ways of their own.

    Args:
        files: Fields of the operation's form that take files.
        texts: The others.
        good: What some of them may be.
        keys: Of a JSON object that it takes, with good values for those that must be.
        large: Those that take long, too.

    Yields:
        What it is, and what httpx takes.
    """
    photo = (MEDIA / "portrait-1.jpg").read_bytes()
    clip = (MEDIA / "clip.mp4").read_bytes()
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    yield "no body", {}
    yield "no type", {"content": b"abc"}
    yield "JSON", {"json": {"identity": {"$ne": None}}}
    yield "broken JSON", {"content": b'{"a":', "headers": {"Content-Type": "application/json"}}
    yield (
        "broken UTF-8",
        {
            "content": b'{"a":"\xff\xfe"}',
            "headers": {"Content-Type": "application/json"},
        },
    )
    yield (
        "deep JSON",
        {
            "content": b"[" * 100_000,
            "headers": {"Content-Type": "application/json"},
        },
    )
    yield (
        "long number",
        {
            "content": b'{"a":' + b"9" * 5000 + b"}",
            "headers": {"Content-Type": "application/json"},
        },
    )
    yield "no boundary", {"content": b"--b--", "headers": {"Content-Type": "multipart/form-data"}}
    yield (
        "odd boundary",
        {
            "content": b"--b--",
            "headers": {"Content-Type": "multipart/form-data; boundary=\xff".encode("latin-1")},
        },
    )
    yield "only the boundary", {"content": b"--b--\r\n", "headers": form}
    yield (
        "cut off",
        {
            "content": b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\na',
            "headers": form,
        },
    )
    yield "no header of a part", {"content": b"--b\r\n\r\nabc\r\n--b--\r\n", "headers": form}
    yield (
        "a broken header of a part",
        {"content": b"--b\r\n\x00: x\r\n\r\na\r\n--b--", "headers": form},
    )
    yield "wrong type of text", {"content": b"a=%ff&b", "headers": {
        "Content-Type": "application/x-www-form-urlencoded"}}  # fmt: skip
    yield "many fields", {"data": {f"f{i}": "x" for i in range(3000)}}
    yield "many files", {"files": [("photos", (f"{i}.jpg", b"x")) for i in range(1200)]}
    for name in ("../../etc/passwd", "/etc/passwd", "a\\b", "a" * 5000, "café\u202egpj.exe", ""):
        yield (
            f"file named {name[:20]!r}",
            {
                "files": [(field, (name, photo)) for field in files] or [("x", (name, photo))],
                "data": good,
            },
        )
    for text in (
        "\x00",
        "\x1b[31m",
        "é" * 2000,
        "' OR 1=1 --",
        "${jndi:x}",
        "../" * 20,
        "\ud7ff\U0001f600",
    ):
        for field in texts:  # one at a time: the first that is wrong ends the look at the others
            yield (
                f"{field} {text[:12]!r}",
                {
                    "files": [(one, ("a.jpg", photo)) for one in files[:1]],
                    "data": good | {field: text},
                },
            )
    for field in texts:
        yield f"a file as {field}", {"files": [(f, ("a.jpg", photo)) for f in (*files, field)]}
    for field in files:
        yield f"a text as {field}", {"data": good | {field: "x"}}
    for what, data in (
        ("half a photo", photo[: len(photo) // 2]),
        ("a photo's head", photo[:20]),
        ("zeros", bytes(10_000)),
        ("a video", clip),
        ("half a video", clip[: len(clip) // 2]),
        ("a picture of 60000x60000", bomb()),
        ("an SVG that fetches", b'<svg xmlns="http://www.w3.org/2000/svg"><image href='
                                b'"http://169.254.169.254/"/></svg>'),
        ("a playlist", b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"),
        ("a list of files", b"ffconcat version 1.0\nfile /etc/passwd\n"),
    ):  # fmt: skip
        yield (
            what,
            {
                "files": [(field, ("a.jpg", data)) for field in files[:1]] or [("x", ("a", data))],
                "data": good,
            },
        )
    yield "a long field", {"headers": {"Idempotency-Key": "x" * 4000}}
    yield "a range", {"headers": {"Range": "bytes=" + ",".join(["0-0"] * 500)}}
    yield "an event", {"headers": {"Last-Event-ID": "9" * 400}}
    yield "a type", {"headers": {"Accept": "application/nothing"}}
    yield (
        "compressed",
        {"content": b"\x1f\x8b" + bytes(50), "headers": {"Content-Encoding": "gzip"}},
    )
    yield "query", {"params": {"limit": "9" * 400, "after": "\x00", "x": "é" * 500}}
    yield "query by numbers", {"params": {"limit": "-1", "after": "0x1"}}
    must = {key: value for key, value in keys.items() if value is not None}
    for key in keys:
        for value in (None, "", "\x00", "x" * 5000, -1, 1e308, 10**30, True, [], [[]] * 99, {}):
            yield f"{key} {str(value)[:12]!r}", {"json": must | {key: value}}
    if keys:
        yield "what there is not", {"json": must | {"x": 1}}
        yield (
            "not a number",
            {
                "content": b'{"strength": NaN, "x": Infinity}',
                "headers": {"Content-Type": "application/json"},
            },
        )
    if large:
        yield "large body", {"content": bytes(80 << 20), "headers": form}
        yield "large field", {"data": dict.fromkeys(texts or ["x"], "y" * (2 << 20))}


def bomb() -> bytes:
    """A PNG that says it has 60,000 × 60,000 pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1 << 20), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def fields_of(
    document: dict[str, Any], operation: dict[str, Any], identity: str
) -> tuple[list[str], list[str], dict[str, str], dict[str, Any]]:
    """What an operation takes: as :func:`hostile` wants it."""
    files, texts, good, keys = [], [], {}, {}
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content["schema"]
        if "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        fields, required = schema.get("properties", {}), schema.get("required", [])
        if kind == "application/json":
            keys = dict.fromkeys(fields) | dict.fromkeys(required, "x")
            if "identities" in keys:
                keys["identities"] = [identity or "0" * 32]
            continue
        for name, field in fields.items():
            binary = "binary" in (words := json.dumps(field)) or "octet-stream" in words
            (files if binary else texts).append(name)
        good |= {"consent": "synthetic"} if "consent" in required else {}
    if identity and "identity" in texts:
        good["identity"] = identity
    return files, texts, good, keys


def wrong(document: dict[str, Any], operation: dict[str, Any], answer: Any) -> str:
    """What an answer has that the document does not allow; empty if nothing."""
    status = answer.status_code
    if status == 503 and "retry-after" not in answer.headers:
        return "503 without Retry-After"
    if status >= 500 and status != 503:
        return f"status {status}"
    said = operation["responses"].get(str(status))
    if said is None and status not in (405,):
        return f"status {status}, which the document does not name"
    if status < 400:
        return ""
    if not answer.headers.get("content-type", "").startswith(PROBLEM):
        return f"status {status} as {answer.headers.get('content-type')!r}"
    problem = answer.json()
    schema = document["components"]["schemas"]["Details"]
    missing = set(schema["required"]) - set(problem)
    if missing or problem["status"] != status or not problem["detail"]:
        return f"a problem without {', '.join(sorted(missing)) or 'what it is about'}"
    return ""


def attack(
    document: dict[str, Any],
    ask: Ask,
    *,
    identity: str = "",
    large: bool = False,
    every: int = 1,
    start: int = 0,
) -> tuple[int, list[str]]:
    """Send hostile requests to every operation.

    Args:
        document: OpenAPI.
        ask: Sends; gives None where the line was closed without an answer.
        identity: One that there is.
        large: Also what takes long.
        every: Each request of so many.
        start: Which of them is the first.

    Returns:
        How many requests, and what was wrong.
    """
    count, found, turn = 0, [], start
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            fields = fields_of(document, operation, identity)
            places = [path.replace("{", "").replace("}", "")]
            if "{" in path:
                part = path[path.index("{") : path.index("}") + 1]
                for other in ("0" * 32, "..%2f..%2fetc%2fpasswd", "%00", "a" * 3000, "%ff", "0'--"):
                    places.append(path.replace(part, other))
            for place in places:
                for what, said in (
                    hostile(*fields, large=large) if place == places[0] else [("id", {})]
                ):
                    turn += 1
                    if turn % every:
                        continue
                    count += 1
                    answer = ask(method.upper(), place, **said)
                    if answer is None:
                        # Who is told that it is too much may find the line closed (RFC 9110,
                        # 15.5.14); all else must be answered.
                        if not what.startswith("large"):
                            found.append(f"{method.upper()} {place[:80]} ({what}): no answer")
                        continue
                    said_wrong = wrong(document, operation, answer)
                    # Some paths are none of the document's: what is not there is 404.
                    if said_wrong and not (place != places[0] and answer.status_code == 404):
                        found.append(f"{method.upper()} {place[:80]} ({what}): {said_wrong}")
    return count, found


@contextlib.contextmanager
def server(folder: Path) -> Iterator[tuple[str, str]]:
    """A server of its own: its address and a key."""
    sys.path.insert(0, str(ROOT / "tests"))
    os.environ["MIEN_HOME"] = str(folder)
    from serviceserver import serving  # type: ignore[import-not-found]

    with serving(folder / "server", quotas="calls=0 jobs=1000") as running:
        yield running.url, running.keys["ann"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="of a server that runs, without a limit of calls a minute")
    parser.add_argument("--key", default=os.environ.get("MIEN_KEY", ""))
    parser.add_argument("--seconds", type=int, default=600, help="of schemathesis at most")
    parser.add_argument("--examples", type=int, default=200, help="for each operation")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 30))
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url, key = options.url, options.key
        if url is None:
            url, key = stack.enter_context(server(folder))
        (folder / "schemathesis.toml").write_text(CONFIG)
        made = subprocess.run(
            [
                *(Path(sys.executable).with_name("schemathesis"), "--config-file"),
                *(folder / "schemathesis.toml", "run", f"{url}/openapi.json"),
                *("-H", f"Authorization: Bearer {key}", "-n", str(options.examples)),
                *("--seed", str(options.seed), "--max-time", str(options.seconds)),
                *("--continue-on-failure", "--request-timeout", "90"),
                # Made-up photos are refused, so there is little for them to be good for.
                *("--warnings", "off"),
            ],
            cwd=folder,
            check=False,
        )
        import httpx

        with httpx.Client(base_url=url, timeout=90) as client:
            document = client.get("/openapi.json").json()

            def ask(method: str, path: str, **said: Any) -> httpx.Response | None:
                headers = {"Authorization": f"Bearer {key}", **said.pop("headers", {})}
                try:
                    return client.request(method, path, headers=headers, **said)
                except httpx.TransportError:
                    return None

            enrolled = ask(
                "POST",
                "/v1/identities",
                files={"photos": ("a.jpg", (MEDIA / "portrait-1.jpg").read_bytes())},
                data={"consent": "synthetic"},
            ).json()
            count, found = attack(document, ask, identity=enrolled["id"], large=True)
    print(json.dumps({"seed": options.seed, "schemathesis": made.returncode,
                      "hostile": count, "found": found}, indent=2))  # fmt: skip
    return 1 if made.returncode or found else 0


if __name__ == "__main__":
    raise SystemExit(main())
