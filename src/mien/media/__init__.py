"""Sources and sinks for pictures and video files; with ``serve`` the only user of PyAV.

A source yields frames whose ``image`` is upright RGB; a sink takes frames that carry their mark
and writes back only what was changed. Timestamps, sound and subtitles travel untouched.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mien.media.broadcast import LiveSink as LiveSink
    from mien.media.broadcast import check_target as check_target
    from mien.media.camera import DeviceCamera as DeviceCamera
    from mien.media.camera import FileCamera as FileCamera
    from mien.media.camera import PushCamera as PushCamera
    from mien.media.camera import Shot as Shot
    from mien.media.camera import StreamCamera as StreamCamera
    from mien.media.camera import cameras as cameras
    from mien.media.camera import open_camera as open_camera
    from mien.media.codecs import ENCODERS as ENCODERS
    from mien.media.codecs import encoders as encoders
    from mien.media.codecs import versions as versions
    from mien.media.images import read_image as read_image
    from mien.media.info import IMAGE_SUFFIXES as IMAGE_SUFFIXES
    from mien.media.info import Marked as Marked
    from mien.media.info import MediaInfo as MediaInfo
    from mien.media.info import SinkOptions as SinkOptions
    from mien.media.info import kind_of as kind_of
    from mien.media.info import list_images as list_images
    from mien.media.limits import MAX_PIXELS as MAX_PIXELS
    from mien.media.limits import Limits as Limits
    from mien.media.metadata import read_metadata as read_metadata
    from mien.media.parts import JoinSink as JoinSink
    from mien.media.parts import PartSink as PartSink
    from mien.media.parts import key_times as key_times
    from mien.media.sink import CONTAINERS as CONTAINERS
    from mien.media.sink import Beside as Beside
    from mien.media.sink import Finish as Finish
    from mien.media.sink import ImageSink as ImageSink
    from mien.media.sink import Sink as Sink
    from mien.media.sink import Temporary as Temporary
    from mien.media.sink import VideoSink as VideoSink
    from mien.media.sink import check_suffix as check_suffix
    from mien.media.sink import open_sink as open_sink
    from mien.media.sound import Microphone as Microphone
    from mien.media.sound import Sound as Sound
    from mien.media.sound import microphones as microphones
    from mien.media.source import ImageSource as ImageSource
    from mien.media.source import Source as Source
    from mien.media.source import VideoSource as VideoSource
    from mien.media.source import open_source as open_source
    from mien.media.virtual import LentCamera as LentCamera
    from mien.media.virtual import VirtualCamera as VirtualCamera
    from mien.media.virtual import find_loopback as find_loopback

_HOME = {
    "CONTAINERS": "sink",
    "ENCODERS": "codecs",
    "IMAGE_SUFFIXES": "info",
    "MAX_PIXELS": "limits",
    "Beside": "sink",
    "DeviceCamera": "camera",
    "FileCamera": "camera",
    "Finish": "sink",
    "ImageSink": "sink",
    "ImageSource": "source",
    "JoinSink": "parts",
    "LentCamera": "virtual",
    "Limits": "limits",
    "LiveSink": "broadcast",
    "Marked": "info",
    "MediaInfo": "info",
    "Microphone": "sound",
    "PartSink": "parts",
    "PushCamera": "camera",
    "Shot": "camera",
    "Sink": "sink",
    "SinkOptions": "info",
    "Sound": "sound",
    "Source": "source",
    "StreamCamera": "camera",
    "Temporary": "sink",
    "VideoSink": "sink",
    "VideoSource": "source",
    "VirtualCamera": "virtual",
    "cameras": "camera",
    "check_suffix": "sink",
    "check_target": "broadcast",
    "encoders": "codecs",
    "find_loopback": "virtual",
    "key_times": "parts",
    "kind_of": "info",
    "list_images": "info",
    "microphones": "sound",
    "open_camera": "camera",
    "open_sink": "sink",
    "open_source": "source",
    "read_image": "images",
    "read_metadata": "metadata",
    "versions": "codecs",
}
"""Public name → module; imported on first use, since settings need no codec."""

__all__ = [
    "CONTAINERS",
    "ENCODERS",
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
    "Beside",
    "DeviceCamera",
    "FileCamera",
    "Finish",
    "ImageSink",
    "ImageSource",
    "JoinSink",
    "LentCamera",
    "Limits",
    "LiveSink",
    "Marked",
    "MediaInfo",
    "Microphone",
    "PartSink",
    "PushCamera",
    "Shot",
    "Sink",
    "SinkOptions",
    "Sound",
    "Source",
    "StreamCamera",
    "Temporary",
    "VideoSink",
    "VideoSource",
    "VirtualCamera",
    "cameras",
    "check_suffix",
    "check_target",
    "encoders",
    "find_loopback",
    "key_times",
    "kind_of",
    "list_images",
    "microphones",
    "open_camera",
    "open_sink",
    "open_source",
    "read_image",
    "read_metadata",
    "versions",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    return found
