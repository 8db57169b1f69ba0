"""Power and memory of the hardware during a run: NVML for GPUs, RAPL for processors."""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Final

POWERCAP: Final = Path("/sys/class/powercap")
"""Where Linux shows RAPL's counters; newer kernels let only root read them."""

EVERY: Final = 0.05
"""Seconds between two looks at a GPU."""


@dataclass(slots=True)
class Drawn:
    """What was drawn between two moments.

    Attributes:
        device: Name of the GPU; empty for the processor.
        joules: None where the hardware does not say.
        watts: Mean; None where the hardware does not say.
        memory_mb: Most GPU memory in use above what was in use before; None for a processor.
    """

    device: str
    joules: float | None = None
    watts: float | None = None
    memory_mb: float | None = None


class Rapl:
    """Energy of the processor packages, by their running average power limit counters.

    Args:
        root: Where the counters are.
    """

    def __init__(self, root: Path = POWERCAP) -> None:
        self._zones = [
            zone
            for zone in sorted(root.glob("intel-rapl:*"))
            # package-0, package-1 …; cores and memory lie inside of them, and psys around them.
            if zone.name.count(":") == 1 and _text(zone / "name").startswith("package")
        ]
        self._start = self._read()
        self._began = time.perf_counter()

    @property
    def readable(self) -> bool:
        """Whether there are counters, and this user may read them."""
        return bool(self._start) and all(v is not None for v in self._start)

    def stop(self) -> Drawn | None:
        """What was drawn since the start; None where nothing can be read."""
        end = self._read()
        seconds = time.perf_counter() - self._began
        total = 0.0
        for zone, before, after in zip(self._zones, self._start, end, strict=True):
            if before is None or after is None:
                return None
            spent = after - before
            if spent < 0:  # the counter began anew
                spent += int(_text(zone / "max_energy_range_uj") or 0)
            total += spent / 1e6
        if not self._zones:
            return None
        return Drawn("", total, total / max(seconds, 1e-9))

    def _read(self) -> list[int | None]:
        texts = (_text(zone / "energy_uj") for zone in self._zones)
        return [int(t) if t.isdecimal() else None for t in texts]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


@dataclass(slots=True)
class _Looks:
    """What was seen of a GPU."""

    watts: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)


class Gpu:
    """Memory and energy of one NVIDIA GPU, looked at by a thread between ``start`` and ``stop``.

    Memory counts from when this object is made. Needs the package nvidia-ml-py; where it or the
    driver is not there, ``device`` is empty and nothing is measured.

    Attributes:
        device: The GPU's name.
        driver: Version of the driver.
    """

    def __init__(self) -> None:
        self.device, self.driver = "", ""
        self._nvml, self._handle = _nvml()
        if self._nvml is not None:
            self.device = _words(self._nvml.nvmlDeviceGetName(self._handle))
            self.driver = _words(self._nvml.nvmlSystemGetDriverVersion())
        self._looks = _Looks()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._before = self._memory()

    def start(self) -> None:
        """Look from now on."""
        self._looks, self._began = _Looks(), time.perf_counter()
        self._energy = self._counter()
        if self._nvml is not None:
            self._thread = threading.Thread(target=self._watch, name="mien-gpu", daemon=True)
            self._thread.start()

    def stop(self) -> Drawn | None:
        """What was drawn since the start; None without a GPU that can be asked."""
        self._done.set()
        if self._thread is None:
            return None
        self._thread.join()
        seconds = time.perf_counter() - self._began
        after = self._counter()
        drawn = Drawn(self.device)
        if self._looks.memory:
            drawn.memory_mb = (max(self._looks.memory) - self._before) / 2**20
        if self._energy is not None and after is not None:
            drawn.joules = (after - self._energy) / 1000
            drawn.watts = drawn.joules / max(seconds, 1e-9)
        elif self._looks.watts:
            drawn.watts = sum(self._looks.watts) / len(self._looks.watts)
            drawn.joules = drawn.watts * seconds
        return drawn

    def _watch(self) -> None:
        while True:
            with suppress(self._nvml.NVMLError):
                self._looks.memory.append(self._memory())
                milliwatts = self._nvml.nvmlDeviceGetPowerUsage(self._handle)
                self._looks.watts.append(milliwatts / 1000)
            if self._done.wait(EVERY):
                return

    def _memory(self) -> int:
        if self._nvml is None:
            return 0
        with suppress(self._nvml.NVMLError):
            return int(self._nvml.nvmlDeviceGetMemoryInfo(self._handle).used)
        return 0

    def _counter(self) -> float | None:
        """Millijoules since the driver was loaded; GPUs before Volta do not count them."""
        if self._nvml is None:
            return None
        with suppress(self._nvml.NVMLError):
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        return None


def _words(text: str | bytes) -> str:
    """Older releases of the package give bytes."""
    return text.decode() if isinstance(text, bytes) else text


def _nvml() -> tuple[Any, Any]:
    """The library and the GPU that the process sees first, or nothing."""
    try:
        pynvml: Any = import_module("pynvml")  # has no types
    except ImportError:
        return None, None
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0].strip()
    try:
        pynvml.nvmlInit()
        if first.startswith("GPU-"):
            return pynvml, pynvml.nvmlDeviceGetHandleByUUID(first)
        return pynvml, pynvml.nvmlDeviceGetHandleByIndex(int(first) if first.isdecimal() else 0)
    except pynvml.NVMLError:
        return None, None
