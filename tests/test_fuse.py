"""The fused graph gives what the path through OpenCV gives, within two grey levels."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import material
import synthetic
from mien import blend, fuse, generate, geometry, media, occlude, pipeline, runtime, segment, zoo
from mien.errors import ModelError, UsageError
from mien.fuse import paint
from mien.generate import networks, swapping
from mien.types import Face, FaceMask, Frame, Identity, Image, Portrait, Rule, SwapPlan

LIMIT = 2
"""Grey levels by which the two paths may differ anywhere."""

FAMILIES = (
    "inswapper_128", "reswapper_256", "hyperswap_1a_256", "simswap_256", "simswap_unofficial_512",
    "ghost_1_256", "hififace_unofficial_256", "blendswap_256", "uniface_256",
)  # fmt: skip
WHO = Identity(
    "nobody", np.eye(1, 512, dtype=np.float32)[0],
    (Portrait(np.zeros((8, 8, 3), np.uint8), np.zeros((468, 3), np.float32)),), synthetic.CONSENT,
)  # fmt: skip


# --- Tiny generators ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Folder(zoo.Zoo):
    """Files of published models lie in one folder; nothing is cached."""

    folder: Path = Path()

    def path(self, card: zoo.ModelCard) -> Path:
        return zoo.Zoo.path(self, card) if card.shipped else self.folder / card.file

    def open(self, model):
        card = self.find(model) if isinstance(model, str) else model
        return card, runtime.load(self.path(card), self.device, name=card.name)


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(runtime.Device(cache="off"), folder=tmp_path)


def ports(card: zoo.ModelCard, batch: Any, kind=TensorProto.FLOAT):
    """Inputs and output as the published graphs declare them."""
    side = card.size
    target = [batch, side, side, 3] if card.layout == "NHWC" else [batch, 3, side, side]
    small = card.swap.source_size
    source = [batch, 512] if card.swap.source == "embedding" else [batch, 3, small, small]
    info = helper.make_tensor_value_info
    return [info("target", kind, target), info("source", kind, source)], info(
        "output", kind, target
    )


def write(
    path: Path, card: zoo.ModelCard, *, identity: bool, batch: Any = 1, opset: int = 17,
    ir: int = 9, half: bool = False, nodes: list | None = None, large: bool = False,
) -> None:  # fmt: skip
    """A generator that gives its crop back, or one whose answer depends on all of its inputs.

    The latter blurs, changes the gain of each channel and adds a number that the source decides.
    """
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    number = np.float16 if half else np.float32
    swap, node = card.swap, helper.make_node
    std, mean = np.array(card.std), np.array(card.mean)
    # From the input's range into the output's.
    gain = std / np.array(swap.output_std)
    shift = (mean - np.array(swap.output_mean)) / np.array(swap.output_std)
    rank = 2 if swap.source == "embedding" else 4
    axes = tuple(range(1, rank))
    constants = {"shift": shift.reshape(1, 3, 1, 1), "gain": gain.reshape(1, 3, 1, 1)}
    scaled = [node("Mul", ["target", "gain"], ["scaled"])]
    if identity:
        nodes = nodes or [*scaled, node("Add", ["scaled", "shift"], ["output"])]
    else:
        rng = np.random.default_rng(4)
        size = 512 if rank == 2 else (3, swap.source_size, swap.source_size)
        constants["gain"] = constants["gain"] * np.array((1.1, 0.8, 0.6)).reshape(1, 3, 1, 1)
        constants["taps"] = np.full((3, 1, 3, 3), 1 / 9)
        constants["weights"] = rng.normal(0, 0.1, size)
        reduced = node("ReduceMean", ["said"], ["one"], axes=axes, keepdims=1)
        constants["four"] = np.array([-1, 1, 1, 1])
        nodes = [
            *scaled,
            node("Conv", ["scaled", "taps"], ["blurred"], group=3, pads=[1, 1, 1, 1]),
            node("Add", ["blurred", "shift"], ["moved"]),
            node("Mul", ["source", "weights"], ["said"]), reduced,
            node("Reshape", ["one", "four"], ["number"]),
            node("Add", ["moved", "number"], ["output"]),
        ]  # fmt: skip
        if opset >= 18:
            constants["axes"] = np.array(axes)
            nodes[4] = node("ReduceMean", ["said", "axes"], ["one"], keepdims=1)
    if large:
        constants["emap"] = np.zeros((512, 512))
    weights = [
        numpy_helper.from_array(v.astype(np.int64 if v.dtype.kind == "i" else number), k)
        for k, v in constants.items()
    ]
    inputs, output = ports(card, batch, kind)
    if ir < 4:  # initialisers had to be inputs
        inputs += [helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in weights]
    graph = helper.make_graph(nodes, "tiny", inputs, [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir)
    path.write_bytes(model.SerializeToString())


@dataclass(frozen=True)
class Said:
    """A source: what each identity's graph is fed."""

    card: zoo.ModelCard

    def __call__(self, frame, faces, identities, strength):
        small = self.card.swap.source_size
        shape = (512,) if self.card.swap.source == "embedding" else (3, small, small)
        rng = np.random.default_rng(9)
        return np.stack([rng.normal(0.5, 1, shape) for _ in faces]).astype(np.float32)


def made_by(
    folder: Folder, name: str, *, identity: bool = False, options=None, many=False, **how
) -> swapping.SwapGenerator:
    card = folder.find(name)
    write(folder.path(card), card, identity=identity, **how)
    network = networks.load(card, folder, many=many)
    return swapping.SwapGenerator(network, Said(card), None, options or swapping.Options())


# --- Scenes ---------------------------------------------------------------------------------------


def scene(width=500, height=371, seed=0, *, vivid=False) -> Image:
    """Shapes with hard edges on changing light, with noise; of mild colours or of all."""
    rng = np.random.default_rng(seed)
    light = cv2.resize(rng.uniform(40, 220, (4, 5, 3)), (width, height))
    image = np.clip(light, 0, 255).astype(np.uint8)
    for _ in range(40):
        x, y = rng.integers(0, width), rng.integers(0, height)
        colour = tuple(map(int, rng.integers(0, 256, 3)))
        cv2.circle(image, (int(x), int(y)), int(rng.integers(3, 40)), colour, -1)
    image = np.clip(image + rng.normal(0, 6, image.shape), 0, 255)
    if not vivid:
        grey = image.mean(2, keepdims=True)
        image = 60 + 0.6 * (grey + 0.35 * (image - grey))
    return image.astype(np.uint8)


def face_at(card: zoo.ModelCard, centre, side: float, angle: float, times: int = 1) -> Face:
    """A face whose crop is a square of the frame of this side around this place."""
    size = card.size * times
    matrix = geometry.square_crop(centre, side, angle, size)
    wanted = swapping.template(card, times)
    points = geometry.transform(geometry.invert(matrix), wanted)
    return Face(np.array([*points.min(0), *points.max(0)], np.float32), 1.0, points)


def by_steps(make, image: Image, faces, plan: SwapPlan) -> Frame:
    frame = Frame(image.copy())
    for patch in make(frame, faces, [WHO] * len(faces)):
        blend.soft(frame, blend.match_color(patch, frame, plan.color))
    return frame


def as_one(fused: fuse.Fused, image: Image, faces, plan: SwapPlan) -> Frame:
    frame = Frame(image.copy())
    fused.paint(frame, fused.outline(frame, faces, [WHO] * len(faces)), plan)
    return frame


def apart(one: Frame, other: Frame) -> int:
    """The largest difference in grey levels."""
    return int(np.abs(one.image.astype(int) - other.image).max())


def changed(frame: Frame, image: Image) -> float:
    return float(np.abs(frame.image.astype(int) - image).max())


LAB, NONE = SwapPlan((Rule(WHO),), color="lab"), SwapPlan((Rule(WHO),), color="none")
plans = pytest.mark.parametrize("plan", [LAB, NONE], ids=["lab", "none"])


# --- Parity ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name, folder):
    make = made_by(folder, name)
    fused = fuse.load(make, folder)
    faces = [face_at(make.network.card, (240.3, 180.7), 270, 0.4)]
    for plan in (LAB, NONE):
        image = scene(vivid=plan is NONE)
        frame = by_steps(make, image, faces, plan)
        assert changed(frame, image) > 20, "the generator hardly does anything"
        assert apart(as_one(fused, image, faces, plan), frame) <= LIMIT


@plans
@pytest.mark.parametrize("size", [(400, 301), (160, 221)])
def test_any_place_size_and_angle(plan, size, folder):
    make = made_by(folder, "inswapper_128")
    fused = fuse.load(make, folder)
    rng = np.random.default_rng(size)
    image = scene(*size, vivid=plan is NONE)
    sides = [60, 128, 170, 255, 257, 520, 900]
    for side in sides:
        centre = rng.uniform((-0.2, -0.2), (1.2, 1.2)) * size
        faces = [face_at(make.network.card, centre, side, rng.uniform(-3, 3))]
        frame = by_steps(make, image, faces, plan)
        one = as_one(fused, image, faces, plan)
        assert apart(one, frame) <= LIMIT, (side, centre)


def test_squares_that_do_not_go_into_the_frame(folder):
    """A column is left over where the frame is averaged, and is painted all the same."""
    make = made_by(folder, "inswapper_128")
    fused = fuse.load(make, folder)
    image, faces = scene(257, 257), [face_at(make.network.card, (140, 140), 520, 0)]
    (outline,) = fused.outline(Frame(image), faces, [WHO])
    assert paint.place(outline, 257, 257).written == (0, 0, 257, 257)
    assert apart(as_one(fused, image, faces, NONE), by_steps(make, image, faces, NONE)) <= LIMIT


def test_colours_at_the_edge_of_the_gamut(folder):
    """There the match of colours makes up to ten grey levels of one, and so of the rounding of a
    half, which differs in one pixel of some thousands."""
    make = made_by(folder, "inswapper_128")
    fused = fuse.load(make, folder)
    image, faces = scene(vivid=True), [face_at(make.network.card, (240, 180), 270, 0.4)]
    frame, one = by_steps(make, image, faces, LAB), as_one(fused, image, faces, LAB)
    off = np.abs(frame.image.astype(int) - one.image).max(2)[(frame.image != image).any(2)]
    assert (off > LIMIT).mean() < 1e-3
    assert off.max() <= 12


def test_identity_gives_the_frame_back(folder):
    make = made_by(folder, "inswapper_128", identity=True)
    fused = fuse.load(make, folder)
    image = cv2.GaussianBlur(scene(), (0, 0), 6)
    one = as_one(fused, image, [face_at(make.network.card, (240, 180), 128, 0)], NONE)
    assert changed(one, image) <= 1
    assert one.dirty


def test_half_a_pixel_would_be_seen(folder, monkeypatch):
    """The comparison is no proof if it cannot fail."""
    make = made_by(folder, "inswapper_128", identity=True)
    fused = fuse.load(make, folder)
    image, faces = scene(), [face_at(make.network.card, (240, 180), 200, 0.2)]
    frame = by_steps(make, image, faces, NONE)
    assert apart(as_one(fused, image, faces, NONE), frame) <= LIMIT
    exact = paint._within

    def off(matrix, region):
        out = exact(matrix, region)
        out[0, 2] += 0.5
        return out

    monkeypatch.setattr(paint, "_within", off)
    assert apart(as_one(fused, image, faces, NONE), frame) > 10


def test_all_that_changes_is_recorded(folder):
    make = made_by(folder, "inswapper_128")
    fused = fuse.load(make, folder)
    image = scene()
    one = as_one(fused, image, [face_at(make.network.card, (120, 90), 200, 1.0)], LAB)
    seen = np.zeros(image.shape[:2], bool)
    for rect in one.dirty:
        seen[rect.slices()] = True
    assert not (one.image != image)[~seen].any()


@plans
def test_large_crops_are_averaged_before_they_are_put_in(plan, folder):
    make = made_by(folder, "simswap_unofficial_512")
    fused = fuse.load(make, folder)
    image, faces = scene(), [face_at(make.network.card, (240, 180), 120, 0.3)]
    (patch,) = make(Frame(image), faces, [WHO])
    assert patch.mask.shape == (128, 128), "nothing is averaged, so nothing is tested"
    assert apart(as_one(fused, image, faces, plan), by_steps(make, image, faces, plan)) <= LIMIT


@plans
def test_pixel_boost(plan, folder):
    options = swapping.Options(boost=256)
    make = made_by(folder, "inswapper_128", options=options, many=True, large=True)
    assert make.times == 2
    fused = fuse.load(make, folder)
    image, faces = scene(), [face_at(make.network.card, (240, 180), 250, 0.3, times=2)]
    assert apart(as_one(fused, image, faces, plan), by_steps(make, image, faces, plan)) <= LIMIT


def test_strength_of_pictures_mixes_the_crop_in(folder):
    make = made_by(folder, "uniface_256", options=swapping.Options(strength=0.4))
    fused = fuse.load(make, folder)
    image, faces = scene(), [face_at(make.network.card, (240, 180), 250, 0.3)]
    frame = by_steps(make, image, faces, NONE)
    assert apart(as_one(fused, image, faces, NONE), frame) <= LIMIT
    whole = replace(make, options=swapping.Options())
    assert apart(by_steps(whole, image, faces, NONE), frame) > 5


def test_masks_of_other_networks_hold(folder):
    make = made_by(folder, "inswapper_128")
    fused = fuse.load(make, folder)
    image, faces = scene(), [face_at(make.network.card, (240, 180), 250, 0.3)]
    frame = Frame(image.copy())
    half = np.zeros((64, 64), np.uint8)
    half[:, :32] = 255
    mask = FaceMask(half, geometry.square_crop((240, 180), 500, 0, 64))
    outlines = [segment.apply(o, [mask]) for o in fused.outline(frame, faces, [WHO])]
    fused.paint(frame, outlines, NONE)
    assert (frame.image[:, 250:] == image[:, 250:]).all()
    assert np.abs(frame.image[:, :230].astype(int) - image[:, :230]).max() > 20


# --- Real footage ---------------------------------------------------------------------------------


@pytest.mark.media
@pytest.mark.parametrize("identity", [True, False], ids=["identity", "shift"])
@pytest.mark.parametrize("name", ["portraits/lp_s1.jpg", "groups/t1.jpg"])
def test_real_footage(name, identity, folder, footage, swapper):
    make = replace(made_by(folder, "inswapper_128", identity=identity), occlude=occlude.load())
    fused = fuse.load(make, folder)
    image = media.read_image(footage / name)
    stream = pipeline.Stream(replace(swapper, generate=make), still=True)
    faces = stream.observe(Frame(image))
    assert faces
    for plan in (LAB, NONE):
        frame, one = by_steps(make, image, faces, plan), as_one(fused, image, faces, plan)
        assert changed(frame, image) > (2 if identity else 20)
        assert apart(one, frame) <= LIMIT


# --- In the pipeline ------------------------------------------------------------------------------


def on_one_face(folder: Folder, swapper: pipeline.Swapper, **how):
    make = made_by(folder, "inswapper_128")
    fused = fuse.load(make, folder, **how)
    pairs = [(face_at(make.network.card, (240, 180), 200, 0.3), WHO)]
    return replace(swapper, generate=make, fused=fused), pairs


def test_the_stream_paints_with_the_graph(folder, swapper):
    swapper, pairs = on_one_face(folder, swapper)
    swapper = replace(swapper, fused=replace(swapper.fused, model=Counted(swapper.fused.model)))
    image = scene()
    one = pipeline.Stream(swapper).render(Frame(image.copy()), pairs, LAB)
    assert swapper.fused.model.runs == [1]
    steps = pipeline.Stream(replace(swapper, fused=None)).render(Frame(image.copy()), pairs, LAB)
    assert changed(one, image) > 20
    assert apart(one, steps) <= LIMIT


@pytest.mark.parametrize("better", [True, False])
def test_the_stream_takes_the_faster_way(better, folder, swapper, monkeypatch):
    swapper, pairs = on_one_face(folder, swapper, asked=False)
    counted = Counted(swapper.fused.model)
    swapper = replace(swapper, fused=replace(swapper.fused, model=counted))
    trials = []

    def faster(one, other):
        one()
        other()
        trials.append(len(counted.runs))
        return better

    monkeypatch.setattr(fuse, "faster", faster)
    stream, image = pipeline.Stream(swapper), scene()
    frames = [stream.render(Frame(image.copy()), pairs, LAB) for _ in range(3)]
    assert trials == [1], "one trial, before the first frame"
    assert len(counted.runs) == (4 if better else 1)
    assert all(changed(frame, image) > 20 for frame in frames)


def test_a_plan_that_the_graph_cannot_do_goes_step_by_step_unless_asked(folder, swapper):
    swapper, pairs = on_one_face(folder, swapper, asked=False)
    plan, image = replace(LAB, blend="poisson"), scene()
    assert changed(pipeline.Stream(swapper).render(Frame(image.copy()), pairs, plan), image) > 20
    asked = replace(swapper, fused=replace(swapper.fused, asked=True))
    with pytest.raises(UsageError, match="--fused goes with --blend soft"):
        pipeline.Stream(asked).render(Frame(image.copy()), pairs, plan)


def test_chosen_on_other_devices_only(folder):
    make = made_by(folder, "inswapper_128")
    assert fuse.chosen(make, folder, "auto") is None, "the processor is known to be slower"
    assert fuse.chosen(make, folder, False) is None
    assert fuse.chosen(make, folder, True).asked
    # Stands in for a GPU, which loading would refuse here.
    elsewhere = replace(folder, device=replace(folder.device, providers="cuda"))
    assert fuse.chosen(generate.load("mesh"), elsewhere, "auto") is None


def test_chosen_on_a_device_is_measured_later(folder, monkeypatch, caplog):
    make = made_by(folder, "inswapper_128")
    elsewhere = replace(folder, device=replace(folder.device, providers="cuda,cpu"))
    load = runtime.load
    monkeypatch.setattr(runtime, "load", lambda path, device, **how: load(path, **how))
    assert not fuse.chosen(make, elsewhere, "auto").asked
    monkeypatch.setitem(sys.modules, "onnx", None)
    with caplog.at_level(logging.INFO, "mien.fuse"):
        assert fuse.chosen(make, elsewhere, "auto") is None
    assert "no graph of the whole face path: --fused writes a graph" in caplog.text


def test_the_flag_says_what_it_is_for(tmp_path):
    done = material.mien(
        "swap", "-s", material.PORTRAIT, "-t", material.PHOTO, "-o", "out.png", "--fused",
        "--consent", "synthetic", "--target-consent", "synthetic", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--fused is for published generators" in done.stderr
    assert not list(tmp_path.iterdir())


# --- Graphs of all ages ---------------------------------------------------------------------------


@pytest.mark.parametrize(("opset", "ir"), [(11, 6), (9, 3), (16, 8), (18, 8), (20, 9), (22, 10)])
def test_opsets(opset, ir, folder):
    make = made_by(folder, "inswapper_128", opset=opset, ir=ir, large=True)
    fused = fuse.load(make, folder)
    image, faces = scene(), [face_at(make.network.card, (240, 180), 200, 0.3)]
    assert apart(as_one(fused, image, faces, LAB), by_steps(make, image, faces, LAB)) <= LIMIT


def test_half_precision(folder):
    make = made_by(folder, "hyperswap_1a_256", half=True)
    fused = fuse.load(make, folder)
    image, faces = scene(), [face_at(make.network.card, (240, 180), 200, 0.3)]
    assert apart(as_one(fused, image, faces, LAB), by_steps(make, image, faces, LAB)) <= LIMIT


def test_a_graph_that_cannot_be_brought_to_a_newer_opset_is_refused(folder, tmp_path):
    card = folder.find("inswapper_128")
    nodes = [helper.make_node("Crop", ["target"], ["output"], border=[0, 0, 0, 0])]  # of opset 1
    write(tmp_path / "old.onnx", card, identity=True, opset=8, nodes=nodes)
    with pytest.raises(ModelError, match=r"old\.onnx: one graph needs opset 16 or newer, and its"):
        fuse.compose(tmp_path / "old.onnx", fuse.Form(card, 128, "target", "source"))


def test_no_graph_at_all_is_refused(tmp_path):
    (tmp_path / "text.onnx").write_text("hello")
    card = zoo.find("inswapper_128")
    with pytest.raises(ModelError, match=r"text\.onnx: not an ONNX file"):
        fuse.compose(tmp_path / "text.onnx", fuse.Form(card, 128, "target", "source"))


def test_the_graph_is_valid_and_runs_on_zeros(folder, tmp_path):
    """As it does when a device is warmed up, with all free sizes 1."""
    card = folder.find("ghost_1_256")
    write(tmp_path / "g.onnx", card, identity=False, batch="N")
    model = fuse.compose(tmp_path / "g.onnx", fuse.Form(card, 256, "target", "source"))
    onnx.checker.check_model(model, full_check=True)
    (tmp_path / "f.onnx").write_bytes(model.SerializeToString())
    runtime.load(tmp_path / "f.onnx").warm()


# --- Several faces --------------------------------------------------------------------------------


@dataclass
class Counted:
    """A model that notes how many faces each run had."""

    model: Any
    runs: list[int] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def lent(self, *arrays):
        self.runs.append(len(arrays[0]))
        return self.model.lent(*arrays)


@pytest.mark.parametrize(
    ("batch", "second", "runs"),
    [("N", (400, 190), [2]), (1, (400, 190), [1, 1]), ("N", (230, 190), [1, 1])],
    ids=["apart", "one at a time", "touching"],
)
def test_several_faces(batch, second, runs, folder):
    make = made_by(folder, "inswapper_128", batch=batch)
    fused = fuse.load(make, folder)
    fused = replace(fused, model=Counted(fused.model))
    image = scene()
    card = make.network.card
    faces = [face_at(card, (120, 180), 160, 0.3), face_at(card, second, 190, -0.3)]
    one = as_one(fused, image, faces, LAB)
    assert fused.model.runs == runs
    if second[0] == 400:
        assert apart(one, by_steps(make, image, faces, LAB)) <= LIMIT


def test_a_face_out_of_view_is_left_out(folder):
    make = made_by(folder, "inswapper_128")
    fused = fuse.load(make, folder)
    image = scene()
    frame = as_one(fused, image, [face_at(make.network.card, (-300, 90), 200, 0)], LAB)
    assert (frame.image == image).all()
    assert not frame.dirty


# --- What it does not do --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mesh", "warp"])
def test_generators_that_paint_in_the_frame_are_refused(name, folder):
    with pytest.raises(UsageError, match="--fused is for published generators"):
        fuse.load(generate.load(name), folder)


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (SwapPlan((Rule(WHO),), blend="poisson"), "--fused goes with --blend soft, not poisson"),
        (
            SwapPlan((Rule(WHO),), color="histogram"),
            "--fused goes with --color lab or none, not histogram",
        ),
    ],
)
def test_what_is_not_in_the_graph_is_refused(plan, said, folder):
    make = made_by(folder, "inswapper_128")
    with pytest.raises(UsageError, match=said):
        as_one(fuse.load(make, folder), scene(), [], plan)


def test_dfm_models_are_refused(folder):
    network = made_by(folder, "inswapper_128").network
    card = replace(network.card, swap=replace(network.card.swap, sharpen=0.75))
    morphed = replace(network, ports=networks.Ports("target", "", "morph_value:0"))
    for other in (replace(network, card=card), morphed):
        with pytest.raises(UsageError, match="makes its own mask, as DFM models do"):
            fuse.load(swapping.SwapGenerator(other, None, None), folder)


def test_a_graph_with_more_outputs_is_refused(folder):
    card = folder.find("inswapper_128")
    write(folder.path(card), card, identity=True)
    model = onnx.load(folder.path(card))
    model.graph.output.append(helper.make_tensor_value_info("scaled", TensorProto.FLOAT, None))
    onnx.save(model, folder.path(card))
    with pytest.raises(UsageError, match=r"give a picture alone, and this one gives output, scal"):
        fuse.compose(folder.path(card), fuse.Form(card, 128, "target", "source"))


def test_values_that_are_no_numbers_are_an_error(folder):
    nodes = [
        helper.make_node("Sub", ["target", "gain"], ["minus"]),
        helper.make_node("Sqrt", ["minus"], ["output"]),
    ]
    make = made_by(folder, "inswapper_128", identity=True, nodes=nodes)
    fused = fuse.load(make, folder)
    with pytest.raises(ModelError, match=r"inswapper_128 \(fused\): the network gave values that"):
        as_one(fused, scene(), [face_at(make.network.card, (240, 180), 200, 0)], NONE)


def test_without_onnx_the_message_says_what_to_install(folder, monkeypatch):
    make = made_by(folder, "inswapper_128")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UsageError, match=r"install mien\[fused\], or leave --fused out"):
        fuse.load(make, folder)


def test_the_graph_is_kept_between_starts(folder, tmp_path, monkeypatch):
    kept = replace(folder, device=runtime.Device(cache=str(tmp_path / "cache")))
    make = made_by(kept, "inswapper_128")
    fuse.load(make, kept)
    monkeypatch.setitem(sys.modules, "onnx", None)  # not needed any more
    fuse.load(make, kept)
    other = replace(make, options=swapping.Options(strength=0.5), source=None)
    with pytest.raises(UsageError, match="onnx"):
        fuse.load(other, kept)


def test_the_faster_way_is_measured(caplog):
    with caplog.at_level(logging.INFO, "mien.fuse"):
        assert fuse.faster(lambda: None, lambda: time.sleep(0.002), rounds=3)
        assert not fuse.faster(lambda: time.sleep(0.002), lambda: None, rounds=3)
    assert "one graph takes" in caplog.text
