"""Sources and sinks for pictures and video files; with ``serve`` the only user of PyAV.

A source yields frames whose ``image`` is upright RGB; a sink takes frames that carry their mark
and writes back only what was changed. Timestamps, sound and subtitles travel untouched.
"""

from __future__ import annotations

from mien.media.broadcast import LiveSink, check_target
from mien.media.camera import (
    DeviceCamera,
    FileCamera,
    PushCamera,
    Shot,
    StreamCamera,
    cameras,
    open_camera,
)
from mien.media.codecs import ENCODERS, encoders, versions
from mien.media.images import read_image
from mien.media.info import IMAGE_SUFFIXES, Marked, MediaInfo, SinkOptions, kind_of, list_images
from mien.media.limits import MAX_PIXELS, Limits
from mien.media.metadata import read_metadata
from mien.media.parts import JoinSink, PartSink, key_times
from mien.media.sink import (
    CONTAINERS,
    Finish,
    ImageSink,
    Sink,
    Temporary,
    VideoSink,
    check_suffix,
    open_sink,
)
from mien.media.sound import Microphone, Sound, microphones
from mien.media.source import ImageSource, Source, VideoSource, open_source
from mien.media.virtual import LentCamera, VirtualCamera, find_loopback

__all__ = [
    "CONTAINERS",
    "ENCODERS",
    "IMAGE_SUFFIXES",
    "MAX_PIXELS",
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
