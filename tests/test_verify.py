"""``mien verify``: every output carries all marks, and an edit shows."""

import io
import json
import os
import sys
import threading
import time

import av
import cv2
import numpy as np
import pytest

from material import MEDIA, PHOTO, PORTRAIT, environment, mien, noise, write_clip
from mien import api, evaluate, home, live, media
from mien.audit import AuditLog
from mien.cli import main
from mien.media.images import jpeg_segments
from mien.provenance import Marker, Marks, certificate, credentials, label, watermark
from mien.provenance.verifying import verify
from mien.signing import Signing
from mien.types import Consent, Rule, SwapPlan

CONSENT = Consent("synthetic")
CLIP = MEDIA / "clip.mp4"
SECOND = 1.0


@pytest.fixture(scope="module")
def me(swapper):
    return api.enrol(PORTRAIT, CONSENT, swapper=swapper)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory, swapper, me):
    """One of every kind of file that ``mien swap`` writes, signed by one machine."""
    folder = tmp_path_factory.mktemp("outputs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MIEN_HOME", str(folder / "home"))
        for suffix in ("jpg", "png", "webp"):
            api.swap(PHOTO, me, folder / f"a.{suffix}", swapper=swapper)
        for suffix in ("mp4", "mov", "mkv"):
            api.swap(CLIP, me, folder / f"a.{suffix}", end=SECOND, swapper=swapper)
    return folder


@pytest.fixture(autouse=True)
def _same_machine(outputs, monkeypatch):
    monkeypatch.setenv("MIEN_HOME", str(outputs / "home"))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "mp4", "mov", "mkv"])
def test_every_output_of_swap_passes(suffix, outputs):
    found = verify(outputs / f"a.{suffix}")
    assert (found.status, found.text) == (0, "marked and intact; signed by this machine")
    assert found.kind == ("image" if suffix in ("jpg", "png", "webp") else "video")
    assert found.manifest.where == ("beside" if suffix == "mkv" else "embedded")
    facts = found.manifest.facts
    assert facts.output_id == f"{found.watermark.output_id:08x}" == found.words["mien_output"]
    assert found.output_id == facts.output_id
    assert (facts.consent, facts.label, facts.watermark) == ("synthetic", True, True)
    assert len(facts.target) == len(facts.portraits[0]) == 64
    assert all(len(sha256) == 64 for _, sha256 in facts.models)
    assert any(name.startswith("relight") for name, _ in facts.models)
    assert found.label.place == "bottom right"
    json.dumps(found.as_dict())


def test_models_are_those_of_the_cards(outputs, swapper):
    from mien.zoo import SHIPPED

    cards = {card.name: card.sha256 for card in SHIPPED}
    facts = verify(outputs / "a.jpg").manifest.facts
    assert dict(facts.models) == {name: cards[name] for name, _ in facts.models}
    assert facts.models == swapper.weights


def test_every_output_of_a_folder_passes(outputs, tmp_path, swapper, me):
    (tmp_path / "in").mkdir()
    for n in range(2):
        (tmp_path / f"in/{n}.jpg").write_bytes(PHOTO.read_bytes())
    results = list(api.swap_folder(tmp_path / "in", me, tmp_path / "out", swapper=swapper))
    found = [verify(r.output) for r in results]
    assert [f.status for f in found] == [0, 0]
    assert len({f.output_id for f in found}) == 2


def test_what_evaluate_writes_passes(outputs, tmp_path):
    evaluate.evaluate(
        [PORTRAIT], [PHOTO], tmp_path / "report", consent=CONSENT, generators=("warp",), frames=1
    )
    found = verify(tmp_path / "report" / "sheet.jpg")
    assert found.status == 0
    assert found.watermark is not None
    assert found.label is not None


class Taker:
    """An output like window, browser, virtual camera and streams: takes what they are handed.

    Ends the engine after some frames.
    """

    name = "taker"

    def __init__(self, frames=20):
        self.frames, self.taken, self.engine = frames, [], None

    def open(self, width, height, fps):
        pass

    def write(self, shown):
        self.taken.append(shown.marked.frame.image.copy())
        if len(self.taken) == self.frames:
            threading.Thread(target=self.engine.stop).start()

    def close(self):
        pass


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_every_live_output_is_marked(suffix, outputs, tmp_path, swapper, me):
    marker, taker = Marker(consent=CONSENT), Taker()
    look = live.Look(SwapPlan((Rule(me),)), marker)
    path = tmp_path / f"live.{suffix}"
    record = live.Encoded(str(path), marker.metadata())
    engine = live.Engine(lambda: media.open_camera(str(CLIP)), swapper, look, [record, taker])
    taker.engine = engine
    live.keep_account(record, engine, swapper.weights)
    engine.run()
    found = verify(path)
    assert found.status == 0, found.text
    assert found.output_id == marker.output_id
    assert found.manifest.facts.target == ""
    assert len(found.manifest.facts.portraits) == 1
    assert watermark.read(taker.taken[-10:]).output_id == int(marker.output_id, 16)
    assert label.find(taker.taken[-1]) is not None


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_a_recording_without_a_frame_leaves_nothing(suffix, tmp_path):
    sink = media.LiveSink(str(tmp_path / f"a.{suffix}"), (320, 240), 25, metadata={"a": "b"})
    sink.close()
    assert list(tmp_path.iterdir()) == []


def with_manifest(edited, original):
    """An edited JPEG with all segments of metadata of the original, the manifest among them."""
    kept = b"".join(
        bytes([0xFF, marker]) + (len(body) + 2).to_bytes(2, "big") + body
        for marker, body in jpeg_segments(original)
        if marker in (0xE1, 0xEB)
    )
    return edited[:2] + kept + edited[2:]


def test_an_edit_of_the_face_breaks_the_manifest_and_not_the_watermark(outputs, tmp_path, swapper):
    original = (outputs / "a.jpg").read_bytes()
    image = cv2.imdecode(np.frombuffer(original, np.uint8), cv2.IMREAD_COLOR)
    face = swapper.detector.thorough(media.read_image(outputs / "a.jpg"))[0]
    x0, y0, x1, y1 = (int(v) for v in face.box)
    image[y0:y1, x0:x1] = cv2.GaussianBlur(image[y0:y1, x0:x1], (31, 31), 0)
    edited = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()
    path = tmp_path / "edited.jpg"
    path.write_bytes(with_manifest(edited, original))
    found = verify(path)
    assert found.status == 1
    assert found.text == "marked but altered: the file was changed after it was signed"
    assert found.watermark.output_id == int(found.manifest.facts.output_id, 16)
    # The same without a manifest: still marked, but nothing proves anything.
    path.write_bytes(edited)
    found = verify(path)
    assert found.status == 1
    assert "it has no manifest" in found.text
    assert found.manifest.state == "absent"
    assert found.watermark is not None


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_video_that_was_encoded_again_is_marked_but_altered(suffix, outputs, tmp_path):
    path = tmp_path / f"again.{suffix}"
    with av.open(str(outputs / f"a.{suffix}")) as source:
        shown = [f.to_ndarray(format="rgb24") for f in source.decode(video=0)]
    for picture in shown:
        picture[100:140, 100:160] = 0
    write_clip(path, shown)
    if suffix == "mkv":  # the manifest of the original beside it
        (tmp_path / "again.c2pa").write_bytes((outputs / "a.c2pa").read_bytes())
    found = verify(path)
    assert found.status == 1
    assert found.manifest.state == ("broken" if suffix == "mkv" else "absent")
    assert found.watermark is not None


def test_what_has_no_mark(tmp_path):
    found = verify(PHOTO)
    assert (found.status, found.text) == (2, "no mark found")
    # A manifest of another program is none of synthetic media.
    path = tmp_path / "a.jpg"
    path.write_bytes(PHOTO.read_bytes())
    c2pa = credentials._library()
    own = certificate.own()
    said = {"claim_generator_info": [{"name": "camera", "version": "1"}], "assertions": []}
    action = {"action": "c2pa.created", "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"}  # fmt: skip  # noqa: E501
    said["assertions"] = [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}]
    info = c2pa.C2paSignerInfo("es256", own.chain, own.key, None)
    made = io.BytesIO()
    with c2pa.Signer.from_info(info) as signer, path.open("rb") as source:
        c2pa.Builder.from_json(json.dumps(said)).sign(signer, "image/jpeg", source, made)
    path.write_bytes(made.getvalue())
    found = verify(path)
    assert found.status == 2
    assert found.text == "no mark found; it carries a manifest of camera 1, which is intact"


def test_another_machine_does_not_know_the_signer(outputs, tmp_path, monkeypatch):
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "other"))
    found = verify(outputs / "a.jpg")
    assert (found.status, found.manifest.state) == (0, "valid")
    assert "who is not known here" in found.text
    authority = outputs / "home" / "certificate" / "authority.pem"
    found = verify(outputs / "a.jpg", signing=Signing(authorities=authority))
    assert "whom the operator trusts" in found.text


def test_marks_that_are_off(tmp_path, swapper, me, outputs):
    def made(**off):
        path = tmp_path / f"{'-'.join(off)}.jpg"
        frame = media.open_source(PHOTO)
        marker = Marker(Marks(**dict.fromkeys(off, False)), consent=CONSENT)
        with frame as source:
            finish = credentials.signing_of(marker, [me], swapper.weights, PHOTO)
            sink = media.open_sink(path, source, metadata=marker.metadata(), finish=finish)
            with sink:
                sink.write(marker(next(iter(source))))
        return verify(path)

    found = made(credentials_on=True)
    assert found.manifest.state == "absent"
    assert found.status == 1  # marked, but nothing proves that it is intact
    found = made(watermark_on=True, label_on=True)
    assert (found.watermark, found.label, found.status) == (None, None, 0)
    assert (found.manifest.facts.watermark, found.manifest.facts.label) == (False, False)


def smaller(image, shorter):
    """A picture brought to so many pixels on its shorter side."""
    scale = shorter / min(image.shape[:2])
    size = tuple(round(edge * scale) for edge in image.shape[1::-1])
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def made_entries():
    entries = AuditLog(home.folder()).entries()
    return [entry for entry in entries if entry["event"] == "made"]


@pytest.mark.parametrize(("shorter", "carries"), [(159, False), (160, True)])
def test_what_is_too_small_for_the_watermark_is_said_to_go_without(
    shorter, carries, tmp_path, monkeypatch, capsys
):
    target, output = tmp_path / "small.png", tmp_path / "out.png"
    cv2.imwrite(str(target), smaller(cv2.imread(str(MEDIA / "portrait-2.jpg")), shorter))
    asked = ("-s", PORTRAIT, "--consent", "synthetic", "--json", "-t", target, "-o", output)

    def command(*words):
        monkeypatch.setattr(sys, "argv", ["mien", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        return capsys.readouterr().out

    said = json.loads(command("swap", *asked))
    assert said["swapped"] == 1
    assert said["marks_missing"] == ([] if carries else ["watermark"])
    warned = [text for text in said["warnings"] if "too small for the invisible watermark" in text]
    assert len(warned) == len(said["marks_missing"])
    assert made_entries()[-1].get("marks_missing", []) == said["marks_missing"]
    found = verify(output)
    assert found.status == 0
    assert found.manifest.facts.watermark is carries
    if not carries:
        assert found.watermark is None
        assert "watermark  none; the manifest names none" in command("verify", output)


@pytest.mark.parametrize("how", ["credentials off", "nothing swapped", "nothing swapped, cut"])
def test_a_manifest_goes_with_the_video_it_was_beside(
    how, outputs, tmp_path, swapper, me, monkeypatch
):
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "home"))
    (home.folder() / "policy.toml").write_text('[marks]\ncredentials_off = ["*"]\n')
    output = tmp_path / "a.mkv"
    for path in (outputs / "a.mkv", outputs / "a.c2pa"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    target, end = CLIP, 0.2
    if how != "credentials off":
        target = write_clip(tmp_path / "in.mkv", noise(8))
        end = 0.2 if "cut" in how else None
    marks = Marks(credentials_on=how != "credentials off")
    api.swap(target, me, output, end=end, marks=marks, overwrite=True, swapper=swapper)
    assert output.read_bytes() != (outputs / "a.mkv").read_bytes()
    assert {p.name for p in tmp_path.iterdir()} - {"in.mkv", "home"} == {"a.mkv"}
    assert verify(output).manifest.state == "absent"


def test_a_small_video_made_in_parts_is_said_to_go_without(tmp_path, swapper, me, caplog):
    with media.open_source(CLIP, end=0.4) as source:
        shown = [smaller(frame.image, 144)[:, :254] for frame in source]
    target = write_clip(tmp_path / "small.mp4", shown)
    result = api.swap_in_parts(
        target, me, tmp_path / "out.mp4", seconds=0.1, marks=Marks(), swapper=swapper
    )
    assert result.report.swapped
    assert result.missing == ("watermark",)
    assert caplog.text.count("too small for the invisible watermark") == 1  # not for each part
    assert made_entries()[-1]["marks_missing"] == ["watermark"]
    found = verify(tmp_path / "out.mp4")
    assert (found.status, found.manifest.facts.watermark) == (0, False)


def test_what_cannot_be_read(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.mp4").write_bytes(b"no video at all, only words " * 40)
    for path in (tmp_path, tmp_path / "none", tmp_path / "empty.jpg", tmp_path / "text.mp4"):
        found = verify(path)
        assert found.status == 3, path
        assert found.text.startswith("could not be read: ")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        assert verify(tmp_path / "pipe").status == 3


def test_hostile_files_end_in_time_with_a_verdict(outputs, tmp_path):
    rng = np.random.default_rng(7)
    for suffix in ("jpg", "png", "webp", "mp4"):
        whole = (outputs / f"a.{suffix}").read_bytes()
        path = tmp_path / f"a.{suffix}"
        for _ in range(4):
            data = bytearray(whole)
            for at in rng.integers(0, len(data), 30):
                data[at] = int(rng.integers(256))
            path.write_bytes(bytes(data[: int(rng.integers(len(data) // 2, len(data)))]))
            begun = time.monotonic()
            assert verify(path, seconds=5).status in (1, 2, 3)
            assert time.monotonic() - begun < 15


def test_the_command(outputs, tmp_path):
    (tmp_path / "text.jpg").write_bytes(b"words")
    done = mien("verify", outputs / "a.jpg", cwd=tmp_path, env=environment())
    lines = done.stdout.splitlines()
    assert lines[0] == f"{outputs / 'a.jpg'}: marked and intact; signed by this machine"
    assert [line.split()[0] for line in lines[1:]] == [
        *("manifest", "consent", "models", "watermark", "label", "metadata")
    ]
    assert (done.returncode, done.stderr) == (0, "")
    for files, status in (
        ([outputs / "a.jpg", PHOTO], 2),
        ([outputs / "a.webp", tmp_path / "text.jpg", tmp_path / "none.jpg"], 3),
    ):
        done = mien("verify", *files, "--json", cwd=tmp_path, env=environment())
        said = json.loads(done.stdout)
        assert done.returncode == said["exit_status"] == status
        assert [entry["file"] for entry in said["files"]] == [str(f) for f in files]
        assert "Traceback" not in done.stderr


def test_standard_input(outputs, monkeypatch, capsys):
    class Given:
        buffer = io.BytesIO((outputs / "a.png").read_bytes())

        def isatty(self):
            return False

    monkeypatch.setattr(sys, "stdin", Given())
    monkeypatch.setattr(sys, "argv", ["mien", "verify", "-", "--json"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    (found,) = json.loads(capsys.readouterr().out)["files"]
    assert (found["file"], found["kind"], found["manifest"]["state"]) == ("-", "image", "trusted")
