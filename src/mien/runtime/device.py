"""Execution providers as data, and how many threads a session gets."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, get_args

from mien.errors import ProviderError

Precision = Literal["auto", "fp32", "fp16", "int8"]
PRECISIONS: Final[tuple[str, ...]] = get_args(Precision)
Options = dict[str, str]


@dataclass(frozen=True, slots=True)
class Provider:
    """What there is to know of one execution provider.

    Attributes:
        ort: ONNX Runtime's name.
        package: The build of ONNX Runtime that has it.
        needs: What else must be installed.
        options: Always given.
        device: Option that chooses among several; empty if there is none.
        cached: Option → the value with the cache folder in place of ``{}``.
        precision: Precision → options.
        sizes: Free sizes of inputs can be named (TensorRT's profiles).
        serial: One call of a session at a time, without memory patterns (DirectML).
        system: Operating system it is for; empty for any.
        verify: Options whose values must be in effect after loading.
    """

    ort: str
    package: str
    needs: str = ""
    options: Options = field(default_factory=dict)
    device: str = ""
    cached: Options = field(default_factory=dict)
    precision: dict[str, Options] = field(default_factory=dict)
    sizes: bool = False
    serial: bool = False
    system: str = ""
    verify: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """What installs the build of ONNX Runtime that has it, in place of the ordinary one."""
        if self.package == "onnxruntime":
            return "pip install onnxruntime"
        quoted = f'"{self.package}"' if "[" in self.package else self.package
        return f"pip uninstall -y onnxruntime && pip install {quoted}"

    @property
    def fix(self) -> str:
        """What to do where it is missing."""
        where = f"on {self.system}: " if self.system else ""
        return f"{where}'{self.command}'{f', and {self.needs}' if self.needs else ''}"


PROVIDERS: Final[dict[str, Provider]] = {
    "cpu": Provider("CPUExecutionProvider", "onnxruntime"),
    "cuda": Provider(
        "CUDAExecutionProvider",
        "onnxruntime-gpu[cuda,cudnn]",
        needs="an NVIDIA driver that 'nvidia-smi' finds",
        # Arenas that grow by what is asked for give back what others need on the same card.
        options={
            "arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC",
        },
        device="device_id",
        verify=("device_id",),
    ),
    "tensorrt": Provider(
        "TensorrtExecutionProvider",
        "onnxruntime-gpu[cuda,cudnn]",
        needs="the TensorRT that 'mien doctor' says it needs, and an NVIDIA driver",
        options={"trt_engine_cache_enable": "True", "trt_timing_cache_enable": "True"},
        device="device_id",
        cached={"trt_engine_cache_path": "{}", "trt_timing_cache_path": "{}"},
        precision={"fp16": {"trt_fp16_enable": "True"}, "int8": {"trt_int8_enable": "True"}},
        sizes=True,
        verify=("device_id", "trt_fp16_enable", "trt_int8_enable"),
    ),
    "openvino": Provider(
        "OpenVINOExecutionProvider",
        "onnxruntime-openvino",
        needs="for a GPU or NPU, Intel's driver of it",
        options={"device_type": "AUTO:GPU,CPU"},
        device="device_type",
        cached={"cache_dir": "{}"},
        precision={"fp16": {"precision": "FP16"}, "fp32": {"precision": "FP32"}},
    ),
    "coreml": Provider(
        "CoreMLExecutionProvider",
        "onnxruntime",
        options={"ModelFormat": "MLProgram", "MLComputeUnits": "ALL"},
        cached={"ModelCacheDirectory": "{}"},
        precision={"fp16": {"AllowLowPrecisionAccumulationOnGPU": "1"}},
        system="macOS",
        verify=("ModelFormat",),
    ),
    "directml": Provider(
        "DmlExecutionProvider", "onnxruntime-directml", device="device_id", serial=True,
        system="Windows",
    ),
    "rocm": Provider(
        "MIGraphXExecutionProvider",
        "onnxruntime-migraphx",
        needs="ROCm with MIGraphX",
        device="device_id",
        cached={"migraphx_model_cache_dir": "{}"},
        precision={
            "fp16": {"migraphx_fp16_enable": "1"}, "int8": {"migraphx_int8_enable": "1"},
        },
        system="Linux",
    ),
    "qnn": Provider(
        "QNNExecutionProvider",
        "onnxruntime-qnn",
        needs="Qualcomm's driver of the NPU",
        options={"backend_type": "htp", "htp_performance_mode": "burst"},
        precision={"fp16": {"enable_htp_fp16_precision": "1"}},
    ),
    "cann": Provider(
        "CANNExecutionProvider",
        "onnxruntime-cann",
        needs="the CANN toolkit",
        options={"arena_extend_strategy": "kSameAsRequested"},
        device="device_id",
        precision={
            "fp16": {"precision_mode": "force_fp16"}, "fp32": {"precision_mode": "force_fp32"},
        },
        system="Linux",
    ),
}  # fmt: skip
"""Short name → provider; to add one, add an entry. Option names are those of its page under
onnxruntime.ai/docs/execution-providers and, where a page is behind, of its source."""


@dataclass(frozen=True, slots=True)
class Device:
    """Where networks run.

    Attributes:
        providers: Short names of execution providers, best first, joined by commas; ``cuda:1`` is
            the second card. These do the work, or loading fails; with ``cpu`` at the end the
            processor may do what they cannot.
        threads: Of each network's own pool; 0 chooses for this machine, see
            :func:`threads_for`. They never spin, because decoding and encoding need the cores, too.
        allow_fallback: What would be an error because it ran elsewhere is a warning.
        cache: Folder for what is kept between starts; ``auto`` is the user's own, ``off`` none.
        precision: In which the provider may compute; ``auto`` is as the file says.
        sessions: Networks that run at the same time, for the choice of threads.
    """

    providers: str = "cpu"
    threads: int = 0
    allow_fallback: bool = False
    cache: str = "auto"
    precision: Precision = "auto"
    sessions: int = 2

    def names(self) -> tuple[str, ...]:
        """Short names, without the numbers of devices.

        Raises:
            ProviderError: One is unknown, or there is none.
        """
        return tuple(name for name, _ in self.asked())

    def asked(self) -> tuple[tuple[str, str], ...]:
        """Short name and device (empty for the first) of each provider.

        Raises:
            ProviderError: One is unknown, named twice, or there is none.
        """
        found: list[tuple[str, str]] = []
        for word in self.providers.split(","):
            name, _, which = word.strip().partition(":")
            if name not in PROVIDERS:
                raise ProviderError(
                    f"provider {name!r} is unknown; known are {', '.join(PROVIDERS)}"
                )
            if which and not PROVIDERS[name].device:
                raise ProviderError(f"provider {name!r} has no devices to choose from, not {which}")
            if name in (n for n, _ in found):
                raise ProviderError(f"provider {name!r} is named twice in {self.providers!r}")
            found.append((name, which))
        if "cpu" in [n for n, _ in found[:-1]]:
            raise ProviderError(
                f"'cpu' takes all that is left; it stands last, not as in {self.providers!r}"
            )
        return tuple(found)


CPU: Final = Device()


def cores(affinity: Iterable[int] | None = None, read: Callable[[str], str] | None = None) -> int:
    """Physical cores that this process may keep busy.

    The processors it may run on, two threads of one core counted once, and no more than the
    control group's quota allows.

    Args:
        affinity: Numbers of processors, instead of asking.
        read: Reads a file of the system, instead of opening it.
    """
    read = read or (lambda name: Path(name).read_text("ascii"))
    if affinity is None:
        if hasattr(os, "sched_getaffinity"):
            affinity = os.sched_getaffinity(0)
        else:
            affinity = range(os.cpu_count() or 1)
    physical = set()
    for number in affinity:
        topology = f"/sys/devices/system/cpu/cpu{number}/topology"
        try:
            package = read(f"{topology}/physical_package_id").strip()
            physical.add((package, read(f"{topology}/core_id").strip()))
        except (OSError, ValueError):
            physical.add((str(number), "alone"))
    return max(1, min(len(physical), _quota(read)))


def _quota(read: Callable[[str], str]) -> int:
    """Whole cores of the control group's limit (cpu.max of cgroup v2, cfs_quota of v1)."""
    unlimited = 1 << 20
    try:
        quota, period = read("/sys/fs/cgroup/cpu.max").split()
    except (OSError, ValueError):
        try:
            quota = read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us").strip()
            period = read("/sys/fs/cgroup/cpu/cpu.cfs_period_us").strip()
        except (OSError, ValueError):
            return unlimited
    try:
        limit = int(quota) // int(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return unlimited
    return unlimited if int(quota) <= 0 else max(1, limit)


def int8_is_quick(read: Callable[[str], str] | None = None) -> bool:
    """Whether this processor multiplies and adds int8 in one instruction (VNNI, dot product).

    Others take as long as for fp32, and before VNNI x86 saturates where two products are summed.

    Args:
        read: Reads a file of the system, instead of opening it.
    """
    read = read or (lambda name: Path(name).read_text("ascii", "replace"))
    try:
        words = set(read("/proc/cpuinfo").split())
    except OSError:
        return sys.platform == "darwin" and platform.machine() == "arm64"
    return bool(words & {"avx512_vnni", "avx_vnni", "asimddp", "i8mm"})


def threads_for(cores: int, sessions: int) -> int:
    """Threads of one session's pool, when the user does not say.

    Two cores, or one of two, are left to decoding, encoding and painting. The rest is shared by the
    sessions that run at a time, and no pool has more than eight: the networks are small, and
    their layers do not divide further.

    Args:
        cores: Of :func:`cores`.
        sessions: That run at the same time.
    """
    return max(1, min(8, (cores - min(2, cores // 2)) // max(1, sessions)))
