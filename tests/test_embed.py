"""Cropping and batching of the embedder on a tiny graph, and people told apart on real photos."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from mien import detect, embed, landmarks, runtime, zoo
from mien.errors import ModelError
from mien.types import Face, Frame

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
def channel_means(tmp_path: Path) -> embed.FaceresEmbedder:
    """Its "embedding" is the mean of R, G and B of the crop: what the network would see."""
    node = helper.make_node("ReduceMean", ["image"], ["embedding"], axes=[1, 2], keepdims=0)
    model = save(tmp_path / "means.onnx", node, out=["n", 3])
    return embed.FaceresEmbedder(model, 224, TEMPLATE)


def face(points: np.ndarray) -> Face:
    return Face(np.array([0, 0, 1, 1], np.float32), 1.0, np.asarray(points, np.float32))


def test_all_faces_go_through_in_one_batch_and_in_order(channel_means: embed.FaceresEmbedder):
    image = np.zeros((300, 900, 3), np.uint8)
    colours = [(200, 10, 30), (5, 90, 160), (77, 77, 7)]
    for i, colour in enumerate(colours):
        image[:, 300 * i : 300 * (i + 1)] = colour
    faces = [face(TEMPLATE + np.array([300 * i + 38, 38])) for i in range(3)]
    found = channel_means(Frame(image), faces)
    for one, colour in zip(found, colours, strict=True):
        np.testing.assert_allclose(one.embedding, colour, atol=1e-3)  # RGB, 0..255
    assert all(one.embedding is None for one in faces)


def test_no_faces_no_work(channel_means: embed.FaceresEmbedder):
    assert channel_means(Frame(np.zeros((9, 9, 3), np.uint8)), []) == []


@pytest.mark.parametrize("angle", [0, 35, 90, 180])
@pytest.mark.parametrize("scale", [0.4, 1.0, 2.6])
def test_points_land_on_the_template(
    channel_means: embed.FaceresEmbedder, angle: float, scale: float
):
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


def test_large_faces_are_averaged_not_skipped(channel_means: embed.FaceresEmbedder):
    stripes = np.zeros((1200, 1200, 3), np.uint8)
    stripes[:, ::2] = 255
    crop = channel_means.crop(stripes, TEMPLATE * 4 + 100)
    assert crop[60:160, 60:160].std() < 3


def test_a_wrong_graph_is_an_error(tmp_path: Path):
    node = helper.make_node("ReduceMean", ["image"], ["embedding"], axes=[0, 1, 2, 3], keepdims=0)
    model = save(tmp_path / "scalar.onnx", node, out=[])
    broken = embed.FaceresEmbedder(model, 224, TEMPLATE)
    with pytest.raises(ModelError, match="scalar"):
        broken(Frame(np.zeros((300, 300, 3), np.uint8)), [face(TEMPLATE)])


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
