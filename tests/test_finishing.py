"""Masks, enhancers and upscalers in their place: from the command line to the written file."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import av
import cv2
import numpy as np
import pytest

from material import PHOTO, PORTRAIT, environment, mien, pan, write_clip
from mien import api, config, enhance, media, pipeline, segment, upscale
from mien.errors import UsageError
from mien.provenance import Marker
from mien.types import Consent, Frame, Rect, Rule, SwapPlan
from test_enhance import adding, codeformer
from test_enhance import identity as same
from test_media import make_clip
from test_segment import SIZE, bisenet, only, painted, parser_card, xseg, xseg_card
from test_upscale import resizing
from tinynets import card, shelf

SWAP = ("swap", "-s", PORTRAIT, "--consent", "synthetic")


pytestmark = pytest.mark.usefixtures("without_watermark")


@pytest.fixture(scope="module")
def me(swapper):
    return api.enrol(PORTRAIT, "synthetic", swapper=swapper)


@pytest.fixture(scope="module")
def photo():
    return np.ascontiguousarray(media.read_image(PHOTO)[::2, ::2])


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("finish") / "clip.mp4", pan(frames=6))


@pytest.fixture(scope="module")
def plain(swapper, me, photo):
    return api.swap_image(photo, me, swapper=swapper)


def unlabelled(image):
    """Without the part that the label may lie in."""
    height, width = image.shape[:2]
    out = image.astype(int)
    out[-height // 8 :, -width // 3 :] = 0
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four models of a user, added on the command line."""
    folder = tmp_path_factory.mktemp("models")
    nets = tmp_path_factory.mktemp("nets")
    pattern = np.random.default_rng(0).uniform(-0.5, 0.5, (3, 64, 64))
    for path, like, size in (
        (adding(nets / "my_gfpgan.onnx", pattern), "gfpgan_1.4", 64),
        (resizing(nets / "my_esrgan.onnx", "nearest", 2), "real_esrgan_x2", None),
        (bisenet(nets / "my_bisenet.onnx", np.zeros((19, 3)), np.eye(19)[1]), "bisenet_resnet_34",
         64),
        (xseg(nets / "my_xseg.onnx", 0, gain=3.0), "xseg_1", 64),
    ):  # fmt: skip
        sized = [] if size is None else ["--size", size]
        done = mien(
            *("models", "add", path, "--like", like, "--name", path.stem, *sized),
            cwd=nets,
            env=environment(MIEN_MODELS=str(folder)),
        )
        assert done.returncode == 0, done.stderr
    return folder


ALL = (
    *("--enhance", "my_gfpgan:amount=0.5", "--upscale", "my_esrgan"),
    *("--mask", "my_bisenet:regions=skin+nose", "--mask", "my_xseg"),
)


def run(folder, tmp_path, *arguments):
    done = mien(*arguments, cwd=tmp_path, env=environment(MIEN_MODELS=str(folder)))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_all_of_it_on_a_photo(folder, tmp_path, photo):
    cv2.imwrite(str(tmp_path / "in.png"), photo[..., ::-1])
    said = run(folder, tmp_path, *SWAP, "-t", "in.png", "-o", "out.png", *ALL, "--json")
    assert media.read_image(tmp_path / "out.png").shape == (
        2 * photo.shape[0],
        2 * photo.shape[1],
        3,
    )
    assert said["models"]["enhance"] == {"model": "my_gfpgan:amount=0.5", "provider": "cpu"}
    assert said["models"]["upscale"] == {"model": "my_esrgan", "provider": "cpu"}
    masks = "my_bisenet:regions=skin+nose, my_xseg"
    assert said["models"]["mask"] == {"model": masks, "provider": "cpu"}
    for stage in ("mask", "enhance", "upscale"):
        assert said["stages"][stage] > 0, stage


def packets(path):
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        return [(p.pts, bytes(p)) for p in container.demux(stream) if p.size]


def test_all_of_it_on_a_video(folder, tmp_path, clip):
    said = run(folder, tmp_path, *SWAP, "-t", clip, "-o", "out.mp4", *ALL, "--json")
    assert (said["frames_in"], said["frames_out"], said["swapped"]) == (6, 6, 6)
    with media.open_source(clip) as before, media.open_source(tmp_path / "out.mp4") as after:
        assert (after.info.width, after.info.height) == (
            2 * before.info.width,
            2 * before.info.height,
        )
        old, new = list(before), list(after)
    assert [f.pts * f.time_base for f in old] == [f.pts * f.time_base for f in new]
    assert packets(clip) == packets(tmp_path / "out.mp4")
    assert media.read_metadata(tmp_path / "out.mp4")["mien_content"] == "AI-generated"


def test_an_upscaled_video_has_the_source_s_colours(swapper, me, clip, tmp_path):
    """Pixels repeated: each block of four is the frame's pixel, but for the codec's loss."""
    path = resizing(tmp_path / "twice.onnx", "nearest", 2)
    models = shelf(card(path, "upscale", "esrgan", 0, scale=2))
    larger = replace(swapper, upscaler=upscale.load("twice", models))
    lossless = media.SinkOptions("libx264", quality=0)
    for name, own in (("plain.mkv", swapper), ("larger.mkv", larger)):
        api.swap(clip, me, tmp_path / name, options=lossless, swapper=own)
    with (
        media.open_source(tmp_path / "plain.mkv") as one,
        media.open_source(tmp_path / "larger.mkv") as two,
    ):
        assert two.first.colorspace == 5  # BT.601 as the source is read, though it says nothing
        for frame, twice in zip(one, two, strict=True):
            small = cv2.resize(twice.image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
            apart = unlabelled(small) - unlabelled(frame.image)
            assert np.abs(apart).mean() < 1
            assert np.abs(apart.mean((0, 1))).max() < 0.3


@pytest.mark.parametrize(
    "kind",
    [
        {"pixels": "yuv420p"},
        {"pixels": "yuvj420p"},
        {"pixels": "yuv420p", "size": (640, 400)},  # twice that is HD, of another usual matrix
        {"pixels": "yuv420p10le"},
        {"pixels": "yuv444p", "size": (161, 121)},
        {"pixels": "yuv420p", "rotation": 90},
        {"pixels": "yuv420p", "tags": {"colorspace": 9}},
        {"codec": "ffv1", "pixels": "bgr0"},
        {"codec": "ffv1", "pixels": "gray"},
    ],
    ids=lambda kind: "-".join(map(str, kind.values())),
)
def test_larger_frames_in_every_kind_of_video(tmp_path, kind):
    """Twice as large, the same colours, format, rotation and times."""
    path = make_clip(tmp_path / "in.mkv", count=3, pts=[0, 3, 4], audio=1, **kind)
    unlabelled_ = Marker(consent=Consent("synthetic"), label_on=False)
    with media.open_source(path) as source:
        size = (2 * source.info.width, 2 * source.info.height)
        lossless = media.SinkOptions(kind.get("codec", "libx264"), quality=0)
        with media.open_sink(
            tmp_path / "out.mkv", source, options=lossless, metadata={}, size=size
        ) as sink:
            for frame in source:
                large = np.ascontiguousarray(frame.image.repeat(2, 0).repeat(2, 1))
                whole = [Rect(0, 0, *size)]
                sink.write(unlabelled_(replace(frame, image=large, dirty=whole)))
    with media.open_source(path) as one, media.open_source(tmp_path / "out.mkv") as two:
        assert (two.info.width, two.info.height) == size
        assert two.info.pixel_format == one.info.pixel_format
        assert two.first.rotation == one.first.rotation
        for frame, twice in zip(one, two, strict=True):
            assert frame.pts * frame.time_base == twice.pts * twice.time_base
            apart = twice.image.astype(int) - frame.image.repeat(2, 0).repeat(2, 1)
            assert np.abs(apart.mean((0, 1))).max() < 0.6
            assert np.abs(apart).mean() < 2
    assert packets(path) == packets(tmp_path / "out.mkv")


def test_the_label_is_drawn_at_the_final_size(swapper, me, photo, plain, tmp_path):
    path = resizing(tmp_path / "twice.onnx", "nearest", 2)
    models = shelf(card(path, "upscale", "esrgan", 0, scale=2))
    out = api.swap_image(
        photo, me, swapper=replace(swapper, upscaler=upscale.load("twice", models))
    )
    wanted = plain.repeat(2, 0).repeat(2, 1)
    assert (unlabelled(out) == unlabelled(wanted)).all()
    corner = np.s_[-out.shape[0] // 8 :, -out.shape[1] // 3 :]
    blocks = out[corner].reshape(out[corner].shape[0] // 2, 2, -1, 2, 3)
    assert (np.ptp(blocks, axis=(1, 3)) > 30).any()  # letters finer than the frame's pixels


def test_transparency_of_an_upscaled_photo(swapper, me, photo, tmp_path):
    alpha = np.tile(np.linspace(0, 255, photo.shape[1]).astype(np.uint8), (photo.shape[0], 1))
    target = tmp_path / "target.png"
    cv2.imwrite(str(target), np.dstack((photo[..., ::-1], alpha)))
    path = resizing(tmp_path / "thrice.onnx", "nearest", 3)
    models = shelf(card(path, "upscale", "esrgan", 0, scale=3))
    larger = replace(swapper, upscaler=upscale.load("thrice:size=1.5", models))
    api.swap(target, me, tmp_path / "out.png", swapper=larger)
    out = cv2.imread(str(tmp_path / "out.png"), cv2.IMREAD_UNCHANGED)
    height, width = photo.shape[:2]
    assert out.shape[2] == 4
    np.testing.assert_allclose(out.shape[:2], (1.5 * height, 1.5 * width), atol=1)
    np.testing.assert_allclose(out[5, ::30, 3], np.linspace(0, 255, out.shape[1])[::30], atol=2)


def test_a_mask_keeps_the_swap_out(swapper, me, photo, tmp_path):
    """With the default generator: hair all over leaves the photo as it is, skin the swap."""
    bare = replace(swapper, generate=pipeline.generate.load("relight:shape=0"))
    swapped = api.swap_image(photo, me, swapper=bare)
    for number, wanted in ((17, photo), (1, swapped)):
        path = painted(tmp_path / f"class{number}.onnx", only(number))
        mask = segment.load(path.stem, shelf(parser_card(path)))
        out = api.swap_image(photo, me, swapper=replace(bare, masks=(mask,)))
        assert np.abs(unlabelled(out) - unlabelled(wanted)).max() <= 1


@pytest.mark.parametrize("generator", ["relight", "mesh", "warp"])
def test_masks_hold_for_every_generator(swapper, me, photo, generator, tmp_path):
    """The right half of each face is hair: what changes there is what lies around the face."""
    scores = np.zeros((19, SIZE, SIZE))
    scores[1, :, : SIZE // 2] = 1
    scores[17, :, SIZE // 2 :] = 1
    path = painted(tmp_path / "half.onnx", scores)
    mask = segment.load("half", shelf(parser_card(path)))
    own = replace(
        swapper,
        generate=pipeline.generate.load(
            f"{generator}:shape=0" if generator == "relight" else generator
        ),
    )
    stream = pipeline.Stream(replace(own, masks=(mask,)), still=True)
    frame = Frame(photo.copy())
    pairs = stream.assign(stream.observe(frame), SwapPlan((Rule(me),)))
    assert len(pairs) == 2
    stream.render(frame, pairs, SwapPlan((Rule(me),)))
    change = np.abs(frame.image.astype(int) - photo).sum(2)
    for face, _ in pairs:
        onto = mask(Frame(photo), [face])[0].matrix
        rows, columns = np.nonzero(change > 0)
        x = onto[0, 0] * columns + onto[0, 1] * rows + onto[0, 2]
        y = onto[1, 0] * columns + onto[1, 1] * rows + onto[1, 2]
        inside = (y > 0) & (y < SIZE) & (x > 0) & (x < SIZE)
        assert inside.sum() > 100
        assert (x[inside] < SIZE / 2 + 1).all()


def test_swapped_faces_are_enhanced_or_all(swapper, me, photo, tmp_path):
    pattern = np.random.default_rng(1).uniform(-0.9, 0.9, (3, SIZE, SIZE))
    path = adding(tmp_path / "loud.onnx", pattern)
    models = shelf(card(path, "enhance", "gfpgan", SIZE))
    plan = SwapPlan((Rule(me, "left"),))
    base = api.swap_image(photo, plan, swapper=swapper)
    touched = {}
    for options in ("", ":faces=all"):
        own = replace(swapper, enhancer=enhance.load(f"loud{options}", models))
        out = api.swap_image(photo, plan, swapper=own)
        columns = np.nonzero((out != base).any((0, 2)))[0]
        touched[options] = columns.min() < photo.shape[1] / 2, columns.max() > photo.shape[1] / 2
    assert touched == {"": (True, False), ":faces=all": (True, True)}


def test_an_enhancer_that_changes_nothing(swapper, me, photo, plain, tmp_path):
    models = shelf(card(same(tmp_path / "same.onnx"), "enhance", "gfpgan", SIZE))
    own = replace(swapper, enhancer=enhance.load("same:light=network", models))
    assert np.abs(api.swap_image(photo, me, swapper=own).astype(int) - plain).max() <= 1


def test_settings_by_file_and_environment(tmp_path):
    file = tmp_path / "mien.toml"
    file.write_text('mask = ["a:regions=skin+nose", "b"]\nenhance = "c:amount=0.5"\n')
    found = config.load(file, environment={"MIEN_UPSCALE": "d:size=2"})
    assert (found.mask, found.enhance, found.upscale) == (
        ("a:regions=skin+nose", "b"),
        "c:amount=0.5",
        "d:size=2",
    )
    found = config.load(file, environment={"MIEN_MASK": "x y"}, flags={"enhance": "none"})
    assert (found.mask, found.enhance, found.upscale) == (("x", "y"), "none", "none")
    file.write_text("mask = [3]\n")
    with pytest.raises(UsageError, match=r"mien.toml: mask: "):
        config.load(file, environment={})


def test_load_names_what_runs(tmp_path):
    cards = [
        card(codeformer(tmp_path / "code.onnx"), "enhance", "codeformer", SIZE),
        xseg_card(xseg(tmp_path / "x.onnx", 0)),
    ]
    swapper = pipeline.load(
        "warp", masks=["x", "none"], enhancer="code:weight=1", models=shelf(*cards)
    )
    assert swapper.models["mask"] == ("x", "cpu")
    assert swapper.models["enhance"] == ("code:weight=1", "cpu")
    assert "upscale" not in swapper.models
    assert (len(swapper.masks), swapper.upscaler) == (1, None)
    none = pipeline.load("warp")
    assert (none.masks, none.enhancer, none.upscaler) == ((), None, None)
    assert not {"mask", "enhance", "upscale"} & set(none.models)


def test_wrong_words_end_with_one_sentence(folder, tmp_path):
    done = mien(
        *SWAP, "-t", PHOTO, "-o", "out.png", "--mask", "my_bisenet:regions=beard",
        cwd=tmp_path, env=environment(MIEN_MODELS=str(folder)),
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("mien: my_bisenet: regions knows no 'beard'; known are ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_published_enhancer_that_is_not_there_says_how_to_get_it(tmp_path):
    done = mien(
        *SWAP, "-t", PHOTO, "-o", "out.png", "--enhance", "gfpgan_1.4",
        cwd=tmp_path, env=environment(MIEN_MODELS=str(tmp_path / "none")),
    )  # fmt: skip
    assert done.returncode == 1
    assert "mien models pull gfpgan_1.4" in done.stderr
    shutil.rmtree(tmp_path / "none", ignore_errors=True)
