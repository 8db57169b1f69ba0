"""What an operator allows holds on every way to a swap, and each refusal is named and logged."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import synthetic
import tinynets
from mien import api, audit, evaluate, live, media, pipeline, policy
from mien.cli import main
from mien.errors import MediaError, ModelError, ModelNotFound, Refused, UsageError
from mien.live.control import Commands
from mien.policy import Policy, Use
from mien.provenance import Marker, Marks
from mien.serve.control import People, Performance
from mien.types import Consent, Frame, Identity, Rule, SwapPlan
from test_live import Screen, Scripted, picture
from test_live import swapper as painter

ADA, BOB = (synthetic.identity(64, name=name) for name in ("Ada", "Bob"))  # on "synthetic"
WRITTEN_ONLY = 'consent = ["written"]\n'
PORTRAIT, PHOTO = "portrait-1.jpg", "photo.jpg"


def entries(*events: str) -> list[dict[str, Any]]:
    log = audit.AuditLog(Path(os.environ["MIEN_HOME"]))
    assert log.verify().problems == []
    return [e for e in log.entries() if not events or e["event"] in events]


def why() -> str:
    """Of the only refusal."""
    (entry,) = entries("refused")
    return str(entry["why"])


def look(*people: Identity, **how: Any) -> live.Look:
    rules = tuple(Rule(p) for p in people or (ADA,))
    return live.Look(SwapPlan(rules), Marker(consent=synthetic.CONSENT, **how))


def engine(seen: live.Look, frames: int = 4, **how: Any) -> live.Engine:
    options = live.Options(reopen=False)
    return live.Engine(lambda: Scripted(frames), painter(), seen, [Screen()], options, **how)


# --- the file -------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_ones_own_machine():
    rules = policy.load(system=Path("/nowhere"))
    assert rules == Policy()
    assert rules.consent == ("self", "written", "artwork", "synthetic")
    assert rules.live
    assert rules.marks.label_off == rules.marks.watermark_off == rules.marks.credentials_off == ()


def test_where_the_file_is_looked_for(tmp_path, monkeypatch, set_policy):
    """The machine's own comes first: what a user's environment says cannot replace it."""
    system, named = tmp_path / "etc.toml", tmp_path / "named.toml"
    own = set_policy("max_faces = 1\n")
    assert policy.load(system=system).max_faces == 1
    named.write_text("max_faces = 2\n")
    monkeypatch.setenv("MIEN_POLICY", str(named))
    assert policy.load(system=system).max_faces == 2
    system.write_text("max_faces = 3\n")
    assert policy.load(system=system).max_faces == 3
    assert policy.load(own, system=system).max_faces == 1
    monkeypatch.setenv("MIEN_POLICY", str(tmp_path / "none.toml"))
    with pytest.raises(UsageError, match=r"MIEN_POLICY: .*none\.toml: no such file"):
        policy.load(system=tmp_path / "no.toml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lvie = true", "unknown key 'lvie'"),
        ("[marks]\nlabel = false", r"unknown key 'marks\.label'"),
        ('where = "x"', "unknown key 'where'"),
        ('live = "perhaps"', "live: "),
        ('consent = ["asked"]', r"consent\.0: .*'asked'"),
        ("[audit]\nmegabytes = 0", r"audit\.megabytes: .*not 0"),
        ("[deny]\nthreshold = 2", r"deny\.threshold: "),
        ("[[classifier]]\nname = 'x'\nsize = 4\nmodel = 'm'", r"classifier\.0\.size: "),
        ("live = ", "is not valid TOML"),
    ],
)
def test_a_file_that_is_wrong_names_the_key(set_policy, text, words):
    path = set_policy(text)
    with pytest.raises(UsageError, match=words) as caught:
        policy.load()
    assert str(caught.value).startswith(str(path))


def test_nothing_is_swapped_while_the_policy_cannot_be_read(set_policy):
    set_policy("nonsense")
    with pytest.raises(UsageError, match="is not valid TOML"):
        pipeline.Stream(painter())


# --- the rules ------------------------------------------------------------------------------------

PHOTO_USE = Use("photo", marks=Marks())


@pytest.mark.parametrize(
    ("text", "people", "use", "rule"),
    [
        (WRITTEN_ONLY, [ADA], PHOTO_USE, "'synthetic' is not accepted (consent = written)"),
        ("consent = []\n", [ADA], PHOTO_USE, "(consent = none)"),
        ("live = false\n", [ADA], Use("live"), "live is not allowed (live = false)"),
        ("several_people = false\n", [ADA, BOB], PHOTO_USE, "(several_people = false)"),
        ("max_faces = 2\n", [ADA], replace(PHOTO_USE, people=3), "(max_faces = 2)"),
        ('target_consent = "required"\n', [ADA], PHOTO_USE, "(target_consent = required)"),
        (
            'target_bases = ["written"]\n', [ADA],
            replace(PHOTO_USE, target_consent=Consent("licensed")), "(target_bases = written)",
        ),
        ("", [ADA], Use("photo", marks=Marks(label_on=False)), "(marks.label_off = nobody)"),
        ("", [ADA], Use("photo", marks=Marks(watermark_on=False)), "turn the watermark off"),
        ("", [ADA], Use("photo", marks=Marks(credentials_on=False)), "turn the credentials off"),
        (
            '[marks]\nlabel_off = ["ada"]\n', [ADA],
            Use("photo", marks=Marks(label_on=False), user="eve"), "eve may not turn the label off",
        ),
        ('[marks]\npreset = "regulated"\n', [ADA], PHOTO_USE, "(marks.preset = regulated)"),
        ('[marks]\nlanguages = ["zh"]\n', [ADA], PHOTO_USE, "(marks.languages = zh)"),
        ("", [], PHOTO_USE, "needs an identity"),
    ],
)  # fmt: skip
def test_each_refusal_names_its_rule_and_is_logged(set_policy, text, people, use, rule):
    path = set_policy(text)
    with pytest.raises(Refused) as caught:
        policy.permit(people, use)
    assert caught.value.exit_status == 2
    assert rule in str(caught.value)
    if people:
        assert str(path) in str(caught.value)
    assert why() == str(caught.value)


@pytest.mark.parametrize(
    ("text", "use"),
    [
        ("", Use("live", marks=Marks())),
        ("live = false\n", PHOTO_USE),
        ('target_consent = "required"\n', replace(PHOTO_USE, target_consent=Consent("self"))),
        ('[marks]\nlabel_off = ["*"]\n', Use("photo", marks=Marks(label_on=False))),
        ('[marks]\nlabel_off = ["ada"]\n', Use("photo", marks=Marks(label_on=False), user="ada")),
        ('[marks]\npreset = "regulated"\n', Use("photo", marks=Marks(preset="regulated"))),
    ],
)
def test_what_is_allowed_passes_and_leaves_no_refusal(set_policy, text, use):
    set_policy(text)
    policy.permit([ADA], use)
    assert entries() == []


def test_self_may_be_bound_to_the_liveness_check(set_policy):
    set_policy("self_liveness = true\n")
    me = replace(ADA, consent=Consent("self"))
    with pytest.raises(Refused, match=r"self_liveness = true"):
        policy.permit([me], PHOTO_USE)
    policy.permit([ADA], PHOTO_USE)
    policy.permit([replace(me, consent=Consent("self", verified="liveness"))], PHOTO_USE)


def test_the_user_is_the_systems_and_not_the_environments(monkeypatch):
    before = policy.user()
    for name in ("LOGNAME", "USER", "USERNAME"):
        monkeypatch.setenv(name, "root-of-all")
    assert policy.user() == before != "root-of-all"


def test_turning_a_mark_off_is_logged(set_policy):
    set_policy('[marks]\nlabel_off = ["*"]\n')
    rules = policy.load()
    rules.begin([ADA], Use("photo", marks=Marks(label_on=False, words="")))
    (begin,) = entries("begin")
    assert begin["marks_off"] == ["label"]
    assert begin["identities"] == [{"record": "one-off", "consent": "synthetic"}]


# --- each way to a swap ---------------------------------------------------------------------------


def forbidden_photo(examples: Path, tmp_path: Path) -> None:
    plan = SwapPlan((Rule(ADA),))
    api.swap(examples / PHOTO, plan, tmp_path / "out.png", swapper=painter())


def forbidden_folder(examples: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes((examples / PHOTO).read_bytes())
    list(api.swap_folder(tmp_path / "in", ADA, tmp_path / "made", swapper=painter()))


def forbidden_picture(examples: Path, tmp_path: Path) -> None:
    api.swap_image(picture(0), ADA, swapper=painter())


def forbidden_run(examples: Path, tmp_path: Path) -> None:
    plan, mark = SwapPlan((Rule(ADA),)), Marker(consent=synthetic.CONSENT)
    with media.open_source(examples / PHOTO) as source:
        sink = media.open_sink(tmp_path / "out.png", source, metadata={})
        try:
            pipeline.run(source, sink, pipeline.Stream(painter(), still=True), plan, mark)
        finally:
            sink.abort()


def forbidden_assign(examples: Path, tmp_path: Path) -> None:
    stream = pipeline.Stream(painter())
    stream.assign(stream.observe(Frame(picture(0))), SwapPlan((Rule(ADA),)))


def forbidden_render(examples: Path, tmp_path: Path) -> None:
    stream = pipeline.Stream(painter())
    faces = stream.observe(frame := Frame(picture(0)))
    stream.render(frame, [(faces[0], ADA)], SwapPlan((Rule(BOB),)))


def forbidden_start(examples: Path, tmp_path: Path) -> None:
    engine(look()).start()


def forbidden_page(examples: Path, tmp_path: Path) -> None:
    Performance(painter(), look(), People([ADA]))


def forbidden_evaluation(examples: Path, tmp_path: Path) -> None:
    evaluate.evaluate(
        [examples / PORTRAIT], [examples / PHOTO], tmp_path / "report", consent=synthetic.CONSENT
    )


@pytest.mark.parametrize(
    "way",
    [
        forbidden_photo, forbidden_folder, forbidden_picture, forbidden_run, forbidden_assign,
        forbidden_render, forbidden_start, forbidden_page, forbidden_evaluation,
    ],
)  # fmt: skip
def test_no_way_to_a_swap_without_an_accepted_consent(set_policy, examples, tmp_path, way):
    path = set_policy(WRITTEN_ONLY)
    with pytest.raises(Refused, match="'synthetic' is not accepted") as caught:
        way(examples, tmp_path)
    assert str(path) in str(caught.value)
    assert why() == str(caught.value)
    made = {p.name for p in tmp_path.rglob("*")} - {"in", "a.jpg"}
    assert made == set()


def test_a_consent_without_a_basis_cannot_be_made():
    for basis in ("", "none", "because"):
        with pytest.raises(UsageError):
            Consent(basis)


@pytest.mark.parametrize(
    "arguments",
    [
        ["swap", "-t", "{photo}", "-o", "{out}.png"],
        ["live", "--input", "{clip}", "-o", "{out}.mkv"],
        ["live", "--camera", "none", "-o", "browser", "--port", "0", "--duration", "1"],
        ["evaluate", "--identities", "{portrait}", "--targets", "{photo}", "-o", "{out}"],
    ],
    ids=["swap", "live", "page", "evaluate"],
)
def test_no_command_makes_one(set_policy, examples, tmp_path, capsys, monkeypatch, arguments):
    set_policy(WRITTEN_ONLY)
    names = {"portrait": examples / PORTRAIT, "photo": examples / PHOTO,
             "clip": examples / "clip.mp4", "out": tmp_path / "out"}  # fmt: skip
    given = [word.format(**names) for word in arguments]
    given += [] if given[0] == "evaluate" else ["-s", str(names["portrait"])]
    monkeypatch.setattr("sys.argv", ["mien", *given, "--consent", "synthetic"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2
    assert "policy.toml: a portrait on the basis 'synthetic' is not acc" in capsys.readouterr().err
    assert "is not accepted" in why()
    assert list(tmp_path.iterdir()) == []


def test_an_identity_that_is_not_allowed_cannot_come_in_while_live_runs(set_policy):
    """By the engine, and by the control socket on top of it."""
    set_policy(WRITTEN_ONLY)
    agreed = replace(ADA, consent=Consent("written"))
    seen = live.Look(SwapPlan((Rule(agreed),)), Marker(consent=agreed.consent))
    with engine(seen, 60) as running:
        with pytest.raises(Refused, match="'synthetic' is not accepted"):
            running.change(identity=BOB)
        assert running.look.plan.rules[0].identity is agreed
    assert "is not accepted" in why()


def test_the_control_socket_answers_with_the_rule(set_policy, examples, swapper):
    set_policy("live = false\n")
    running = engine(look())
    commands = Commands(running, swapper)
    asked = {"set": {"identity": str(examples / PORTRAIT), "consent": "synthetic"}}
    answer = commands(json.dumps(asked))
    assert not answer["ok"]
    assert "policy.toml: live is not allowed (live = false)" in answer["error"]


def test_a_page_visitor_cannot_choose_who_is_not_allowed(set_policy):
    set_policy(WRITTEN_ONLY)
    agreed = replace(ADA, consent=Consent("written"))
    seen = live.Look(SwapPlan((Rule(agreed),)), Marker(consent=agreed.consent))
    visit = Performance(painter(), seen, People([agreed, BOB]))
    with pytest.raises(Refused, match="'synthetic' is not accepted"):
        visit.change({"identity": "Bob"})
    assert visit.settings()["identity"] == "Ada"


def test_marks_cannot_be_off_on_any_way(examples, tmp_path):
    """Nobody may turn a mark off unless the policy says so."""
    bare = Marks(label_on=False)
    plan = SwapPlan((Rule(ADA),))
    with pytest.raises(Refused, match=r"marks\.label_off = nobody"):
        api.swap(examples / PHOTO, plan, tmp_path / "o.png", marks=bare, swapper=painter())
    with pytest.raises(Refused, match=r"marks\.label_off = nobody"):
        api.swap_image(picture(0), ADA, marks=bare, swapper=painter())
    with pytest.raises(Refused, match=r"marks\.label_off = nobody"):
        engine(look(label_on=False)).start()
    with pytest.raises(Refused, match=r"marks\.label_off = nobody"):
        Performance(painter(), look(label_on=False), People([ADA]))
    assert list(tmp_path.iterdir()) == []
    assert len(entries("refused")) == 4


def test_no_more_faces_than_are_allowed_are_replaced(set_policy, caplog):
    set_policy("max_faces = 1\n")
    scene = synthetic.Scene(
        {"Al": synthetic.stays(150, 200, 80), "Bo": synthetic.stays(480, 200, 80)}
    )
    stream = pipeline.Stream(painter(scene), still=True)
    faces = stream.observe(Frame(picture(0)))
    assert len(faces) == 2
    assert len(stream.assign(faces, SwapPlan((Rule(ADA),)))) == 1
    assert "max_faces = 1" in caplog.text
    stream.assign(faces, SwapPlan((Rule(ADA),)))
    assert len(entries("limited")) == 1


# --- the log of runs ------------------------------------------------------------------------------


def test_a_file_is_logged_by_hashes_and_never_by_name_or_face(
    set_policy, examples, tmp_path, swapper
):
    me = api.enrol(examples / PORTRAIT, "synthetic", swapper=swapper)
    output = tmp_path / "secret-name.png"
    api.swap(examples / PHOTO, me, output, target_consent=Consent("licensed"), swapper=swapper)
    begin, made = entries("begin", "made")
    assert begin["target"] == {"sha256": audit.sha256_of(examples / PHOTO)}
    assert made["output"] == {"sha256": audit.sha256_of(output)}
    assert made["run"] == begin["run"]
    assert made["output_id"]
    assert begin["target_consent"] == "licensed"
    text = (Path(os.environ["MIEN_HOME"]) / audit.FILE).read_text()
    assert "secret-name" not in text
    assert PHOTO not in text
    assert me.name not in text
    set_policy("[audit]\nnames = true\n")
    api.swap(examples / PHOTO, me, output, overwrite=True, swapper=swapper)
    assert entries("made")[-1]["output"]["name"] == "secret-name.png"
    assert [e["event"] for e in entries()].count("policy") == 2


def test_a_picture_in_memory_is_logged_by_its_pixels():
    before = picture(0)
    after = api.swap_image(before, ADA, swapper=painter())
    begin, made = entries("begin", "made")
    assert begin["target"]["pixels"] == audit.sha256_of([before.tobytes()])
    assert made["output"]["pixels"] == audit.sha256_of([after.tobytes()])


def test_a_run_that_fails_leaves_its_beginning_and_its_end(tmp_path, examples):
    def broken(*_: object) -> Any:
        raise ArithmeticError("no light")

    with pytest.raises(ArithmeticError):
        api.swap_image(picture(0), ADA, swapper=painter(make=broken))
    begin, failed = entries("begin", "failed")
    assert (failed["run"], failed["error"]) == (begin["run"], "ArithmeticError")


def test_a_live_session_is_logged_at_its_start_and_end(tmp_path):
    with engine(look(), 60) as running:
        (begin,) = entries("begin")
        running.change(identity=BOB)
    (changed,), (ended,) = entries("changed"), entries("ended")
    assert begin["kind"] == "live"
    assert begin["run"] == changed["run"] == ended["run"]
    assert ended["output_id"] == running.look.marker.output_id


def test_a_visit_of_a_browser_is_logged_at_its_start_and_end():
    visit = Performance(painter(), look(), People([ADA]))
    (begin,) = entries("begin")
    assert entries("ended") == []
    del visit
    (ended,) = entries("ended")
    assert ended["run"] == begin["run"]


def test_nothing_is_made_where_the_log_cannot_be_written(set_policy, examples, tmp_path):
    (Path(os.environ["MIEN_HOME"]) / audit.FILE).mkdir()
    with pytest.raises(MediaError, match="audit"):
        api.swap(examples / PHOTO, ADA, tmp_path / "out.png", swapper=painter())
    assert list(tmp_path.iterdir()) == []
    set_policy("[audit]\non = false\n")
    api.swap_image(picture(0), ADA, swapper=painter())


def test_a_key_makes_the_log_one_that_cannot_be_forged(set_policy, tmp_path):
    home = Path(os.environ["MIEN_HOME"])
    (home / "log.key").write_bytes(b"long and secret\n")
    set_policy('[audit]\nkey = "log.key"\n')  # beside the policy
    api.swap_image(picture(0), ADA, swapper=painter())
    assert audit.AuditLog(home).verify().problems
    assert audit.AuditLog(home, key=b"long and secret").verify().problems == []
    set_policy('[audit]\nkey = "gone.key"\n')
    with pytest.raises(MediaError, match=r"gone\.key: the key of the audit log cannot be read"):
        api.swap_image(picture(0), ADA, swapper=painter())


# --- classifiers ----------------------------------------------------------------------------------


def brightness(path: Path, size: int = 16) -> Path:
    """Two numbers: how dark a picture is, and how bright, 0 to 1."""
    return tinynets.save(
        path,
        {"x": ("N", 3, size, size)},
        [
            tinynets.node("ReduceMean", "x", "m", axes=[1, 2, 3], keepdims=0),
            tinynets.node("Unsqueeze", "m axis", "bright"),
            tinynets.node("Sub", "one bright", "dark"),
            tinynets.node("Concat", "dark bright", "y", axis=1),
        ],
        {"y": ("N", 2)},
        axis=np.array([1]),
        one=np.float32(1),
    )


def classifier(path: Path, **how: Any) -> str:
    said = {"name": "bright", "model": path.name, "size": 16, "output": 1, "threshold": 0.7} | how
    lines = [f"{key} = {json.dumps(value)}" for key, value in said.items()]
    return "[[classifier]]\n" + "\n".join(lines) + "\n"


@pytest.fixture
def bright(set_policy):
    """Refuses bright pictures; the model lies beside the policy."""
    path = brightness(Path(os.environ["MIEN_HOME"]) / "bright.onnx")
    return lambda **how: set_policy(classifier(path, **how))


def test_a_target_that_the_classifier_refuses(bright):
    bright(roles=["target"])
    api.swap_image(picture(0), ADA, swapper=painter())  # grey, 100 of 255
    white = np.full_like(picture(0), 250)
    white[0, 0] = 0  # its time in the scene
    with pytest.raises(Refused, match="classifier bright refuses the target"):
        api.swap_image(white, ADA, swapper=painter())
    assert "classifier bright" in why()


def test_a_portrait_that_the_classifier_refuses(bright, examples, swapper):
    bright(threshold=0.05, roles=["portrait"])
    with pytest.raises(Refused, match=r"classifier bright refuses .*portrait-1\.jpg"):
        api.enrol(examples / PORTRAIT, "synthetic", swapper=swapper)
    assert "portrait-1" not in why()  # no names in the log
    bright(threshold=0.05, roles=["target"])
    api.enrol(examples / PORTRAIT, "synthetic", swapper=swapper)


def test_faces_alone_can_be_looked_at(bright):
    """The picture is grey, the face is what is bright."""
    bright(sees="face", roles=["target"])
    image = picture(0)
    api.swap_image(image, ADA, swapper=painter())
    (face,) = pipeline.Stream(painter(), still=True).observe(Frame(image.copy()))
    x0, y0, x1, y1 = (int(v) for v in face.box)
    side = max(x1 - x0, y1 - y0)
    image[y0 - side // 2 : y1 + side // 2, x0 - side // 2 : x1 + side // 2] = 250
    with pytest.raises(Refused, match="classifier bright"):
        api.swap_image(image, ADA, swapper=painter())


def test_a_classifier_that_is_missing_another_or_no_such_network(bright, set_policy, tmp_path):
    path = Path(os.environ["MIEN_HOME"]) / "bright.onnx"
    bright(output=2)
    with pytest.raises(ModelError, match="expected a number at output 2"):
        pipeline.Stream(painter())
    bright(size=24)
    with pytest.raises(ModelError, match="classifier bright"):
        pipeline.Stream(painter())
    bright(sha256="0" * 64)
    with pytest.raises(Refused, match="is another file"):
        pipeline.Stream(painter())
    bright(sha256=audit.sha256_of(path))
    pipeline.Stream(painter())
    path.unlink()
    bright()
    with pytest.raises(ModelNotFound):
        pipeline.Stream(painter())


# --- the commands ---------------------------------------------------------------------------------


def command(monkeypatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["mien", *words])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def test_policy_show_and_check(set_policy, monkeypatch, capsys, tmp_path):
    path = set_policy('live = false\n[marks]\nlabel_off = ["ada"]\n')
    assert command(monkeypatch, "policy", "show") == 0
    shown = capsys.readouterr().out
    assert f"# {path}" in shown
    assert "live = false" in shown
    again = tmp_path / "again.toml"
    again.write_text(shown)  # what is shown can be read
    assert policy.load(again).model_dump() == policy.load().model_dump()
    assert command(monkeypatch, "policy", "check", str(path)) == 0
    path.write_text("live = 3")
    assert command(monkeypatch, "policy", "check", str(path)) == 2
    assert f"mien: {path}: live:" in capsys.readouterr().err


def test_audit_show_and_verify(monkeypatch, capsys):
    home = Path(os.environ["MIEN_HOME"])
    assert command(monkeypatch, "audit", "show", "--head") == 2
    api.swap_image(picture(0), ADA, swapper=painter())
    capsys.readouterr()
    assert command(monkeypatch, "audit", "show", "--head") == 0
    head = capsys.readouterr().out.strip()
    assert command(monkeypatch, "audit", "verify", "--head", head) == 0
    assert command(monkeypatch, "audit", "show", "--event", "made", "--json") == 0
    shown = capsys.readouterr().out
    assert [e["event"] for e in json.loads(shown[shown.index("{") :])["entries"]] == ["made"]
    path = home / audit.FILE
    path.write_bytes(path.read_bytes().replace(b"synthetic", b"selfmades"))
    assert command(monkeypatch, "audit", "verify") == 1
    assert "was edited" in capsys.readouterr().err
