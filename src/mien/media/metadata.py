"""Words inside files: tags of video containers, and XMP packets of images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

import av
import cv2
import numpy as np

from mien.errors import MediaError
from mien.media.images import chunk, jpeg_segments
from mien.media.info import kind_of

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_MIEN = "urn:mien:metadata:1"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_SMALL = cv2.IMREAD_REDUCED_GRAYSCALE_8
_NAMES = {"digital_source_type": (_IPTC, "DigitalSourceType")}
"""Keys that have a standard property in XMP; every other goes under mien's own namespace."""


def xmp(metadata: Mapping[str, str]) -> bytes:
    """Write an XMP packet (ISO 16684-1) with one property for each key."""
    properties = []
    for key, value in metadata.items():
        namespace, name = _NAMES.get(key, (_MIEN, key))
        prefix = "Iptc4xmpExt" if namespace == _IPTC else "mien"
        properties.append(f" {prefix}:{name}={quoteattr(value)}")
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        f'<rdf:RDF xmlns:rdf="{_RDF}"><rdf:Description rdf:about=""'
        f' xmlns:mien="{_MIEN}" xmlns:Iptc4xmpExt="{_IPTC}"{"".join(properties)}/>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def read_xmp(packet: bytes) -> dict[str, str]:
    """Read back what :func:`xmp` wrote; anything else in the packet is left out."""
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


def with_xmp(jpeg: bytes, packet: bytes) -> bytes:
    """Put an XMP packet into a JPEG, after its JFIF segment (XMP specification, part 3, 1.1.3).

    OpenCV would leave out the identifier, without which readers do not find it.
    """
    at = 4 + int.from_bytes(jpeg[4:6], "big") if jpeg[2:4] == b"\xff\xe0" else 2
    body = _JPEG_XMP + packet
    return jpeg[:at] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + jpeg[at:]


def _image_xmp(data: bytes) -> bytes:
    if data[:2] == b"\xff\xd8":
        packets = (b for m, b in jpeg_segments(data) if m == 0xE1 and b.startswith(_JPEG_XMP))
        return next(packets, _JPEG_XMP)[len(_JPEG_XMP) :]
    _, kinds, chunks = cv2.imdecodeWithMetadata(np.frombuffer(data, np.uint8), flags=_SMALL)
    return chunk(kinds, chunks, cv2.IMAGE_METADATA_XMP)


def read_metadata(path: Path | str) -> dict[str, str]:
    """Read the tags of a video container (keys in lower case) or an image's XMP properties.

    Raises:
        MediaError: The file is missing, a folder, empty, or no image or video.
    """
    path = Path(path)
    if kind_of(path) == "image":
        return read_xmp(_image_xmp(path.read_bytes()))
    try:
        with av.open(str(path)) as container:
            return {key.lower(): value for key, value in container.metadata.items()}
    except (av.FFmpegError, UnicodeDecodeError) as error:
        raise MediaError(f"{path}: is not an image or a video that can be read") from error
