"""The benchmark: formulas on made-up samples, meters by stand-ins, drawn footage, a real run."""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

from material import mien
from mien import landmarks, runtime, zoo
from mien.bench import face, footage, machine, measuring, power, report, standin, worker, writing
from mien.bench.figures import Alone, Spread, bound, intervals, middle, share, slowest
from mien.bench.measuring import Case, Chain, Resolution, form_of
from mien.cli.bench import numbers, words
from mien.errors import MediaError, MienError, ModelError, ProviderError, UsageError
from mien.types import Frame

# --- Formulas ---------------------------------------------------------------------------------


def test_percentiles_and_jitter():
    spread = Spread.of(range(1, 101))
    assert (spread.p50, spread.p95, spread.p99) == pytest.approx((50.5, 95.05, 99.01))
    assert spread.jitter == pytest.approx(((100**2 - 1) / 12) ** 0.5)  # of a uniform distribution
    assert spread.count == 100
    assert Spread.of([]) is None
    assert Spread.of([7.0]) == Spread(7, 7, 7, 0, 1)


STAGES = {"decode": Alone(4, 2), "generate": Alone(20, 30), "encode": Alone(10, 28)}


def test_slowest_stage_and_its_share():
    assert slowest(STAGES) == "generate"
    assert share(STAGES) == pytest.approx(20 / 34)


@pytest.mark.parametrize(
    ("cores", "streams", "fps"),
    [
        (2, 1, 2000 / 60),  # 60 ms of processor time for each frame, on two cores
        (8, 1, 1000 / 20),  # more cores do not help the slowest stage
        (8, 2, 2 * 1000 / 20),  # another stream does
        (8, 4, 8000 / 60),  # until the cores are full
        (1.5, 1, 1500 / 60),
    ],
)
def test_bound(cores, streams, fps):
    assert bound(STAGES, cores, streams) == pytest.approx(fps)


def test_intervals_and_medians_over_rounds():
    assert intervals([1.0, 1.02, 1.05]) == pytest.approx([20, 30])
    assert intervals([1.0]) == []
    rounds = [{"a": Alone(1, 10), "b": Alone(0, 0)}, {"a": Alone(3, 12)}, {"a": Alone(2, 90)}]
    assert middle(rounds) == {"a": Alone(2, 12)}


def test_samples_tell_stages_from_their_parts():
    times = worker.Samples()
    with times("track"):
        times.wrap("detect", time.sleep)(0.02)
        with times("landmarks"):
            pass
    with times("track"):
        pass
    assert times.outer == {"track"}
    assert {name: len(samples) for name, samples in times.wall.items()} == {
        "detect": 1, "landmarks": 1, "track": 2,
    }  # fmt: skip
    assert times.wall["detect"][0] >= 20
    assert times.wall["track"][0] >= times.wall["detect"][0]
    assert times.processor["detect"][0] < 15, "sleeping takes no processor"
    assert times.per_frame(2)["track"] == pytest.approx(sum(times.wall["track"]) / 2, abs=0.1)


def made_up(fps, **more):
    out = {
        "fps": fps, "frames": 10, "faces": 1.0, "processor": 50.0, "others": 0.1,
        "stages": {"decode": [1.0, 3.0], "generate": [20.0] * 10, "detect": [5.0]},
        "outer": ["decode", "generate"], "intervals": [20.0, 22.0], "peak_mb": 100.0,
        "gpu": None, "rapl": None, "models": {},
    }  # fmt: skip
    return out | more


ALONE = {"decode": 4, "generate": 20}


def row(runs, streams=1):
    def measured(k):
        stages = {n: {"wall": k * ms, "processor": k * ms} for n, ms in ALONE.items()}
        return {"stages": stages, "parts": {"detect": {"wall": 3, "processor": 3}}}

    case = Case(Chain("relight", "cpu", "fp32"), Resolution(1280, 720), 1, streams)
    steps = {"imported": 0.2, "loaded": 0.5, "enrolled": 0.7, "first_frame": 1.0, "frame": 0.1}
    starts = {"cold": steps, "cached": steps}
    return measuring.row(case, starts, [measured(k) for k in (1, 2, 1)][: len(runs)], runs)


def test_efficiency_pairs_what_was_measured_together(monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 8.0)
    # 50, 25 and 50 are possible; the machine was half as fast in the second round.
    made = row([made_up(40), made_up(24), made_up(41)])
    assert made["efficiency"] == pytest.approx(41 / 50)
    assert made["fps"] == 40
    assert made["fps_rounds"] == [40, 24, 41]
    assert made["bound_fps"] == 50
    assert (made["slowest"], made["slowest_share"]) == (
        "generate",
        pytest.approx(20 / 24, abs=1e-3),
    )
    assert made["inner"] == ["detect"]
    assert made["stages"]["decode"]["p50"] == 2
    assert made["stages"]["decode"]["count"] == 6
    assert made["interval"]["jitter"] == 1


def test_energy_of_a_frame():
    joules = [
        made_up(40, gpu={"device": "x", "joules": j, "watts": 100.0, "memory_mb": 900.0})
        for j in (30.0, 50.0, 40.0)
    ]
    assert row(joules)["gpu"] == {"watts": 100, "joules_per_frame": 4.0, "memory_mb": 900}
    assert row([made_up(40)])["gpu"] is None


# --- Meters, by stand-ins ---------------------------------------------------------------------


def zone(root, folder, name, energy, most=1000_000_000):
    place = root / folder
    place.mkdir(exist_ok=True)
    for file, value in (("name", name), ("energy_uj", energy), ("max_energy_range_uj", most)):
        (place / file).write_text(f"{value}\n")


def test_rapl_adds_packages_and_survives_a_counter_that_begins_anew(tmp_path):
    zone(tmp_path, "intel-rapl:0", "package-0", 1_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 500_000)  # inside of the package
    zone(tmp_path, "intel-rapl:1", "package-1", 999_000_000)
    zone(tmp_path, "intel-rapl:2", "psys", 5_000_000)  # around both
    rapl = power.Rapl(tmp_path)
    assert rapl.readable
    zone(tmp_path, "intel-rapl:0", "package-0", 3_500_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 900_000)
    zone(tmp_path, "intel-rapl:1", "package-1", 2_000_000)
    zone(tmp_path, "intel-rapl:2", "psys", 90_000_000)
    drawn = rapl.stop()
    assert drawn.joules == pytest.approx(2.5 + 3.0)
    assert drawn.watts > 0


def test_rapl_that_cannot_be_read(tmp_path):
    assert power.Rapl(tmp_path).stop() is None
    assert not power.Rapl(tmp_path).readable
    zone(tmp_path, "intel-rapl:0", "package-0", "")
    assert power.Rapl(tmp_path).stop() is None


class FakeNvml:
    """A GPU of 40 W that uses 2 GB of memory, then 5, then 4."""

    NVMLError = type("NVMLError", (Exception,), {})

    def __init__(self, *, counts=True, driver=True):
        self.counts, self.driver = counts, driver
        self.used = iter([2, 5])
        self.energy = iter([100_000, 108_000])

    def nvmlInit(self):  # noqa: N802
        if not self.driver:
            raise self.NVMLError("no driver")

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle):  # noqa: N802
        return f"Fake {handle}"

    def nvmlSystemGetDriverVersion(self):  # noqa: N802
        return b"999.1"

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        return SimpleNamespace(used=next(self.used, 4) * 2**30)

    def nvmlDeviceGetPowerUsage(self, handle):  # noqa: N802
        return 40_000

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):  # noqa: N802
        if not self.counts:
            raise self.NVMLError("too old")
        return next(self.energy)


def test_gpu_by_its_energy_counter(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    gpu = power.Gpu()
    assert (gpu.device, gpu.driver) == ("Fake 3", "999.1")
    gpu.start()
    time.sleep(2.5 * power.EVERY)
    drawn = gpu.stop()
    assert drawn.joules == 8
    assert drawn.memory_mb == 3 * 1024, "above what was in use before"
    assert 8 / drawn.watts == pytest.approx(2.5 * power.EVERY, rel=0.9)


def test_gpu_that_counts_no_energy(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(counts=False))
    gpu = power.Gpu()
    gpu.start()
    drawn = gpu.stop()
    assert drawn.watts == 40
    assert 0 < drawn.joules < 40


def test_no_gpu(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml(driver=False))
    assert power.Gpu().device == ""
    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    gpu = power.Gpu()
    gpu.start()
    assert gpu.stop() is None


def test_cores_of_a_container(tmp_path):
    limit = tmp_path / "cpu.max"
    limit.write_text("50000 100000\n")
    assert machine.cores(limit) == 0.5
    limit.write_text("max 100000\n")
    assert machine.cores(limit) == machine.cores(tmp_path / "none") >= 1


def test_how_much_others_used(tmp_path, monkeypatch):
    stat = tmp_path / "stat"
    stat.write_text("cpu  1000 0 0 5000 0 0 0 0 0 0\n")
    clock = iter([10.0, 11.0])
    monkeypatch.setattr(machine.time, "process_time", lambda: next(clock))
    monkeypatch.setattr(machine.os, "sysconf", lambda name: 100)
    busy = machine.Busy(stat)
    # Ten seconds of processors: four busy, one of them ours, one taken by another machine.
    stat.write_text("cpu  1300 0 0 5600 0 0 0 100 0 0\n")
    assert busy.others() == pytest.approx(0.3)


def test_peak_memory_is_of_this_process():
    before = machine.peak_memory()
    ballast = np.ones(2**26, np.uint8)  # 64 MB
    assert machine.peak_memory() >= before
    assert 20 < before < 100_000
    assert ballast[0] == 1


# --- Footage ----------------------------------------------------------------------------------


@pytest.mark.parametrize("faces", [1, 2, 4, 8])
def test_footage_has_as_many_faces_as_asked(swapper, faces):
    pictures = list(footage.pictures(640, 360, faces, 25))
    for picture in pictures[::12]:
        assert picture.shape == (360, 640, 3)
        assert len(swapper.detector.quick(picture)) == faces
        found = swapper.landmarks(Frame(picture), swapper.detector.thorough(picture))
        assert len(found) == faces
        assert min(f.mesh_score for f in found) > 0.9
    assert (pictures[0] != pictures[1]).mean() > 0.3, "a still picture would cost codecs nothing"


def test_footage_turns_and_talks(swapper):
    meshes = [footage.meshes(640, 360, 1, t / 10)[0] for t in range(40)]
    yaws = [landmarks.yaw(m) for m in meshes]
    mouths = [landmarks.mouth_opening(m) for m in meshes]
    assert max(yaws) - min(yaws) > 0.4
    assert max(mouths) > 1.5 * min(mouths)
    open_, shut = (np.ascontiguousarray(np.full((360, 360, 3), 120, np.uint8)) for _ in range(2))
    for image, mouth in ((open_, 1.0), (shut, 0.0)):
        face.paint(image, face.mesh((180, 170), 170, mouth=mouth), face.PEOPLE[0])
    seen = [
        landmarks.mouth_opening(swapper.landmarks(Frame(i), swapper.detector.thorough(i))[0].mesh)
        for i in (open_, shut)
    ]
    assert seen[0] > 1.3 * seen[1]


# --- Random weights ---------------------------------------------------------------------------


def test_stand_in_has_the_published_size():
    """InsightFace says 174.7 G and 138.3 M of inswapper_128."""
    size = standin.size_of(standin.build(weights=False))
    assert size.macs == pytest.approx(174.6e9, rel=0.01)
    assert size.parameters == pytest.approx(138.3e6, rel=0.01)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_stand_in_runs_and_depends_on_both_inputs(tmp_path, precision):
    made = standin.build(precision=precision, width=16)
    assert made.graph.initializer[-1].name == "emap"
    assert list(made.graph.initializer[-1].dims) == [512, 512]
    path = tmp_path / "small.onnx"
    path.write_bytes(made.SerializeToString())
    model = runtime.load(path, runtime.Device("cpu", 1, cache="off"))
    assert model.inputs == {"target": (1, 3, 128, 128), "source": (1, 512)}
    rng = np.random.default_rng(3)
    target = rng.random((1, 3, 128, 128), np.float32)
    source = rng.standard_normal((1, 512), np.float32) / 512**0.5
    (out,) = model(target, source)
    assert out.shape == target.shape
    assert out.dtype == np.float32
    assert -1e-6 <= out.min() < out.max() <= 1 + 1e-6
    for other in (model(target[..., ::-1].copy(), source), model(target, -source)):
        assert np.abs(other[0] - out).max() > 1e-3


def test_stand_in_is_described_as_what_it_is(tmp_path, monkeypatch):
    small = standin.build(width=16)
    monkeypatch.setattr(standin, "build", lambda **_: small)
    card = standin.card(tmp_path)
    assert card.name == standin.NAME
    assert "random weights" in card.origin
    assert Path(card.file).is_file()
    assert card.swap.recogniser == "faceres512"


# --- What is asked for ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size", "name"),
    [
        ("720p", (1280, 720), "720p"),
        ("1080P", (1920, 1080), "1080p"),
        ("4k", (3840, 2160), "2160p"),
        ("640x480", (640, 480), "640x480"),
        ("320x180", (320, 180), "180p"),
    ],
)
def test_resolutions(text, size, name):
    assert Resolution.parse(text) == size
    assert str(Resolution.parse(text)) == name


@pytest.mark.parametrize("text", ["", "big", "720", "720q", "0x0", "63x64", "641x480", "9000x100"])
def test_wrong_resolutions(text):
    with pytest.raises(UsageError, match=f"--resolution '{text}'"):
        Resolution.parse(text)


def test_lists():
    assert words("relight:shape=0.3,eyes=target,mesh", "--models") == [
        "relight:shape=0.3,eyes=target", "mesh",
    ]  # fmt: skip
    assert numbers("1, 2,1", "--faces") == [1, 2]
    with pytest.raises(UsageError, match="--faces 'x'"):
        numbers("1,x", "--faces")
    with pytest.raises(UsageError, match="--models"):
        words("a,,b", "--models")


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"faces": [9]}, "--faces 9"),
        ({"streams": [0]}, "--streams 0"),
    ],
)
def test_wrong_options(wrong, named):
    with pytest.raises(UsageError, match=named):
        measuring.Options(**wrong).check()


def test_forms_of_a_precision():
    """As ``mien swap --precision``: by the provider where it computes in it, else by weights."""

    def form(model, precision, provider="cpu"):
        return form_of(Chain(model, provider, precision), runtime.CPU)

    assert form("relight", "auto", "tensorrt") == ("relight", "auto", "auto")
    assert form(standin.NAME, "auto") == (standin.NAME, "fp32", "auto")
    assert form("relight", "int8") == ("relight", "int8", "auto")
    assert form("relight", "fp16", "tensorrt,cuda") == ("relight", "fp32", "fp16")
    assert form(standin.NAME, "fp16") == (f"{standin.NAME}_fp16", "fp32", "auto")
    with pytest.raises(UsageError, match="--precision int8: inswapper-sized"):
        form(standin.NAME, "int8")
    with pytest.raises(ProviderError, match="'gpu' is unknown"):
        form("relight", "fp32", "gpu")


def test_a_process_that_dies_is_an_error(monkeypatch):
    monkeypatch.setattr(measuring.sys, "executable", "/bin/false")
    with pytest.raises(MienError, match="relight: the process ended with status 1"):
        measuring.call(worker.Job("start", "relight", zoo.Zoo()))


def test_errors_of_the_process_keep_their_class():
    broken = tuple(replace(c, sha256="0" * 64) if c.name == "centerface" else c for c in zoo.CARDS)
    job = worker.Job("start", "mesh", replace(zoo.Zoo(), cards=broken))
    with pytest.raises(ModelError, match="SHA-256"):
        measuring.call(job)


# --- A real run -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The smallest benchmark that means something, through the command line."""
    folder = tmp_path_factory.mktemp("bench")
    result = mien(
        *("bench", "--models", "mesh", "--resolution", "320x180", "--seconds", "0.7"),
        *("--streams", "2", "--rounds", "1", "--json", "-o", "out"),
        cwd=folder,
    )
    assert result.returncode == 0, result.stderr
    return SimpleNamespace(folder=folder / "out", report=json.loads(result.stdout))


def test_a_run_reports_what_was_measured(done):
    assert len(done.report["runs"]) == 1
    run = done.report["runs"][0]
    assert {k: run[k] for k in report.KEY} == {
        "model": "mesh", "provider": "cpu", "precision": "auto", "fused": "auto",
        "resolution": "180p", "faces": 1, "streams": 2,
    }  # fmt: skip
    frames = run["frames"]
    assert frames in range(4, 2 * 21 + 1, 2), "as many of both streams; fewer on a slow machine"
    assert run["faces_a_frame"] == 1
    assert run["stages"]["generate"]["count"] == frames
    for name in ("decode", "track", "generate", "blend", "mark", "encode"):
        spread = run["stages"][name]
        assert 0 < spread["p50"] <= spread["p95"] <= spread["p99"]
        assert run["alone"][name]["ms"] > 0
    assert set(run["inner"]) == {"detect", "landmarks"}
    assert run["fps"] > 1
    assert run["efficiency"] == pytest.approx(run["fps"] / run["bound_fps"], rel=0.01)
    assert run["peak_mb"] > 50
    assert run["models"]["generate"] == "mesh"
    assert "facemesh" in run["models"]["landmarks"]
    start = run["start"]["cached"]
    assert 0 < start["imported"] < start["loaded"] < start["enrolled"] < start["first_frame"]
    assert done.report["machine"]["cores"] >= 1
    assert done.report["settings"]["encoder"] == "libx264"


def test_report_as_files(done):
    assert json.loads((done.folder / "bench.json").read_text())["runs"] == done.report["runs"]
    page = (done.folder / "bench.md").read_text()
    lines = page.splitlines()
    heads = [n for n, line in enumerate(lines) if line.startswith("| stage")]
    assert len(heads) == 1
    assert any(line.startswith("|   detect ") for line in lines)
    assert "2 streams" in page
    plot = (done.folder / "bench.svg").read_text()
    texts = [e.text for e in ElementTree.fromstring(plot).iter() if e.tag.endswith("text")]
    assert "mesh, cpu, auto, 180p, 1 face, 2 streams" in texts
    assert "generate" in texts
    with pytest.raises(UsageError, match=r"bench\.json already"):
        writing.prepare(done.folder)
    with pytest.raises(UsageError, match="is a file"):
        writing.prepare(done.folder / "bench.md")
    with pytest.raises(MediaError, match="cannot be made"):
        writing.prepare(done.folder / "a" / "b")


def test_compare(done):
    assert report.load(done.folder / "bench.json")["runs"] == done.report["runs"]
    old = json.loads(json.dumps(done.report))
    run = old["runs"][0]
    run["fps"], run["peak_mb"] = run["fps"] / 2, run["peak_mb"] * 4
    old["runs"].append(run | {"faces": 4})
    changes = {c["figure"]: c["ratio"] for c in report.changes(done.report, old)}
    assert changes["fps"] == 2
    assert changes["peak memory, MB"] == 0.25
    assert changes["generate p50, ms"] == 1
    lines = report.change_lines(done.report, old)
    assert any("fps" in line and "(× 2.00)" in line for line in lines)
    assert lines[-1] == "mesh, cpu, auto, 180p, 4 faces, 2 streams: only in the earlier report"


def test_compare_with_something_else(tmp_path):
    other = tmp_path / "other.json"
    for text in ("[]", '{"report": 1}', "no json", '{"kind": "mien bench", "runs": [{}]}'):
        other.write_text(text)
        with pytest.raises(UsageError, match=r"other\.json"):
            report.load(other)
    with pytest.raises(UsageError, match=r"none\.json"):
        report.load(tmp_path / "none.json")


def test_a_noisy_machine_is_said(done):
    quiet = json.loads(json.dumps(done.report))
    quiet["runs"][0]["others"] = 0.04
    assert "others used up to 4% of the processors." in report.surroundings(quiet)
    quiet["runs"][0]["others"] = 0.3
    assert "slower than the machine" in report.surroundings(quiet)


def test_tables_line_up_and_leave_out_what_nobody_knows():
    lines = report.aligned(("a", "watts", "n"), [["x", "–", "1.0"], ["longer", "–", "10.0"]])
    assert lines == [
        "| a      |    n |",
        "| ------ | ---: |",
        "| x      |  1.0 |",
        "| longer | 10.0 |",
    ]


def test_provider_that_is_not_there(tmp_path):
    missing = next(
        name for name in ("directml", "coreml", "qnn", "cann")
        if runtime.PROVIDERS[name].ort not in runtime.session.ort.get_available_providers()
    )  # fmt: skip
    result = mien("bench", "--providers", missing, "--seconds", "0.1", cwd=tmp_path)
    assert result.returncode == 1
    assert missing in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--resolution", "1080x"), "--resolution '1080x'"),
        (("--input", "none.mp4"), "none.mp4"),
        (("--precision", "fp8"), "--precision 'fp8'"),
    ],
)
def test_wrong_use(tmp_path, arguments, said):
    result = mien("bench", *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert said in result.stderr
    assert not list(tmp_path.iterdir())
