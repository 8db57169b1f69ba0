"""Watch the server's camera of `mien live -o browser` from a script.

    pip install websockets
    python client.py http://127.0.0.1:8765/ --frames 100 --save last.jpg

With --send PHOTO it uses a camera of its own instead: the photo is sent again and again, and
what comes back is the swapped picture. The address may end in #token=… as mien prints it.
The protocol is described in docs/protocol.md.
"""

import argparse
import json
import struct
import time
from pathlib import Path

from websockets.sync.client import connect

HEADER = struct.Struct("<4sBBHIIQIHH")


def pack(frame, captured, jpeg):
    return HEADER.pack(b"MIEN", 1, 1, 0, frame, 0, captured, 0, 0, 0) + jpeg


def unpack(message):
    magic, version, _, flags, frame, words, captured, age, width, height = HEADER.unpack_from(
        message
    )
    if magic != b"MIEN" or version != 1:
        raise ValueError("no picture of version 1")
    body = HEADER.size + words
    metadata = json.loads(message[HEADER.size : body]) if words else None
    header = {
        "frame": frame, "captured": captured, "age": age, "width": width, "height": height,
        "swapped": bool(flags & 1),
    }  # fmt: skip
    return header, metadata, message[body:]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="as mien prints it")
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--send", type=Path, metavar="PHOTO", help="a JPEG, at most 1280x720")
    parser.add_argument("--save", type=Path, metavar="FILE", help="the last picture")
    options = parser.parse_args()

    page, _, token = options.url.partition("#token=")
    address = page.replace("http", "ws", 1).rstrip("/") + "/socket"
    hello = {
        "type": "hello",
        "role": "camera" if options.send else "view",
        # Say so only where it is true: those who are seen and the one whose face is used agreed.
        "accepted": True,
        "token": token,
        "metadata": True,
    }
    with connect(address, compression=None) as socket:
        socket.send(json.dumps(hello))
        photo = options.send.read_bytes() if options.send else None
        count, began = 0, time.monotonic()
        if photo:
            socket.send(pack(0, time.monotonic_ns() // 1000, photo))
        while count < options.frames:
            message = socket.recv(timeout=10)
            if isinstance(message, str):
                words = json.loads(message)
                if words["type"] == "error":
                    raise SystemExit(words["message"])
                continue
            header, metadata, jpeg = unpack(message)
            socket.send(json.dumps({"type": "ack", "frame": header["frame"]}))
            count += 1
            if photo:
                socket.send(pack(count, time.monotonic_ns() // 1000, photo))
    seconds = time.monotonic() - began
    faces = len(metadata["faces"]) if metadata else 0
    print(
        f"{count} pictures of {header['width']}x{header['height']} in {seconds:.1f} s, "
        f"{header['age'] / 1000:.0f} ms old when sent, {faces} faces in the last"
    )
    if options.save:
        options.save.write_bytes(jpeg)


if __name__ == "__main__":
    main()
