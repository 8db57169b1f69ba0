"""What this machine has and lacks, and the command that mends each lack.

All that is asked of the system goes through :class:`System`, so that tests can stand in for it.
Providers, encoders and the default chain are tried in processes of their own: drivers may crash.
"""

from __future__ import annotations

import ctypes.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal

from mien import __version__, runtime, zoo
from mien.errors import MienError, ProviderError
from mien.runtime import cache, installation

State = Literal["ok", "none", "problem", "fatal"]
"""``none`` is a lack that hurts nobody who does not need it; ``fatal`` stops the default chain."""

MARKS: Final[dict[State, str]] = {"ok": "ok", "none": "--", "problem": " !", "fatal": "!!"}

INSTRUCTIONS: Final = {
    "AVX2": ("avx2",), "AVX-512": ("avx512f",), "VNNI": ("avx512_vnni", "avx_vnni"),
    "BF16": ("avx512_bf16", "bf16"), "AMX": ("amx_int8",), "NEON": ("asimd", "neon"),
    "DOTPROD": ("asimddp",), "I8MM": ("i8mm",), "SVE": ("sve",),
}  # fmt: skip
"""Vector instructions that networks gain from → names of them in /proc/cpuinfo."""

VENDORS: Final = {"0x10de": "NVIDIA", "0x1002": "AMD", "0x8086": "Intel"}
BEST: Final = {"NVIDIA": "cuda", "AMD": "rocm", "Intel": "openvino"}
"""Vendor of a GPU → the provider for it."""

ROOM: Final = 2 << 30
"""Bytes that should be free for what is cached, and of memory."""

CHAIN: Final = """
import json, time
start = time.perf_counter()
from fractions import Fraction
import numpy as np
from mien import pipeline, zoo
from mien.runtime import Device
from mien.types import Frame
stream = pipeline.Stream(pipeline.load(models=zoo.Zoo.at({folder!r}, {device!r})))
loaded = time.perf_counter() - start
stream.observe(Frame(np.full((240, 320, 3), 128, np.uint8), 0, 0, Fraction(1, 25)))
print(json.dumps(loaded))
"""
"""Loads the default chain and looks for faces where there are none."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: Which, in a word.
        state: How it is.
        text: What is there.
        problem: What is wrong, in a sentence.
        mend: The command that mends it, or what to do where no command can.
    """

    what: str
    state: State
    text: str
    problem: str = ""
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All that was found."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """The default chain can run."""
        return all(f.state != "fatal" for f in self.findings)

    @property
    def problems(self) -> list[Finding]:
        """What is wrong, worst first."""
        found = [f for f in self.findings if f.problem]
        return sorted(found, key=lambda f: f.state != "fatal")

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "ok": self.ok,
            "findings": [asdict(f) for f in self.findings],
            "mien": __version__,
        }


class System:
    """What is asked of the machine; a test stands in for it."""

    name = platform.system()
    machine = platform.machine()
    user = os.environ.get("USER", "$USER")

    def read(self, path: str) -> str:
        """Text of a file; empty if it cannot be read."""
        try:
            return Path(path).read_text("utf-8", errors="replace")
        except OSError:
            return ""

    def glob(self, pattern: str) -> list[str]:
        """Paths that match, sorted; the pattern begins with a slash."""
        return sorted(str(p) for p in Path("/").glob(pattern.lstrip("/")))

    def run(self, *command: str, timeout: float = 10) -> str | None:
        """What a command prints; None if it is not there or fails."""
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=timeout, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None

    def python(self, program: str, timeout: float = 120) -> Any:
        """The JSON that a program prints, run by a Python of its own.

        Raises:
            ProviderError: It crashed, took too long or failed; says how.
        """
        try:
            done = subprocess.run(
                [sys.executable, "-c", program], capture_output=True, text=True,
                timeout=timeout, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ProviderError(f"gave no answer in {timeout:.0f} seconds") from None
        if done.returncode < 0:
            raise ProviderError(f"crashed with signal {-done.returncode}")
        try:
            return json.loads(done.stdout.strip().rpartition("\n")[2])
        except ValueError:
            last = done.stderr.strip().rpartition("\n")[2] or f"exit status {done.returncode}"
            raise ProviderError(re.sub(r"^mien\.errors\.\w+: ", "", last)) from None

    def may_use(self, path: str) -> bool:
        """Whether this user may read and write a device."""
        return os.access(path, os.R_OK | os.W_OK)

    def library(self, name: str) -> bool:
        """Whether a library is where the loader, or ONNX Runtime, finds it."""
        bare = re.sub(r"^lib|\.so.*$|\.dll$", "", name)
        found = ctypes.util.find_library(bare)
        if found and found.startswith(name):
            return True
        places = [*os.environ.get("LD_LIBRARY_PATH", "").split(":"), "/usr/local/cuda/lib64"]
        if any(p and Path(p, name).exists() for p in places):
            return True
        for package in ("nvidia", "tensorrt_libs"):
            spec = find_spec(package)
            for root in spec.submodule_search_locations or () if spec else ():
                if any(Path(root).rglob(name)):
                    return True
        return False

    def module(self, name: str) -> bool:
        """Whether a module of Python is installed."""
        return find_spec(name) is not None

    def cores(self) -> int:
        """Physical cores that this process may use."""
        return runtime.cores()

    def installation(self) -> installation.Installation:
        """Of ONNX Runtime."""
        return installation.installation()

    def free(self, folder: Path) -> int:
        """Bytes free on the disk of a folder, or of the nearest that is there."""
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        return shutil.disk_usage(folder).free


@dataclass(frozen=True, slots=True)
class Examination:
    """What is to be looked at.

    Attributes:
        models: Where models come from and run.
        system: The machine.
    """

    models: zoo.Zoo = field(default_factory=zoo.Zoo.at)
    system: System = field(default_factory=System)

    def run(self) -> Diagnosis:
        """Look at everything. Takes a few seconds, most of them for the trials."""
        looks = (
            self._processor, self._gpu, self._onnxruntime, self._providers, self._models,
            self._encoders, self._cameras, self._microphones, self._window, self._disk,
            self._chain,
        )  # fmt: skip
        return Diagnosis(tuple(finding for look in looks for finding in look()))

    def _processor(self) -> Iterator[Finding]:
        info = self.system.read("/proc/cpuinfo")
        named = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", info, re.M)
        flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", info, re.M)
        words = set(flags[1].split()) if flags else set()
        if self.system.machine in ("arm64", "aarch64"):
            words.add("neon")  # every 64-bit ARM has it
        have = [name for name, keys in INSTRUCTIONS.items() if words & set(keys)]
        model = named[1].strip() if named else (platform.processor() or self.system.machine)
        text = f"{model}; {' '.join(have) or 'vector instructions unknown'}"
        old = bool(words) and self.system.machine in ("x86_64", "AMD64") and "AVX2" not in have
        yield Finding(
            "processor", "problem" if old else "ok", text,
            "This processor has no AVX2; networks run several times slower on it." if old else "",
            "use another machine, or a GPU with --provider" if old else "",
        )  # fmt: skip
        cores, logical = self.system.cores(), info.count("processor\t")
        yield Finding("cores", "ok", f"{cores} usable" + (f" of {logical}" if logical else ""))
        memory = {
            m[1]: int(m[2]) * 1024
            for m in re.finditer(r"^(\w+):\s+(\d+) kB", self.system.read("/proc/meminfo"), re.M)
        }
        if memory:
            free, total = memory.get("MemAvailable", 0), memory.get("MemTotal", 0)
            low = free < ROOM
            yield Finding(
                "memory", "problem" if low else "ok", f"{_size(free)} free of {_size(total)}",
                f"Only {_size(free)} of memory are free; large models need 2 GB and more."
                if low else "",
                "close other programs" if low else "",
            )  # fmt: skip

    def _vendors(self) -> dict[str, int]:
        """Vendor → how many of its display devices are on the bus."""
        found: dict[str, int] = {}
        for path in self.system.glob("/sys/bus/pci/devices/*/class"):
            if self.system.read(path).startswith("0x03"):
                number = self.system.read(path.removesuffix("class") + "vendor").strip()
                if number in VENDORS:
                    found[VENDORS[number]] = found.get(VENDORS[number], 0) + 1
        return found

    def _nvidia(self) -> list[str]:
        """Name, driver and memory of each NVIDIA GPU, as its driver says."""
        query = "--query-gpu=name,driver_version,memory.total"
        said = self.system.run("nvidia-smi", query, "--format=csv,noheader") or ""
        return [line.strip() for line in said.splitlines() if line.strip()]

    def _gpu(self) -> Iterator[Finding]:
        vendors, nvidia = self._vendors(), self._nvidia()
        for line in nvidia:
            name, driver, memory = (*line.split(", "), "", "")[:3]
            top = re.search(r"CUDA Version:\s*([\d.]+)", self.system.run("nvidia-smi") or "")
            upto = f", for CUDA up to {top[1]}" if top else ""
            yield Finding("GPU", "ok", f"{name}, {memory}; driver {driver}{upto}")
        if "NVIDIA" in vendors and not nvidia:
            apt = shutil.which("ubuntu-drivers") is not None
            yield Finding(
                "GPU", "problem", "NVIDIA, without a driver",
                "There is an NVIDIA GPU, but its driver does not answer ('nvidia-smi').",
                "sudo ubuntu-drivers install && sudo reboot" if apt
                else "install NVIDIA's driver for this system, then restart",
            )  # fmt: skip
        for vendor in sorted(set(vendors) - {"NVIDIA"}):
            nodes = self.system.glob("/dev/dri/renderD*")
            barred = bool(nodes) and not any(self.system.may_use(n) for n in nodes)
            yield Finding(
                "GPU", "problem" if barred else "ok", vendor,
                f"There is a GPU of {vendor}, but this user may not use it." if barred else "",
                f"sudo usermod -aG render,video {self.system.user}, then log in again"
                if barred else "",
            )  # fmt: skip
        if not vendors and not nvidia:
            yield Finding("GPU", "none", "none found")

    def _onnxruntime(self) -> Iterator[Finding]:
        found = self.system.installation()
        names = ", ".join(f"{n} {v}" for n, v in found.packages.items()) or found.version
        if len(found.packages) > 1:
            keep = next((n for n in found.packages if n != "onnxruntime"), "onnxruntime")
            every = " ".join(found.packages)
            yield Finding(
                "onnxruntime", "problem", names,
                f"{len(found.packages)} builds of ONNX Runtime are installed over each other, and "
                "which one works is chance.",
                f"pip uninstall -y {every} && pip install {keep}",
            )  # fmt: skip
        else:
            yield Finding("onnxruntime", "ok", names)
        for provider, needed in found.needed.items():
            missing = [n for n in needed if not self.system.library(n)]
            if not needed:
                continue
            text = ", ".join(f"{n}{' missing' if n in missing else ''}" for n in needed)
            mend = 'pip install "onnxruntime-gpu[cuda,cudnn]"'
            if provider == "tensorrt":
                number = re.search(r"nvinfer[^\d]*(\d+)", " ".join(missing))
                mend = f'pip install "tensorrt=={number[1]}.*"' if number else mend
            # TensorRT is an extra that few need; without CUDA's libraries the build is useless.
            state: State = "ok" if not missing else "problem" if provider == "cuda" else "none"
            yield Finding(
                f"{provider} needs", state, text,
                f"Libraries that {provider} needs are not found: {', '.join(missing)}."
                if state == "problem" else "",
                mend if missing else "",
            )  # fmt: skip

    def _providers(self) -> Iterator[Finding]:
        found = self.system.installation()
        asked = self.models.device.names()
        needed = [n for n in asked if n not in found.built]
        for name in (*found.built, *needed):
            if name in found.built:
                wrong = self._tried(name)
            else:
                wrong = f"not in this ONNX Runtime, which has {', '.join(found.built)}"
            if not wrong:
                yield Finding(name, "ok", "a trial ran on it")
                continue
            fatal = name in asked and not self.models.device.allow_fallback
            provider = runtime.PROVIDERS[name]
            # A build brings TensorRT, whether or not anybody wants it.
            unasked = name == "tensorrt" and name not in asked
            yield Finding(
                name, "fatal" if fatal else "none" if unasked else "problem",
                "built in, not usable" if name in found.built else "not built in",
                "" if unasked else f"Provider {name}: {wrong.partition(';')[0]}.",
                provider.command if name not in found.built else provider.fix,
            )  # fmt: skip
        for vendor in self._vendors() if set(found.built) <= {"cpu"} else ():
            provider = runtime.PROVIDERS[BEST[vendor]]
            if vendor != "Intel" and (vendor != "NVIDIA" or self._nvidia()):
                yield Finding(
                    BEST[vendor], "problem", f"not built in, though there is a GPU of {vendor}",
                    f"There is a GPU of {vendor}, but this ONNX Runtime is for processors only.",
                    provider.command,
                )  # fmt: skip

    def _tried(self, name: str) -> str:
        """What is wrong with a provider, from a process of its own; empty if nothing is."""
        program = f"import json; from mien.runtime import trial; t = trial.attempt({name!r})"
        try:
            return str(self.system.python(f"{program}; print(json.dumps(t))"))
        except ProviderError as error:
            return str(error)

    def _models(self) -> Iterator[Finding]:
        shipped = [c for c in self.models.cards if c.shipped]
        bad: list[Finding] = []
        others = 0
        for card in self.models.cards:
            if self.models.state(card) in ("missing", "pattern") and not card.shipped:
                continue
            others += not card.shipped
            try:
                self.models.verify(card)
            except MienError as error:
                mend = f"mien models pull {card.name}"
                if card.shipped:
                    mend = "pip install --force-reinstall --no-deps mien"
                bad.append(
                    Finding(card.name, "fatal" if card.shipped else "problem", "damaged",
                            f"{error}.", mend)
                )  # fmt: skip
        whole = len(shipped) + others - len(bad)
        yield Finding("models", "ok", f"{whole} whole: {len(shipped)} shipped, {others} of yours")
        yield from bad

    def _encoders(self) -> Iterator[Finding]:
        ask = "import json; from mien import media; print(json.dumps("
        try:
            found, versions = self.system.python(ask + "[media.encoders(), media.versions()]))")
        except ProviderError as error:
            yield Finding(
                "encoders", "fatal", "not usable", f"PyAV cannot be used: {error}.",
                "pip install --force-reinstall av",
            )  # fmt: skip
            return
        usable = [name for name, state in found.items() if state == "usable"]
        yield Finding("libav", "ok", ", ".join(f"{k} {v}" for k, v in versions.items()))
        lacking = "libx264" not in usable
        yield Finding(
            "encoders", "fatal" if lacking else "ok", ", ".join(usable) or "none",
            "The encoder libx264, which mien uses unless told otherwise, is not there."
            if lacking else "",
            "pip install --force-reinstall av" if lacking else "",
        )  # fmt: skip
        if self._nvidia() and "h264_nvenc" not in usable:
            yield Finding(
                "NVENC", "none", found.get("h264_nvenc", "not built in"),
                mend="update NVIDIA's driver; data-centre cards have no encoder",
            )  # fmt: skip

    def _cameras(self) -> Iterator[Finding]:
        if self.system.name != "Linux":
            yield Finding("camera", "none", f"not looked for on {self.system.name}")
            yield self._lent_camera()
            return
        real: list[tuple[str, str]] = []
        virtual: list[tuple[str, str]] = []
        for path in self.system.glob("/sys/class/video4linux/video*"):
            device = f"/dev/{path.rsplit('/', 1)[1]}"
            name = self.system.read(f"{path}/name").strip()
            is_virtual = bool(
                self.system.glob(f"/sys/devices/virtual/video4linux/{device.rsplit('/', 1)[1]}")
            )
            (virtual if is_virtual else real).append((device, name))
        barred = [d for d, _ in (*real, *virtual) if not self.system.may_use(d)]
        group = f"sudo usermod -aG video {self.system.user}, then log in again"
        for what, found in (("camera", real), ("virtual camera", virtual)):
            shut = [d for d, _ in found if d in barred]
            text = ", ".join(f"{d} {n}" for d, n in found[:4]) or "none"
            state: State = "problem" if shut else "ok" if found else "none"
            mend = group if shut else ""
            if what == "virtual camera" and not found:
                text, mend = self._no_loopback()
            problem = f"This user may not use {', '.join(shut)}." if shut else ""
            yield Finding(what, state, text, problem, mend)

    def _no_loopback(self) -> tuple[str, str]:
        """Why there is no virtual camera on Linux, and what makes one."""
        load = "sudo modprobe v4l2loopback exclusive_caps=1 card_label=mien"
        if re.search(r"^v4l2loopback\s", self.system.read("/proc/modules"), re.M):
            return "none: v4l2loopback is loaded, without a device", (
                f"sudo modprobe -r v4l2loopback && {load}"
            )
        if self.system.glob("/lib/modules/*/updates/dkms/v4l2loopback.ko*"):
            return "none: v4l2loopback is not loaded", load
        return "none", f"sudo apt install v4l2loopback-dkms && {load}"

    def _lent_camera(self) -> Finding:
        """The virtual camera on Windows and macOS."""
        if not self.system.module("pyvirtualcam"):
            mend = "pip install mien[virtual]  (pyvirtualcam is under the GPL-2.0)"
            return Finding("virtual camera", "none", "pyvirtualcam is not installed", mend=mend)
        places = ("/Applications/OBS.app", "/Program Files/obs-studio")
        if not any(self.system.glob(place) for place in places):
            mend = "install OBS Studio from obsproject.com, and start its virtual camera once"
            return Finding("virtual camera", "none", "OBS Studio is not installed", mend=mend)
        return Finding("virtual camera", "ok", "pyvirtualcam, OBS Studio; not tried")

    def _microphones(self) -> Iterator[Finding]:
        if not self.system.module("sounddevice"):
            yield Finding(
                "microphone", "none", "sounddevice is not installed", mend="pip install mien[audio]"
            )
            return
        ask = "import json; from mien import media; print(json.dumps(media.microphones()))"
        try:
            names = [name for _, name in self.system.python(ask)]
        except ProviderError as error:
            lacks = "PortAudio" in str(error)
            mend = "sudo apt install libportaudio2" if lacks and self.system.name == "Linux" else ""
            yield Finding("microphone", "none", "no PortAudio" if lacks else str(error), mend=mend)
            return
        yield Finding("microphone", "ok" if names else "none", ", ".join(names[:4]) or "none")

    def _window(self) -> Iterator[Finding]:
        if self.system.module("_tkinter"):
            yield Finding("window", "ok", "Tk")
        else:
            mend = "sudo apt install python3-tk" if self.system.name == "Linux" else ""
            yield Finding("window", "none", "Tk is not installed", mend=mend)

    def _disk(self) -> Iterator[Finding]:
        setting = self.models.device.cache
        place = cache.usual() if setting == "auto" else Path(setting).expanduser()
        if setting == "off":
            yield Finding("cache", "none", "off")
        elif place.exists() and cache.folder(setting) is None:
            yield Finding(
                "cache", "problem", f"{place}, not used",
                f"{place} cannot be used as the cache: others may write there, or you may not.",
                f"sudo chown -R {self.system.user} {place} && chmod 700 {place}",
            )  # fmt: skip
        else:
            free = self.system.free(place)
            low = free < ROOM
            yield Finding(
                "cache", "problem" if low else "ok", f"{place}, {_size(free)} free",
                f"Only {_size(free)} are free for {place}; a large model takes 600 MB there."
                if low else "",
                'free some, or name another folder: cache = "FOLDER" in mien.toml' if low else "",
            )  # fmt: skip

    def _chain(self) -> Iterator[Finding]:
        try:
            program = CHAIN.format(folder=str(self.models.folder), device=self.models.device)
            seconds = float(self.system.python(program))
        except ProviderError as error:
            yield Finding(
                "default chain", "fatal", "does not run",
                f"The default chain does not run: {str(error).partition(';')[0]}.",
                "see the problems above; 'mien faces PHOTO -vv' shows more",
            )  # fmt: skip
        else:
            where = self.models.device.providers
            yield Finding("default chain", "ok", f"runs on {where}, loaded in {seconds:.1f} s")


def show(diagnosis: Diagnosis, *, width: int = 80, height: int = 50) -> str:
    """One screen: what was found, then for each problem the command that mends it.

    Args:
        diagnosis: Of :meth:`Examination.run`.
        width: Columns.
        height: Lines; what does not fit is left out, and that is said.
    """
    lines = [_line(f, width) for f in diagnosis.findings]
    wrong: list[list[str]] = []
    for finding in diagnosis.problems:
        text = textwrap.wrap(finding.problem, width - 4)
        block = [f"  * {text[0]}", *(f"    {t}" for t in text[1:])]
        wrong.append(block + _command(finding.mend, "    > ", width))
    optional = [
        line
        for f in diagnosis.findings
        if f.state == "none" and f.mend
        for line in _command(f.mend, f"  {f.what}: ", width)
    ]
    end = "The default chain can run." if diagnosis.ok else "The default chain cannot run."
    count = len(wrong)
    head = f"{count} problem{'' if count == 1 else 's'}:" if count else "No problems."
    lines += ["", head]
    room = height - len(lines) - 2
    for n, block in enumerate(wrong):
        if len(block) > room - (n + 1 < count):
            lines.append(f"  … and {count - n} more; --json shows all")
            room = 0
            break
        lines += block
        room -= len(block)
    if optional and room > len(optional) + 1:
        lines += ["For what is not there, if you want it:", *optional]
    return "\n".join([*lines, end])


def _command(text: str, label: str, width: int) -> list[str]:
    """A command in lines that can be copied as they are, behind a label."""
    if len(label) + len(text) <= width:
        return [label + text]
    if " && " in text:
        parts = text.split(" && ")
        lines = [f"{part} && \\" for part in parts[:-1]] + parts[-1:]
    else:
        lines = textwrap.wrap(
            text, width - len(label), break_long_words=False, break_on_hyphens=False
        )
    return [(" " * len(label) if n else label) + line for n, line in enumerate(lines)]


def _line(finding: Finding, width: int) -> str:
    line = f"{MARKS[finding.state]} {finding.what:<15} {finding.text}"
    return line if len(line) <= width else line[: width - 1] + "…"


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
