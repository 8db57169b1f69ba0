"""The service from Python: an identity, a swapped photo, and a swapped clip with its progress.

    pip install httpx
    export MIEN_KEY=mien_…
    python client.py http://127.0.0.1:8000 me.jpg photo.jpg clip.mp4

The consent said below is yours to have: see docs/consent.md.
"""

import argparse
import json
import os
import time
import uuid
from pathlib import Path

import httpx


class Mien:
    """A thin client; every method is one request, save for events and waiting.

    Args:
        url: Of the server.
        key: API key.
        patience: Seconds for which a busy server is asked again.
    """

    def __init__(self, url, key="", *, patience=60.0):
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.http = httpx.Client(base_url=f"{url.rstrip('/')}/v1/", headers=headers, timeout=120)
        self.patience = patience

    def ask(self, method, path, **said):
        """Send a request; again, after as long as the server says, while it is too busy."""
        until = time.monotonic() + self.patience
        while True:
            answer = self.http.request(method, path, **said)
            wait = answer.headers.get("Retry-After")
            if answer.status_code not in (429, 503) or not wait:
                break
            if time.monotonic() + float(wait) > until:
                break
            time.sleep(float(wait))
        if answer.is_error:
            problem = answer.json()
            raise SystemExit(f"{problem['title']}: {problem['detail']}")
        return answer

    def enrol(self, photos, consent, name=""):
        """Enrol a person; gives the identity."""
        files = [("photos", read(photo)) for photo in photos]
        said = {"consent": consent, "name": name}
        return self.ask("POST", "identities", data=said, files=files).json()

    def swap(self, identity, target):
        """A picture with the person's face, as bytes."""
        return self.ask(
            "POST", "swaps", data={"identity": identity}, files={"target": read(target)}
        ).content

    def start(self, identity, target, **more):
        """Let a video be swapped; gives the job. Asked again, it is still one job."""
        return self.ask(
            "POST",
            "jobs",
            data={"identity": identity, **more},
            files={"target": read(target)},
            headers={"Idempotency-Key": str(uuid.uuid4())},
        ).json()

    def events(self, job):
        """What happens to a job, until it ends; goes on where a connection broke."""
        last = "0"
        while True:
            try:
                where, headers = f"jobs/{job}/events", {"Last-Event-ID": last}
                with self.http.stream("GET", where, headers=headers) as answer:
                    answer.raise_for_status()
                    event = {}
                    for line in answer.iter_lines():
                        field, _, value = line.partition(":")
                        event[field] = value.removeprefix(" ")
                        if line or "data" not in event:
                            continue
                        last = event.get("id", last)
                        yield event["event"], json.loads(event["data"])
                        if event["event"] in ("done", "failed", "canceled"):
                            return
                        event = {}
            except httpx.TransportError:
                pass
            time.sleep(1)

    def result(self, job, path):
        """Write a job's result to a file."""
        with self.http.stream("GET", f"jobs/{job}/result") as answer:
            answer.raise_for_status()
            with Path(path).open("wb") as out:
                for piece in answer.iter_bytes():
                    out.write(piece)

    def forget(self, identity):
        """Withdraw a consent: the identity goes, its jobs stop, their results are removed."""
        self.ask("DELETE", f"identities/{identity}")


def read(path):
    path = Path(path)
    return path.name, path.read_bytes()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("portrait", type=Path)
    parser.add_argument("photo", type=Path)
    parser.add_argument("clip", type=Path)
    parser.add_argument("--consent", default="self", help="self, written, synthetic, …")
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args()

    mien = Mien(options.url, os.environ.get("MIEN_KEY", ""))
    person = mien.enrol([options.portrait], options.consent, name="me")
    print(f"identity {person['id']}")

    picture = options.out / "swapped.jpg"
    picture.write_bytes(mien.swap(person["id"], options.photo))
    print(f"wrote {picture}")

    job = mien.start(person["id"], options.clip)
    for kind, said in mien.events(job["id"]):
        print(kind, said)
    clip = options.out / "swapped.mp4"
    mien.result(job["id"], clip)
    print(f"wrote {clip}")


if __name__ == "__main__":
    main()
