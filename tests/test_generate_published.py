"""Published generators on tiny graphs that are fed and read as the real ones are.

Two graphs for each family. One gives its input back, so the frame must come back. The other's
answer depends on every input, and is worked out here once more from the contracts alone: numbers
in this file are typed from what the networks' publishers say, and not taken from the cards.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import synthetic
from mien import blend, cli, generate, media, pipeline, zoo
from mien.errors import ModelError, ModelNotFound, UsageError
from mien.generate import networks, sources, swapping
from mien.types import Face, Frame, Identity, Patch, Portrait, Rule, SwapPlan
from mien.zoo import adding

pytestmark = pytest.mark.usefixtures("without_watermark")

ARCFACE_V1 = np.array(
    [(0.35473214, 0.45658929), (0.64526786, 0.45658929), (0.5, 0.61154464),
     (0.37913393, 0.77687500), (0.62086607, 0.77687500)]
)  # fmt: skip
ARCFACE_V2 = np.array(
    [(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655),
     (70.7299, 92.2041)]
) / 112  # fmt: skip
ARCFACE_128 = (ARCFACE_V2 * 112 + (8, 0)) / 128
FFHQ = np.array(
    [(192.981, 239.947), (318.903, 240.194), (256.634, 314.019), (201.261, 371.410),
     (313.089, 371.151)]
) / 512  # fmt: skip
MTCNN = np.array(
    [(0.36562865, 0.46733799), (0.63305391, 0.46585885), (0.50019127, 0.61942959),
     (0.39032951, 0.77598822), (0.61178945, 0.77476328)]
)  # fmt: skip
WHOLE_FACE = np.array(
    [(0.35342266, 0.39285716), (0.62797622, 0.39285716), (0.48660713, 0.54017860),
     (0.38839287, 0.68750011), (0.59821427, 0.68750011)]
)  # fmt: skip
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Contract:
    """How one family is fed and read, by its publishers.

    ``mean`` and ``std`` are of 0..1, as most of them write it; ``back`` is whether the answer is
    in the same range as the input, else it is 0..1.
    """

    name: str
    size: int
    points: np.ndarray  # where the five points go, in parts of the side
    mean: Any = 0.0
    std: Any = 1.0
    back: bool = False
    source: str = "vector"
    chain: str = ""  # emap, or the converter
    unit: bool = True
    shift: float = 0.0
    source_points: np.ndarray = field(default_factory=lambda: ARCFACE_V2)
    source_size: int = 0

    @property
    def dfm(self) -> bool:
        return self.source == "none"

    def __str__(self) -> str:
        return self.name


CONTRACTS = (
    Contract("inswapper_128", 128, ARCFACE_128, chain="emap"),
    Contract("reswapper_128", 128, ARCFACE_128, chain="emap"),
    Contract("reswapper_256", 256, ARCFACE_128, chain="emap", shift=128 / 32768 * 256 - 0.5),
    Contract("hyperswap_1a_256", 256, ARCFACE_128, 0.5, 0.5, back=True),
    Contract("simswap_256", 256, ARCFACE_V1, *IMAGENET, chain="crossface_simswap"),
    Contract("simswap_unofficial_512", 512, ARCFACE_V1, chain="crossface_simswap"),
    Contract("ghost_1_256", 256, ARCFACE_V1, 0.5, 0.5, back=True, chain="crossface_ghost",
             unit=False),
    Contract("hififace_unofficial_256", 256, MTCNN, 0.5, 0.5, back=True,
             chain="crossface_hififace"),
    Contract("blendswap_256", 256, FFHQ, source="image", source_size=112),
    Contract("uniface_256", 256, FFHQ, 0.5, 0.5, back=True, source="image",
             source_points=FFHQ, source_size=256),
    Contract("dfm", 224, WHOLE_FACE, source="none"),
)  # fmt: skip
every = pytest.mark.parametrize("contract", CONTRACTS, ids=str)
INSWAPPER = CONTRACTS[0]
RNG = np.random.default_rng(5)
EMAP = RNG.normal(0, 0.1, (512, 512)).astype(np.float32)
SCALES, SHIFTS = RNG.uniform(0.5, 2, 512), RNG.normal(0, 0.3, 512)


# --- Tiny graphs --------------------------------------------------------------------------------


def save(path: Path, nodes, inputs, outputs, constants=None, *, half: tuple[str, ...] = ()) -> None:
    """Write a graph of opset 17; the constants are its initialisers, in this order."""

    def ports(shapes):
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]

    initialisers = [
        numpy_helper.from_array(np.asarray(v, v.dtype if hasattr(v, "dtype") else np.float32), n)
        for n, v in (constants or {}).items()
    ]
    graph = helper.make_graph(nodes, "tiny", ports(inputs), ports(outputs), initialisers)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path
    )


def recogniser(path: Path) -> None:
    """As ArcFace: 112 pixels to 512 numbers of no particular length, each of a place and colour."""
    node = helper.make_node
    save(
        path,
        [
            node("AveragePool", ["input.1"], ["pooled"], kernel_shape=[8, 8], strides=[8, 8]),
            node("Flatten", ["pooled"], ["flat"]),
            node("Slice", ["flat", "from", "to", "axis"], ["cut"]),
            node("Mul", ["cut", "three"], ["683"]),
        ],
        {"input.1": ["N", 3, 112, 112]},
        {"683": ["N", 512]},
        {"from": np.array([0]), "to": np.array([512]), "axis": np.array([1]),
         "three": np.float32(3)},
    )  # fmt: skip


def recognised(crop: np.ndarray) -> np.ndarray:
    """The same in NumPy, of ``(112, 112, 3)`` RGB."""
    x = ((crop.astype(np.float64) - 127.5) / 127.5).transpose(2, 0, 1)
    return x.reshape(3, 14, 8, 14, 8).mean((2, 4)).reshape(-1)[:512] * 3


def crossface(path: Path) -> None:
    """As the converters: 512 numbers to 512; not linear, so the input's length counts."""
    nodes = [
        helper.make_node("Mul", ["input", "scales"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shifts"], ["output"]),
    ]
    constants = {"scales": SCALES.astype(np.float32), "shifts": SHIFTS.astype(np.float32)}
    save(path, nodes, {"input": [1, 512]}, {"output": [1, 512]}, constants)


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def latent(contract: Contract, raw: np.ndarray) -> np.ndarray:
    """What goes into the generator for what the recogniser says."""
    if contract.chain == "emap":
        out = unit(raw) @ EMAP
    elif contract.chain:
        out = raw * SCALES + SHIFTS
    else:
        out = raw
    return unit(out) if contract.unit else out


GAINS = np.array((0.9, 0.7, 0.5))
"""Of the three channels of the target, in the order of the network."""


def weights_of(contract: Contract, batch: Any) -> tuple[dict, np.ndarray]:
    """Inputs of the graph, and how much every number of the source counts in every channel."""
    side = contract.size
    rng = np.random.default_rng(len(contract.name))
    if contract.dfm:
        return {"in_face:0": [batch, side, side, 3], "morph_value:0": [1]}, np.array((0.1, 0.2, 0))
    target = {"target": [batch, 3, side, side]}
    if contract.source == "image":
        size = contract.source_size
        # A few pixels each, near two corners: a picture cut elsewhere shows others there.
        spots = np.zeros((3, size, size))
        for channel, (x, y) in enumerate(((0.1, 0.2), (0.8, 0.1), (0.2, 0.9))):
            row, column = int(y * size), int(x * size)
            spots[channel, row : row + 2, column : column + 3] = 0.4 * size * size / 6
        return {"source": [batch, 3, size, size], **target}, spots
    length = 12.0 if not contract.unit else 1.0
    return {**target, "source": [batch, 512]}, rng.normal(0, 0.1, (512, 3)) / length


def generator(path: Path, contract: Contract, *, batch: Any = "N", identity: bool = False) -> None:
    """A graph with the family's inputs and output; of an identity one the frame comes back."""
    node = helper.make_node
    inputs, weights = weights_of(contract, batch)
    constants: dict[str, Any] = {"gains": GAINS.reshape(1, 3, 1, 1).astype(np.float32),
                                 "weights": weights.astype(np.float32)}  # fmt: skip
    (target,) = (n for n in inputs if n in ("target", "in_face:0"))
    shape = (1, 1, 1, 3) if contract.dfm else (1, 3, 1, 1)
    output = "output"
    outputs: dict[str, Any] = {output: inputs[target]}
    if contract.dfm:
        output = "out_celeb_face:0"
        plane = [*inputs[target][:3], 1]
        outputs = {"out_face_mask:0": plane, output: inputs[target],
                   "out_celeb_face_mask:0": plane}  # fmt: skip
        constants["gains"] = constants["gains"].reshape(shape)
    if identity:
        # Into 0..1, or the input's own range where the answer is read like it.
        std, mean = (1.0, 0.0) if contract.back else (contract.std, contract.mean)
        constants = {"gains": np.broadcast_to(np.float32(std), 3).reshape(shape),
                     "shift": np.broadcast_to(np.float32(mean), 3).reshape(shape)}  # fmt: skip
        nodes = [node("Mul", [target, "gains"], ["scaled"]), node("Add", ["scaled", "shift"],
                                                                  [output])]  # fmt: skip
    else:
        nodes = [node("Mul", [target, "gains"], ["scaled"]), node("Add", ["scaled", "said"],
                                                                  [output])]  # fmt: skip
        if contract.dfm:
            nodes.insert(0, node("Mul", ["morph_value:0", "weights"], ["said"]))
        elif contract.source == "image":
            nodes[:0] = [node("Mul", ["source", "weights"], ["weighted"]),
                         node("ReduceMean", ["weighted"], ["said"], axes=[2, 3])]  # fmt: skip
        else:
            constants["axes"] = np.array([2, 3])
            nodes[:0] = [node("MatMul", ["source", "weights"], ["flat"]),
                         node("Unsqueeze", ["flat", "axes"], ["said"])]  # fmt: skip
    if contract.dfm:
        # Masks: one where red is above 0.5, one everywhere.
        constants |= {"zero": np.array([0]), "one": np.array([1]), "last": np.array([3]),
                      "half": np.float32(0.5), "hard": np.float32(1e4)}  # fmt: skip
        nodes += [
            node("Slice", [target, "zero", "one", "last"], ["blue"]),
            node("Sub", ["blue", "half"], ["above"]),
            node("Mul", ["above", "hard"], ["steep"]),
            node("Sigmoid", ["steep"], ["out_face_mask:0"]),
            node("Mul", ["out_face_mask:0", "zero_f"], ["none"]),
            node("Add", ["none", "one_f"], ["out_celeb_face_mask:0"]),
        ]
        constants |= {"zero_f": np.float32(0), "one_f": np.float32(1)}
        if identity:
            nodes = [n for n in nodes if "out_face_mask:0" not in n.output]
            nodes[-2].input[0] = "steep"
            nodes.append(node("Identity", ["out_celeb_face_mask:0"], ["out_face_mask:0"]))
    constants["emap"] = EMAP
    save(path, nodes, inputs, outputs, constants)


def made(contract: Contract, crop: np.ndarray, said: np.ndarray) -> np.ndarray:
    """What the graph of :func:`generator` makes of a crop, 0..255 RGB, worked out here.

    Args:
        crop: ``(side, side, 3)`` RGB 0..255.
        said: What the source adds to each channel.
    """
    x = crop.astype(np.float64) / 255
    x = x[..., ::-1] if contract.dfm else x
    y = (x - contract.mean) / contract.std * GAINS + said
    y = y * contract.std + contract.mean if contract.back else y
    y = y[..., ::-1] if contract.dfm else y
    return np.clip(y * 255, 0, 255)


@dataclass(frozen=True, slots=True)
class Folder(zoo.Zoo):
    """A zoo that takes tiny files for the published ones, whatever their hashes."""

    def path(self, card: zoo.ModelCard) -> Path:
        file = self.folder / (card.file or f"{card.name}.dfm")
        return zoo.Zoo.path(self, card) if card.shipped else file


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """With a recogniser and the three converters."""
    recogniser(tmp_path / "arcface_w600k_r50.onnx")
    for name in ("simswap", "ghost", "hififace"):
        crossface(tmp_path / f"crossface_{name}.onnx")
    return Folder(folder=tmp_path)


def put(folder: Folder, contract: Contract, **how: Any) -> str:
    """Write a family's graph where the zoo looks for it; returns the name."""
    generator(folder.path(folder.find(contract.name)), contract, **how)
    return contract.name


@dataclass
class Counted:
    """A model that counts its runs and crops."""

    model: Any
    runs: list[int] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        self.runs.append(len(arrays[0]))
        return self.model(*arrays)


def counted(made: swapping.SwapGenerator) -> tuple[swapping.SwapGenerator, Counted]:
    model = Counted(made.network.model)
    return replace(made, network=replace(made.network, model=model)), model


# --- People and frames --------------------------------------------------------------------------


def five(points: np.ndarray) -> np.ndarray:
    """A mesh whose five points are these; the rest is nowhere."""
    mesh = np.zeros((478, 3), np.float32)
    for vertices, point in zip(((33, 133), (362, 263), (1,), (61,), (291,)), points, strict=True):
        mesh[list(vertices), :2] = point
    return mesh


def person(points: np.ndarray, size: int, shift=(20, 24), seed: int = 3) -> Identity:
    """Somebody whose aligned picture of a size is a part of the portrait, pixel for pixel."""
    side = size + 50
    noise = np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)
    portrait = Portrait(noise, five(points * size + shift))
    return Identity("noise", np.eye(1, 512, dtype=np.float32)[0], (portrait,), synthetic.CONSENT)


def aligned(identity: Identity, size: int, shift=(20, 24), number: int = 0) -> np.ndarray:
    x, y = shift
    return identity.portraits[number].image[y : y + size, x : x + size]


def scene(width: int = 640, height: int = 480, seed: int = 0) -> np.ndarray:
    """Smooth light and colour without detail, which any resampling would change."""
    rough = np.random.default_rng(seed).uniform(70, 180, (4, 5, 3)).astype(np.float32)
    smooth = cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth, 10, 245).astype(np.uint8)


def at(matrix: np.ndarray, points: np.ndarray) -> Face:
    """A face whose five points this map of the frame takes to these places."""
    there = (points - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
    return Face(np.array([0, 0, 9, 9], np.float32), 1.0, there.astype(np.float32))


def turned(scale: float, angle: float, x: float, y: float) -> np.ndarray:
    c, s = np.cos(angle) * scale, np.sin(angle) * scale
    return np.array([[c, -s, x], [s, c, y]])


def places(contract: Contract, times: int = 1) -> np.ndarray:
    """Where the five points belong in a crop of ``times`` the size, in pixels."""
    here = contract.points * contract.size + contract.shift
    return here * times + (times - 1) / 2


# --- Every input counts -------------------------------------------------------------------------


def said_of(contract: Contract, who: Identity, morph: float = 1.0) -> np.ndarray:
    """What the source of this person adds to each channel of the answer."""
    _, weights = weights_of(contract, 1)
    if contract.dfm:
        return weights * morph
    if contract.source == "image":
        crop = aligned(who, contract.source_size).astype(np.float64).transpose(2, 0, 1) / 255
        return (crop * weights).mean((1, 2))
    return latent(contract, recognised(aligned(who, 112))) @ weights


def somebody(contract: Contract) -> Identity:
    if contract.source == "image":
        return person(contract.source_points, contract.source_size)
    return person(ARCFACE_V2, 112)


@every
def test_every_input_counts_as_the_publishers_say(contract: Contract, folder: Folder):
    made_by = generate.load(put(folder, contract) + ":occlusion=off", folder)
    who, image = somebody(contract), scene()
    matrix = turned(0.9, 0.3, -100, -220)
    (patch,) = made_by(Frame(image), [at(matrix, places(contract))], [who])
    np.testing.assert_allclose(patch.matrix, matrix, atol=2e-3)
    side = contract.size
    crop = cv2.warpAffine(image, patch.matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)
    if contract.dfm:
        crop = cv2.addWeighted(crop, 1.75, cv2.GaussianBlur(crop, (0, 0), 2), -0.75, 0)
    said = said_of(contract, who)
    assert np.abs(said).max() > 0.02, "the source hardly counts, so nothing is tested"
    wanted = made(contract, crop, said)
    assert patch.image.shape == (side, side, 3)
    assert np.abs(patch.image - wanted).max() < 0.6
    # The test can fail: another length or order of the source, or of the channels, is far off.
    for wrong in (said[::-1], said * 0.8, said * 1.25):
        assert np.abs(patch.image - made(contract, crop, wrong)).max() > 1.2


def test_dfm_masks_are_read(folder: Folder):
    dfm = CONTRACTS[-1]
    made_by = generate.load(put(folder, dfm) + ":occlusion=off", folder)
    image = np.full((300, 300, 3), 60, np.uint8)
    image[:, :150, 2] = 200  # blue, the first channel that the network sees
    (patch,) = made_by(Frame(image), [at(turned(1, 0, -38, -38), places(dfm))], [somebody(dfm)])
    assert patch.mask[112, 40:90].min() > 250
    assert patch.mask[112, 130:].max() < 5


def test_files_of_one_person_come_in_many_sizes(tmp_path: Path, folder: Folder):
    dfm = replace(CONTRACTS[-1], size=320)
    generator(tmp_path / "mine.dfm", dfm)
    own = tmp_path / "own"
    adding.add(zoo.Zoo.at(own), tmp_path / "mine.dfm", like="dfm", name="mine")
    made_by = generate.load("mine", zoo.Zoo.at(own))
    matrix = turned(1.1, 0, -80, -60)
    (patch,) = made_by(Frame(scene()), [at(matrix, places(dfm))], [somebody(dfm)])
    assert patch.image.shape == (320, 320, 3)
    np.testing.assert_allclose(patch.matrix, matrix, atol=2e-3)


# --- The frame comes back -----------------------------------------------------------------------


def render(made_by, image: np.ndarray, faces: list[Face], **how: Any) -> np.ndarray:
    blind = SimpleNamespace(quick=None, thorough=None)
    stages = pipeline.Swapper(blind, None, None, made_by, {})  # type: ignore[arg-type]
    who = synthetic.identity()
    stream = pipeline.Stream(stages)
    frame = Frame(image.copy())
    stream.render(frame, [(f, who) for f in faces], SwapPlan((Rule(who),), **how))
    assert frame.dirty or not faces
    return frame.image


@every
@pytest.mark.parametrize("boost", [1, 2])
def test_an_identity_generator_gives_the_frame_back(contract: Contract, boost: int, folder: Folder):
    if contract.dfm and boost > 1:
        return  # takes no boost, see test_wrong_options_are_said
    chosen = f":boost={boost * contract.size}" if boost > 1 else ""
    made_by = generate.load(put(folder, contract, identity=True) + chosen, folder)
    image = scene()
    spots = [
        ((320, 240), 60, 0.0), ((300.3, 220.7), 117, 0.5), ((330, 250), 240, -1.1),
        ((315, 245), 430, 3.1), ((10, 200), 180, 0.2), ((600, 470), 260, -0.3), ((320, 5), 90, 0.0),
    ]  # fmt: skip
    for centre, height, roll in spots:
        face = synthetic.face(synthetic.mesh(centre, height, roll=roll))
        back = render(made_by, image, [face])
        most = 2 if contract.dfm else 1  # its colours are matched, which rounds once more
        assert np.abs(back.astype(int) - image).max() <= most, (centre, height, roll)


def test_a_face_with_five_points_alone_will_do(folder: Folder):
    made_by = generate.load(put(folder, INSWAPPER, identity=True), folder)
    image = scene()
    face = at(turned(0.7, 0.1, -100, -90), places(INSWAPPER))
    assert np.abs(render(made_by, image, [face]).astype(int) - image).max() <= 1


# --- Batches and pixel boost --------------------------------------------------------------------


def faces_in_a_row(count: int) -> list[Face]:
    return [synthetic.face(synthetic.mesh((110 + 200 * i, 240), 120)) for i in range(count)]


@pytest.mark.parametrize(("batch", "runs"), [("N", [3]), (1, [1, 1, 1])])
def test_all_faces_of_a_frame_in_one_run_where_the_graph_allows_it(batch, runs, folder: Folder):
    made_by, model = counted(generate.load(put(folder, INSWAPPER, batch=batch), folder))
    who = [person(ARCFACE_V2, 112, seed=i) for i in range(3)]
    faces = faces_in_a_row(3)
    patches = made_by(Frame(scene()), faces, who)
    assert model.runs == runs
    for one, face, patch in zip(who, faces, patches, strict=True):
        assert patch.face is face
        (alone,) = made_by(Frame(scene()), [face], [one])
        np.testing.assert_array_equal(alone.image, patch.image)


@pytest.mark.parametrize("batch", ["N", 1])
@pytest.mark.parametrize("times", [2, 4])
def test_boost_is_one_run_of_all_parts(batch, times: int, folder: Folder):
    """A graph that was exported for one crop is run on many all the same."""
    name = put(folder, INSWAPPER, batch=batch)
    made_by, model = counted(generate.load(f"{name}:boost={128 * times},occlusion=off", folder))
    who, image = person(ARCFACE_V2, 112), scene()
    matrix = turned(0.9 * times / 2, 0.3, -160, -200)
    (patch,) = made_by(Frame(image), [at(matrix, places(INSWAPPER, times))], [who])
    assert model.runs == [times * times]
    np.testing.assert_allclose(patch.matrix, matrix, atol=3e-3)
    side = 128 * times
    crop = cv2.warpAffine(image, patch.matrix, (side, side), borderMode=cv2.BORDER_REPLICATE)
    wanted = made(INSWAPPER, crop, said_of(INSWAPPER, who))
    assert np.abs(patch.image - wanted).max() < 0.6


def test_a_graph_that_needs_one_crop_gets_them_one_after_the_other(folder: Folder, caplog):
    """Its layers say 1 as well: the sum over the batch is no longer the crop's own."""
    path = folder.path(folder.find("inswapper_128"))
    generator(path, INSWAPPER, batch=1)
    graph = onnx.load(path)
    graph.graph.node[-1].output[0] = "before"
    summed = helper.make_node("ReduceMean", ["before"], ["output"], axes=[0], keepdims=1)
    graph.graph.node.append(summed)
    onnx.save(graph, path)
    with caplog.at_level(logging.INFO):
        loaded = generate.load("inswapper_128:boost=256,occlusion=off", folder)
    assert "one after the other" in caplog.text
    made_by, model = counted(loaded)
    face = at(turned(0.9, 0, -100, -90), places(INSWAPPER, 2))
    made_by(Frame(scene()), [face], [person(ARCFACE_V2, 112)])
    assert model.runs == [1, 1, 1, 1]


def test_parts_are_every_second_pixel_and_whole_puts_them_back():
    crop = np.arange(6 * 6 * 3, dtype=np.uint8).reshape(6, 6, 3)
    four = networks.parts(crop, 2)
    np.testing.assert_array_equal(four[1], crop[::2, 1::2])
    np.testing.assert_array_equal(four[2], crop[1::2, ::2])
    np.testing.assert_array_equal(networks.whole(four, 2), crop)
    np.testing.assert_array_equal(networks.whole(networks.parts(crop, 3), 3), crop)
    np.testing.assert_array_equal(networks.whole(four[..., 0], 2), crop[..., 0])


def test_free_batch_changes_the_first_dimensions_and_nothing_else(tmp_path: Path):
    generator(tmp_path / "one.onnx", INSWAPPER, batch=1)
    generator(tmp_path / "many.onnx", INSWAPPER)
    data = (tmp_path / "one.onnx").read_bytes()
    graph = onnx.load_model_from_string(networks.free_batch(data))
    plain = onnx.load_model_from_string(data)
    for ours, before in zip(
        [*graph.graph.input, *graph.graph.output], [*plain.graph.input, *plain.graph.output],
        strict=True,
    ):  # fmt: skip
        first, *rest = ours.type.tensor_type.shape.dim
        assert not first.HasField("dim_value")
        assert rest == list(before.type.tensor_type.shape.dim)[1:]
        ours.CopyFrom(before)
    assert graph == plain
    many = (tmp_path / "many.onnx").read_bytes()
    assert networks.free_batch(many) == many
    with pytest.raises(ValueError, match="ONNX"):
        networks.free_batch(data[:-100])


# --- Identities ---------------------------------------------------------------------------------


def test_what_depends_on_the_person_alone_is_made_once(folder: Folder):
    made_by = generate.load(put(folder, CONTRACTS[4]), folder)
    calls = Counted(made_by.source.recogniser.model)
    source = replace(made_by.source, recogniser=replace(made_by.source.recogniser, model=calls))
    made_by = replace(made_by, source=source)
    who = person(ARCFACE_V2, 112)
    for _ in range(3):
        made_by(Frame(scene()), faces_in_a_row(2), [who, who])
    assert len(calls.runs) == 1


def test_portraits_count_alike_whatever_their_vector_s_length(folder: Folder):
    name = put(folder, CONTRACTS[6])  # ghost, where the length reaches the generator
    one, two = person(ARCFACE_V2, 112, seed=1), person(ARCFACE_V2, 112, seed=2)
    both = replace(one, portraits=one.portraits + two.portraits)
    source = generate.load(name, folder).source
    a, b = (recognised(aligned(p, 112)) for p in (one, two))
    length = (np.linalg.norm(a) + np.linalg.norm(b)) / 2
    mean = unit(unit(a) + unit(b)) * length
    _, vector = source.prepare(both)
    np.testing.assert_allclose(vector, latent(CONTRACTS[6], mean), rtol=2e-3, atol=2e-3)


def test_identities_that_are_gone_are_forgotten(folder: Folder):
    source = generate.load(put(folder, INSWAPPER), folder).source
    source.prepare(person(ARCFACE_V2, 112))
    assert len(source._known) == 0


# --- Options ------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.5])
@pytest.mark.parametrize("contract", [INSWAPPER, CONTRACTS[6]], ids=str)
def test_strength_mixes_in_who_is_there(contract: Contract, strength: float, folder: Folder):
    name = put(folder, contract)
    made_by = generate.load(f"{name}:strength={strength},occlusion=off", folder)
    noise = np.random.default_rng(8).integers(0, 255, (480, 640, 3)).astype(np.uint8)
    image = cv2.GaussianBlur(noise, (0, 0), 3)
    who = person(ARCFACE_V2, 112)
    # The recogniser's crop of the face is a part of the frame, pixel for pixel.
    points = ARCFACE_V2 * 112 + (200, 150)
    face = Face(np.array([0, 0, 9, 9], np.float32), 1.0, points.astype(np.float32))
    (patch,) = made_by(Frame(image), [face], [who])
    mine, theirs = recognised(aligned(who, 112)), recognised(image[150:262, 200:312])
    mixed = unit(strength * unit(mine) + (1 - strength) * unit(theirs)) * np.linalg.norm(mine)
    _, weights = weights_of(contract, 1)
    size, side = contract.size, patch.image.shape[0]
    matrix = patch.matrix * (size / side)
    matrix[:, 2] += (size / side - 1) / 2
    crop = cv2.warpAffine(image, matrix, (size, size), borderMode=cv2.BORDER_REPLICATE)
    wanted = made(contract, crop, latent(contract, mixed) @ weights)
    wanted = cv2.resize(wanted, (side, side), interpolation=cv2.INTER_AREA)
    assert np.abs(patch.image - wanted).max() < 1.2


@pytest.mark.parametrize("contract", CONTRACTS[8:], ids=str)
def test_strength_of_the_others_is_paint_or_morph(contract: Contract, folder: Folder):
    name = put(folder, contract)
    who, image = somebody(contract), scene()
    face = at(turned(0.9, 0.3, -100, -220), places(contract))
    full, weak, none = (
        generate.load(f"{name}:occlusion=off,strength={s}", folder)(Frame(image), [face], [who])[0]
        for s in (1, 0.25, 0)
    )
    if contract.dfm:
        crop = cv2.warpAffine(image, full.matrix, (224, 224), borderMode=cv2.BORDER_REPLICATE)
        crop = cv2.addWeighted(crop, 1.75, cv2.GaussianBlur(crop, (0, 0), 2), -0.75, 0)
        wanted = made(contract, crop, said_of(contract, who, morph=0.25))
    else:
        wanted = 0.25 * full.image + 0.75 * none.image.astype(float)
        crop = cv2.warpAffine(image, full.matrix, (256, 256), borderMode=cv2.BORDER_REPLICATE)
        assert np.abs(none.image.astype(int) - crop).max() <= 1
    assert np.abs(weak.image - wanted).max() < 1.5
    assert np.abs(weak.image.astype(int) - full.image).max() > 8


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("inswapper_128:blur=3", "known are strength, boost, color, occlusion"),
        ("inswapper_128:strength=2", "strength must be from 0 to 1.5"),
        ("inswapper_128:strength", "strength=VALUE"),
        ("inswapper_128:boost=300", "multiple of 128"),
        ("inswapper_128:boost=64", "multiple of 128"),
        ("inswapper_128:color=blue", "none, "),
        ("dfm:boost=448", "no option 'boost'"),
        ("dfm:strength=1.2", "from 0 to 1, came 1.2"),
        ("mesh:strength=1", "mesh takes no options"),
        ("facemesh", "model for landmarks, not a generator"),
        ("relight_int8", "network of relight"),
    ],
)
def test_wrong_options_are_said(name: str, said: str, folder: Folder):
    for contract in (INSWAPPER, CONTRACTS[-1]):
        put(folder, contract)
    with pytest.raises(UsageError, match=said):
        generate.load(name, folder)


def test_an_unknown_generator_is_answered_with_those_that_are_known(folder: Folder):
    with pytest.raises(ModelNotFound, match=r"known are relight, mesh, warp, .*hyperswap_1a_256"):
        generate.load("inswapper_129", folder)


# --- Files that do not keep the contract --------------------------------------------------------


def test_a_graph_of_another_size_is_an_error(folder: Folder):
    wrong = replace(INSWAPPER, size=160)
    generator(folder.path(folder.find("inswapper_128")), wrong)
    with pytest.raises(ModelError, match=r"inswapper_128: .*128"):
        generate.load("inswapper_128", folder)


def test_a_graph_with_other_inputs_is_an_error(folder: Folder):
    path = folder.path(folder.find("inswapper_128"))
    generator(path, next(c for c in CONTRACTS if c.name == "uniface_256"))
    with pytest.raises(ModelError, match=r"inswapper_128: .*source"):
        generate.load("inswapper_128", folder)


def test_inputs_with_names_of_their_own_are_told_by_their_shape(folder: Folder):
    name = put(folder, INSWAPPER)
    path = folder.path(folder.find(name))
    before = generate.load(name, folder)
    graph = onnx.load(path)
    names = {"target": "input", "source": "onnx::Gemm_1"}
    for port in graph.graph.input:
        port.name = names[port.name]
    for node in graph.graph.node:
        node.input[:] = [names.get(n, n) for n in node.input]
    onnx.save(graph, path)
    after = generate.load(name, folder)
    face, who = at(turned(0.9, 0, -100, -90), places(INSWAPPER)), person(ARCFACE_V2, 112)
    one, two = (m(Frame(scene()), [face], [who])[0] for m in (before, after))
    np.testing.assert_array_equal(one.image, two.image)


def test_a_graph_of_half_precision_is_fed_in_it(folder: Folder):
    name = put(folder, INSWAPPER)
    path = folder.path(folder.find(name))
    before = generate.load(name, folder)
    graph = onnx.load(path)
    for port in graph.graph.input:
        port.type.tensor_type.elem_type = TensorProto.FLOAT16
        cast = helper.make_node("Cast", [port.name], [f"{port.name}_32"], to=TensorProto.FLOAT)
        for node in graph.graph.node:
            node.input[:] = [f"{n}_32" if n == port.name else n for n in node.input]
        graph.graph.node.insert(0, cast)
    onnx.save(graph, path)
    after = generate.load(name, folder)
    face, who = at(turned(0.9, 0, -100, -90), places(INSWAPPER)), person(ARCFACE_V2, 112)
    one, two = (m(Frame(scene()), [face], [who])[0] for m in (before, after))
    assert np.abs(one.image.astype(int) - two.image).max() <= 1


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_the_emap_is_read_as_it_is_stored(kind, folder: Folder):
    name = put(folder, INSWAPPER)
    path = folder.path(folder.find(name))
    graph = onnx.load(path)
    assert graph.graph.initializer[-1].name == "emap"
    values = EMAP.astype(kind)
    if kind is np.float32:  # one number after the other, as some exporters write it
        last = helper.make_tensor("emap", TensorProto.FLOAT, (512, 512), values.ravel().tolist())
    else:
        last = numpy_helper.from_array(values, "emap")
    graph.graph.initializer[-1].CopyFrom(last)
    onnx.save(graph, path)
    np.testing.assert_array_equal(sources.matrix_of(folder.find(name), folder), values)


def test_a_graph_that_lost_its_emap_is_an_error(folder: Folder):
    name = put(folder, INSWAPPER)
    path = folder.path(folder.find(name))
    graph = onnx.load(path)
    del graph.graph.initializer[-1]
    onnx.save(graph, path)
    with pytest.raises(ModelError, match=r"inswapper_128\.onnx: expected a square matrix"):
        generate.load(name, folder)


def test_values_that_are_no_numbers_are_an_error(folder: Folder):
    name = put(folder, INSWAPPER)
    path = folder.path(folder.find(name))
    graph = onnx.load(path)
    gains = next(i for i in graph.graph.initializer if i.name == "gains")
    gains.CopyFrom(numpy_helper.from_array(np.full((1, 3, 1, 1), np.nan, np.float32), "gains"))
    onnx.save(graph, path)
    face = at(turned(0.9, 0, -100, -90), places(INSWAPPER))
    with pytest.raises(ModelError, match="no numbers"):
        generate.load(name, folder)(Frame(scene()), [face], [person(ARCFACE_V2, 112)])


# --- Masks and places ---------------------------------------------------------------------------


def test_the_mask_covers_the_face_fades_at_its_outline_and_ends_before_the_crop(folder: Folder):
    name = put(folder, INSWAPPER) + ":occlusion=off"
    made_by = generate.load(name, folder)
    mesh = synthetic.mesh((320, 240), 200)
    (patch,) = made_by(Frame(scene()), [synthetic.face(mesh)], [person(ARCFACE_V2, 112)])
    inside = mesh[:, :2] @ patch.matrix[:, :2].T + patch.matrix[:, 2]

    def mask_at(vertex: int) -> int:
        x, y = np.round(inside[vertex]).astype(int)
        return int(patch.mask[y, x])

    assert min(mask_at(v) for v in (1, 61, 291, 33, 263)) > 230  # nose, mouth, eyes
    assert mask_at(152) < 30  # the chin's edge
    # Without a mesh it is the crop alone that fades.
    points = at(turned(0.7, 0.1, -100, -90), places(INSWAPPER))
    (bare,) = made_by(Frame(scene()), [points], [person(ARCFACE_V2, 112)])
    assert bare.mask[20:108, 20:108].min() == 255
    for mask in (patch.mask, bare.mask):
        for edge in (mask[0], mask[-1], mask[:, 0], mask[:, -1]):
            assert edge.max() == 0


@pytest.mark.parametrize("yaw", [-0.7, 0.7])
def test_the_mask_of_a_turned_face_reaches_the_far_eye(yaw: float, folder: Folder):
    made_by = generate.load(put(folder, INSWAPPER) + ":occlusion=off", folder)
    mesh = synthetic.mesh((320, 240), 200, yaw=yaw)
    (patch,) = made_by(Frame(scene()), [synthetic.face(mesh)], [person(ARCFACE_V2, 112)])
    eyes = mesh[[159, 386], :2] @ patch.matrix[:, :2].T + patch.matrix[:, 2]
    for x, y in np.round(eyes).astype(int):
        assert patch.mask[y, x] > 100


def test_what_is_in_front_of_the_face_stays(folder: Folder):
    made_by = generate.load(put(folder, INSWAPPER), folder)
    mesh = synthetic.mesh((320, 240), 200)
    bare = made_by(Frame(scene()), [synthetic.face(mesh)], [person(ARCFACE_V2, 112)])[0].mask

    def left_half(crops, meshes):
        out = np.zeros((len(crops), 128, 128), np.float32)
        out[:, :, :64] = 1
        return out

    hidden = replace(made_by, occlude=left_half)
    (patch,) = hidden(Frame(scene()), [synthetic.face(mesh)], [person(ARCFACE_V2, 112)])
    nose = round(float((mesh[1, :2] @ patch.matrix[:, :2].T + patch.matrix[:, 2])[0]))
    assert patch.mask[:, : nose - 4].max() == 0
    open_half = generate.load("inswapper_128:occlusion=off", folder)
    free = open_half(Frame(scene()), [synthetic.face(mesh)], [person(ARCFACE_V2, 112)])[0].mask
    np.testing.assert_allclose(patch.mask[:, nose + 5 :], free[:, nose + 5 :], atol=1)
    assert (bare <= free).all()


def test_a_profile_and_a_face_out_of_view_are_left_alone(folder: Folder):
    made_by, model = counted(generate.load(put(folder, INSWAPPER), folder))
    away = synthetic.face(synthetic.mesh((-400, 200), 120))
    profile = synthetic.face(synthetic.mesh((320, 240), 200, yaw=1.2))
    who = person(ARCFACE_V2, 112)
    assert made_by(Frame(scene()), [away, profile], [who, who]) == []
    assert made_by(Frame(scene()), [], []) == []
    assert model.runs == []
    near = synthetic.face(synthetic.mesh((320, 240), 200))
    (patch,) = made_by(Frame(scene()), [away, near], [who, who])
    assert patch.face is near


def test_a_patch_much_larger_than_the_face_is_averaged(folder: Folder):
    contract = next(c for c in CONTRACTS if c.name == "simswap_unofficial_512")
    made_by = generate.load(put(folder, contract, identity=True), folder)
    (patch,) = made_by(
        Frame(scene()), [synthetic.face(synthetic.mesh((320, 240), 60))], [somebody(contract)]
    )
    assert patch.image.shape[0] in (64, 128)
    assert 1 <= np.hypot(*patch.matrix[:, 0]) < 2


# --- Colour -------------------------------------------------------------------------------------


def test_patches_ask_for_their_colours_to_be_matched(folder: Folder):
    """A network that casts all in another light: the plan's ``auto`` takes most of it away."""
    name = put(folder, INSWAPPER)
    image = synthetic.picture(640, 480, mesh := synthetic.mesh((320, 240), 220))
    face = synthetic.face(mesh)

    def error(generator_name: str, color: str) -> float:
        out = render(generate.load(generator_name, folder), image, [face], color=color)
        seen = cv2.fillConvexPoly(np.zeros(image.shape[:2], np.uint8), oval, 1) > 0
        return float(np.abs(out[seen].astype(float).mean(0) - image[seen].mean(0)).mean())

    oval = np.round(mesh[[10, 454, 152, 234], :2]).astype(np.int32)
    cast = error(name, "none")
    assert cast > 15
    assert error(name, "auto") < 0.3 * cast
    assert error(f"{name}:color=none", "auto") == pytest.approx(cast)
    assert error(f"{name}:color=none", "lab") < 0.3 * cast


def test_light_from_the_side_is_matched_place_by_place():
    """Mean and spread are alike from the start; which side is lit is not."""
    ramp = np.linspace(60, 180, 128, dtype=np.float32)
    grain = np.random.default_rng(0).normal(0, 4, (128, 128, 3))
    lit_left = np.clip(ramp[None, ::-1, None] + grain, 0, 255).astype(np.uint8)
    lit_right = np.clip(ramp[None, :, None] + grain, 0, 255).astype(np.uint8)
    mask = cv2.circle(np.zeros((128, 128), np.uint8), (64, 64), 56, 255, -1)
    patch = Patch(lit_left, mask, np.eye(2, 3))
    for mode in ("lab", "histogram"):
        matched = blend.match_color(patch, Frame(lit_right), mode)
        before, after = (
            cv2.GaussianBlur(i.astype(np.float32) - lit_right, (0, 0), 12)[mask > 0]
            for i in (patch.image, matched.image)
        )
        assert np.abs(after).mean() < 0.5 * np.abs(before).mean()
        # Detail stays the patch's own.
        fine = (matched.image - cv2.GaussianBlur(matched.image.astype(np.float32), (0, 0), 3))[
            40:90, 40:90
        ]
        assert np.corrcoef(fine.ravel(), grain[40:90, 40:90].ravel())[0, 1] > 0.8


def test_what_lies_over_a_part_of_the_face_does_not_colour_the_rest():
    """A black bar in the frame, which no occlusion network saw."""
    image = np.full((128, 128, 3), (180, 140, 120), np.uint8)
    frame = image.copy()
    frame[:, 20:40] = 5
    mask = cv2.circle(np.zeros((128, 128), np.uint8), (64, 64), 56, 255, -1)
    patch = Patch(image, mask, np.eye(2, 3))
    plainly = blend._evened(image, frame, mask)
    assert np.abs(plainly[40:90, 70:110].astype(int) - image[40:90, 70:110]).max() < 8
    assert blend.match_color(patch, Frame(image), "lab").image[64, 64].tolist() == [180, 140, 120]


# --- From the command line ----------------------------------------------------------------------


def command(*words: Any) -> int:
    return cli.app([str(w) for w in words], standalone_mode=False)


@pytest.fixture
def own(tmp_path: Path, folder: Folder, monkeypatch) -> Path:
    """A folder of models to which a user has added a recogniser and a converter."""
    models = tmp_path / "own"
    monkeypatch.setenv("MIEN_MODELS", str(models))
    monkeypatch.chdir(tmp_path)
    for file, like, name in (
        ("arcface_w600k_r50.onnx", "arcface_w600k_r50", "my_face"),
        ("crossface_ghost.onnx", "crossface_ghost", "my_space"),
    ):
        added = ("models", "add", tmp_path / file, "--like", like, "--name", name)
        assert command(*added) == 0
    return models


def add(models: Path, contract: Contract) -> str:
    """Write the family's graph and add it as a user does."""
    file = models.parent / ("mine.dfm" if contract.dfm else "mine.onnx")
    generator(file, contract, batch=1)
    added = ("models", "add", file, "--like", contract.name, "--name", "mine", "--copy")
    assert command(*added) == 0
    if contract.source == "vector":
        with (models / "cards" / "mine.toml").open("a") as card:
            card.write('\n[swap]\nrecogniser = "my_face"\n')
            if contract.chain.startswith("crossface"):
                card.write('converter = "my_space"\n')
    return "mine"


@pytest.fixture(scope="session")
def photos(examples: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A portrait and a photo of the bundled ones, shrunk, so that finding faces takes less time."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("portrait-1", "photo"):
        image = cv2.imread(str(examples / f"{name}.jpg"))
        small = cv2.resize(image, None, fx=0.4, fy=0.4, interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(folder / f"{name}.png"), small)
    return folder / "portrait-1.png", folder / "photo.png"


def swap(portrait: Path, photo: Path, made: Path, generator_name: str, *more: str) -> int:
    return command(
        "swap", "-s", portrait, "-t", photo, "-o", made, "--generator", generator_name,
        "--consent", "synthetic", "--target-consent", "synthetic", *more,
    )  # fmt: skip


@every
def test_every_family_swaps_from_the_command_line(contract: Contract, own: Path, photos, capsys):
    portrait, photo = photos
    made = own.parent / "swapped.png"
    boost = "" if contract.size > 128 else ",boost=256"
    chosen = f"{add(own, contract)}:strength=0.9{boost}"
    status = swap(portrait, photo, made, chosen, "--json")
    said = capsys.readouterr()
    assert status == 0, said.err
    assert chosen in said.out
    before, after = media.read_image(photo), media.read_image(made)
    changed = np.abs(before.astype(int) - after).max(2) > 12
    assert 0.005 < changed.mean() < 0.5


def test_a_part_of_the_chain_that_is_missing_is_named(own: Path, photos, capsys):
    name = add(own, INSWAPPER)
    (own / "cards" / "my_face.toml").unlink()
    assert swap(*photos, own.parent / "swapped.png", name) == 1
    assert "no model is called 'my_face'" in capsys.readouterr().err
