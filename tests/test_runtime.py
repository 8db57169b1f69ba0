"""Loading and running of tiny graphs, and the errors that name what is wrong."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from mien import runtime
from mien.errors import ModelError, ModelNotFound, ProviderError


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
    with pytest.raises(ValueError, match="shorter"):
        runtime.load(graph)(np.zeros((1, 3), np.float32))


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_the_session_s_own_and_never_spin(graph: Path, threads: int):
    options = runtime.load(graph, runtime.Device(threads=threads)).session.get_session_options()
    assert options.intra_op_num_threads == threads
    assert options.inter_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


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


def test_unknown_provider_names_those_that_exist(graph: Path):
    with pytest.raises(ProviderError, match=r"abacus.*cpu, cuda"):
        runtime.load(graph, runtime.Device("abacus"))


def test_provider_not_installed_says_what_is(graph: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ProviderError, match=r"cuda.*which has cpu; install"):
        runtime.load(graph, runtime.Device("cuda"))


def test_a_silent_fallback_is_an_error(graph: Path, monkeypatch: pytest.MonkeyPatch):
    """ONNX Runtime itself would go on with the CPU when a driver is missing."""
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    real = ort.InferenceSession

    def fallen(path, options, providers):
        assert providers == both
        return real(path, options, providers=["CPUExecutionProvider"])

    monkeypatch.setattr(ort, "get_available_providers", lambda: both)
    monkeypatch.setattr(ort, "InferenceSession", fallen)
    with pytest.raises(ProviderError, match=r"tiny\.onnx: cuda was asked for.*CPUExecution"):
        runtime.load(graph, runtime.Device("cuda"))
