"""The functions that the command line and programs call."""

import logging
import re
import subprocess
import sys

import av
import cv2
import numpy as np
import pytest

import mien
from material import MEDIA, PHOTO, PORTRAIT, listing, noise, pan, write_clip
from mien import api, media, provenance
from mien.api.files import output_names
from mien.api.listing import GLIMPSES
from mien.errors import MediaError, NoFace, UsageError
from mien.pipeline import Stream
from mien.types import Consent, Rule, SwapPlan


@pytest.fixture(scope="module")
def me(swapper):
    return api.enrol(PORTRAIT, "synthetic", swapper=swapper)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("api") / "clip.mp4", pan(frames=12))


@pytest.fixture(scope="module")
def photo():
    return media.read_image(PHOTO)


@pytest.fixture(scope="module")
def places(photo, swapper):
    """Boxes of the two faces of the photo, from left to right."""
    with media.open_source(PHOTO) as source:
        faces = Stream(swapper, still=True).observe(next(iter(source)))
    assert len(faces) == 2
    return [f.box.astype(int) for f in faces]


def changed(before, after, box):
    """Mean change of the middle of a face."""
    x0, y0, x1, y1 = box
    cut = np.s_[(3 * y0 + y1) // 4 : (y0 + 3 * y1) // 4, (3 * x0 + x1) // 4 : (x0 + 3 * x1) // 4]
    return float(np.abs(after[cut].astype(int) - before[cut]).mean())


def frames(path):
    with media.open_source(path) as source:
        return [(f.pts * f.time_base, f.image) for f in source]


def blocks_of_readme():
    text = (MEDIA.parents[1] / "README.md").read_text("utf-8")
    return re.findall(r"```python\n(.*?)```", text, re.S)


@pytest.mark.parametrize("code", blocks_of_readme())
def test_lines_of_the_readme(code, tmp_path, clip):
    """They run as they stand, in a process of their own, and are five lines at most."""
    assert len([line for line in code.splitlines() if line.strip()]) <= 5
    (tmp_path / "portrait.jpg").write_bytes(PORTRAIT.read_bytes())
    (tmp_path / "portrait2.jpg").write_bytes((MEDIA / "portrait-2.jpg").read_bytes())
    (tmp_path / "photo.jpg").write_bytes(PHOTO.read_bytes())
    (tmp_path / "clip.mp4").write_bytes(clip.read_bytes())
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=120)
    (made,) = tmp_path.glob("out.*")
    assert provenance.read(made)["mien_consent"] == "self"


def test_readme_has_both():
    code = "".join(blocks_of_readme())
    assert "photo.jpg" in code
    assert "clip.mp4" in code


def test_import_is_quick():
    code = "import sys, mien; sys.exit(any(m in sys.modules for m in ('numpy', 'cv2', 'av')))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_public_names():
    for name in mien.__all__:
        assert getattr(mien, name) is not None
    assert sorted(mien.__all__) == dir(mien)
    with pytest.raises(AttributeError, match="nothing_of_this"):
        _ = mien.nothing_of_this


def test_enrol(swapper, me):
    assert me.consent == Consent("synthetic")
    assert len(me.portraits) == 1
    both = api.enrol(
        [PORTRAIT, media.read_image(MEDIA / "portrait-2.jpg")],
        Consent("written", "cabinet 3"),
        swapper=swapper,
    )
    assert len(both.portraits) == 2
    assert np.linalg.norm(both.embedding) == pytest.approx(1, abs=1e-4)
    with pytest.raises(UsageError, match="consent 'no' is unknown"):
        api.enrol(PORTRAIT, "no", swapper=swapper)
    with pytest.raises(UsageError, match="no photo"):
        api.enrol([], "self", swapper=swapper)
    with pytest.raises(NoFace, match="--source-face"):
        api.enrol(PHOTO, "synthetic", swapper=swapper)
    left = api.enrol(PHOTO, "synthetic", which=1, swapper=swapper)
    assert np.allclose(
        left.embedding, api.enrol(PHOTO, "synthetic", which="left", swapper=swapper).embedding
    )


def test_swap_image(swapper, me, photo, places):
    before = photo.copy()
    out = api.swap_image(photo, me, swapper=swapper)
    assert np.array_equal(photo, before)
    assert all(changed(photo, out, box) > 4 for box in places)
    # The label is in the lower right corner.
    assert np.abs(out[-60:, -200:].astype(int) - photo[-60:, -200:]).mean() > 5
    # Elsewhere there is only the watermark.
    assert 0 < np.abs(out[:100, :100].astype(int) - photo[:100, :100]).max() <= 3


def test_swap_image_without_a_face(swapper, me):
    picture = noise()[0]
    out = api.swap_image(picture, me, swapper=swapper)
    assert np.array_equal(out, picture)
    assert out is not picture
    with pytest.raises(UsageError, match=r"\(H, W, 3\).*float64"):
        api.swap_image(np.zeros((8, 8, 3)), me, swapper=swapper)


@pytest.mark.parametrize(
    ("which", "left", "right"),
    [("all", 1, 1), ("largest", 1, 0), ("left", 1, 0), ("right", 0, 1), (1, 1, 0), (2, 0, 1)],
)
def test_which_face_of_a_photo(which, left, right, swapper, me, photo, places):
    out = api.swap_image(photo, SwapPlan((Rule(me, which),)), swapper=swapper)
    assert (changed(photo, out, places[0]) > 4) == bool(left)
    assert (changed(photo, out, places[1]) > 4) == bool(right)


def test_match(swapper, me, photo, places, tmp_path):
    """The pictures of `mien faces` serve as references."""
    people = api.list_faces(PHOTO, swapper=swapper)
    written = api.write_faces(people, tmp_path / "faces")
    for number in (1, 2):
        person = api.reference(written[number][0], swapper=swapper)
        plan = SwapPlan((Rule(me, reference=person),))
        out = api.swap_image(photo, plan, swapper=swapper)
        assert changed(photo, out, places[number - 1]) > 4
        assert changed(photo, out, places[2 - number]) < 1.5  # the watermark


def test_map(swapper, me, photo, places):
    """Two people at once, each on the one who is meant."""
    other = api.enrol(MEDIA / "portrait-2.jpg", Consent("written", "by post"), swapper=swapper)
    alone = [api.swap_image(photo, SwapPlan((Rule(me, n),)), swapper=swapper) for n in (1, 2)]
    plan = SwapPlan((Rule(me, 2), Rule(other, 1)))
    both = api.swap_image(photo, plan, swapper=swapper)
    assert changed(alone[1], both, places[1]) < 1.5  # each output's own watermark
    assert changed(alone[0], both, places[0]) > 4


def test_swap_video(swapper, me, clip, tmp_path):
    seen = []
    result = api.swap(
        clip,
        me,
        tmp_path / "out.mp4",
        target_consent=api.target_consent_of("licensed", "invoice 7"),
        progress=lambda done, total: seen.append((done, total)),
        swapper=swapper,
    )
    assert result.output == tmp_path / "out.mp4"
    assert (result.report.frames_in, result.report.frames_out) == (12, 12)
    assert result.report.swapped == 12
    assert not result.copied
    assert seen[-1] == (12, 12)
    before, after = frames(clip), frames(result.output)
    assert [t for t, _ in before] == [t for t, _ in after]
    words = provenance.read(result.output)
    assert words["mien_consent"] == "synthetic"
    assert words["mien_target_consent"] == "licensed"
    assert words["mien_target_consent_note"] == "invoice 7"
    assert words["mien_content"] == "AI-generated"


def test_sound_is_copied(swapper, me, clip, tmp_path):
    api.swap(clip, me, tmp_path / "out.mp4", swapper=swapper)

    def packets(path):
        with av.open(str(path)) as container:
            return [bytes(p) for p in container.demux(audio=0) if p.size]

    assert packets(clip) == packets(tmp_path / "out.mp4")


def test_part_of_a_video(swapper, me, clip, tmp_path):
    result = api.swap(clip, me, tmp_path / "out.mp4", start=0.12, end=0.32, swapper=swapper)
    assert result.report.frames_out == 5
    assert frames(tmp_path / "out.mp4")[0][0] == 0


@pytest.mark.parametrize("number", [1, 2])
def test_numbers_of_a_video(number, swapper, me, clip, tmp_path):
    """A number is the same person for list_faces and for swap."""
    people = api.list_faces(clip, swapper=swapper)
    assert [p.number for p in people] == [1, 2]
    assert all(p.frames == 12 for p in people)
    api.swap(clip, SwapPlan((Rule(me, number),)), tmp_path / "out.mp4", swapper=swapper)
    image, out = frames(clip)[6][1], frames(tmp_path / "out.mp4")[6][1]
    with media.open_source(clip) as source:
        stream = Stream(swapper, identify=True)
        for frame in source:
            faces = stream.observe(frame)
            if frame.index == 6:
                break
    for face in faces:
        assert (changed(image, out, face.box.astype(int)) > 4) == (face.track == number)


def test_nothing_to_swap(swapper, me, tmp_path, caplog):
    """A target without a face is copied through, byte for byte where the format stays."""
    empty = write_clip(tmp_path / "empty.mp4", noise())
    with caplog.at_level(logging.WARNING, "mien"):
        result = api.swap(empty, me, tmp_path / "out.mp4", swapper=swapper)
    assert result.copied
    assert (tmp_path / "out.mp4").read_bytes() == empty.read_bytes()
    assert "empty.mp4: no face was found" in caplog.text

    cv2.imwrite(str(tmp_path / "empty.png"), noise()[0])
    api.swap(tmp_path / "empty.png", me, tmp_path / "out.png", swapper=swapper)
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "empty.png").read_bytes()


def test_nothing_to_swap_in_another_format(swapper, me, tmp_path):
    """Encoded again, but not marked as made: it was not."""
    empty = write_clip(tmp_path / "empty.mp4", noise())
    result = api.swap(empty, me, tmp_path / "out.mkv", swapper=swapper)
    assert result.copied
    assert provenance.read(tmp_path / "out.mkv") == {}
    assert len(frames(tmp_path / "out.mkv")) == 10
    cv2.imwrite(str(tmp_path / "empty.png"), noise()[0])
    api.swap(tmp_path / "empty.png", me, tmp_path / "out.webp", swapper=swapper)
    before = media.read_image(tmp_path / "empty.png").astype(int)
    assert np.abs(media.read_image(tmp_path / "out.webp") - before).max() < 12


def test_nobody_of_that_number(swapper, me, tmp_path, caplog):
    plan = SwapPlan((Rule(me, 7),))
    result = api.swap(PHOTO, plan, tmp_path / "out.jpg", swapper=swapper)
    assert result.copied
    assert "none of the faces" in caplog.text
    assert (tmp_path / "out.jpg").read_bytes() == PHOTO.read_bytes()


@pytest.fixture
def mixed(tmp_path, clip):
    folder = tmp_path / "in"
    (folder / "deeper").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(PHOTO.read_bytes())
    (folder / "b.mp4").write_bytes(clip.read_bytes())
    (folder / "c.png").write_text("no picture")
    cv2.imwrite(str(folder / "d.bmp"), media.read_image(PHOTO)[..., ::-1])
    (folder / "notes.txt").write_text("to be left out")
    (folder / ".hidden.jpg").write_bytes(PHOTO.read_bytes())
    return folder


def test_folder(swapper, me, mixed, tmp_path):
    before = listing(mixed)
    out = tmp_path / "out"
    results = list(api.swap_folder(mixed, me, out, swapper=swapper, end=0.2))
    assert [r.target.name for r in results] == ["a.jpg", "b.mp4", "c.png", "d.bmp"]
    assert [r.error is None for r in results] == [True, True, False, True]
    assert isinstance(results[2].error, MediaError)
    assert results[1].report.frames_out == 5
    assert sorted(p.name for p in out.iterdir()) == ["a.jpg", "b.mp4", "d.png"]
    assert listing(mixed) == before
    again = list(api.swap_folder(mixed, me, out, swapper=swapper))
    assert all("exists already" in str(r.error) for r in again if r.target.name != "c.png")


def test_folder_of_which_nothing_can_be_done(swapper, me, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").touch()
    (result,) = api.swap_folder(tmp_path / "in", me, tmp_path / "out", swapper=swapper)
    assert "a.jpg: is empty" in str(result.error)
    assert not (tmp_path / "out").exists()
    with pytest.raises(MediaError, match="does not exist"):
        list(api.swap_folder(tmp_path / "in", me, tmp_path / "no" / "out", swapper=swapper))
    with pytest.raises(MediaError, match="no such folder"):
        list(api.swap_folder(tmp_path / "gone", me, tmp_path / "out", swapper=swapper))


def test_names_do_not_meet(tmp_path):
    names = ["a.bmp", "a.png", "b.avi", "c.jpg"]
    targets = [tmp_path / n for n in names]
    found = output_names(targets)
    assert [found[t] for t in targets] == ["a.bmp.png", "a.png", "b.mkv", "c.jpg"]


def test_list_faces(swapper, clip, tmp_path):
    people = api.list_faces(clip, start=0.2, swapper=swapper)
    assert [p.frames for p in people] == [7, 7]
    assert people[0].first == pytest.approx(0.2)
    assert people[0].seconds == pytest.approx(7 / 25)
    assert 80 < people[0].size < 160
    assert people[0].score > 0.8
    api.write_faces(people, tmp_path / "faces")
    names = sorted(p.name for p in (tmp_path / "faces").iterdir())
    assert names == [
        "person-1-sheet.jpg", "person-1.jpg", "person-2-sheet.jpg", "person-2.jpg",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="--overwrite"):
        api.write_faces(people, tmp_path / "faces")
    api.write_faces(people[:1], tmp_path / "faces", overwrite=True)
    assert not (tmp_path / "faces" / "person-2.jpg").exists()


def test_glimpses_stay_few_and_spread():
    person = api.Person(1, 0.0)
    face = mien.types.Face(
        np.array([10, 10, 50, 60], np.float32), 1.0, np.zeros((5, 2), np.float32)
    )
    for i in range(1000):
        person.seen(face, noise()[0] if i == 0 else np.zeros((80, 80, 3), np.uint8), i / 25)
    assert GLIMPSES <= len(person.glimpses) < 2 * GLIMPSES
    steps = np.diff([t for t, _ in person.glimpses])
    assert np.allclose(steps, steps[0])
    assert person.frames == 1000
    assert person.size == pytest.approx(50)


def test_list_people_of_a_folder(swapper, mixed, tmp_path):
    listings = list(api.list_people(mixed, tmp_path / "who", swapper=swapper))
    assert [len(entry.people) for entry in listings] == [2, 2, 0, 2]
    assert "c.png" in str(listings[2].error)
    assert (tmp_path / "who" / "b.mp4" / "person-2-sheet.jpg").is_file()
