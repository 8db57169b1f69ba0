"""What the doctor makes of machines that are made up here."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mien import doctor, runtime, zoo
from mien.errors import ProviderError
from mien.runtime import installation
from mien.runtime.installation import Installation

CPUINFO = """processor\t: 0
model name\t: Some Processor
flags\t\t: fpu avx2 avx512f avx512_vnni amx_int8

processor\t: 1
"""
MEMINFO = "MemTotal:       16000000 kB\nMemAvailable:    8000000 kB\n"
SMI = "NVIDIA GeForce RTX 3080, 550.54.14, 10240 MiB\n"
CAMERA = "/sys/class/video4linux/video0"
ENCODERS = [
    {"libx264": "usable", "libx265": "usable", "h264_nvenc": "does not open (no driver)"},
    {"PyAV": "18.0.0", "libavcodec": "62.1.100"},
]


class Machine(doctor.System):
    """All well, with a camera and no GPU; a test changes what it is about."""

    name, machine, user = "Linux", "x86_64", "ada"

    def __init__(self, **changes) -> None:
        self.files = {"/proc/cpuinfo": CPUINFO, "/proc/meminfo": MEMINFO, f"{CAMERA}/name": "Cam\n"}
        self.paths = [CAMERA]
        self.commands: dict[str, str] = {}
        self.barred: set[str] = set()
        self.libraries: set[str] = set()
        self.ort = Installation("1.31.1", {"onnxruntime": "1.31.1"}, ("cpu",))
        self.trials: dict[str, str] = {}
        self.encoders = ENCODERS
        self.chain: float | str = 0.5
        self.bytes = 50 << 30
        self.modules = {"_tkinter", "sounddevice"}
        self.microphones: list[tuple[int, str]] | str = [(0, "Mic")]
        self.__dict__.update(changes)

    def read(self, path):
        return self.files.get(path, "")

    def glob(self, pattern):
        wanted = re.escape(pattern).replace(r"\*", "[^/]*")
        return sorted(p for p in self.paths if re.fullmatch(wanted, p))

    def run(self, *command, timeout=10):
        return self.commands.get(" ".join(command[:2]).split(",")[0])

    def python(self, program, timeout=120):
        if trial := re.search(r"attempt\('(\w+)'\)", program):
            said = self.trials.get(trial[1], "")
        elif "encoders" in program:
            said = self.encoders
        elif "media.microphones" in program:
            said = self.microphones
        else:
            compile(program, "chain", "exec")
            said = self.chain
        if isinstance(said, str) and said.startswith("!"):
            raise ProviderError(said[1:])
        return said

    def may_use(self, path):
        return path not in self.barred

    def library(self, name):
        return name in self.libraries

    def module(self, name):
        return name in self.modules

    def cores(self):
        return 2

    def installation(self):
        return self.ort

    def free(self, folder):
        return self.bytes


def examined(machine: Machine, tmp_path: Path, **device) -> doctor.Diagnosis:
    models = zoo.Zoo.at(tmp_path / "models", runtime.Device(cache=str(tmp_path / "c"), **device))
    return doctor.Examination(models, machine).run()


def finding(found: doctor.Diagnosis, what: str) -> doctor.Finding:
    return next(f for f in found.findings if f.what == what)


def test_all_is_well(tmp_path: Path):
    found = examined(Machine(), tmp_path)
    assert found.ok
    assert found.problems == []
    assert finding(found, "processor").text == "Some Processor; AVX2 AVX-512 VNNI AMX"
    assert finding(found, "cores").text == "2 usable of 2"
    assert finding(found, "memory").text == "8.2 GB free of 16.4 GB"
    assert finding(found, "camera").text == "/dev/video0 Cam"
    assert (
        finding(found, "models").text
        == f"{len(zoo.SHIPPED)} whole: {len(zoo.SHIPPED)} shipped, 0 of yours"
    )
    assert finding(found, "default chain").text == "runs on cpu, loaded in 0.5 s"
    text = doctor.show(found)
    assert "No problems." in text
    assert text.endswith("The default chain can run.")
    assert "modprobe v4l2loopback" in text  # there is no virtual camera, if one is wanted
    json.dumps(found.as_json())


def nvidia(**changes) -> Machine:
    machine = Machine(**changes)
    machine.paths += ["/sys/bus/pci/devices/0000:01:00.0/class"]
    machine.files |= {
        "/sys/bus/pci/devices/0000:01:00.0/class": "0x030000\n",
        "/sys/bus/pci/devices/0000:01:00.0/vendor": "0x10de\n",
    }
    return machine


def gpu(**changes) -> Machine:
    return nvidia(
        commands={"nvidia-smi --query-gpu=name": SMI, "nvidia-smi": "CUDA Version: 12.4 "},
        **changes,
    )


CUDA = Installation(
    "1.31.1", {"onnxruntime-gpu": "1.31.1"}, ("tensorrt", "cuda", "cpu"),
    {"cuda": ("libcudart.so.12", "libcudnn.so.9"), "tensorrt": ("libnvinfer.so.10",)},
)  # fmt: skip
LIBRARIES = {"libcudart.so.12", "libcudnn.so.9"}


def test_a_gpu_that_works(tmp_path: Path):
    trials = {"tensorrt": "tensorrt could not be started"}
    found = examined(gpu(ort=CUDA, libraries=LIBRARIES, trials=trials), tmp_path, providers="cuda")
    assert found.problems == []  # TensorRT comes with the build; nobody asked for it
    assert finding(found, "GPU").text == (
        "NVIDIA GeForce RTX 3080, 10240 MiB; driver 550.54.14, for CUDA up to 12.4"
    )
    assert finding(found, "cuda needs").text == "libcudart.so.12, libcudnn.so.9"
    assert finding(found, "tensorrt needs").text == "libnvinfer.so.10 missing"
    assert 'tensorrt needs: pip install "tensorrt==10.*"' in doctor.show(found)


PROBLEMS = {
    "GPU without a driver": (
        nvidia(), "driver does not answer", r"NVIDIA's driver|ubuntu-drivers", True,
    ),
    "GPU, but ONNX Runtime for processors": (
        gpu(), "for processors only", r"pip install \"onnxruntime-gpu\[cuda,cudnn\]\"", True,
    ),
    "libraries of CUDA missing": (
        gpu(ort=CUDA, libraries={"libcudart.so.12"}),
        r"not found: libcudnn\.so\.9", r"\[cuda,cudnn\]", True,
    ),
    "two builds": (
        Machine(ort=replace(CUDA, packages={"onnxruntime": "1.30", "onnxruntime-gpu": "1.31.1"},
                            needed={}, built=("cpu",))),
        "installed over each other",
        r"pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu$", True,
    ),
    "a provider that crashes": (
        Machine(ort=Installation("1", {"onnxruntime-openvino": "1"}, ("openvino", "cpu")),
                trials={"openvino": "!crashed with signal 11"}),
        "Provider openvino: crashed with signal 11", "onnxruntime-openvino", True,
    ),
    "the processor's provider fails": (
        Machine(trials={"cpu": "computes wrong numbers"}), "wrong numbers", "onnxruntime", False,
    ),
    "no libx264": (
        Machine(encoders=[{"libx264": "not built in"}, {}]),
        "libx264", "--force-reinstall av", False,
    ),
    "PyAV crashes": (
        Machine(encoders="!crashed with signal 6"), "PyAV cannot be used: crashed", "av", False,
    ),
    "the chain does not run": (
        Machine(chain="!ModelError: no"), "does not run: ModelError: no", "mien faces", False,
    ),
    "a camera for others": (
        Machine(barred={"/dev/video0"}), "may not use /dev/video0", "usermod -aG video ada", True,
    ),
    "little disk": (Machine(bytes=100 << 20), "105 MB are free", "cache =", True),
    "little memory": (
        Machine(files={"/proc/cpuinfo": CPUINFO,
                       "/proc/meminfo": "MemTotal: 4000000 kB\nMemAvailable: 500000 kB\n"}),
        "512 MB of memory", "close other", True,
    ),
    "an old processor": (
        Machine(files={"/proc/cpuinfo": "flags : fpu sse2\n"}), "no AVX2", "another machine", True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROBLEMS)
def test_each_problem_and_its_mending(tmp_path: Path, name: str):
    machine, problem, mend, ok = PROBLEMS[name]
    found = examined(machine, tmp_path)
    (one,) = found.problems
    assert re.search(problem, one.problem)
    assert re.search(mend, one.mend)
    assert found.ok is ok
    assert one.state == ("problem" if ok else "fatal")
    text = doctor.show(found)
    assert "1 problem:" in text
    assert text.endswith(f"The default chain {'can' if ok else 'cannot'} run.")


def test_a_provider_that_was_asked_for_must_be_there(tmp_path: Path):
    machine = Machine()
    found = examined(machine, tmp_path, providers="cuda")
    assert not found.ok
    assert finding(found, "cuda").text == "not built in"
    assert finding(found, "cuda").problem.endswith("not in this ONNX Runtime, which has cpu.")
    assert "onnxruntime-gpu" in finding(found, "cuda").mend
    assert examined(machine, tmp_path, providers="cuda", allow_fallback=True).ok


def test_a_gpu_of_another_vendor_that_may_not_be_used(tmp_path: Path):
    machine = nvidia()
    machine.files["/sys/bus/pci/devices/0000:01:00.0/vendor"] = "0x1002"
    machine.paths.append("/dev/dri/renderD128")
    machine.barred.add("/dev/dri/renderD128")
    found = examined(machine, tmp_path)
    assert [f.what for f in found.problems] == ["GPU", "rocm"]
    assert "usermod -aG render,video ada" in found.problems[0].mend


def test_a_virtual_camera(tmp_path: Path):
    machine = Machine()
    machine.paths += [
        "/sys/class/video4linux/video9", "/sys/devices/virtual/video4linux/video9",
    ]  # fmt: skip
    machine.files["/sys/class/video4linux/video9/name"] = "mien"
    found = examined(machine, tmp_path)
    assert finding(found, "camera").text == "/dev/video0 Cam"
    assert finding(found, "virtual camera").text == "/dev/video9 mien"


def test_a_damaged_model(tmp_path: Path, monkeypatch):
    models = zoo.Zoo.at(tmp_path)
    broken = tuple(replace(c, sha256="0" * 64) if c.name == "occlude" else c for c in models.cards)
    found = doctor.Examination(replace(models, cards=broken), Machine()).run()
    assert not found.ok
    assert "occlude.onnx" in found.problems[0].problem
    assert "reinstall" in found.problems[0].mend


def test_a_cache_that_others_may_write(tmp_path: Path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c").chmod(0o777)
    (one,) = examined(Machine(), tmp_path).problems
    assert f"chmod 700 {tmp_path / 'c'}" in one.mend


def test_it_fits_on_a_screen():
    """Whatever is wrong: 50 lines of 80, and the command in full or said to be left out."""
    many = [
        doctor.Finding(f"thing {n}", "problem", "x" * 200, f"Thing {n} {'is wrong ' * 20}.",
                       "pip uninstall -y onnxruntime && pip install something-very-long-indeed==1")
        for n in range(30)
    ]  # fmt: skip
    for count in (1, 3, 8, 30):
        lines = doctor.show(doctor.Diagnosis(tuple(many[:count]))).splitlines()
        assert len(lines) <= 50
        assert max(map(len, lines)) <= 80
        shown = sum(line.lstrip().startswith("* Thing") for line in lines)
        assert shown == count or f"… and {count - shown} more; --json shows all" in "\n".join(lines)
    assert shown < 30


class TestTheRealMachine:
    def test_what_it_says_is_json_and_plain(self):
        found = doctor.Examination(zoo.Zoo.at(), doctor.System()).run()
        assert finding(found, "cpu").state == "ok"
        assert finding(found, "default chain").state == "ok"
        assert json.loads(json.dumps(found.as_json()))["ok"] is found.ok

    @pytest.mark.parametrize(
        ("program", "message"),
        [("import os; os.kill(os.getpid(), 11)", "crashed with signal 11"),
         ("raise ValueError('this')", "ValueError: this"),
         ("from mien.errors import ModelError; raise ModelError('that')", "^that"),
         ("import sys; sys.exit(3)", "status 3"),
         ("while True: pass", "no answer in 0 seconds")],
    )  # fmt: skip
    def test_a_trial_that_fails_is_told(self, program: str, message: str):
        with pytest.raises(ProviderError, match=message):
            doctor.System().python(program, timeout=0.4 if "while" in program else 20)

    def test_answers(self):
        assert doctor.System().python("print('noise'); print('[1, 2]')") == [1, 2]
        assert doctor.System().run(sys.executable, "-c", "print(3)") == "3\n"
        assert doctor.System().run("no-such-command-here") is None


def test_what_a_library_asks_for(tmp_path: Path):
    content = (
        b"\x7fELF\0libcudart.so.12\0libcublasLt.so.12\0libcublas.so.12\0libcudnn.so.9\0libc.so.6"
    )
    (tmp_path / "libonnxruntime_providers_cuda.so").write_bytes(content)
    (tmp_path / "libonnxruntime_providers_tensorrt.so").write_bytes(b"libnvinfer.so.10\0")
    found = installation.libraries(tmp_path, "providers_cuda")
    assert found == ("libcublas.so.12", "libcudart.so.12", "libcudnn.so.9")
    assert installation.libraries(tmp_path, "providers_tensorrt") == ("libnvinfer.so.10",)
    assert installation.libraries(tmp_path, "providers_other") == ()


# --- live -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "text", "mend"),
    [({}, "Mic", ""),
     ({"microphones": []}, "none", ""),
     ({"modules": set()}, "sounddevice is not installed", "pip install mien[audio]"),
     ({"microphones": "!microphones need the library PortAudio (not found)"}, "no PortAudio",
      "sudo apt install libportaudio2")],
)  # fmt: skip
def test_microphones_and_what_they_lack(tmp_path, changes, text, mend):
    found = examined(Machine(**changes), tmp_path)
    assert (finding(found, "microphone").text, finding(found, "microphone").mend) == (text, mend)
    assert found.ok


def test_without_tk_there_is_no_window(tmp_path):
    found = finding(examined(Machine(modules=set()), tmp_path), "window")
    assert (found.state, found.mend) == ("none", "sudo apt install python3-tk")
    assert finding(examined(Machine(), tmp_path), "window").state == "ok"


def test_a_virtual_camera_that_is_not_there_is_explained(tmp_path):
    machine = Machine()
    machine.paths += ["/lib/modules/6.1/updates/dkms/v4l2loopback.ko.xz"]
    found = finding(examined(machine, tmp_path), "virtual camera")
    assert found.text == "none: v4l2loopback is not loaded"
    assert found.mend.startswith("sudo modprobe v4l2loopback")
    machine.files["/proc/modules"] = "v4l2loopback 45056 0 - Live\n"
    found = finding(examined(machine, tmp_path), "virtual camera")
    assert found.text == "none: v4l2loopback is loaded, without a device"
    assert "modprobe -r" in found.mend


@pytest.mark.parametrize(
    ("modules", "paths", "text", "words"),
    [(set(), [], "pyvirtualcam is not installed", "GPL-2.0"),
     ({"pyvirtualcam"}, [], "OBS Studio is not installed", "install OBS Studio"),
     ({"pyvirtualcam"}, ["/Applications/OBS.app"], "pyvirtualcam, OBS Studio; not tried", "")],
)  # fmt: skip
def test_virtual_cameras_on_other_systems(tmp_path, modules, paths, text, words):
    machine = Machine(name="Darwin", modules=modules, paths=paths)
    found = finding(examined(machine, tmp_path), "virtual camera")
    assert found.text == text
    assert words in found.mend
