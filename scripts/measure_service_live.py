"""Live sessions of a running service: round trip, rate and age, with some cameras at a time.

    python scripts/measure_service_live.py --url http://127.0.0.1:8000 --key mien_… \
        --portrait examples/media/portrait-1.jpg --photo examples/media/photo.jpg --cameras 1 2 4

Each camera sends the photo, at most 640x480, at --fps, and acknowledges what comes back. For each
number of cameras a line of JSON says how many pictures came back, how long they took from sending
to arrival (milliseconds, half and 95 %), and what the service says of its slowest session.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
from websockets.sync.client import connect

from mien import media
from mien.media.jpeg import encode_jpeg
from mien.serve import protocol


def camera(
    address: str, ticket: str, jpeg: bytes, fps: float, until: float, found: list[float]
) -> None:
    """One camera; appends the round trip of each picture, in milliseconds."""
    with connect(address, compression=None, max_size=None) as socket:
        hello = {"type": "hello", "role": "camera", "accepted": True, "token": ticket}
        socket.send(json.dumps(hello))

        def send() -> None:
            number, due = 0, time.monotonic()
            while time.monotonic() < until:
                number += 1
                now = time.monotonic_ns() // 1000
                socket.send(protocol.pack(protocol.Header(number, now), jpeg))
                due += 1 / fps
                time.sleep(max(0.0, due - time.monotonic()))

        sender = threading.Thread(target=send)
        sender.start()
        while time.monotonic() < until:
            try:
                message = socket.recv(1)
            except TimeoutError:
                continue
            if isinstance(message, bytes):
                header = protocol.unpack(message)[0]
                found.append(time.monotonic_ns() / 1e6 - header.captured / 1e3)
                socket.send(json.dumps({"type": "ack", "frame": header.frame}))
        sender.join()


def measure(
    client: httpx.Client, identity: str, jpeg: bytes, cameras: int, fps: float, seconds: float
) -> dict[str, Any]:
    """Let some cameras send at a time."""
    made = [client.post("/v1/live", json={"identities": [identity]}) for _ in range(cameras)]
    for answer in made:
        answer.raise_for_status()
    sessions = [answer.json() for answer in made]
    found: list[list[float]] = [[] for _ in sessions]
    base = str(client.base_url).replace("http", "ws", 1).rstrip("/")
    until = time.monotonic() + seconds
    threads = [
        threading.Thread(
            target=camera, args=(base + s["socket"], s["ticket"], jpeg, fps, until, trips)
        )
        for s, trips in zip(sessions, found, strict=True)
    ]
    for thread in threads:
        thread.start()
    time.sleep(seconds * 0.8)
    figures = [client.get(f"/v1/live/{s['id']}").json()["figures"] for s in sessions]
    for thread in threads:
        thread.join()
    for session in sessions:
        client.delete(f"/v1/live/{session['id']}").raise_for_status()
    trips = np.array([trip for one in found for trip in one])
    return {
        "cameras": cameras,
        "sent_fps": fps,
        "back_fps": [round(len(one) / seconds, 1) for one in found],
        "trip_p50": round(float(np.percentile(trips, 50)), 1),
        "trip_p95": round(float(np.percentile(trips, 95)), 1),
        "age_p95": max(f["age_p95"] or 0.0 for f in figures),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--key", default="")
    parser.add_argument("--portrait", type=Path, required=True, help="somebody who agreed")
    parser.add_argument("--consent", default="synthetic")
    parser.add_argument("--photo", type=Path, required=True)
    parser.add_argument("--cameras", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--fps", type=float, default=30.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    said = parser.parse_args()
    image = media.read_image(said.photo)
    scale = min(640 / image.shape[1], 480 / image.shape[0], 1.0)
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    headers = {"Authorization": f"Bearer {said.key}"} if said.key else {}
    with httpx.Client(base_url=said.url, headers=headers, timeout=60) as client:
        with said.portrait.open("rb") as photo:
            answer = client.post(
                "/v1/identities", data={"consent": said.consent}, files={"photos": photo}
            )
        answer.raise_for_status()
        me = answer.json()["id"]
        try:
            for count in said.cameras:
                jpeg = encode_jpeg(np.ascontiguousarray(small), 85)
                print(json.dumps(measure(client, me, jpeg, count, said.fps, said.seconds)))
        finally:
            client.delete(f"/v1/identities/{me}")


if __name__ == "__main__":
    main()
