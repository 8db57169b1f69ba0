"""Words inside files: tags of video containers, and XMP packets of images."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from mien.media.images import jpeg_segments
from mien.media.info import kind_of
from mien.media.limits import USUAL, check_bytes
from mien.media.source import open_input

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_MIEN = "urn:mien:metadata:1"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_MOST = 1 << 20
"""Bytes of an XMP packet that is read."""

_JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_PNG_XMP = b"XML:com.adobe.xmp\0\0\0\0\0"
_TC260 = "http://www.tc260.org.cn/ns/AIGC/1.0/"  # TC260-PG-20258A, for China's GB 45438-2025
_NAMES = {"digital_source_type": (_IPTC, "DigitalSourceType"), "AIGC": (_TC260, "AIGC")}
"""Keys that have a standard property in XMP; every other goes under mien's own namespace."""


def xmp(metadata: Mapping[str, str]) -> bytes:
    """Write an XMP packet (ISO 16684-1) with one property for each key."""
    properties = []
    for key, value in metadata.items():
        namespace, name = _NAMES.get(key, (_MIEN, key))
        prefix = {_IPTC: "Iptc4xmpExt", _TC260: "TC260"}.get(namespace, "mien")
        properties.append(f" {prefix}:{name}={quoteattr(value)}")
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF xmlns:rdf="{_RDF}"><rdf:Description rdf:about=""'
        f' xmlns:mien="{_MIEN}" xmlns:Iptc4xmpExt="{_IPTC}" xmlns:TC260="{_TC260}"'
        f"{''.join(properties)}/>"
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def read_xmp(packet: bytes) -> dict[str, str]:
    """Read back what :func:`xmp` wrote; anything else in the packet is left out."""
    if len(packet) > _MOST:  # a tree of elements takes a hundred times the room of its text
        return {}
    try:
        root = ElementTree.fromstring(packet.strip(b"\0 \n"))
    except ElementTree.ParseError:
        return {}
    keys = {f"{{{namespace}}}{name}": key for key, (namespace, name) in _NAMES.items()}
    found = {}
    for description in root.iter(f"{{{_RDF}}}Description"):
        for name, value in description.attrib.items():
            if name in keys:
                found[keys[name]] = value
            elif name.startswith(f"{{{_MIEN}}}"):
                found[name.rpartition("}")[2]] = value
    return found


def with_xmp(image: bytes, packet: bytes) -> bytes:
    """Put an XMP packet into an encoded JPEG or PNG (XMP specification, part 3).

    OpenCV can do it, but leaves out the JPEG segment's identifier and writes a chunk of Latin-1
    text into PNG, and readers look for neither.
    """
    if image.startswith(b"\xff\xd8"):
        at = 4 + int.from_bytes(image[4:6], "big") if image[2:4] == b"\xff\xe0" else 2
        body = _JPEG_XMP + packet
        return image[:at] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + image[at:]
    at = 33  # signature (8) and IHDR (25)
    body = b"iTXt" + _PNG_XMP + packet
    frame = len(body) - 4, zlib.crc32(body)
    return (
        image[:at] + frame[0].to_bytes(4, "big") + body + frame[1].to_bytes(4, "big") + image[at:]
    )


def _image_xmp(data: bytes) -> bytes:
    """Return the XMP packet of a JPEG, PNG or WebP, empty where it has none."""
    if data.startswith(b"\xff\xd8"):
        named = ((body, _JPEG_XMP) for marker, body in jpeg_segments(data) if marker == 0xE1)
    elif data.startswith(b"RIFF"):
        named = ((body, b"") for name, body in _chunks(data, 12, "little") if name == b"XMP ")
    else:
        named = ((body, _PNG_XMP) for name, body in _chunks(data, 8, "big") if name == b"iTXt")
    return next((body[len(head) :] for body, head in named if body.startswith(head)), b"")


def _chunks(data: bytes, at: int, order: Literal["little", "big"]) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of the chunks of a WebP (RIFF, little) or PNG (big) file."""
    while at + 8 <= len(data):
        first, second = data[at : at + 4], data[at + 4 : at + 8]
        name, size = (first, second) if order == "little" else (second, first)
        length = int.from_bytes(size, order)
        yield name, data[at + 8 : at + 8 + length]
        at += 8 + length + (length % 2 if order == "little" else 4)  # padding; checksum


def read_metadata(path: Path | str) -> dict[str, str]:
    """Read the tags of a video container (keys in lower case) or an image's XMP properties.

    Raises:
        MediaError: The file is missing, a folder, empty, or no image or video.
    """
    path = Path(path)
    if kind_of(path) == "image":
        check_bytes(path, USUAL.photo_bytes)
        return read_xmp(_image_xmp(path.read_bytes()))
    with open_input(path) as container:
        return {key.lower(): value for key, value in container.metadata.items()}
