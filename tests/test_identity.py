"""Enrolling people: which face of a photo, which photo first, and what is cut out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import synthetic
from mien import geometry, identity, landmarks
from mien.errors import MediaError, NoFace
from mien.types import Consent, Face, Faces, Frame, Identity

SELF = Consent("self", "form in drawer 3")


class Album:
    """Photos whose faces are known, and the stages that see just those.

    A photo's number is in its top left pixel, so that the stages recognise it.
    """

    def __init__(self) -> None:
        self.meshes: list[list[np.ndarray]] = []
        self.seen: list[np.ndarray] = []

    def photo(self, *meshes: np.ndarray, width: int = 600, height: int = 400) -> np.ndarray:
        image = synthetic.picture(width, height, *meshes)
        image[0, 0] = len(self.meshes)
        self.meshes.append(list(meshes))
        return image

    def detect(self, frame: Frame) -> Faces:
        meshes = self.meshes[int(frame.image[0, 0, 1])]
        # The largest last, in no order to rely on.
        order = sorted(meshes, key=lambda m: float(np.ptp(m[:, 1])))
        return [replace(synthetic.face(m), mesh=None, mesh_score=0.0) for m in order]

    def landmarks(self, frame: Frame, faces: Faces) -> Faces:
        meshes = self.meshes[int(frame.image[0, 0, 1])]
        out = []
        for face in faces:
            mesh = min(meshes, key=lambda m: np.abs(geometry.bounds(m[:468]) - face.box).sum())
            out.append(replace(face, mesh=mesh, mesh_score=0.9))
        return out

    def embed(self, frame: Frame, faces: Faces) -> Faces:
        """The unit vector along the photo's number, tilted by where the face is."""
        out = []
        for face in faces:
            vector = np.zeros(512, np.float32)
            vector[int(frame.image[0, 0, 1])] = 3
            vector[100 + int(face.box[0]) % 100] = 1
            self.seen.append(face.box)
            out.append(replace(face, embedding=vector / np.linalg.norm(vector)))
        return out

    def enrol(self, photos: Sequence[np.ndarray | Path | str], **how: object) -> Identity:
        stages = {"detect": self.detect, "landmarks": self.landmarks, "embed": self.embed}
        return identity.enrol(photos, SELF, **stages, **how)


@pytest.fixture
def album() -> Album:
    return Album()


def three() -> list[np.ndarray]:
    """Left, largest in the middle, right."""
    return [
        synthetic.mesh((110, 200), 120),
        synthetic.mesh((300, 200), 200),
        synthetic.mesh((490, 200), 150),
    ]


# --- which face -------------------------------------------------------------------------------


def test_no_face_names_the_photo(album: Album, tmp_path: Path):
    with pytest.raises(NoFace, match=r"photo 2: no face found"):
        album.enrol([album.photo(synthetic.mesh((300, 200), 150)), album.photo()])
    path = tmp_path / "wall.png"
    cv2.imwrite(str(path), np.full((50, 60, 3), 1, np.uint8))
    with pytest.raises(NoFace, match=r"wall\.png: no face found"):
        album.enrol([path])


@pytest.mark.parametrize("which", [None, "all"])
def test_several_faces_say_how_many_and_which_flag_chooses(album: Album, which):
    with pytest.raises(NoFace, match=r"photo 1: 3 faces found.*--source-face.*from 1 to 3"):
        album.enrol([album.photo(*three())], which=which)


@pytest.mark.parametrize(
    ("which", "index"), [("largest", 1), ("left", 0), ("right", 2), (1, 0), (2, 1), (3, 2)]
)
def test_the_face_that_was_asked_for(album: Album, which, index: int):
    album.enrol([album.photo(*three())], which=which)
    np.testing.assert_allclose(album.seen, [geometry.bounds(three()[index][:468])])


@pytest.mark.parametrize("which", [0, 4, -1])
def test_a_number_that_is_not_there(album: Album, which: int):
    with pytest.raises(NoFace, match=rf"face {which} was asked for, but only 3"):
        album.enrol([album.photo(*three())], which=which)


def test_a_number_beyond_a_single_face_is_an_error_and_a_word_is_not(album: Album):
    lone = synthetic.mesh((300, 200), 150)
    with pytest.raises(NoFace, match="face 2 was asked for, but only 1"):
        album.enrol([album.photo(lone)], which=2)
    for which in (None, "largest", "left", "right", 1):
        album.enrol([album.photo(lone)], which=which)


def test_a_missing_file_is_an_error_of_media(album: Album, tmp_path: Path):
    with pytest.raises(MediaError, match=r"gone\.jpg"):
        album.enrol([tmp_path / "gone.jpg"])


# --- several photos ---------------------------------------------------------------------------


def test_the_best_photo_is_first(album: Album):
    """Frontal before turned, large before small, size beyond any screen counts no more."""
    turned = album.photo(synthetic.mesh((300, 200), 300, yaw=0.7))
    frontal = album.photo(synthetic.mesh((300, 200), 280))
    small = album.photo(synthetic.mesh((300, 200), 90))
    made = album.enrol([turned, small, frontal])
    sides = [p.image.shape[0] for p in made.portraits]
    assert sides == [round(280 * 1.7), round(300 * 1.7), 192]
    assert abs(landmarks.yaw(made.portraits[0].mesh)) < 0.01
    assert abs(landmarks.yaw(made.portraits[1].mesh)) == pytest.approx(0.7, abs=0.01)


def test_the_embedding_is_the_mean_over_all_photos_and_of_unit_length(album: Album):
    photos = [album.photo(synthetic.mesh((300, 200), 200)) for _ in range(3)]
    made = album.enrol(photos)
    assert made.embedding.shape == (512,)
    assert made.embedding.dtype == np.float32
    assert np.linalg.norm(made.embedding) == pytest.approx(1, abs=1e-6)
    # All three tilt alike, and each has its own direction.
    own, shared = made.embedding[:3], made.embedding[100:200].max()
    np.testing.assert_allclose(own, own[0])
    assert shared == pytest.approx(float(own[0]), rel=1e-5)
    assert len(made.portraits) == 3


def test_name_and_consent(album: Album, tmp_path: Path):
    image = album.photo(synthetic.mesh((300, 200), 200))
    assert album.enrol([image]).name == "portrait"
    assert album.enrol([image], name="Ada").name == "Ada"
    path = tmp_path / "grace.png"
    cv2.imwrite(str(path), image[..., ::-1])
    made = album.enrol([path, image])
    assert made.name == "grace"
    assert made.consent is SELF


def test_white_balance_is_done_when_asked_for(album: Album):
    """A picture under blue light; the cast is smaller in the portrait afterwards."""
    image = album.photo(synthetic.mesh((300, 200), 300))
    blue = np.clip(image * (0.7, 0.9, 1.2), 0, 255).astype(np.uint8)
    blue[0, 0] = 0

    def cast(balanced: bool) -> float:
        made = album.enrol([blue], white_balance=balanced).portraits[0]
        pixel = made.image[tuple(np.round(made.mesh[280, 1::-1]).astype(int))].astype(float)
        return float(pixel[2] / pixel[0])

    assert cast(True) < 0.9 * cast(False)


# --- faces of a still -------------------------------------------------------------------------


def test_faces_of_a_still_are_from_left_to_right_without_doubles_and_without_doubtful_ones():
    meshes = three()
    found = [synthetic.face(m) for m in (meshes[2], meshes[0], meshes[1])]
    double = replace(found[0], mesh_score=0.6, box=found[0].box + 5)
    doubtful = replace(synthetic.face(synthetic.mesh((400, 60), 40)), mesh_score=0.4)

    def detect(frame: Frame) -> list[Face]:
        return [double, *found, doubtful]

    faces = identity.find_faces(
        Frame(np.zeros((9, 9, 3), np.uint8)), detect, lambda f, faces: faces
    )
    assert [float(f.mesh[1, 0]) for f in faces] == pytest.approx([110, 300, 490], abs=1)
    assert all(f.mesh_score == 1 for f in faces)


# --- cutting out ------------------------------------------------------------------------------


@pytest.mark.parametrize("roll", [0, 0.5, np.pi / 2, np.pi])
def test_a_portrait_is_upright_centred_and_its_mesh_fits_it(roll: float):
    mesh = synthetic.mesh((400, 380), 300, roll=roll)
    image = synthetic.picture(800, 800, mesh)
    portrait = identity.cut_out(image, synthetic.face(mesh))
    side = portrait.image.shape[0]
    assert portrait.image.shape == (side, side, 3)
    assert abs(landmarks.roll(landmarks.five_points(portrait.mesh))) < 1e-3
    x0, y0, x1, y1 = geometry.bounds(portrait.mesh[:468])
    assert (x0 + x1) / 2 == pytest.approx((side - 1) / 2, abs=0.03 * side)
    assert (y0 + y1) / 2 == pytest.approx((side - 1) / 2, abs=0.03 * side)
    again = synthetic.draw(np.full_like(portrait.image, (70, 90, 110)), portrait.mesh)
    assert np.abs(again.astype(int) - portrait.image).mean() < 3


def test_a_small_face_gets_a_portrait_that_is_not_tiny():
    mesh = synthetic.mesh((50, 50), 60)
    cut = identity.cut_out(synthetic.picture(100, 100, mesh), synthetic.face(mesh))
    assert cut.image.shape == (192, 192, 3)


def test_a_huge_face_is_shrunk_to_what_a_screen_needs_without_aliasing_or_shift():
    mesh = synthetic.mesh((1000, 1000), 1900)
    image = np.full((2000, 2000, 3), 160, np.uint8)
    image[:, ::2] = 100
    at = np.array([1300, 900])
    image[at[1] - 30 : at[1] + 31, at[0] - 30 : at[0] + 31] = 255
    cut = identity.cut_out(image, synthetic.face(mesh))
    assert cut.image.shape == (identity.PORTRAIT_SIDE, identity.PORTRAIT_SIDE, 3)
    assert cut.image[600:700, 300:400].astype(float).std() < 3
    weight = np.clip(cut.image[460:500, 587:627, 0].astype(float) - 140, 0, None)
    ys, xs = np.mgrid[460:500, 587:627]
    spot = np.array([(xs * weight).sum(), (ys * weight).sum()]) / weight.sum()
    scale = identity.PORTRAIT_SIDE / (1.7 * 1900)
    wanted = cut.mesh[1, :2] + (at - mesh[1, :2]) * scale
    np.testing.assert_allclose(spot, wanted, atol=0.06)


# --- the default stages -----------------------------------------------------------------------


@pytest.mark.media
def test_a_stranger_among_the_photos_is_pointed_out(footage: Path, swapper, caplog):
    def enrol(*names: str) -> str:
        caplog.clear()
        identity.enrol(
            [footage / "portraits" / n for n in names],
            Consent("synthetic"),
            detect=swapper.detector,
            landmarks=swapper.landmarks,
            embed=swapper.embed,
        )
        return caplog.text

    assert enrol("tbbt_Raj.jpg", "tbbt_Raj.jpg") == ""
    assert "tbbt_Penny.jpg: shows somebody else" in enrol("tbbt_Raj.jpg", "tbbt_Penny.jpg")


@pytest.mark.media
def test_two_photos_of_one_person_and_one_of_another(footage: Path, swapper):
    def enrol(*names: str, **how: object) -> Identity:
        return identity.enrol(
            [footage / "portraits" / n for n in names],
            SELF,
            detect=swapper.detector,
            landmarks=swapper.landmarks,
            embed=swapper.embed,
            **how,
        )

    one = enrol("lp_d9.jpg")
    both = enrol("lp_d9.jpg", "tbbt_Penny.jpg")
    assert np.linalg.norm(both.embedding) == pytest.approx(1, abs=1e-5)
    assert 0.3 < float(one.embedding @ both.embedding) < 0.99
    assert one.name == "lp_d9"


@pytest.mark.media
def test_a_group_as_portrait_and_a_photo_without_a_face(footage: Path, swapper):
    stages = {"detect": swapper.detector, "landmarks": swapper.landmarks, "embed": swapper.embed}
    group = footage / "groups" / "simswap_multi_people.jpg"
    with pytest.raises(NoFace, match=r"simswap_multi_people\.jpg: 3 faces found"):
        identity.enrol([group], SELF, **stages)
    assert identity.enrol([group], SELF, which="right", **stages).portraits
    with pytest.raises(NoFace, match=r"if_crop_no_face.*no face found"):
        identity.enrol(sorted((footage / "hard").glob("if_crop_no_face*"))[:1], SELF, **stages)
