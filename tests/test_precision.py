"""fp16, int8 and the guard, on tiny graphs with known answers; the command on bundled media."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mien import precision, quantize, runtime, zoo
from mien.cli import app
from mien.errors import ModelError, UsageError
from mien.precision import graph
from mien.quantize import keeping, measures, recording

RANDOM = np.random.default_rng(5)


def save(path: Path, nodes, inputs, outputs, opset: int = 17, **weights) -> Path:
    """Write a graph of float tensors; inputs and outputs are name → shape."""
    values = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in side.items()]
        for side in (inputs, outputs)
    ]
    made = helper.make_graph(
        nodes, "tiny", *values, [numpy_helper.from_array(v, k) for k, v in weights.items()]
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def node(kind: str, inputs, output: str, **attributes):
    return helper.make_node(kind, inputs, [output], output, **attributes)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """Two convolutions with a ReLU between, 3 to 4 to 3 channels on 16 x 16."""
    weights = {
        "w": RANDOM.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32),
        "b": RANDOM.normal(0, 0.1, 4).astype(np.float32),
        "v": RANDOM.normal(0, 0.3, (3, 4, 1, 1)).astype(np.float32),
    }
    nodes = [
        node("Conv", ["x", "w", "b"], "c", pads=[1, 1, 1, 1]),
        node("Relu", ["c"], "r"),
        node("Conv", ["r", "v"], "y"),
    ]
    shape = {"x": ["n", 3, 16, 16]}, {"y": ["n", 3, 16, 16]}
    return save(tmp_path / "net.onnx", nodes, *shape, **weights)


def samples(count: int, shape=(1, 3, 16, 16)) -> list[tuple[np.ndarray]]:
    return [(RANDOM.uniform(-1, 1, shape).astype(np.float32),) for _ in range(count)]


def kinds(path: Path) -> list[str]:
    return [n.op_type for n in onnx.load(path).graph.node]


# --- int8 -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", precision.METHODS)
def test_int8_of_a_convolution_is_close_to_fp32(net: Path, tmp_path: Path, method: str):
    simple, out = tmp_path / "s.onnx", tmp_path / "q.onnx"
    precision.simplify(net, simple)
    precision.to_int8(simple, out, samples(16), method=method)
    assert "QuantizeLinear" in kinds(out)
    (found,) = precision.differences(runtime.load(net), runtime.load(out), samples(8)).values()
    assert 0 < found.error < 0.1  # some steps of 1/255, not equal and not far
    assert found.cosine > 0.995
    assert found.mean <= found.maximum < 0.15 * found.range


def test_the_nearest_of_all_methods_is_taken(net: Path, tmp_path: Path):
    simple, out = tmp_path / "s.onnx", tmp_path / "q.onnx"
    precision.simplify(net, simple)
    choice = precision.choose_int8(simple, out, samples(16))
    assert set(choice.tried) == {
        m + k for m in precision.METHODS for k in ("", ", outputs in fp32")
    }
    assert choice.error <= 1.1 * min(choice.tried.values())
    kept = {n.name for n in onnx.load(simple).graph.node if n.op_type == "Conv"} & {*choice.kept}
    assert len(kept) == bool(choice.kept)  # the last convolution at most
    weights = {i.name: i for i in onnx.load(out).graph.initializer}
    scales = [i for n, i in weights.items() if n == "w_scale"]
    assert [list(s.dims) for s in scales] == [[4]]  # one for each output channel


def test_what_has_nothing_to_quantise_is_said(tmp_path: Path):
    path = save(tmp_path / "tan.onnx", [node("Tan", ["x"], "y")], {"x": [1, 4]}, {"y": [1, 4]})
    simple = tmp_path / "s.onnx"
    precision.simplify(path, simple)
    with pytest.raises(ModelError, match="nothing that could be quantised"):
        precision.to_int8(simple, tmp_path / "q.onnx", samples(4, (1, 4)))


def test_the_table_for_tensorrt_holds_the_largest_magnitudes(tmp_path: Path):
    from onnxruntime.quantization.CalTableFlatBuffers.TrtTable import TrtTable

    out = tmp_path / "t"
    precision.write_table({"a": (-3.0, 2.0), "b": (0.0, 0.5)}, out)
    table = TrtTable.GetRootAs(out.read_bytes(), 0)
    found = {table.Dict(i).Key(): float(table.Dict(i).Value()) for i in range(table.DictLength())}
    assert found == {b"a": 3.0, b"b": 0.5}


@pytest.mark.parametrize(
    ("mode", "left"), [({"nearest_mode": "floor"}, 0), ({"nearest_mode": "ceil"}, 1)]
)
def test_a_quantised_enlargement_by_two_is_copied(tmp_path: Path, mode, left: int):
    resize = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", **mode}
    nodes = [
        node("Conv", ["x", "w"], "c"),
        node("Resize", ["c", "", "scales"], "r", **resize),
        node("Conv", ["r", "v"], "y"),
    ]
    path = save(
        tmp_path / "up.onnx", nodes, {"x": ["n", 3, 4, 6]}, {"y": ["n", 3, 8, 12]},
        w=RANDOM.normal(size=(5, 3, 1, 1)).astype(np.float32),
        v=RANDOM.normal(size=(3, 5, 1, 1)).astype(np.float32),
        scales=np.array([1, 1, 2, 2], np.float32),
    )  # fmt: skip
    simple, quick, plain = (tmp_path / n for n in ("s.onnx", "q.onnx", "p.onnx"))
    precision.simplify(path, simple)
    seen = samples(8, (1, 3, 4, 6))
    precision.to_int8(simple, quick, seen)
    assert kinds(quick).count("Resize") == left
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mien.precision.graph.copy_nearest", lambda model: None)
        precision.to_int8(simple, plain, seen)
    assert "Resize" in kinds(plain)
    (x,) = samples(1, (2, 3, 4, 6))[0]
    np.testing.assert_array_equal(runtime.load(quick)(x)[0], runtime.load(plain)(x)[0])


# --- simplification -----------------------------------------------------------------------------


def test_a_pixel_unshuffle_becomes_the_stride_of_the_convolution(tmp_path: Path):
    nodes = [
        node("Reshape", ["x", "apart"], "a"),
        node("Transpose", ["a"], "t", perm=[0, 1, 3, 5, 2, 4]),
        node("Reshape", ["t", "joined"], "j"),
        node("Conv", ["j", "w"], "y", pads=[1, 1, 1, 1]),
    ]
    path = save(
        tmp_path / "u.onnx", nodes, {"x": ["n", 3, 8, 12]}, {"y": ["n", 5, 4, 6]},
        apart=np.array([-1, 3, 4, 2, 6, 2]), joined=np.array([-1, 12, 4, 6]),
        w=RANDOM.normal(size=(5, 12, 3, 3)).astype(np.float32),
    )  # fmt: skip
    simple = tmp_path / "s.onnx"
    precision.simplify(path, simple)
    assert kinds(simple) == ["Conv"]
    (x,) = samples(1, (2, 3, 8, 12))[0]
    np.testing.assert_allclose(runtime.load(simple)(x)[0], runtime.load(path)(x)[0], atol=1e-5)


@pytest.mark.parametrize("perm", [[0, 1, 3, 5, 2, 4], [0, 3, 5, 1, 2, 4]])
def test_a_shuffle_that_others_see_or_of_another_order_stays(tmp_path: Path, perm: list[int]):
    nodes = [
        node("Reshape", ["x", "apart"], "a"),
        node("Transpose", ["a"], "t", perm=perm),
        node("Reshape", ["t", "joined"], "j"),
        node("Conv", ["j", "w"], "c"),
        node("Mul", ["c", "j"] if perm[1] == 1 else ["c", "c"], "y"),
    ]
    path = save(
        tmp_path / "u.onnx", nodes, {"x": ["n", 1, 4, 4]}, {"y": ["n", 4, 2, 2]},
        apart=np.array([-1, 1, 2, 2, 2, 2]), joined=np.array([-1, 4, 2, 2]),
        w=RANDOM.normal(size=(4, 4, 1, 1)).astype(np.float32),
    )  # fmt: skip
    simple = tmp_path / "s.onnx"
    precision.simplify(path, simple)
    assert "Transpose" in kinds(simple)
    (x,) = samples(1, (3, 1, 4, 4))[0]
    np.testing.assert_allclose(runtime.load(simple)(x)[0], runtime.load(path)(x)[0], atol=1e-5)


def test_constants_are_folded(tmp_path: Path):
    nodes = [node("Add", ["m", "m"], "mm"), node("Sub", ["x", "mm"], "y")]
    mean = np.array([1.0, 2.0, 3.0], np.float32)
    path = save(tmp_path / "m.onnx", nodes, {"x": ["n", 3]}, {"y": ["n", 3]}, m=mean)
    precision.simplify(path, tmp_path / "s.onnx")
    assert kinds(tmp_path / "s.onnx") == ["Sub"]
    (found,) = runtime.load(tmp_path / "s.onnx")(np.zeros((1, 3), np.float32))
    np.testing.assert_array_equal(found[0], -2 * mean)


def test_an_old_graph_is_brought_to_the_opset_that_quantising_needs(net: Path, tmp_path: Path):
    model = onnx.load(net)
    model.opset_import[0].version = 11
    onnx.save(model, net)
    precision.simplify(net, tmp_path / "s.onnx")
    assert onnx.load(tmp_path / "s.onnx").opset_import[0].version >= 13
    precision.to_int8(tmp_path / "s.onnx", tmp_path / "q.onnx", samples(4))


# --- fp16 ---------------------------------------------------------------------------------------


@pytest.fixture
def steep(tmp_path: Path) -> Path:
    """``y = exp(x·w) · 2`` and ``z = (1000·x)²ᵀ / 1000`` twice; its square overflows from 0.26 on.

    The processor computes in fp32 whatever it is told, but what only moves is moved in fp16.
    """
    nodes = [
        node("Mul", ["x", "w"], "a"),
        node("Exp", ["a"], "e"),
        node("Mul", ["e", "two"], "y"),
        node("Mul", ["x", "k"], "big"),
        node("Mul", ["big", "big"], "square"),
        node("Concat", ["square", "square"], "twice", axis=1),
        node("Transpose", ["twice"], "turned", perm=[1, 0]),
        node("Div", ["turned", "k"], "z"),
    ]
    shape = {"x": ["n", 8]}, {"y": ["n", 8], "z": [16, "n"]}
    ones = {k: np.array(v, np.float32) for k, v in (("w", 0.5), ("two", 2.0), ("k", 1000.0))}
    path = save(tmp_path / "steep.onnx", nodes, *shape, **ones)
    simple = tmp_path / "simple.onnx"
    precision.simplify(path, simple)
    return simple


def types(path: Path) -> dict[str, int]:
    """Node → type of its output."""
    model = onnx.shape_inference.infer_shapes(onnx.load(path))
    known = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info,
             *model.graph.output)}  # fmt: skip
    return {n.name: known[n.output[0]] for n in model.graph.node}


def test_what_is_blocked_stays_fp32_and_so_do_inputs_and_outputs(steep: Path, tmp_path: Path):
    out = tmp_path / "h.onnx"
    large = precision.too_large(steep, [(np.full((1, 8), 0.9, np.float32),)])
    assert large == ["square", "twice", "turned", "z"]  # 810,000 goes through all of them
    precision.to_fp16(steep, out, nodes=large)
    found = types(out)
    assert found["a"] == found["big"] == TensorProto.FLOAT16
    assert found["e"] == found["square"] == found["z"] == TensorProto.FLOAT  # Exp is on the list
    # Nothing goes through half precision between those that are kept.
    assert not {"square_fp16", "twice_fp16", "turned_fp16"} & {
        i for n in onnx.load(out).graph.node for i in n.input
    }
    model = onnx.load(out)
    ends = (*model.graph.input, *model.graph.output)
    assert {v.type.tensor_type.elem_type for v in ends} == {TensorProto.FLOAT}
    x = np.linspace(-1, 1, 8, dtype=np.float32)[None]
    y, z = runtime.load(out)(x)
    np.testing.assert_allclose(y, 2 * np.exp(x / 2), rtol=5e-3)
    np.testing.assert_allclose(z, np.tile(1000 * x.T**2, (2, 1)), rtol=5e-3)


def test_weights_are_halved_and_resizing_keeps_its_scales(tmp_path: Path):
    scales = np.array([1, 1, 2, 2], np.float32)
    nodes = [
        node("Conv", ["x", "w"], "c"),
        node("Resize", ["c", "", "s"], "y", mode="nearest"),
    ]
    weight = RANDOM.normal(size=(64, 3, 1, 1)).astype(np.float32)
    shape = {"x": ["n", 3, 4, 4]}, {"y": ["n", 64, 8, 8]}
    path = save(tmp_path / "r.onnx", nodes, *shape, w=weight, s=scales)
    precision.simplify(path, tmp_path / "s.onnx")
    precision.to_fp16(tmp_path / "s.onnx", tmp_path / "h.onnx")
    kept = {i.name: i.data_type for i in onnx.load(tmp_path / "h.onnx").graph.initializer}
    assert kept["w_fp16"] == TensorProto.FLOAT16
    assert "w" not in kept
    assert TensorProto.FLOAT in kept.values()  # the scales
    (x,) = samples(1, (2, 3, 4, 4))[0]
    full, half = (runtime.load(p)(x)[0] for p in (path, tmp_path / "h.onnx"))
    np.testing.assert_allclose(half, full, rtol=1e-2, atol=5e-3)


def test_every_operator_on_the_block_list_says_why():
    assert all(len(why) > 20 for why in precision.KEPT.values())
    assert {"Exp", "ReduceMean", "Softmax", "InstanceNormalization"} <= precision.KEPT.keys()


# --- the guard ----------------------------------------------------------------------------------


def test_an_overflow_switches_to_fp32_and_says_so_once(steep: Path, tmp_path: Path, caplog):
    out = tmp_path / "h.onnx"
    precision.to_fp16(steep, out)  # nothing is known to be too large
    loads: list[int] = []

    def full() -> runtime.Model:
        loads.append(1)
        return runtime.load(steep, name="steep")

    model = precision.guarded(runtime.load(out, name="steep_fp16"), full)
    small, large = (np.full((1, 8), v, np.float32) for v in (0.1, 0.9))
    with caplog.at_level(logging.WARNING, "mien"):
        np.testing.assert_allclose(model(small)[1], 10, rtol=5e-3)
        assert not model.switched
        assert not loads
        np.testing.assert_allclose(model(large)[1], 810, rtol=1e-5)  # fp16 gives infinity
        assert model.switched
        np.testing.assert_allclose(model(large)[1], 810, rtol=1e-5)
        np.testing.assert_allclose(model.lent(small)[1], 10, rtol=1e-5)
    assert len(loads) == 1
    assert [r.message for r in caplog.records] == [
        "steep_fp16: gave NaN or infinite values in fp16; steep runs instead from now on"
    ]


def test_a_black_face_switches_unless_fp32_makes_one_too(tmp_path: Path, caplog):
    """Half of the network multiplies with a number that half precision rounds to nothing."""
    shape = {"x": ["n", 1, 4, 4]}, {"y": ["n", 1, 4, 4]}
    full, dark = (
        save(tmp_path / f"{v}.onnx", [node("Mul", ["x", "k"], "y")], *shape,
             k=np.array(v, np.float32)) for v in (1.0, 0.0)
    )  # fmt: skip
    model = precision.guarded(runtime.load(dark), lambda: runtime.load(full), faces=True)
    black = np.zeros((1, 1, 4, 4), np.float32)
    assert not model(black)[0].any()
    assert not model.switched  # the face is black
    face = np.arange(16, dtype=np.float32).reshape(1, 1, 4, 4)
    np.testing.assert_array_equal(model(np.concatenate([face, face]))[0][1], face[0])
    assert model.switched
    assert "one single value" in caplog.text
    other = precision.guarded(runtime.load(dark), lambda: runtime.load(full))
    assert not other(face)[0].any()  # a mask may well be empty


# --- the zoo ------------------------------------------------------------------------------------


def test_models_open_in_the_precision_that_is_asked_for(tmp_path: Path):
    assert zoo.Zoo(precision="int8").open("relight")[0].name == "relight_int8"
    assert zoo.Zoo(precision="int8").open("facemesh")[0].name == "facemesh"  # has none
    assert zoo.Zoo(precision="fp32").open("relight")[0].name == "relight"
    assert zoo.Zoo(precision="fp16").choose("relight_int8").name == "relight_int8"
    shipped = zoo.find("relight_int8")
    (tmp_path / "mine.onnx").write_bytes(b"")
    own = replace(shipped, name="mine", shipped=False, file=str(tmp_path / "mine.onnx"))
    assert zoo.Zoo(cards=(*zoo.CARDS, own), precision="int8").choose("relight") == own


def test_relight_s_own_setting_takes_the_user_s_own_first(tmp_path: Path):
    from mien import generate

    assert generate.load("relight:precision=int8").network.name == "relight_int8"
    shipped = zoo.path(zoo.find("relight_int8"))
    own = replace(zoo.find("relight_int8"), name="mine", shipped=False, file=str(shipped))
    made = generate.load(
        "relight:precision=int8",
        zoo.Zoo(folder=tmp_path, cards=(*zoo.CARDS, own), precision="fp32"),
    )
    assert made.network.name == "mine"
    assert made.occlude.model.name == "occlude"


def test_a_chain_says_what_it_runs_in():
    from mien import pipeline

    made = pipeline.load(models=zoo.Zoo(precision="int8"))
    assert made.models["generate"] == ("relight_int8+occlude_int8", "cpu")
    assert made.models["landmarks"] == ("facemesh", "cpu")
    assert made.generate.network.name == "relight_int8"
    full = pipeline.load(models=zoo.Zoo(precision="fp32"))
    assert full.models["generate"] == ("relight", "cpu")
    assert full.generate.network.name == "relight"
    with pytest.raises(UsageError, match=r"--precision fp16: none of .*relight.*--to fp16"):
        pipeline.load(models=zoo.Zoo(precision="fp16"))
    with pytest.raises(UsageError, match="--precision int8: none of"):
        pipeline.load("mesh", models=zoo.Zoo(precision="int8"))


@pytest.mark.parametrize(
    ("provider", "precision", "expected"),
    [
        ("cpu", "int8", ("auto", "int8")),
        ("cuda", "fp16", ("auto", "fp16")),
        ("tensorrt,cuda", "fp16", ("fp16", "fp32")),  # makes it of the fp32 model
        ("tensorrt,cuda", "int8", ("int8", "fp32")),
        ("openvino", "int8", ("auto", "int8")),
        ("openvino", "fp32", ("auto", "fp32")),
    ],
)
def test_who_computes_in_a_precision(provider, precision, expected):
    from mien.cli.options import device_of, zoo_of
    from mien.config import Settings

    settings = Settings(provider=provider, precision=precision)
    assert (device_of(settings).precision, zoo_of(settings).precision) == expected


def test_fp16_of_the_zoo_has_its_original_behind_it(tmp_path: Path):
    simple = tmp_path / "s.onnx"
    precision.simplify(zoo.path(zoo.find("relight")), simple)
    precision.to_fp16(simple, tmp_path / "relight_fp16.onnx")
    card = replace(
        zoo.find("relight"), name="relight_fp16", file="relight_fp16.onnx", precision="fp16",
        full="relight", shipped=False, sha256="", bytes=0,
    )  # fmt: skip
    models = zoo.Zoo(folder=tmp_path, cards=(*zoo.CARDS, card), precision="fp16")
    found, model = models.open("relight")
    assert found == card
    assert isinstance(model, precision.Guarded)
    face = np.random.default_rng(0).uniform(0, 1, (1, 13, 128, 128)).astype(np.float32)
    half, full = model(face), runtime.load(zoo.path(zoo.find("relight")))(face)
    assert not model.switched
    np.testing.assert_allclose(half[0], full[0], atol=0.02)
    bad = np.full_like(face, np.nan)
    assert np.isnan(model(bad)[0]).any()  # of fp32, which knows no better
    assert model.switched
    assert model.full().name == "relight"


# --- the command --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory, examples: Path) -> Path:
    """Faces of nobody, as small photos."""
    folder = tmp_path_factory.mktemp("media")
    for number in range(4):
        image = cv2.imread(str(examples / f"portrait-{number + 1}.jpg"))
        cv2.imwrite(str(folder / f"{number}.jpg"), cv2.resize(image, None, fx=0.5, fy=0.5))
    return folder


@pytest.fixture
def quick(monkeypatch) -> None:
    """One method and few samples, so that a test is over soon."""
    monkeypatch.setattr(quantize, "LEAST", 2)
    choose = precision.choose_int8
    monkeypatch.setattr(precision, "choose_int8", lambda *a: choose(*a, methods=("minmax",)))


def test_the_user_s_media_are_what_ranges_come_from(monkeypatch, examples: Path, photos):
    seen = []
    record = recording.Recorder._remember
    monkeypatch.setattr(
        recording.Recorder, "_remember", lambda self, a: (seen.append(a[0]), record(self, a))
    )
    card = zoo.find("occlude")
    halves = quantize._halves([photos / f"{n}.jpg" for n in range(2)])
    monkeypatch.setattr(quantize, "LEAST", 1)
    people, first, second = quantize._record(card, zoo.Zoo(), halves)
    assert people
    assert first
    assert second
    assert all(s[0].shape == (1, 128, 128, 5) for s in (*first, *second))
    assert any(np.array_equal(first[0][0], a) for a in seen)
    # Skin of the portrait, not noise: a crop with light and dark in it, and a mesh drawn into it.
    crop = first[0][0]
    assert crop[..., :3].std() > 0.05
    assert set(np.unique(crop[..., 3])) <= {0.0, 1.0}


@pytest.mark.usefixtures("quick")
def test_quantise_keeps_file_card_report_and_table(monkeypatch, tmp_path, photos, capsys):
    monkeypatch.setenv("MIEN_MODELS", str(tmp_path))
    words = ["models", "quantize", "occlude", "--to", "int8", "--calibrate", str(photos)]
    assert app([*words, "--limit", "0.5", "--threads", "1"], standalone_mode=False) == 0
    said = capsys.readouterr().out
    assert "times smaller" in said
    assert "overlap of masks (IoU)" in said
    names = {p.name for p in tmp_path.iterdir() if p.is_file()}
    # TensorRT's table is for the fp32 model, and looked for under its name.
    table = "occlude.calibration.flatbuffers"
    assert names == {"occlude_int8_own.onnx", "occlude_int8_own.json", table}
    report = json.loads((tmp_path / "occlude_int8_own.json").read_text())
    assert report["bytes"]["full"] > 2 * report["bytes"]["now"]
    assert report["measures"]["overlap of masks (IoU)"]["loss"] <= 0.5
    models = zoo.Zoo.at(tmp_path, precision="int8")
    card, model = models.open("occlude")
    assert (card.name, card.full, card.precision, card.task) == (
        "occlude_int8_own", "occlude", "int8", "occlude",
    )  # fmt: skip
    assert card.licence == zoo.find("occlude").licence
    x = np.random.default_rng(1).uniform(0, 1, (2, 128, 128, 5)).astype(np.float32)
    assert model(x)[0].shape == (2, 128, 128)
    # again: it is in the way
    assert app(words, standalone_mode=False) == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.usefixtures("quick")
def test_what_lost_too_much_leaves_nothing(monkeypatch, tmp_path, photos, capsys):
    def ruin(simple: Path, made: Path, *_) -> precision.Choice:
        model = onnx.load(simple)
        last = model.graph.initializer[0]
        last.CopyFrom(numpy_helper.from_array(0 * numpy_helper.to_array(last) + 3, last.name))
        onnx.save(model, made)
        return precision.Choice("ruined", (), 1.0, {})

    monkeypatch.setattr(quantize.precision, "choose_int8", ruin)
    monkeypatch.setenv("MIEN_MODELS", str(tmp_path / "zoo"))
    words = ["models", "quantize", "occlude", "--to", "int8", "--calibrate", str(photos)]
    assert app([*words, "--threads", "1"], standalone_mode=False) == 1
    said = capsys.readouterr().err
    assert "overlap of masks (IoU) goes from 1 to" in said
    assert "where 2.0 % are allowed; nothing was kept" in said
    assert not [p for p in (tmp_path / "zoo").rglob("*") if p.is_file()]
    assert not list((tmp_path / "zoo").rglob(".*"))


def test_a_missing_onnx_says_what_to_install(monkeypatch, tmp_path, examples, capsys):
    import importlib

    monkeypatch.setattr(
        graph, "import_module",
        lambda name: importlib.import_module("no_such_package" if name == "onnx" else name),
    )  # fmt: skip
    words = ["models", "quantize", "occlude", "--to", "int8", "--calibrate", str(examples)]
    assert app(words, standalone_mode=False) == 2
    assert "pip install 'mien[quantize]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "to", "said"),
    [
        ("occlude", "int4", "--to 'int4' is unknown; use fp16 or int8"),
        ("relight_int8", "fp16", "relight_int8 is int8 already; give the model relight"),
        ("nonesuch", "int8", "no model is called 'nonesuch'"),
    ],
)
def test_wrong_words(name, to, said, examples, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MIEN_MODELS", str(tmp_path))
    words = ["models", "quantize", name, "--to", to, "--calibrate", str(examples)]
    assert app(words, standalone_mode=False) in (1, 2)
    assert said in capsys.readouterr().err


def test_already_quantised_or_half_is_refused(net: Path, tmp_path: Path):
    with pytest.raises(ModelError, match="is quantised already"):
        precision.simplify(zoo.path(zoo.find("relight_int8")), tmp_path / "s.onnx")
    precision.simplify(net, tmp_path / "s.onnx")
    precision.to_fp16(tmp_path / "s.onnx", tmp_path / "h.onnx")
    with pytest.raises(ModelError, match="computes in fp16"):
        precision.simplify(tmp_path / "h.onnx", tmp_path / "t.onnx")


def test_a_card_of_a_user_s_own_is_carried_on(tmp_path: Path):
    """Of a model whose card is not mien's, the new one says all that its card says."""
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "mine.toml").write_text(
        'like = "inswapper_128"\nfile = "mine.onnx"\nsize = 256\ntemplate = "ffhq_512"\n'
        "mean = [1, 2, 3]\n[swap]\noffset = 1.5\noutput_mean = [4, 5.5, 6]\n"
    )
    models = zoo.Zoo.at(tmp_path)
    mine = models.find("mine")
    card = replace(mine, name="mine_fp16", file="mine_fp16.onnx", precision="fp16", full="mine")
    (tmp_path / "made").write_bytes(b"graph")
    place = tmp_path / "mine_fp16.onnx"
    kept = keeping.keep({place: tmp_path / "made"}, place, card, models)
    assert kept == card
    assert place.read_bytes() == b"graph"
    assert zoo.Zoo.at(tmp_path, precision="fp16").choose("mine") == card


def test_a_recorder_answers_like_the_model_and_keeps_a_fair_few(net: Path):
    model = runtime.load(net)
    record = recording.recorder(model)
    for sample in samples(100):
        np.testing.assert_array_equal(record(*sample)[0], model(*sample)[0])
    record(samples(1, (3, 3, 16, 16))[0][0])
    assert record.seen == [103]
    assert len(record.samples) == recording.MOST
    assert all(s[0].shape == (1, 3, 16, 16) for s in record.samples)


def test_one_clip_is_halved_and_files_are_dealt_out(examples: Path):
    clip = examples / "clip.mp4"
    one = quantize._halves([clip])
    first, second = ([f.index for f in half.all()] for half in one)
    assert len(first) == len(second) > 10
    assert max(first) < min(second)
    photos = [examples / f"portrait-{n}.jpg" for n in (1, 2, 3)]
    two, three = quantize._halves([*photos, clip])
    assert [f.name for f in two.files] == ["clip.mp4", "portrait-1.jpg", "portrait-3.jpg"]
    assert [f.name for f in three.files] == ["clip.mp4", "portrait-2.jpg"]
    four, five = quantize._halves([clip, clip.with_name("photo.jpg"), Path(f"{clip}")])
    assert (list(four.files), list(five.files)) == ([clip, clip.with_name("photo.jpg")], [clip])


def test_losses_are_shares_of_fp32(monkeypatch):
    assert measures.left(0.97).loss == pytest.approx(0.03)
    assert measures.left(1.2).loss == 0
    assert measures.left(float("nan")).loss == float("inf")


def test_limits_are_shares():
    with pytest.raises(UsageError, match="expected a share"):
        quantize.quantize("occlude", "int8", ["."], models=zoo.Zoo(), limit=2.0)
