"""What the figures were measured on: hardware, versions, and how busy the machine was."""

from __future__ import annotations

import math
import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import av
import cv2

from mien import __version__
from mien.bench.power import Gpu, Rapl


def describe() -> dict[str, Any]:
    """Hardware and versions, for the report."""
    gpu = Gpu()
    return {
        "processor": processor(),
        "cores": cores(),
        "memory_gb": memory(),
        "gpu": gpu.device,
        "gpu_driver": gpu.driver,
        "rapl": Rapl().readable,
        "system": platform.platform(),
        "python": platform.python_version(),
        "mien": __version__,
        **{name: _installed(package) for name, package in _PACKAGES.items()},
        "opencv": cv2.__version__,
        "libav": ".".join(map(str, av.library_versions["libavcodec"])),
    }


_PACKAGES = {"onnxruntime": "onnxruntime", "pyav": "av", "numpy": "numpy"}


def _installed(package: str) -> str:
    for name in (package, f"{package}-gpu", f"{package}-directml", f"{package}-openvino"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "unknown"


def processor() -> str:
    """The processor's name."""
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "unknown processor"


def cores(limit: Path = Path("/sys/fs/cgroup/cpu.max")) -> float:
    """Processors that this process may use; a fraction where a container is held to one.

    Args:
        limit: Where Linux writes a container's share: microseconds in each period, or ``max``.
    """
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    words = " ".join(_lines(limit)).split()
    if len(words) == 2 and words[0].isdecimal():
        return min(float(count), int(words[0]) / int(words[1]))
    return float(count)


def memory() -> float | None:
    """Memory of the machine in GB; None where it does not say."""
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemTotal"):
            return round(int(line.split()[1]) / 2**20, 1)
    return None


def peak_memory() -> float | None:
    """Most resident memory of this process so far in MB; None where it cannot be told.

    On Linux not ``ru_maxrss``, which a process inherits from the one that started it.
    """
    for line in _lines(Path("/proc/self/status")):
        if line.startswith("VmHWM"):
            return round(int(line.split()[1]) / 1024, 1)
    try:
        import resource  # noqa: PLC0415
    except ImportError:  # Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(most / (2**20 if platform.system() == "Darwin" else 1024), 1)


def load_average() -> float | None:
    """Tasks that ran or wanted to, mean of the last minute."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


class Busy:
    """How much of the machine others used, from Linux's own count of time.

    What the hypervisor gave to other machines counts as used by others.
    """

    def __init__(self, path: Path = Path("/proc/stat")) -> None:
        self._path = path
        self._start, self._own = self._read(), time.process_time()

    def others(self) -> float | None:
        """Share of all processor time since the start, 0..1; None where it cannot be told."""
        after, own = self._read(), time.process_time() - self._own
        if self._start is None or after is None or after[1] <= self._start[1]:
            return None
        busy, everything = (b - a for a, b in zip(self._start, after, strict=True))
        return round(min(max((busy - own) / everything, 0.0), 1.0), 3)

    def _read(self) -> tuple[float, float] | None:
        """Seconds that processors were busy, and all seconds there were."""
        lines = _lines(self._path)
        if not lines or not lines[0].startswith("cpu "):
            return None
        ticks = [int(word) for word in lines[0].split()[1:9]]
        second = os.sysconf("SC_CLK_TCK")
        idle = ticks[3] + ticks[4]
        return (sum(ticks) - idle) / second, sum(ticks) / second


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def whole(number: float) -> str:
    """``2`` for 2.0, ``1.5`` for 1.5."""
    return str(int(number)) if math.isclose(number, round(number)) else f"{number:.2g}"
