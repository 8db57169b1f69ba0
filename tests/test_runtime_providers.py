"""Other devices than the processor, by stand-ins: there is no GPU where these tests run.

ONNX Runtime is told to say that it has the provider, and sessions are made on the processor and
then say that they are elsewhere. What is checked is what mien asks for, and what it makes of what
comes back: providers, options, and a real profile whose events name another provider.
"""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from mien import runtime
from mien.errors import ModelError, ProviderError
from mien.runtime import placement

CUDA, TENSORRT, CPU = "CUDAExecutionProvider", "TensorrtExecutionProvider", "CPUExecutionProvider"


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """``y = relu(x) + 1`` for any number of rows."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Constant", [], ["one"], value_float=1.0),
        helper.make_node("Add", ["r", "one"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 100]) for n in ("x", "y")]
    made = helper.make_graph(nodes, "g", values[:1], values[1:])
    path = tmp_path / "tiny.onnx"
    onnx.save(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path
    )
    return path


class StandIn:
    """A session that runs on the processor and says that it is elsewhere.

    Attributes:
        asked: Providers of each session made, as mien gave them.
        have: Providers that sessions say they have; None: all that were asked for.
        applied: Options that sessions say are in effect; None: those given.
        fallen: Operators that profiles say ran on the processor.
        broken: Message with which a session for another provider than the processor fails.
    """

    def __init__(self) -> None:
        self.asked: list[list] = []
        self.options: list = []
        self.have: list[str] | None = None
        self.applied: dict[str, dict[str, str]] | None = None
        self.fallen: set[str] = set()
        self.broken = ""
        self.profiled = 0

    def session(self, path, options, providers, **keys):
        assert keys == {"enable_fallback": 0}  # ONNX Runtime itself would go on with the CPU
        given = [p if isinstance(p, tuple) else (p, {}) for p in providers]
        self.asked.append(given)
        self.options.append(options)
        names = [n for n, _ in given]
        if names == [CPU]:
            return real(path, options, providers=[CPU])
        if self.broken:
            raise RuntimeError(self.broken)
        return _Session(self, real(path, options, providers=[CPU]), dict(given))


real = ort.InferenceSession


class _Session:
    def __init__(self, stand_in: StandIn, inner, given) -> None:
        self._stand_in, self._inner, self._given = stand_in, inner, given

    def __getattr__(self, name: str):
        return getattr(self._inner, name)

    def get_providers(self):
        return self._stand_in.have or list(self._given)

    def get_provider_options(self):
        return self._stand_in.applied or self._given

    def end_profiling(self):
        """The real profile, in which all nodes but the fallen ran on the first provider."""
        self._stand_in.profiled += 1
        path = Path(self._inner.end_profiling())
        events = json.loads(path.read_text("utf-8"))
        for event in events:
            if event["cat"] == "Node" and event["args"].get("op_name") not in self._stand_in.fallen:
                event["args"]["provider"] = next(iter(self._given))
        path.write_text(json.dumps(events), "utf-8")
        return str(path)


@pytest.fixture
def stand_in(monkeypatch) -> StandIn:
    made = StandIn()
    every = [p.ort for p in runtime.PROVIDERS.values()]
    monkeypatch.setattr(ort, "get_available_providers", lambda: every)
    monkeypatch.setattr(ort, "InferenceSession", made.session)
    return made


def device(tmp_path: Path, providers: str = "cuda", **changes) -> runtime.Device:
    return runtime.Device(providers, cache=str(tmp_path / "cache"), **changes)


def test_provider_not_installed_says_what_is(graph: Path, monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    with pytest.raises(ProviderError, match=r"'cuda'.*which has cpu; install.*onnxruntime-gpu"):
        runtime.load(graph, runtime.Device("cuda"))


def test_asking_for_cuda_without_one_is_status_1(examples: Path, tmp_path: Path):
    """Through the real command line, on a machine whose ONNX Runtime has no CUDA."""
    name = "cuda" if CUDA not in ort.get_available_providers() else "cann"
    target = sorted(examples.glob("*.jpg"))[0]
    program = "from mien.cli import main; main()"
    command = [sys.executable, "-c", program, "faces", str(target), "--provider", name]
    command += ["-o", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert f"provider '{name}' is not in this installation" in done.stderr
    assert f"'{runtime.PROVIDERS[name].command}'" in done.stderr
    assert "Traceback" not in done.stderr
    done = subprocess.run(
        [*command, "--allow-fallback"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert f"warning: provider '{name}' is not in this installation" in done.stderr


class TestDevices:
    @pytest.mark.parametrize(
        ("providers", "message"),
        [("abacus", "known are cpu, cuda"), ("", "'' is unknown"), ("cuda,cuda", "named twice"),
         ("cpu,cuda", "stands last"), ("coreml:1", "no devices to choose")],
    )  # fmt: skip
    def test_wrong_words(self, graph: Path, providers: str, message: str):
        with pytest.raises(ProviderError, match=message):
            runtime.load(graph, runtime.Device(providers))

    def test_all_are_tried_in_order(self, graph: Path, tmp_path: Path, stand_in: StandIn):
        model = runtime.load(graph, device(tmp_path, "tensorrt, cuda:1"))
        assert [name for name, _ in stand_in.asked[0]] == [TENSORRT, CUDA, CPU]
        assert stand_in.asked[0][1][1]["device_id"] == "1"
        assert model.provider == "tensorrt"
        np.testing.assert_array_equal(model(-np.ones((1, 100), np.float32))[0], np.ones((1, 100)))

    @pytest.mark.parametrize("name", sorted(set(runtime.PROVIDERS) - {"cpu"}))
    def test_each_can_be_asked_for(self, graph: Path, tmp_path: Path, stand_in: StandIn, name: str):
        model = runtime.load(graph, device(tmp_path, name))
        ort_name, options = stand_in.asked[0][0]
        assert ort_name == runtime.PROVIDERS[name].ort
        assert all(isinstance(v, str) for v in options.values())
        assert "{}" not in "".join(options.values())
        assert model.provider == name
        assert runtime.PROVIDERS[name].package in runtime.PROVIDERS[name].fix

    def test_directml_takes_one_run_at_a_time(
        self, graph: Path, tmp_path: Path, stand_in: StandIn, monkeypatch
    ):
        model = runtime.load(graph, device(tmp_path, "directml"))
        assert not stand_in.options[0].enable_mem_pattern
        running, most = [], []
        inner = model.session._inner

        class Slow:
            def run(self, *args):
                running.append(1)
                most.append(len(running))
                time.sleep(0.01)
                running.pop()
                return inner.run(*args)

        object.__setattr__(model, "session", Slow())
        threads = [
            threading.Thread(target=model, args=(np.ones((1, 100), np.float32),)) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(most) == 4
        assert max(most) == 1


class TestTensorRT:
    def options(self, stand_in: StandIn) -> dict[str, str]:
        return stand_in.asked[0][0][1]

    def test_engines_and_timings_are_kept(self, graph: Path, tmp_path: Path, stand_in: StandIn):
        runtime.load(graph, device(tmp_path, "tensorrt"))
        options = self.options(stand_in)
        place = Path(options["trt_engine_cache_path"])
        assert place.is_dir()
        assert place.is_relative_to(tmp_path / "cache" / "tensorrt")
        assert options["trt_timing_cache_path"] == str(place)
        assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "True"
        assert "trt_fp16_enable" not in options
        os.utime(graph, (1, 1))  # another file, another engine
        stand_in.asked.clear()
        runtime.load(graph, device(tmp_path, "tensorrt"))
        assert self.options(stand_in)["trt_engine_cache_path"] != str(place)

    def test_shapes_are_named(self, graph: Path, tmp_path: Path, stand_in: StandIn):
        runtime.load(graph, device(tmp_path, "tensorrt"))
        options = self.options(stand_in)
        assert [options[f"trt_profile_{w}_shapes"] for w in ("min", "opt", "max")] == [
            "x:1x100", "x:1x100", "x:8x100",
        ]  # fmt: skip
        stand_in.asked.clear()
        runtime.load(
            graph, device(tmp_path, "tensorrt"), shapes={"x": ((2, 100), (4, 100), (16, 100))}
        )
        options = self.options(stand_in)
        assert options["trt_profile_opt_shapes"] == "x:4x100"
        assert options["trt_profile_max_shapes"] == "x:16x100"

    def test_fp16(self, graph: Path, tmp_path: Path, stand_in: StandIn):
        runtime.load(graph, device(tmp_path, "tensorrt,cuda", precision="fp16"))
        assert self.options(stand_in)["trt_fp16_enable"] == "True"

    def test_int8_takes_the_table_beside_the_model(
        self, graph: Path, tmp_path: Path, stand_in: StandIn
    ):
        asked = device(tmp_path, "tensorrt", precision="int8")
        with pytest.raises(ModelError, match=r"tiny\.calibration\.flatbuffers: no calibration"):
            runtime.load(graph, asked)
        graph.with_name("tiny.calibration.flatbuffers").write_bytes(b"table")
        runtime.load(graph, asked)
        options = self.options(stand_in)
        assert options["trt_int8_enable"] == "True"
        table = Path(options["trt_engine_cache_path"], options["trt_int8_calibration_table_name"])
        assert table.read_bytes() == b"table"

    def test_int8_of_a_graph_with_scales_needs_no_table(
        self, graph: Path, tmp_path: Path, stand_in: StandIn
    ):
        model = onnx.load(graph)
        model.graph.node.extend(
            [
                helper.make_node("Constant", [], ["s"], value_float=0.5),
                helper.make_node("QuantizeLinear", ["r", "s"], ["q"]),
                helper.make_node("DequantizeLinear", ["q", "s"], ["unused"]),
            ]
        )
        onnx.save(model, graph)
        runtime.load(graph, device(tmp_path, "tensorrt", precision="int8"))
        assert "trt_int8_calibration_table_name" not in self.options(stand_in)


class TestProof:
    def test_a_session_without_the_provider_is_an_error(
        self, graph: Path, tmp_path: Path, stand_in: StandIn
    ):
        stand_in.have = [CPU]
        with pytest.raises(ProviderError, match=r"tiny\.onnx: cuda was asked for.*CPUExecution"):
            runtime.load(graph, device(tmp_path))

    def test_one_of_two_missing_is_an_error(self, graph: Path, tmp_path: Path, stand_in: StandIn):
        stand_in.have = [CUDA, CPU]
        with pytest.raises(ProviderError, match=r"tensorrt was asked for.*mien doctor"):
            runtime.load(graph, device(tmp_path, "tensorrt,cuda"))

    def test_a_node_on_the_processor_is_an_error(
        self, graph: Path, tmp_path: Path, stand_in: StandIn
    ):
        stand_in.fallen = {"Relu"}
        with pytest.raises(
            ProviderError, match=r"1 nodes ran on the processor, not on cuda \(1 Relu\).*cuda,cpu"
        ):
            runtime.load(graph, device(tmp_path))
        with pytest.raises(ProviderError, match=r"--provider tensorrt,cuda gives them to CUDA"):
            runtime.load(graph, device(tmp_path, "tensorrt"))

    def test_the_processor_may_help_if_it_is_named(
        self, graph: Path, tmp_path: Path, stand_in: StandIn
    ):
        stand_in.fallen = {"Relu"}
        assert runtime.load(graph, device(tmp_path, "cuda,cpu")).provider == "cuda"

    def test_options_that_are_not_in_effect_are_an_error(
        self, graph: Path, tmp_path: Path, stand_in: StandIn
    ):
        stand_in.applied = {TENSORRT: {"trt_fp16_enable": "0"}, CUDA: {"device_id": "0"}}
        with pytest.raises(ProviderError, match=r"trt_fp16_enable=True, but runs with .*=0"):
            runtime.load(graph, device(tmp_path, "tensorrt", precision="fp16"))
        stand_in.applied[TENSORRT]["trt_fp16_enable"] = "1"
        runtime.load(graph, device(tmp_path, "tensorrt", precision="fp16"))

    def test_a_provider_that_does_not_start_is_an_error(
        self, graph: Path, tmp_path: Path, stand_in: StandIn
    ):
        stand_in.broken = "libcudnn.so.9: cannot open shared object file"
        with pytest.raises(ProviderError, match=r"cuda could not be started \(libcudnn\.so\.9"):
            runtime.load(graph, device(tmp_path))

    def test_a_broken_model_is_not_blamed_on_the_provider(
        self, graph: Path, tmp_path: Path, stand_in: StandIn
    ):
        model = onnx.load(graph)
        model.graph.node[0].op_type = "Abacus"
        onnx.save(model, graph)
        with pytest.raises(ModelError, match="not a model that ONNX Runtime can load"):
            runtime.load(graph, device(tmp_path))

    @pytest.mark.parametrize("what", ["have", "fallen", "broken"])
    def test_fallback_may_be_allowed(
        self, graph: Path, tmp_path: Path, stand_in: StandIn, what: str, caplog
    ):
        value = {"have": [CPU], "fallen": {"Relu"}, "broken": "no driver"}[what]
        setattr(stand_in, what, value)
        with caplog.at_level(logging.WARNING, "mien"):
            model = runtime.load(graph, device(tmp_path, allow_fallback=True))
        assert len([r for r in caplog.records if r.levelno == logging.WARNING]) == 1
        assert model.provider == ("cuda" if what == "fallen" else "cpu")
        np.testing.assert_array_equal(model(np.ones((1, 100), np.float32))[0], np.full((1, 100), 2))

    def test_once_for_a_model(self, graph: Path, tmp_path: Path, stand_in: StandIn, monkeypatch):
        runtime.load(graph, device(tmp_path))
        runtime.load(graph, device(tmp_path))
        assert stand_in.profiled == 1
        monkeypatch.setattr(ort, "__version__", "0.0")
        runtime.load(graph, device(tmp_path))
        assert stand_in.profiled == 2

    def test_what_failed_is_tried_again(self, graph: Path, tmp_path: Path, stand_in: StandIn):
        stand_in.fallen = {"Relu"}
        for _ in range(2):
            with pytest.raises(ProviderError):
                runtime.load(graph, device(tmp_path))
        assert stand_in.profiled == 2

    def test_no_profile_is_left(self, graph: Path, tmp_path: Path, stand_in: StandIn, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
        (tmp_path / "tmp").mkdir()
        for have, broken in ((None, ""), ([CPU], ""), (None, "no driver")):
            stand_in.have, stand_in.broken = have, broken
            runtime.load(graph, device(tmp_path, allow_fallback=True))
            (tmp_path / "cache").rename(tmp_path / f"cache-{have}-{broken}")
        assert list((tmp_path / "tmp").iterdir()) == []

    def test_it_is_warm_afterwards(self, graph: Path, tmp_path: Path, stand_in, monkeypatch):
        """At the first start by the run that is profiled, at later ones by a run for that alone."""
        runs = []
        warm = runtime.Model.warm
        monkeypatch.setattr(runtime.Model, "warm", lambda *given: runs.append(warm(*given)))
        for start in (1, 2):
            runtime.load(graph, device(tmp_path))
            assert len(runs) == start
        assert stand_in.profiled == 1

    def test_a_model_with_free_sides_is_tried_on_an_image(
        self, tmp_path: Path, stand_in: StandIn, monkeypatch
    ):
        """Pooled by 4 with no padding: sides of 1 would fail."""
        node = helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[4, 4], strides=[4, 4])
        values = [
            helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3, *sides])
            for n, sides in (("x", ("h", "w")), ("y", ("a", "b")))
        ]
        path = tmp_path / "free.onnx"
        made = helper.make_graph([node], "g", values[:1], values[1:])
        onnx.save(
            helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path
        )
        stand_in.fallen = {"MaxPool"}
        with pytest.raises(ProviderError, match="1 MaxPool"):
            runtime.load(path, device(tmp_path))

    def test_the_processor_is_not_profiled(self, graph: Path, monkeypatch):
        seen = []

        def session(path, options, **keys):
            seen.append(options.enable_profiling)
            return real(path, options, **keys)

        monkeypatch.setattr(ort, "InferenceSession", session)
        runtime.load(graph)
        assert seen == [False]


class TestProfiles:
    """Of files as ONNX Runtime writes them."""

    def event(self, op: str, provider: str, *outputs, name: str = "_kernel_time", inputs=None):
        args = {"op_name": op, "provider": provider, "output_type_shape": list(outputs)}
        args |= {} if inputs is None else {"input_type_shape": inputs}
        return {"cat": "Node", "name": f"{op}_1{name}", "args": args}

    def read(self, tmp_path: Path, *events) -> dict[str, int]:
        path = tmp_path / "run.json"
        path.write_text(json.dumps([{"cat": "Session", "name": "run"}, *events]), "utf-8")
        return placement.on_processor(path)

    def test_only_compute_nodes_count(self, tmp_path: Path):
        found = self.read(
            tmp_path,
            self.event("Conv", CUDA, {"float": [1, 3, 8, 8]}),
            self.event("MemcpyToHost", CPU, {"float": [1, 3, 8, 8]}),
            self.event("Shape", CPU, {"int64": [4]}),
            self.event("Gather", CPU, {"int64": []}),
            self.event("Concat", CPU, {"int64": [4]}),
            self.event("Gather", CPU, {"int64": [1, 1000]}),
            self.event("Resize", CPU, {"float": [1, 3, 16, 16]}),
            self.event("Resize", CPU, {"float": [1, 3, 16, 16]}),
            self.event("Resize", CPU, {"float": [1, 3, 16, 16]}, name="_fence_before"),
            self.event("Div", CPU, {"float": [4]}, inputs=[{"float": [4]}, {"float": []}]),
            self.event("Gemm", CPU, {"float": [1, 8]}, inputs=[{"float": [1, 512]}]),
            self.event("Mul", CPU, {"float": [4]}),
        )
        assert found == {"Gather": 1, "Resize": 2, "Gemm": 1, "Mul": 1}

    def test_a_real_one(self, graph: Path, tmp_path: Path):
        options = ort.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(tmp_path / "run")
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = real(str(graph), options, providers=[CPU])
        session.run(None, {"x": np.zeros((1, 100), np.float32)})
        assert placement.on_processor(Path(session.end_profiling())) == {"Relu": 1, "Add": 1}

    @pytest.mark.parametrize("content", ["", "[]", "{}", "[1]", '[{"cat": "Node", "name": 3}]'])
    def test_what_is_no_profile_proves_nothing(self, tmp_path: Path, content: str):
        path = tmp_path / "run.json"
        path.write_text(content)
        with pytest.raises(ProviderError, match=r"run\.json"):
            placement.on_processor(path)


def test_what_to_install_can_be_pasted_into_a_shell():
    commands = {name: p.command for name, p in runtime.PROVIDERS.items()}
    assert commands["cpu"] == "pip install onnxruntime"
    assert commands["cuda"] == (
        'pip uninstall -y onnxruntime && pip install "onnxruntime-gpu[cuda,cudnn]"'
    )
    assert "on Windows: 'pip uninstall" in runtime.PROVIDERS["directml"].fix
