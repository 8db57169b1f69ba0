"""The tool: what it measures, what it writes, what it refuses."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace

import cv2
import numpy as np
import pytest

import synthetic
from material import PHOTO, PORTRAIT, listing, mien, noise, pan, write_clip
from mien import evaluate, media, motion, pipeline, provenance, quality
from mien.errors import MediaError, ModelNotFound, NoFace, UsageError
from mien.evaluate import measuring, page, report, targets
from mien.evaluate.measuring import Samples
from mien.types import Consent, Patch

CONSENT = Consent("synthetic")
SECOND = PORTRAIT.with_name("portrait-2.jpg")


def patch_of(frame, face, change=lambda crop: crop):
    """The frame itself as a patch over the face, after a change."""
    height, width = frame.image.shape[:2]
    region = motion.region_of(face.mesh, width, height)
    shift = np.array([[1.0, 0, -region.x0], [0, 1.0, -region.y0]])
    crop = np.ascontiguousarray(change(frame.image[region.slices()].copy()))
    return Patch(crop, np.full(crop.shape[:2], 255, np.uint8), shift)


def nothing(frame, faces, identities):
    """A generator that leaves every face as it is."""
    return [patch_of(frame, face) for face in faces]


def brighter(frame, faces, identities):
    return [patch_of(frame, f, lambda c: cv2.add(c, np.full_like(c, 25))) for f in faces]


def softer(frame, faces, identities):
    return [patch_of(frame, f, lambda c: cv2.GaussianBlur(c, (0, 0), 3)) for f in faces]


def erased(frame, faces, identities):
    return [patch_of(frame, f, lambda c: np.full_like(c, 128)) for f in faces]


def none(frame, faces, identities):
    return []


class Flickering:
    """Every other face is brighter."""

    def __init__(self):
        self.calls = 0

    def __call__(self, frame, faces, identities):
        self.calls += 1
        return (brighter if self.calls % 2 else nothing)(frame, faces, identities)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(
        tmp_path_factory.mktemp("clip") / "walk.mp4", pan(frames=12, width=400), sound=False
    )


@pytest.fixture(scope="module")
def people(swapper):
    return [
        pipeline.identity.enrol(
            [path],
            CONSENT,
            detect=swapper.detector,
            landmarks=swapper.landmarks,
            embed=swapper.embed,
            which="largest",
        )
        for path in (PORTRAIT, SECOND)
    ]


@pytest.fixture(scope="module")
def measured(swapper, clip, people):
    """Figures of generators whose figures are known, on a clip."""
    generators = {
        "nothing": nothing,
        "brighter": brighter,
        "softer": softer,
        "erased": erased,
        "none": none,
        "flickering": Flickering(),
    }
    target = targets.look_through(clip, swapper, 2)
    found = measuring.measure(target, people[:1], generators, swapper)
    return {name: (found.samples[name, 0], report.figures([found.samples[name, 0]]))
            for name in generators}  # fmt: skip


# --- Generators whose figures are known ---------------------------------------------------------


def test_nothing_swapped_is_no_error(measured):
    samples, figures = measured["nothing"]
    assert samples.faces == 2
    for key in ("pose", "expression", "eyes", "mouth", "lighting", "lost", "undetected"):
        assert figures[key] == pytest.approx(0, abs=1e-3), key
    assert figures["flicker"] == pytest.approx(1, abs=1e-3)
    assert figures["seam"] == pytest.approx(1, abs=1e-3)
    assert figures["to_target"] == pytest.approx(1, abs=1e-3)
    assert figures["nearer"] == 0
    assert figures["margin"] < 0


def test_more_light_is_a_lighting_error_and_a_seam(measured):
    _, figures = measured["brighter"]
    assert 4 < figures["lighting"] < 12
    assert figures["seam"] > 1.1
    assert figures["flicker"] == pytest.approx(1, abs=0.15)


def test_a_blurred_face_is_less_sharp(measured):
    assert measured["softer"][1]["sharpness"] < 0.6 * measured["nothing"][1]["sharpness"]


def test_light_that_comes_and_goes_is_flicker(measured):
    assert measured["flickering"][1]["flicker"] > 3
    assert measured["flickering"][1]["flicker_own"] > 3


def test_what_is_not_painted_does_not_count_as_painted_sharpness(measured):
    assert measured["softer"][1]["sharpness_painted"] < 0.7
    assert measured["nothing"][1]["flicker_own"] == pytest.approx(1, abs=1e-3)


def test_an_erased_face_is_no_longer_detected(measured):
    samples, figures = measured["erased"]
    assert samples.detectable == 2
    assert figures["undetected"] == 100


def test_a_face_that_is_not_swapped_is_lost_and_not_measured(measured):
    _, figures = measured["none"]
    assert figures["lost"] == figures["lost_to_45"] == 100
    assert figures["margin"] is None
    assert figures["flicker"] is None


def test_a_blink_is_kept_by_who_keeps_the_eyes(swapper, clip, people, monkeypatch):
    target = targets.look_through(clip, swapper, 2)
    with_blink = replace(target, blinks=(target.places[0],))

    def looked() -> tuple[int, int]:
        measured = measuring.measure(with_blink, people[:1], {"a": nothing}, swapper)
        (found,) = measured.samples.values()
        return found.blinks, found.kept

    assert looked() == (0, 0)  # these eyes are open, in the original too
    monkeypatch.setattr(measuring, "_opening", lambda *_: 0.1)
    assert looked() == (1, 1)
    openings = iter((0.1, 100.0))  # of the original, of the swapped
    monkeypatch.setattr(measuring, "_opening", lambda *_: next(openings))
    assert looked() == (1, 0)


# --- Choosing frames ----------------------------------------------------------------------------


def test_frames_are_spread_and_take_in_the_extremes():
    def at(i):
        points = synthetic.mesh((100, 100), 100, yaw=0.8 if i == 60 else 0.0)
        if i == 20:
            points[14, 1] += 20
        if i == 40:
            points[[159, 386], 1] = points[[145, 374], 1]
        return synthetic.face(points)

    faces = {i: at(i) for i in range(100)}
    chosen = targets.choose(list(range(1, 100)), faces, 8)
    assert {20, 40, 60} <= set(chosen)
    assert len(chosen) == 8
    assert list(chosen) == sorted(chosen)
    assert targets.choose(list(range(1, 100)), faces, 1) == (50,)


def test_spread_takes_the_middles():
    assert targets.spread(range(10), 2) == [2, 7]
    assert targets.spread([4, 5], 3) == [4, 5]
    assert targets.spread([], 3) == []


def test_a_photo_is_one_place_without_a_neighbour(swapper):
    target = targets.look_through(PHOTO, swapper, 8)
    assert target.still
    assert target.places == (0,)
    assert target.wanted == {0}
    with media.open_source(PHOTO) as source:
        frame = next(iter(source))
    found = swapper.landmarks(frame, swapper.detector(frame))
    heights = [float(f.box[3] - f.box[1]) for f in found]
    assert target.faces[0].box[3] - target.faces[0].box[1] == pytest.approx(max(heights), rel=0.1)


# --- Figures and comparison ---------------------------------------------------------------------


def test_ratios_are_of_sums_and_medians_beside_them():
    samples = Samples(values={
        "flicker_original": [1.0, 1.0, 2.0], "flicker_swapped": [1.0, 1.1, 6.0],
        "sharpness": [0.5, 1.0, 3.0], "margin": [0.1, 0.3],
    })  # fmt: skip
    figures = report.figures([samples, Samples(faces=4, lost=1)])
    assert figures["flicker"] == pytest.approx(8.1 / 4, abs=1e-3)
    assert figures["flicker_median"] == pytest.approx(1.1)
    assert figures["sharpness"] == 1
    assert figures["margin"] == pytest.approx(0.2)
    assert figures["lost"] == 25
    assert figures["blinks"] is None


def a_report(**generators):
    """A report of one identity and one target with these figures."""
    whole = {}
    for name, figures in generators.items():
        every = report.figures([Samples()]) | figures
        parts = {"by_tone": {"tan": every}, "by_target": [every], "by_identity": [every]}
        whole[name] = {"all": every} | parts
    target = dict.fromkeys(("frames", "seen", "gaps", "measured", "blinks", "face_px"), 1)
    return {
        "report": report.VERSION,
        "mien": "0",
        "frames": 8,
        "identities": [{"name": "me"}],
        "targets": [target | {"name": "<clip>", "tone": "tan", "typology_angle": 20.0}],
        "generators": whole,
    }


def test_comparison_knows_what_is_better():
    then = a_report(mesh={"margin": 0.1, "lighting": 2.0, "sharpness": 0.6, "pose": 1.0})
    now = a_report(mesh={"margin": 0.2, "lighting": 3.0, "sharpness": 1.2, "pose": 1.01})
    lines = report.compare(now, then)
    assert lines[0] == "mesh, against mesh of the earlier report:"
    assert [line.split()[0] for line in lines[1:]] == ["better", "better", "worse"]
    assert "0.100 → 0.200" in lines[1]
    assert "lighting" in lines[3]
    assert report.compare(now, now)[1].strip() == "nothing changed by more than the measures' steps"


def test_a_new_generator_is_compared_with_the_first_of_the_earlier_report():
    lines = report.compare(a_report(relight={"pose": 1.0}), a_report(mesh={"pose": 2.0}))
    assert lines == [
        "relight, against mesh of the earlier report:",
        "  better  pose error: 2.00 → 1.00",
    ]


def test_comparison_warns_of_other_material():
    other = a_report(mesh={})
    other["identities"] = [{"name": "you"}]
    assert report.compare(a_report(mesh={}), other)[0].startswith("caution")


def test_the_table_has_a_line_for_each_measure():
    lines = report.table(a_report(mesh={"pose": 1.234}, warp={}))
    assert len(lines) == 1 + len(quality.MEASURES)
    assert re.search(r"pose error +1\.23 +- +°", "\n".join(lines))


def test_the_page_needs_nothing_from_elsewhere_and_escapes_names():
    names = {"relight:identity=0": 1.0, "relight:identity=1": 3.0, "mesh": 2.0}
    made = a_report(**{n: {"lighting": v, "margin": v / 10} for n, v in names.items()})
    html = page.html_of(made, ["mesh, <against>"], None)
    assert not re.search(r"(src|href)=|@import|url\(", html)
    assert "<clip>" not in html
    assert "&lt;clip&gt;" in html
    assert "mesh, &lt;against&gt;" in html
    scatter = next(s for s in re.findall(r"<svg.*?</svg>", html, re.DOTALL) if "rotate" in s)
    assert scatter.count("<circle") == 3
    colours = set(re.findall(r'<circle [^>]*fill="(#\w+)"', scatter))
    assert len(colours) == 2  # settings of one generator share a colour


@pytest.mark.parametrize(
    ("low", "high", "marks"),
    [(0, 15.4, [0, 5, 10, 15]), (-0.22, 0.12, [-0.2, -0.1, 0, 0.1]), (97, 103, [98, 100, 102])],
)
def test_axes_have_round_numbers(low, high, marks):
    assert page._ticks(low, high) == pytest.approx(marks)


def test_one_generator_has_no_trade_off():
    assert "Identity against light" not in page.html_of(a_report(mesh={}), [], None)


# --- The whole tool -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(clip, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "report"
    return evaluate.evaluate(
        [PORTRAIT, SECOND],
        [clip, PHOTO],
        folder,
        consent=CONSENT,
        generators=["mesh", "warp"],
        frames=1,
    )


def test_the_report_has_every_swap(whole):
    on_disk = json.loads((whole.folder / "report.json").read_text("utf-8"))
    assert on_disk == whole.report
    assert list(on_disk["generators"]) == ["mesh", "warp"]
    for made in on_disk["generators"].values():
        assert made["counts"]["swaps"] == 4
        assert len(made["by_target"]) == len(made["by_identity"]) == 2
        assert 0 <= made["all"]["rank1"] <= 100
    light = [on_disk["generators"][n]["all"]["lighting"] for n in ("mesh", "warp")]
    assert light[0] < light[1]


def test_the_sheet_is_marked_and_in_the_page(whole):
    said = provenance.read(whole.folder / "sheet.jpg")
    assert said["mien_content"] == provenance.SYNTHETIC
    assert said["mien_consent"] == "synthetic"
    html = (whole.folder / "report.html").read_text("utf-8")
    (data,) = re.findall(r"data:image/jpeg;base64,([\w+/=]+)", html)
    assert base64.b64decode(data) == (whole.folder / "sheet.jpg").read_bytes()
    image = media.read_image(whole.folder / "sheet.jpg")
    assert image.shape[1] == 3 * 128


def test_nothing_else_is_left(whole):
    assert sorted(listing(whole.folder.parent)) == [
        "report", "report/report.html", "report/report.json", "report/sheet.jpg",
    ]  # fmt: skip


def test_again_against_the_first_without_pictures(whole, clip, tmp_path):
    again = evaluate.evaluate(
        [PORTRAIT, SECOND],
        [clip, PHOTO],
        tmp_path / "again",
        consent=CONSENT,
        frames=1,
        against=whole.folder / "report.json",
        pictures=False,
    )
    assert again.changes == [
        "mesh, against mesh of the earlier report:",
        "  nothing changed by more than the measures' steps",
    ]
    assert sorted(listing(again.folder)) == ["report.html", "report.json"]
    assert "<img" not in (again.folder / "report.html").read_text("utf-8")


def faceless(tmp_path):
    return write_clip(tmp_path / "faceless.mp4", noise(), sound=False)


@pytest.mark.parametrize(
    ("case", "error", "says"),
    [
        ("no identity", UsageError, "no identities"),
        ("missing", MediaError, "nobody.jpg: no such file"),
        ("no face", NoFace, "empty.png: no face"),
        ("no target face", NoFace, "faceless.mp4: no face"),
        ("no media", MediaError, "text.mp4"),
        ("generator", ModelNotFound, "'magic'"),
        ("report there", UsageError, "report.json"),
        ("a file", UsageError, "is a file"),
        ("no parent", MediaError, "does not exist"),
        ("no report", UsageError, "is no report"),
    ],
)
def test_what_is_refused_leaves_nothing_behind(case, error, says, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    cv2.imwrite(str(tmp_path / "empty.png"), np.full((200, 200, 3), 90, np.uint8))
    (tmp_path / "text.mp4").write_text("no video")
    given = {"identities": [PORTRAIT], "targets": [PHOTO], "output": work / "report"}
    options = {"generators": ["mesh"]}
    if case == "no identity":
        given["identities"] = []
    elif case == "missing":
        given["identities"] = [tmp_path / "nobody.jpg"]
    elif case == "no face":
        given["identities"] = [tmp_path / "empty.png"]
    elif case == "no target face":
        given["targets"] = [faceless(tmp_path)]
    elif case == "no media":
        given["targets"] = [tmp_path / "text.mp4"]
    elif case == "generator":
        options["generators"] = ["magic"]
    elif case == "report there":
        (work / "report").mkdir()
        (work / "report" / "report.json").write_text("{}")
    elif case == "a file":
        (work / "report").write_text("")
    elif case == "no parent":
        given["output"] = work / "no" / "report"
    elif case == "no report":
        options["against"] = tmp_path / "text.mp4"
    before = listing(work)
    with pytest.raises(error, match=re.escape(says)):
        evaluate.evaluate(*given.values(), consent=CONSENT, **options)
    assert listing(work) == before


def test_the_command_takes_lists(tmp_path, clip):
    done = mien(
        *("evaluate", "--identities", PORTRAIT, SECOND, "--targets", PHOTO, "--generator", "mesh"),
        *("warp", "--consent", "synthetic", "-o", "report"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ +mesh +warp +unit$", done.stdout, re.MULTILINE)
    assert "right portrait found among all" in done.stdout
    assert (tmp_path / "report" / "report.html").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--identities", "--targets", "x.mp4"], "--identities needs at least one word"),
        (["--identities", PORTRAIT, "--targets", "x.mp4"], "x.mp4: no such file"),
        (["--identities", PORTRAIT, "--targets", PHOTO], "--consent"),
    ],
)
def test_the_command_says_what_is_wrong(words, says, tmp_path):
    done = mien("evaluate", *words, "-o", "report", cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert not (tmp_path / "report").exists()
