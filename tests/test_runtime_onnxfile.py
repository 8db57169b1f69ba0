"""What a file declares is read from its bytes, and files that ask for too much are refused."""

import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from mien import runtime, zoo
from mien.errors import ModelError, ModelNotFound
from mien.runtime import guard, onnxfile

FLOAT = TensorProto.FLOAT


def model_of(nodes, weights=(), *, inputs=("x",), outputs=("y",), shape=("n", 3), opsets=()):
    values = {n: helper.make_tensor_value_info(n, FLOAT, shape) for n in (*inputs, *outputs)}
    graph = helper.make_graph(
        list(nodes), "g", [values[n] for n in inputs], [values[n] for n in outputs], list(weights)
    )
    domains = [helper.make_opsetid("", 17), *(helper.make_opsetid(d, 1) for d in opsets)]
    return helper.make_model(graph, opset_imports=domains, ir_version=9)


def add(constant: str = "w"):
    return helper.make_node("Add", ["x", constant], ["y"])


def weight(name: str = "w", *dims: int, **changes) -> onnx.TensorProto:
    tensor = numpy_helper.from_array(np.zeros(dims or (3,), np.float32), name)
    for key, value in changes.items():
        if key == "dims":
            del tensor.dims[:]
            tensor.dims.extend(value)
        else:
            setattr(tensor, key, value)
    return tensor


def written(folder: Path, model: onnx.ModelProto, name: str = "m.onnx") -> Path:
    path = folder / name
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("card", zoo.SHIPPED, ids=lambda c: c.name)
def test_the_shipped_files_are_read_as_onnx_reads_them(card):
    file, theirs = onnxfile.read(zoo.path(card)), onnx.load(zoo.path(card))
    assert file.ir_version == theirs.ir_version
    assert file.opsets == {o.domain: o.version for o in theirs.opset_import}
    nodes = [(n.op_type, n.domain, list(n.input), list(n.output)) for n in theirs.graph.node]
    assert [(n.op, n.domain, n.inputs, n.outputs) for n in file.graph.nodes] == nodes
    weights = [(i.name, tuple(i.dims), i.data_type) for i in theirs.graph.initializer]
    assert [(t.name, t.dims, t.kind) for t in file.graph.initialisers] == weights
    shapes = {
        v.name: tuple(d.dim_value or -1 for d in v.type.tensor_type.shape.dim)
        for v in theirs.graph.input
    }
    assert file.graph.inputs == shapes
    guard.inspect(file)


VALUES = [
    np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
    np.arange(4, dtype=np.float16) / 3,
    np.array([-1, 2, 3], np.int64),
    np.array([[-128], [127]], np.int8),
    np.array([0, 65535], np.uint16),
    np.array([True, False]),
    np.array(2.5, np.float64),
    np.zeros((0, 4), np.float32),
]


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("value", VALUES, ids=lambda v: f"{v.dtype}{v.shape}")
def test_one_initialiser(tmp_path: Path, value: np.ndarray, typed: bool):
    """Raw bytes or the typed field, last or by place."""
    tensor = numpy_helper.from_array(value, "last")
    if typed:
        flat = value.ravel()
        listed = flat.view(np.uint16) if value.dtype == np.float16 else flat
        tensor = helper.make_tensor("last", tensor.data_type, value.shape, listed.tolist())
        if value.dtype == np.float16:  # the field holds bits; the helper takes values
            tensor = TensorProto(
                name="last", data_type=10, dims=value.shape, int32_data=listed.tolist()
            )
    path = written(tmp_path, model_of([add()], [weight(), tensor]))
    found = runtime.initialiser(path)
    np.testing.assert_array_equal(found, value)
    assert found.dtype == value.dtype
    assert found.flags.writeable
    assert runtime.initialiser(path, 0).shape == (3,)


def test_an_initialiser_that_is_not_there(tmp_path: Path):
    path = written(tmp_path, model_of([add()], [weight()]))
    with pytest.raises(ModelError, match=r"m\.onnx: initialiser 1 .* has 1"):
        runtime.initialiser(path, 1)
    with pytest.raises(ModelNotFound, match="gone"):
        runtime.initialiser(tmp_path / "gone.onnx")
    path = written(tmp_path, model_of([add()], [weight(dims=[4])]))
    with pytest.raises(ModelError, match=r"'w' has 3 whole values, but the shape \(4,\)"):
        runtime.initialiser(path)
    path = written(tmp_path, model_of([add()], [weight(data_type=8)]))
    with pytest.raises(ModelError, match="type 8"):
        runtime.initialiser(path)


WHOLE = model_of([add()], [weight()]).SerializeToString()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
@example(b"")
@example(b"\xff" * 11)
@example(b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
def test_any_bytes_are_read_or_refused(data: bytes):
    try:
        file = onnxfile.parse(data)
    except onnxfile.Malformed:
        return
    assert file.graph is not None


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_model_is_read_or_refused(data):
    """Bytes cut off, changed and put in: no other error than the two that are meant."""
    damaged = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        what = data.draw(st.binary(max_size=12))
        damaged[at : at + data.draw(st.integers(0, 4))] = what
        if not damaged:
            return
    try:
        file = onnxfile.parse(bytes(damaged))
        file.path = Path("damaged.onnx")
        guard.inspect(file)
    except (onnxfile.Malformed, ModelError):
        pass


@pytest.mark.parametrize("length", range(0, len(WHOLE), 7))
def test_a_truncated_file_loads_nothing(tmp_path: Path, length: int):
    path = tmp_path / "cut.onnx"
    path.write_bytes(WHOLE[:length])
    with pytest.raises(ModelError, match=r"cut\.onnx"):
        runtime.load(path)


def test_the_time_to_read_is_bounded():
    """A file of nothing but fields, and one of nothing but nested messages, end soon."""
    start = time.perf_counter()
    with pytest.raises(onnxfile.Malformed, match="fields"):
        onnxfile.parse(b"\x08\x01" * 3_000_000)
    assert time.perf_counter() - start < 8
    inner = b""
    for _ in range(60):  # graph in an attribute in a node in a graph …
        inner = onnx_field(1, onnx_field(5, onnx_field(6, inner)))
    with pytest.raises(onnxfile.Malformed, match="deep"):
        onnxfile.parse(onnx_field(7, inner))


def onnx_field(number: int, content: bytes, more: int = 0) -> bytes:
    """A length-delimited field, to which ``more`` bytes belong that follow later."""
    length, out = len(content) + more, bytearray([number << 3 | 2])
    while length > 127:
        out.append(length & 127 | 128)
        length >>= 7
    return bytes([*out, length]) + content


def constant(name: str, *values: int) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value_ints=list(values))


HUGE = 400_000
BOMBS = {
    "ConstantOfShape of an initialiser": (
        [helper.make_node("ConstantOfShape", ["s"], ["c"]), add("c")],
        [numpy_helper.from_array(np.array([HUGE, HUGE], np.int64), "s")],
    ),
    "ConstantOfShape of a Constant": (
        [constant("s", HUGE, HUGE), helper.make_node("ConstantOfShape", ["s"], ["c"]), add("c")],
        [],
    ),
    "Expand": (
        [constant("s", HUGE, HUGE), helper.make_node("Expand", ["w", "s"], ["c"]), add("c")],
        [weight("w", 1)],
    ),
    "Expand of the input": (
        [constant("s", HUGE, HUGE, 3), helper.make_node("Expand", ["x", "s"], ["y"])],
        [],
    ),
    "Tile": (
        [constant("s", HUGE * HUGE), helper.make_node("Tile", ["w", "s"], ["c"]), add("c")],
        [weight()],
    ),
    "Range": (
        [helper.make_node("Range", ["a", "b", "d"], ["c"]), add("c")],
        [numpy_helper.from_array(np.array(v, np.float32), n)
         for n, v in (("a", 0), ("b", 1e12), ("d", 1))],
    ),
    "doubled forty times": (
        [helper.make_node("Concat", [f"c{k}"] * 2, [f"c{k + 1}"], axis=0) for k in range(40)]
        + [add("c40")],
        [weight("c0", 3)],
    ),
    "outer sum": (
        [helper.make_node("Add", ["u", "v"], ["c"]), add("c")],
        [weight("u", 30_000, 1), weight("v", 1, 30_000)],
    ),
    "RandomNormal": (
        [helper.make_node("RandomNormal", [], ["c"], shape=[HUGE, HUGE]), add("c")], [],
    ),
    "Pad": (
        [constant("p", 0, 0, 0, 10**9), helper.make_node("Pad", ["x", "p"], ["y"])], [],
    ),
    "Resize": (
        [helper.make_node("Resize", ["x", "", "s"], ["y"])],
        [numpy_helper.from_array(np.array([1, 1e6], np.float32), "s")],
    ),
    "a subgraph": (
        [helper.make_node("If", ["b"], ["c"], then_branch=helper.make_graph(
            [constant("s", HUGE, HUGE), helper.make_node("ConstantOfShape", ["s"], ["c"])],
            "then", [], [helper.make_tensor_value_info("c", FLOAT, None)]),
            else_branch=helper.make_graph(
                [constant("c", 1)], "else", [],
                [helper.make_tensor_value_info("c", FLOAT, None)])), add("c")],
        [numpy_helper.from_array(np.array(True), "b")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_small_files_that_grow_are_refused(tmp_path: Path, name: str, monkeypatch):
    monkeypatch.setattr(runtime.session.ort, "InferenceSession", None)  # must not be reached
    nodes, weights = BOMBS[name]
    path = written(tmp_path, model_of(nodes, weights))
    assert path.stat().st_size < 300_000
    with pytest.raises(ModelError, match=r"m\.onnx"):
        runtime.load(path)


WRONG = {
    "negative": (weight(dims=[-3]), "negative"),
    "enormous": (weight(dims=[1 << 40]), "4398046511104 bytes, but has 12"),
    "enormous product": (weight(dims=[1 << 33, 1 << 33, 1 << 33]), "bytes, but has 12"),
    "short": (weight(dims=[4]), "takes 16 bytes, but has 12"),
    "nothing there": (weight(dims=[1 << 40], raw_data=b""), "but has 0"),
    "unknown type": (weight(data_type=99), "unknown type 99"),
    "typed": (TensorProto(name="w", data_type=1, dims=[9], float_data=[1, 2]), "2 are there"),
}


@pytest.mark.parametrize("name", WRONG)
def test_weights_that_are_not_there_are_refused(tmp_path: Path, name: str, monkeypatch):
    monkeypatch.setattr(runtime.session.ort, "InferenceSession", None)
    tensor, message = WRONG[name]
    with pytest.raises(ModelError, match=message):
        runtime.load(written(tmp_path, model_of([add()], [tensor])))
    hidden = helper.make_node("Constant", [], ["w"])
    hidden.attribute.append(helper.make_attribute("value", tensor))
    with pytest.raises(ModelError, match=message):
        runtime.load(written(tmp_path, model_of([hidden, add()])))


def test_an_enormous_input_is_refused(tmp_path: Path):
    path = written(tmp_path, model_of([add()], [weight()], shape=(1, HUGE, HUGE)))
    with pytest.raises(ModelError, match=r"'x' is declared with the shape \(1, 400000, 400000\)"):
        runtime.load(path)


def outside(place: str, **keys: int) -> onnx.ModelProto:
    tensor = weight(raw_data=b"")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": place, **keys}.items():
        tensor.external_data.add(key=key, value=str(value))
    return model_of([add()], [tensor])


def test_weights_beside_the_model_are_taken(tmp_path: Path):
    (tmp_path / "w.bin").write_bytes(np.array([9, 1, 2, 3], np.float32).tobytes())
    path = written(tmp_path, outside("w.bin", offset=4, length=12))
    (found,) = runtime.load(path)(np.zeros((1, 3), np.float32))
    np.testing.assert_array_equal(found, [[1, 2, 3]])


@pytest.mark.parametrize(
    "place",
    ["/etc/passwd", "../secret.bin", "sub/../../secret.bin", "link.bin", "sub/link.bin", "",
     ".", "nothing.bin", "*/_ORT_MEM_ADDR_/*"],
)  # fmt: skip
def test_weights_elsewhere_are_refused(tmp_path: Path, place: str, monkeypatch):
    monkeypatch.setattr(runtime.session.ort, "InferenceSession", None)
    folder = tmp_path / "models"
    (folder / "sub").mkdir(parents=True)
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(64))
    (folder / "link.bin").symlink_to(secret)
    (folder / "sub" / "link.bin").symlink_to(secret)
    with pytest.raises(ModelError, match="has its values in"):
        runtime.load(written(folder, outside(place, offset=0, length=12)))


def test_a_link_to_a_model_does_not_open_another_folder(tmp_path: Path, monkeypatch):
    """ONNX Runtime looks for weights beside the link, and so must the check."""
    monkeypatch.setattr(runtime.session.ort, "InferenceSession", None)
    inside, secret = tmp_path / "models", tmp_path / "secret.bin"
    (inside / "sub").mkdir(parents=True)
    secret.write_bytes(bytes(12))
    real = written(inside / "sub", outside("w.bin", offset=0, length=12))
    (inside / "sub" / "w.bin").write_bytes(bytes(12))
    (inside / "w.bin").symlink_to(secret)
    (inside / "link.onnx").symlink_to(real)
    with pytest.raises(ModelError, match=r"'w\.bin', outside"):
        runtime.load(inside / "link.onnx")


@pytest.mark.parametrize(
    "keys",
    [{"offset": 60}, {"offset": -4}, {"length": 8}, {"length": 1 << 50}, {"offset": "eleven"}],
)
def test_places_beyond_the_file_of_weights_are_refused(tmp_path: Path, keys):
    (tmp_path / "w.bin").write_bytes(bytes(64))
    with pytest.raises(ModelError, match=r"w\.bin"):
        runtime.load(written(tmp_path, outside("w.bin", **{"offset": 0, "length": 12} | keys)))


def test_many_tensors_from_few_bytes_are_refused(tmp_path: Path):
    (tmp_path / "w.bin").write_bytes(bytes(12))
    model = outside("w.bin", offset=0, length=12)
    model.graph.initializer.extend([model.graph.initializer[0]] * 3)
    with pytest.raises(ModelError, match=r"take 48 bytes of w\.bin, which has 12"):
        runtime.load(written(tmp_path, model))


def test_operators_from_elsewhere_are_refused(tmp_path: Path):
    node = helper.make_node("Anything", ["x"], ["y"], domain="evil.ops")
    with pytest.raises(ModelError, match=r"Anything comes from 'evil\.ops'"):
        runtime.load(written(tmp_path, model_of([node], opsets=["evil.ops"])))
    node = helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft")
    with pytest.raises(ModelError, match="EPContext loads a compiled program"):
        runtime.load(written(tmp_path, model_of([node], opsets=["com.microsoft"])))


def test_functions_of_the_file_itself_are_taken(tmp_path: Path):
    twice = helper.make_function(
        "own.ops", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    node = helper.make_node("Twice", ["x"], ["y"], domain="own.ops")
    model = model_of([node], opsets=["own.ops"])
    model.functions.append(twice)
    (found,) = runtime.load(written(tmp_path, model))(np.ones((1, 3), np.float32))
    np.testing.assert_array_equal(found, [[2, 2, 2]])


def test_a_large_file_is_not_read(tmp_path: Path):
    """Half a gigabyte of weights, as a hole in the file, so that the disk holds none of it."""
    size = 1 << 29
    tensor = TensorProto(name="w", data_type=1, dims=[size // 4]).SerializeToString()
    tensor += onnx_field(9, b"", size)  # raw_data, whose bytes follow
    graph = onnx_field(5, tensor, size)
    path = tmp_path / "large.onnx"
    with path.open("wb") as out:
        out.write(onnx_field(7, graph, size))
        out.truncate(out.tell() + size)
    start = time.perf_counter()
    file = onnxfile.read(path)
    guard.inspect(file)
    assert time.perf_counter() - start < 0.2
    assert file.graph.initialisers[0].dims == (size // 4,)
