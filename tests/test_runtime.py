"""Loading and running of tiny graphs, and the errors that name what is wrong."""

import json
import os
import subprocess
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from mien import runtime
from mien.errors import ModelError, ModelNotFound, ProviderError
from mien.runtime import cache


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """``sum = a + 2 b`` and ``product = a b``, for any number of rows."""
    nodes = [
        helper.make_node("Constant", [], ["two"], value_float=2.0),
        helper.make_node("Mul", ["b", "two"], ["twice"]),
        helper.make_node("Add", ["a", "twice"], ["sum"]),
        helper.make_node("Mul", ["a", "b"], ["product"]),
    ]
    tensors = {
        n: helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3])
        for n in ("a", "b", "sum", "product")
    }
    made = helper.make_graph(
        nodes, "tiny", [tensors["a"], tensors["b"]], [tensors["sum"], tensors["product"]]
    )
    path = tmp_path / "tiny.onnx"
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


@pytest.fixture
def heavy(tmp_path: Path) -> Path:
    """``y = 3 x w`` with weights of 1 MB, which is worth keeping; y is (1, 512)."""
    weights = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
    nodes = [
        helper.make_node("Constant", [], ["three"], value_float=3.0),
        helper.make_node("MatMul", ["x", "w"], ["xw"]),
        helper.make_node("Mul", ["xw", "three"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 512]) for n in ("x", "y")]
    made = helper.make_graph(
        nodes, "heavy", values[:1], values[1:], [numpy_helper.from_array(weights, "w")]
    )
    path = tmp_path / "heavy.onnx"
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


X = np.linspace(-1, 1, 512, dtype=np.float32)[None]


def test_outputs_and_contract(graph: Path):
    model = runtime.load(graph)
    assert model.name == "tiny"
    assert model.provider == "cpu"
    assert model.inputs == {"a": ("n", 3), "b": ("n", 3)}
    assert model.outputs == ("sum", "product")
    a = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    total, product = model(a, a * 10)
    np.testing.assert_array_equal(total, a * 21)
    np.testing.assert_array_equal(product, a * a * 10)
    assert runtime.load(str(graph), name="calculator").name == "calculator"


def test_too_few_inputs(graph: Path):
    model = runtime.load(graph)
    for run in (model, model.lent):
        with pytest.raises(ValueError, match=r"shorter|expected 2 inputs"):
            run(np.zeros((1, 3), np.float32))


def test_missing_file(tmp_path: Path):
    for path in (tmp_path / "gone.onnx", tmp_path):
        with pytest.raises(ModelNotFound, match=path.name):
            runtime.load(path)


@pytest.mark.parametrize("content", [b"", b"this is not a graph", b"\x08\x09" * 40])
def test_not_a_model(tmp_path: Path, content: bytes):
    path = tmp_path / "letter.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"letter\.onnx: not a model"):
        runtime.load(path)


def test_a_graph_that_onnx_runtime_refuses(graph: Path):
    model = onnx.load(graph)
    model.graph.node[1].op_type = "Abacus"
    onnx.save(model, graph)
    with pytest.raises(ModelError, match=r"tiny\.onnx: not a model that ONNX Runtime can load"):
        runtime.load(graph)


class TestThreads:
    @pytest.mark.parametrize("threads", [1, 2])
    def test_are_the_session_s_own_and_never_spin(self, graph: Path, threads: int):
        device = runtime.Device(threads=threads)
        options = runtime.load(graph, device).session.get_session_options()
        assert options.intra_op_num_threads == threads
        assert options.inter_op_num_threads == 1
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"

    @pytest.mark.parametrize(
        ("cores", "sessions", "threads"),
        [(1, 2, 1), (2, 1, 1), (2, 2, 1), (4, 1, 2), (4, 2, 1), (8, 2, 3), (16, 2, 7),
         (64, 2, 8), (64, 16, 3), (4, 9, 1)],
    )  # fmt: skip
    def test_by_the_machine(self, cores: int, sessions: int, threads: int):
        assert runtime.threads_for(cores, sessions) == threads

    def test_are_chosen_where_nobody_says(self, graph: Path, monkeypatch):
        monkeypatch.setattr(runtime.session, "cores", lambda: 16)
        options = runtime.load(graph).session.get_session_options()
        assert options.intra_op_num_threads == 7

    @pytest.mark.parametrize(
        ("files", "cores"),
        [
            ({}, 4),
            ({"/sys/fs/cgroup/cpu.max": "max 100000"}, 4),
            ({"/sys/fs/cgroup/cpu.max": "250000 100000"}, 2),
            ({"/sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
            ({"/sys/fs/cgroup/cpu.max": "nonsense"}, 4),
            ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000",
              "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 3),
            ({"/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
              "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000"}, 4),
            ({f"/sys/devices/system/cpu/cpu{n}/topology/{what}": str(value)
              for n in range(4)
              for what, value in (("physical_package_id", 0), ("core_id", n // 2))}, 2),
        ],
    )  # fmt: skip
    def test_cores_are_physical_and_within_the_quota(self, files: dict[str, str], cores: int):
        def read(name: str) -> str:
            if name not in files:
                raise FileNotFoundError(name)
            return files[name] + "\n"

        assert runtime.cores(range(4), read) == cores


class TestBuffers:
    def test_what_a_call_returns_is_the_caller_s(self, graph: Path):
        model = runtime.load(graph)
        ones = np.ones((2, 3), np.float32)
        first = model(ones, ones)[0]
        model(ones * 5, ones)
        model.lent(ones * 7, ones)
        np.testing.assert_array_equal(first, ones * 3)

    def test_what_is_lent_is_right_and_in_the_same_place(self, graph: Path):
        model = runtime.load(graph)
        ones = np.ones((2, 3), np.float32)
        first = model.lent(ones, ones)
        np.testing.assert_array_equal(first[0], ones * 3)
        second = model.lent(ones * 5, ones)
        assert second[0] is first[0]
        np.testing.assert_array_equal(second[0], ones * 7)
        np.testing.assert_array_equal(second[1], ones * 5)
        assert model.lent(ones[:1], ones[:1])[0].shape == (1, 3)
        assert model.lent(ones, ones)[0] is first[0]

    def test_inputs_need_not_be_contiguous_and_stay_as_they_are(self, graph: Path):
        model = runtime.load(graph)
        wide = np.arange(12, dtype=np.float32).reshape(2, 6)
        given = wide.copy()
        found = model.lent(wide[:, ::2], wide[:, ::2])[0]
        np.testing.assert_array_equal(found, wide[:, ::2] * 3)
        np.testing.assert_array_equal(wide, given)

    def test_each_thread_has_its_own(self, graph: Path):
        model = runtime.load(graph)
        gate = threading.Barrier(4)

        def work(number: int) -> bool:
            mine = np.full((64, 3), number, np.float32)
            gate.wait()
            return all((model.lent(mine, mine)[0] == number * 3).all() for _ in range(200))

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(work, range(1, 5)))

    def test_steady_state_allocates_nothing(self, graph: Path):
        """Outputs are 480 kB each: NumPy takes nothing of that size, and ONNX Runtime writes each
        time to the same addresses, even while earlier results are held."""
        model = runtime.load(graph)
        a = np.ones((40_000, 3), np.float32)
        assert peak(lambda: a + a) > a.nbytes  # the measure sees what NumPy takes
        for run in (model.lent, model.bound({"a": a.shape, "b": a.shape})):
            places = [[x.ctypes.data for x in run(a, a)] for _ in range(5)]
            assert all(p == places[0] for p in places)
            assert peak(lambda run=run: run(a, a)) < 4096
        held = [model(a, a) for _ in range(5)]
        assert len({x.ctypes.data for results in held for x in results}) == 10

    def test_few_shapes_are_kept(self, graph: Path):
        model = runtime.load(graph)
        for rows in range(1, 12):
            a = np.ones((rows, 3), np.float32)
            assert model.lent(a, a)[0].shape == (rows, 3)
        assert len(model._own.buffers) == 4

    def test_sizes_that_depend_on_the_input(self, tmp_path: Path):
        """NonZero gives as many as there are: nothing can be bound, and nothing is."""
        node = helper.make_node("NonZero", ["x"], ["y"])
        made = helper.make_graph(
            [node], "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
            [helper.make_tensor_value_info("y", TensorProto.INT64, [1, "found"])],
        )  # fmt: skip
        path = tmp_path / "nonzero.onnx"
        onnx.save(
            helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path
        )
        model = runtime.load(path)
        for given, found in (([0, 1, 0, 1], [[1, 3]]), ([1, 0, 0, 0], [[0]]), ([0] * 4, [[]])):
            np.testing.assert_array_equal(model.lent(np.array(given, np.float32))[0], found)

    def test_from_one_model_to_the_next_without_the_host(self, graph: Path):
        """The memory of the processor stands in for a GPU's."""
        first, second = runtime.load(graph), runtime.load(graph)
        shape = {"a": (2, 3), "b": (2, 3)}
        one = first.bound(shape, stay=["sum"])
        two = second.bound({"b": (2, 3)}, given={"a": one.values["sum"]})
        ones = np.ones((2, 3), np.float32)
        (product,) = one(ones * 4, ones)
        np.testing.assert_array_equal(product, ones * 4)
        total, _ = two(ones * 10)
        np.testing.assert_array_equal(total, ones * (4 + 2 + 20))
        one(ones, ones)
        np.testing.assert_array_equal(two(ones)[0], ones * (3 + 2))

    def test_wrong_names_and_shapes(self, graph: Path):
        model = runtime.load(graph)
        with pytest.raises(ValueError, match=r"unknown \['c'\], missing \['b'\]"):
            model.bound({"a": (1, 3), "c": (1, 3)})
        bound = model.bound({"a": (1, 3), "b": (1, 3)})
        with pytest.raises(ValueError, match=r"bound to \(1, 3\), not \(2, 3\)"):
            bound(np.ones((1, 3), np.float32), np.ones((2, 3), np.float32))

    def test_warm(self, graph: Path, monkeypatch):
        fed = []
        monkeypatch.setattr(
            runtime.Model, "__call__", lambda self, *arrays: fed.append([a.shape for a in arrays])
        )
        model = runtime.load(graph)
        model.warm()
        model.warm({"a": (5, 3)})
        assert fed == [[(1, 3), (1, 3)], [(5, 3), (1, 3)]]


def peak(run) -> int:
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class TestKeptGraphs:
    @staticmethod
    def load(path: Path, root: Path, **changes) -> runtime.Model:
        return runtime.load(path, runtime.Device(cache=str(root), **changes))

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return tmp_path / "cache"

    @pytest.fixture
    def opened(self, monkeypatch) -> list[Path]:
        """Files that ONNX Runtime opens, in order."""
        seen: list[Path] = []
        real = ort.InferenceSession

        def open_(path, *args, **kwargs):
            seen.append(Path(path))
            return real(path, *args, **kwargs)

        monkeypatch.setattr(ort, "InferenceSession", open_)
        return seen

    def entry(self, root: Path) -> Path:
        (found,) = (root / "graphs").iterdir()
        return found

    def test_the_second_start_takes_the_kept_graph(self, heavy: Path, root: Path, opened):
        first = self.load(heavy, root)(X)[0]
        second = self.load(heavy, root)(X)[0]
        assert opened == [heavy, self.entry(root) / "graph.onnx"]
        np.testing.assert_array_equal(first, second)
        assert root.stat().st_mode & 0o777 == 0o700

    def test_small_models_are_not_kept(self, graph: Path, root: Path):
        self.load(graph, root)
        assert not (root / "graphs").exists()

    def test_nothing_is_kept_when_off(self, heavy: Path, monkeypatch, tmp_path: Path):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        runtime.load(heavy, runtime.Device(cache="off"))
        assert not (tmp_path / "xdg").exists()
        runtime.load(heavy)
        assert len(list((tmp_path / "xdg" / "mien" / "graphs").iterdir())) == 1

    @pytest.mark.parametrize("file", ["graph.onnx", "weights.bin", "entry.json"])
    @pytest.mark.parametrize("damage", ["cut", "changed", "gone", "longer"])
    def test_damaged_entries_are_made_anew(self, heavy: Path, root: Path, opened, file, damage):
        want = self.load(heavy, root)(X)[0]
        hurt = self.entry(root) / file
        content = hurt.read_bytes()
        if damage == "gone":
            hurt.unlink()
        else:
            flipped = bytes([content[0] ^ 255]) + content[1:]
            hurt.write_bytes(
                {"cut": content[:-8], "changed": flipped, "longer": content + b"x"}[damage]
            )
        np.testing.assert_array_equal(self.load(heavy, root)(X)[0], want)
        assert opened == [heavy, heavy]
        self.load(heavy, root)
        assert opened[2] == self.entry(root) / "graph.onnx"

    def test_an_entry_that_onnx_runtime_refuses_is_made_anew(self, heavy: Path, root: Path):
        want = self.load(heavy, root)(X)[0]
        entry = self.entry(root)
        (entry / "graph.onnx").write_bytes(b"no graph")
        said = json.loads((entry / "entry.json").read_text())
        said["files"] = cache._inventory(entry)  # as if it had been written so
        (entry / "entry.json").write_text(json.dumps(said))
        np.testing.assert_array_equal(self.load(heavy, root)(X)[0], want)
        assert (entry / "graph.onnx").stat().st_size > 100

    def test_a_changed_model_is_another(self, heavy: Path, root: Path):
        want = self.load(heavy, root)(X)[0]
        model = onnx.load(heavy)
        model.graph.node[0].attribute[0].f = 6.0
        onnx.save(model, heavy)
        np.testing.assert_allclose(self.load(heavy, root)(X)[0], want * 2, rtol=1e-5, atol=1e-5)

    def test_another_version_or_processor_is_another(self, heavy: Path, root: Path, monkeypatch):
        self.load(heavy, root)
        monkeypatch.setattr(ort, "__version__", "0.0")
        self.load(heavy, root)
        monkeypatch.setattr(cache, "processor", lambda: "abacus")
        self.load(heavy, root)
        assert len(list((root / "graphs").iterdir())) == 3

    def test_old_entries_go(self, heavy: Path, root: Path, monkeypatch):
        self.load(heavy, root)
        old = self.entry(root)
        long_ago = cache.time.time() - (cache.DAYS + 1) * 86400
        cache.os.utime(old / "entry.json", (long_ago, long_ago))
        monkeypatch.setattr(ort, "__version__", "0.0")
        self.load(heavy, root)
        assert self.entry(root) != old

    def test_entries_of_models_that_changed_or_went_go(self, heavy: Path, root: Path):
        other = heavy.with_name("other.onnx")
        other.write_bytes(heavy.read_bytes())
        self.load(other, root)
        gone = self.entry(root)
        other.unlink()
        self.load(heavy, root)
        changed = self.entry(root)
        assert changed != gone
        cache.os.utime(heavy, (1, 1))
        self.load(heavy, root)
        assert self.entry(root) != changed

    def test_what_a_process_that_died_left_goes_after_a_day(self, heavy: Path, root: Path):
        (root / "graphs" / ".new-old").mkdir(parents=True, mode=0o700)
        (root / "graphs" / ".new-now").mkdir()
        root.chmod(0o700)
        cache.os.utime(root / "graphs" / ".new-old", (1, 1))
        self.load(heavy, root)
        names = {entry.name for entry in (root / "graphs").iterdir()}
        assert ".new-now" in names
        assert ".new-old" not in names

    def test_a_folder_where_others_write_is_not_trusted(self, heavy: Path, root: Path, caplog):
        caplog.set_level("INFO", "mien")
        root.mkdir()
        root.chmod(0o777)
        self.load(heavy, root)
        assert not (root / "graphs").exists()
        assert "others may write there" in caplog.text

    def test_a_cache_that_cannot_be_written_is_no_error(self, heavy: Path, root: Path, caplog):
        caplog.set_level("INFO", "mien")
        root.write_text("a file is here already")
        assert self.load(heavy, root)(X)[0].shape == (1, 512)
        assert "nothing is cached there" in caplog.text

    def test_a_full_disk_is_no_error(self, heavy: Path, root: Path, monkeypatch):
        monkeypatch.setattr(cache, "free", lambda root: 1000)
        assert self.load(heavy, root)(X)[0].shape == (1, 512)
        assert not (root / "graphs").exists()

    def test_two_at_once(self, heavy: Path, root: Path):
        """Both get an answer, one entry stays, and nothing is left over."""
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda _: self.load(heavy, root)(X)[0], range(4)))
        for one in found[1:]:
            np.testing.assert_array_equal(one, found[0])
        assert len(list((root / "graphs").iterdir())) == 1
        assert {f.name for f in self.entry(root).iterdir()} == {
            "graph.onnx", "weights.bin", "entry.json",
        }  # fmt: skip


def test_unknown_provider_names_those_that_exist(graph: Path):
    with pytest.raises(ProviderError, match=r"abacus.*cpu, cuda"):
        runtime.load(graph, runtime.Device("abacus"))


@pytest.mark.parametrize(
    ("said", "quick"),
    [
        ("flags : fpu avx2 avx512f avx512_vnni", True),
        ("Features : fp asimd asimddp", True),
        ("flags : fpu avx2 avx512f", False),
    ],
)
def test_int8_is_quick_where_the_processor_has_an_instruction_for_it(said, quick):
    assert runtime.int8_is_quick(lambda _: said) is quick


def test_nothing_is_reported_to_anybody(tmp_path):
    """ONNX Runtime's wheels keep an id of the machine and a queue of events, unless told not to."""
    program = "from mien import zoo; zoo.Zoo().open('facemesh')"
    kept = {
        k: v for k, v in os.environ.items() if k not in ("XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY")
    }
    place = {"HOME": str(tmp_path), "MIEN_HOME": str(tmp_path / "mien")}
    subprocess.run([sys.executable, "-c", program], env=kept | place, check=True, timeout=60)
    names = [p.name for p in tmp_path.rglob("*")]
    assert not [n for n in names if "deviceid" in n or "onnxruntime" in n.lower()]
