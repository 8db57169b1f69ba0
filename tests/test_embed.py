"""Cropping and batching of the embedder on a tiny graph, and people told apart on real photos."""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import synthetic
from mien import detect, embed, landmarks, pipeline, runtime, zoo
from mien.errors import ModelError
from mien.types import Face, Frame, Rule, SwapPlan

MEDIA = Path(os.environ.get("MIEN_TEST_MEDIA", Path(__file__).parents[2] / "shared" / "media"))
TEMPLATE = np.array(zoo.find("faceres512").template, np.float32)


def save(path: Path, *nodes: onnx.NodeProto, out: list[int | str]) -> runtime.Model:
    """A graph with the embedder's input, made of ``nodes``, loaded."""
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 224, 224, 3])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, out)],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), path)
    return runtime.load(path)


@pytest.fixture
def channel_means(tmp_path: Path) -> embed.Embedder:
    """Its "embedding" is the mean of R, G and B of the crop: what the network would see."""
    node = helper.make_node("ReduceMean", ["image"], ["embedding"], axes=[1, 2], keepdims=0)
    model = save(tmp_path / "means.onnx", node, out=["n", 3])
    return embed.Embedder(zoo.find("faceres512"), model)


def face(points: np.ndarray) -> Face:
    return Face(np.array([0, 0, 1, 1], np.float32), 1.0, np.asarray(points, np.float32))


def test_all_faces_go_through_in_one_batch_and_in_order(channel_means: embed.Embedder):
    image = np.zeros((300, 900, 3), np.uint8)
    colours = [(200, 10, 30), (5, 90, 160), (77, 77, 7)]
    for i, colour in enumerate(colours):
        image[:, 300 * i : 300 * (i + 1)] = colour
    faces = [face(TEMPLATE + np.array([300 * i + 38, 38])) for i in range(3)]
    vectors = channel_means.vectors(image, [one.points for one in faces])
    np.testing.assert_allclose(vectors, colours, atol=1e-3)  # RGB, 0..255
    found = channel_means(Frame(image), faces)
    for one, colour in zip(found, colours, strict=True):
        np.testing.assert_allclose(one.embedding, colour / np.linalg.norm(colour), atol=1e-5)
    assert all(one.embedding is None for one in faces)


def test_no_faces_no_work(channel_means: embed.Embedder):
    assert channel_means(Frame(np.zeros((9, 9, 3), np.uint8)), []) == []


@pytest.mark.parametrize("angle", [0, 35, 90, 180])
@pytest.mark.parametrize("scale", [0.4, 1.0, 2.6])
def test_points_land_on_the_template(channel_means: embed.Embedder, angle: float, scale: float):
    turn = cv2.getRotationMatrix2D((112, 112), angle, scale)
    turn[:, 2] += 388
    points = TEMPLATE @ turn[:, :2].T + turn[:, 2]
    image = np.zeros((1000, 1000, 3), np.uint8)
    for i, (x, y) in enumerate(points):
        cv2.circle(image, (round(x), round(y)), max(2, round(4 * scale)), (50 * i + 50, 0, 0), -1)
    crop = channel_means.crop(image, points.astype(np.float32))
    assert crop.shape == (224, 224, 3)
    for i, (x, y) in enumerate(TEMPLATE):
        assert crop[round(y), round(x), 0] == pytest.approx(50 * i + 50, abs=12)


def test_template_is_arcface_s_doubled_and_shrunk():
    arcface = np.array(
        [
            (38.2946, 51.6963),
            (73.5318, 51.5014),
            (56.0252, 71.7366),
            (41.5493, 92.3655),
            (70.7299, 92.2041),
        ]
    )
    about_centre = (arcface * 2 - 112) * 0.85 + 112
    np.testing.assert_allclose(TEMPLATE, about_centre, atol=1e-3)


def test_large_faces_are_averaged_not_skipped(channel_means: embed.Embedder):
    stripes = np.zeros((1200, 1200, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = channel_means.crop(stripes, TEMPLATE * 4 + 100)
    assert crop[60:160, 60:160].std() < 3


def test_a_wrong_graph_is_an_error(tmp_path: Path):
    node = helper.make_node("ReduceMean", ["image"], ["embedding"], axes=[0, 1, 2, 3], keepdims=0)
    model = save(tmp_path / "scalar.onnx", node, out=[])
    broken = embed.Embedder(zoo.find("faceres512"), model)
    with pytest.raises(ModelError, match="scalar"):
        broken(Frame(np.zeros((300, 300, 3), np.uint8)), [face(TEMPLATE)])


# --- ArcFace and converters ---------------------------------------------------------------------

ARCFACE = np.array(
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ]
)
"""InsightFace's five points in its crop of 112 pixels."""
COLOURS = np.array(
    [(250, 10, 90), (20, 200, 140), (80, 60, 255), (0, 180, 30), (140, 0, 220)], np.float64
)


def looks_at_points(path: Path, batch: int | str) -> Path:
    """A graph of w600k_r50's form that says what colour is at each of the five points."""
    places = [round(y) * 112 + round(x) for x, y in ARCFACE]
    nodes = [
        helper.make_node("Reshape", ["input.1", "flat"], ["pixels"]),
        helper.make_node("Gather", ["pixels", "places"], ["seen"], axis=2),
        helper.make_node("Reshape", ["seen", "row"], ["fifteen"]),
        helper.make_node("Pad", ["fifteen", "pads"], ["683"]),
    ]
    values = {
        "flat": np.array([-1, 3, 112 * 112], np.int64),
        "places": np.array(places, np.int64),
        "row": np.array([-1, 15], np.int64),
        "pads": np.array([0, 0, 0, 497], np.int64),
    }
    graph = helper.make_graph(
        nodes,
        "points",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [batch, 3, 112, 112])],
        [helper.make_tensor_value_info("683", TensorProto.FLOAT, [batch, 512])],
        [numpy_helper.from_array(v, k) for k, v in values.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, path)
    return path


@pytest.mark.parametrize("batch", ["None", 1])
@pytest.mark.parametrize("name", ["w600k_r50", "arcface_w600k_r50", "w600k_mbf"])
def test_arcface_sees_each_face_upright_in_its_own_range(tmp_path: Path, batch, name: str):
    """Normalisation, order of channels and axes, template and unit length, worked out by hand."""
    model = runtime.load(looks_at_points(tmp_path / "arcface.onnx", batch))
    embedder = embed.Embedder(zoo.find(name), model)
    image = np.zeros((400, 900, 3), np.uint8)
    faces = []
    for x, angle, scale, order in ((200, 20, 2.2, 1), (650, -40, 1.7, -1)):
        turn = cv2.getRotationMatrix2D((56, 71), angle, scale)
        turn[:, 2] += (x - 56, 200 - 71)
        points = ARCFACE @ turn[:, :2].T + turn[:, 2]
        for place, colour in zip(points, COLOURS[::order], strict=True):
            cv2.circle(image, tuple(np.round(place).astype(int)), 8, tuple(colour), -1)
        faces.append(face(points))
    for one, order in zip(embedder(Frame(image), faces), (1, -1), strict=True):
        seen = (COLOURS[::order].T.reshape(-1) - 127.5) / 127.5  # channel by channel: R, G, B
        np.testing.assert_allclose(one.embedding[:15], seen / np.linalg.norm(seen), atol=0.01)
        assert not one.embedding[15:].any()
        assert np.linalg.norm(one.embedding) == pytest.approx(1, abs=1e-5)


def test_a_card_of_another_task_is_no_embedder_and_no_converter(tmp_path: Path):
    with pytest.raises(ModelError, match=r"centerface.*expected an embedder.*task detect"):
        embed.load(None, "centerface")
    with pytest.raises(ModelError, match=r"faceres512.*expected a converter.*task embed"):
        embed.load_converter(None, "faceres512")


def converter_graph(path: Path, matrix: np.ndarray) -> runtime.Model:
    """A graph of a crossface network's form: divides by the length of *all* that goes in."""
    nodes = [
        helper.make_node("ReduceL2", ["input"], ["length"], axes=[0, 1], keepdims=1),
        helper.make_node("Div", ["input", "length"], ["unit"]),
        helper.make_node("MatMul", ["unit", "matrix"], ["output"]),
    ]
    sizes = [["n", n] for n in matrix.shape]
    graph = helper.make_graph(
        nodes,
        "crossface",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, sizes[0])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, sizes[1])],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(made, path)
    return runtime.load(path)


def test_a_converter_takes_each_vector_by_itself_and_keeps_the_length_it_gives(tmp_path: Path):
    rng = np.random.default_rng(3)
    matrix = rng.normal(size=(512, 512)).astype(np.float32)
    convert = embed.Converter(converter_graph(tmp_path / "crossface.onnx", matrix))
    vectors = rng.normal(size=(3, 512)).astype(np.float32) * [[1], [25], [0.01]]
    wanted = [v / np.sqrt((v**2).sum()) @ matrix for v in vectors]
    np.testing.assert_allclose(convert(vectors), wanted, rtol=1e-4, atol=1e-4)
    assert convert(vectors).dtype == np.float32


def test_a_converter_that_gives_another_length_is_an_error(tmp_path: Path):
    matrix = np.ones((512, 8), np.float32)
    convert = embed.Converter(converter_graph(tmp_path / "short.onnx", matrix))
    with pytest.raises(ModelError, match=r"short: expected \(1, 512\).*came \(1, 8\)"):
        convert(np.ones((1, 512), np.float32))


def test_thresholds_follow_the_embedder(tmp_path: Path):
    """The card's, for the default and for another; what the user says goes above both."""
    looks_at_points(tmp_path / "other.onnx", 1)
    card = replace(
        zoo.find("w600k_r50"), file=f"{tmp_path}/other.onnx", sha256="", bytes=0, sources=()
    )
    models = zoo.Zoo(cards=(*zoo.SHIPPED, card), folder=tmp_path)
    usual = pipeline.load("mesh")
    other = pipeline.load("mesh", embedder="w600k_r50", models=models)
    assert (usual.similarity, other.similarity) == (0.38, 0.25)

    reference = np.zeros(512, np.float32)
    reference[0] = 1
    seen = reference * 0.3
    seen[1] = np.sqrt(1 - 0.3**2)  # a cosine of .3
    one = replace(synthetic.face(synthetic.mesh((100, 100), 90)), embedding=seen, track=1)
    rule = Rule(synthetic.identity(64), reference=reference)
    for swapper, said, count in (
        (usual, None, 0),
        (other, None, 1),
        (usual, 0.2, 1),
        (other, 0.35, 0),
    ):
        pairs = pipeline.Stream(swapper).assign([one], SwapPlan((rule,), similarity=said))
        assert len(pairs) == count


# --- the default network ------------------------------------------------------------------------


def test_default_model_gives_unit_vectors_whatever_the_batch():
    image = np.random.default_rng(0).integers(0, 255, (300, 300, 3)).astype(np.uint8)
    faces = [face(TEMPLATE + 20), face(TEMPLATE * 0.8 + 30)]
    default = embed.load()
    together = default(Frame(image), faces)
    for one, same in zip(faces, together, strict=True):
        assert same.embedding is not None
        assert same.embedding.shape == (512,)
        assert np.linalg.norm(same.embedding) == pytest.approx(1, abs=1e-4)
        alone = default(Frame(image), [one])[0].embedding
        assert alone is not None
        assert embed.similarity(alone, same.embedding) == pytest.approx(1, abs=1e-4)


@pytest.mark.media
def test_same_people_are_closer_than_others():
    table = MEDIA / "same_person" / "master.csv"
    if not table.is_file():
        pytest.skip(f"{table}: not there; set MIEN_TEST_MEDIA")
    with table.open() as stream:
        rows = [r for r in csv.DictReader(stream) if (table.parent / r["file_x"]).is_file()]
    rows = [r for r in rows if (table.parent / r["file_y"]).is_file()]
    find, mesh, embedder = detect.load(), landmarks.load(), embed.load()
    vector = {}
    for name in {name for r in rows for name in (r["file_x"], r["file_y"])}:
        frame = Frame(cv2.imread(str(table.parent / name), cv2.IMREAD_COLOR_RGB))
        largest = max(
            find.thorough(frame.image), key=lambda f: float(np.prod(f.box[2:] - f.box[:2]))
        )
        vector[name] = embedder(frame, mesh(frame, [largest]))[0].embedding
    cosine = np.array([embed.similarity(vector[r["file_x"]], vector[r["file_y"]]) for r in rows])
    same = np.array([r["Decision"] == "Yes" for r in rows])
    assert same.sum() >= 30
    assert (~same).sum() >= 40
    assert cosine[same].min() > cosine[~same].max()
    threshold = zoo.find("faceres512").threshold
    assert ((cosine > threshold) == same).all()
