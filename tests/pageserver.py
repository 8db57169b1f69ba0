"""A page's server with a swap that only turns colours round, for tests of what is around it.

Run as a program it says its address on the first line, and serves until its input ends.
"""

from __future__ import annotations

import os
import sys
import threading
import time

import numpy as np

from mien.errors import UsageError
from mien.live.types import Shown
from mien.media.sound import RATE, Sound, place
from mien.provenance import Marker
from mien.serve import BrowserOutput, PageOptions
from mien.types import Consent, Face, Frame

FACE = Face(
    box=np.float32([10, 20, 50, 60]),
    score=0.9,
    points=np.float32([[20, 30], [40, 30], [30, 40], [22, 50], [38, 50]]),
    track=7,
)
RED, BLUE = (200, 30, 30), (30, 30, 200)


class Inverted:
    """Red and blue change places in each picture; what there is to set is kept."""

    def __init__(self):
        self.values = {"identity": "one", "strength": 1.0}
        self.mark = Marker(consent=Consent("synthetic"))

    def __call__(self, frame, taken):
        time.sleep(float(os.environ.get("PAGE_COST", "0")))
        frame.image = np.ascontiguousarray(frame.image[:, :, ::-1])
        return Shown(self.mark(frame), taken, [FACE], 1)

    def settings(self):
        return dict(self.values)

    def choices(self):
        return {"identity": ["one", "two"], "strength": [0, 1]}

    def statistics(self):
        return {"fps_out": 25.0}

    def change(self, values):
        if values.get("identity") not in (None, "one", "two"):
            raise UsageError(f"there is no identity {values['identity']!r}")
        self.values |= values


def serve(page, stop, size=(320, 240), fps=25):
    """Show a red picture, which comes out blue, until told to stop."""
    page.open(*size, fps)
    shown, number = Inverted(), 0
    while not stop.wait(1 / fps):
        image = np.full((size[1], size[0], 3), RED, np.uint8)
        page.write(shown(Frame(image, number), time.monotonic()))
        number += 1


def hum(sound, stop):
    """A tone of 440 Hz, as a microphone would leave it."""
    at = place(time.monotonic())
    while not stop.wait(0.02):
        until = place(time.monotonic())
        wave = 0.5 * np.sin(np.arange(at, until) * 2 * np.pi * 440 / RATE).astype(np.float32)
        sound.put(at, np.stack([wave, wave], 1))
        at = until


def main():
    port, token = int(sys.argv[1]), os.environ.get("PAGE_TOKEN", "")
    host = sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1"
    patience = float(os.environ.get("PAGE_PATIENCE", "5"))
    peers = int(os.environ.get("PAGE_PEERS", "16"))
    options = PageOptions(host, port, token, peers=peers, patience=patience)
    sound = Sound() if os.environ.get("PAGE_SOUND") else None
    page = BrowserOutput(options, perform=Inverted, sound=sound)
    page.attach(Inverted())
    stop = threading.Event()
    thread = threading.Thread(target=serve, args=(page, stop))
    if sound is not None:
        threading.Thread(target=hum, args=(sound, stop), daemon=True).start()
    thread.start()
    print(page.url, page._server.pid, flush=True)
    sys.stdin.read()
    stop.set()
    thread.join()
    page.close()


if __name__ == "__main__":
    main()
