"""Models of users: files, cards, pins and contracts."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save

from mien import runtime, zoo
from mien.errors import MediaError, ModelError, ModelNotFound, Refused, UsageError
from mien.zoo import contract, own, pins

FACE = (1, 3, 128, 128)


def network(path: Path, inputs: dict[str, tuple], outputs: int = 1) -> Path:
    """A graph with these inputs; every output is the first input plus a constant."""
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()]
    first, shape = next(iter(inputs.items()))
    names = [f"output{n}" for n in range(outputs)]
    nodes = [helper.make_node("Add", [first, "one"], [name]) for name in names]
    made = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in names]
    one = numpy_helper.from_array(np.ones(1, np.float32), "one")
    graph = helper.make_graph(nodes, "tiny", values, made, [one])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(model, path)
    return path


@pytest.fixture
def models(tmp_path):
    return zoo.Zoo.at(tmp_path / "models")


@pytest.fixture
def swapper(tmp_path):
    return network(tmp_path / "my.onnx", {"target": FACE, "source": (1, 512)})


def card_file(models: zoo.Zoo, text: str, name: str = "mine") -> Path:
    file = models.folder / "cards" / f"{name}.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, "utf-8")
    return file


def names(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# --- The folder ------------------------------------------------------------------------------


def test_the_folder_is_the_system_s(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert zoo.default_folder() == tmp_path / "mien" / "models"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert zoo.default_folder() == tmp_path / ".local" / "share" / "mien" / "models"
    monkeypatch.setattr("sys.platform", "darwin")
    assert zoo.default_folder() == tmp_path / "Library/Application Support/mien/models"
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert zoo.default_folder() == tmp_path / "local" / "mien" / "models"


def test_the_default_chain_writes_nothing(models):
    models.open("relight")
    assert not models.folder.exists()


def test_a_missing_model_says_how_to_get_it(models):
    with pytest.raises(ModelNotFound, match="'mien models pull inswapper_128'"):
        models.open("inswapper_128")
    sha = zoo.find("inswapper_128").sha256
    with pytest.raises(ModelNotFound, match=f"put its file .SHA-256 {sha}. at .*published at ht"):
        replace(models, offline=True).open("inswapper_128")
    with pytest.raises(ModelNotFound, match="knows no source"):
        models.open("w600k_mbf")
    with pytest.raises(ModelNotFound, match="--like dfm --name NAME"):
        models.open("dfm")


def test_the_licence_is_asked_before_the_file(models):
    strict = replace(models, commercial=True)
    for name in (
        "inswapper_128",
        "arcface_w600k_r50",
        "crossface_ghost",
        "hififace_unofficial_256",
    ):
        with pytest.raises(Refused, match=rf'{name} .*licence: .*licence = "commercial"'):
            strict.open(name)
    strict.open("relight")


def test_another_model_s_file_is_named(models, monkeypatch):
    models.folder.mkdir()
    card = models.find("inswapper_128_fp16")
    models.locate(card).write_bytes(b"weights")
    other = models.find("inswapper_128_fp16_reactor").sha256
    monkeypatch.setattr(pins, "digest", lambda _: other)
    with pytest.raises(ModelError, match="which is the file of inswapper_128_fp16_reactor"):
        models.path(card)


# --- Pins ------------------------------------------------------------------------------------

FIRST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"  # of "test"


@pytest.fixture
def pinning(models):
    """A published model without a published hash, and its file."""
    card = models.find("ghost_2_256")
    assert not card.sha256
    models.folder.mkdir()
    models.locate(card).write_text("test")
    return card, models.locate(card)


def test_first_use_pins_and_says_so(models, pinning, caplog):
    caplog.set_level(logging.INFO, "mien")
    card, file = pinning
    assert zoo.pinned(card, models.folder) == ""
    assert models.path(card) == file
    assert zoo.pinned(card, models.folder) == FIRST
    assert caplog.messages == [f"ghost_2_256: no SHA-256 has been published; pinned to {FIRST}"]
    models.path(card)
    assert len(caplog.messages) == 1


def test_a_file_that_changed_after_it_was_pinned_is_refused(models, pinning):
    card, file = pinning
    models.path(card)
    file.write_text("tast")
    for _ in range(2):  # a refusal pins nothing
        with pytest.raises(ModelError, match=rf"expected SHA-256 {FIRST} as when .*delete .*json"):
            models.path(card)
    file.write_text("test")
    assert models.path(card) == file
    file.write_text("tast")
    pins.pin_of(card, models.folder).unlink()
    assert models.path(card) == file


def test_a_file_is_hashed_only_when_it_changed(models, pinning, monkeypatch):
    card, file = pinning
    models.path(card)
    hashed = []
    digest = pins.digest
    monkeypatch.setattr(pins, "digest", lambda f: hashed.append(f) or digest(f))
    models.path(card)
    assert hashed == []
    os.utime(file, ns=(1, 1))
    models.path(card)
    models.path(card)
    assert hashed == [file]
    models.verify(card)
    assert hashed == [file, file]


def test_a_hash_that_was_published_later_wins(models, pinning):
    card, _ = pinning
    models.path(card)
    with pytest.raises(ModelError, match="expected SHA-256 000"):
        models.path(replace(card, sha256="0" * 64))
    models.path(replace(card, sha256=FIRST))


def test_a_damaged_pin_is_an_error(models, pinning):
    card, _ = pinning
    for text in ("{", "[]", '{"sha256": 1}', "\x00"):
        pins.pin_of(card, models.folder).parent.mkdir(exist_ok=True)
        pins.pin_of(card, models.folder).write_text(text)
        with pytest.raises(ModelError, match=r"ghost_2_256\.json: .*delete it"):
            models.path(card)


def test_a_folder_that_cannot_be_written_is_no_obstacle(models, pinning, caplog, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pins, "write", refuse)
    models.path(pinning[0])
    assert caplog.messages[0].endswith("the hash cannot be kept (Permission denied)")


def use_often(folder, number):
    models = zoo.Zoo(folder=Path(folder))
    for n in range(20):
        for card in (models.find("ghost_2_256"), models.find("ghost_3_256")):
            models.path(card)
            os.utime(models.locate(card), ns=(number * 100 + n, number * 100 + n))


def test_processes_do_not_disturb_each_other(models, pinning):
    models.locate(models.find("ghost_3_256")).write_text("other")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=use_often, args=(str(models.folder), n)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert zoo.pinned(pinning[0], models.folder) == FIRST
    assert sorted(p.name for p in (models.folder / "pins").iterdir()) == [
        "ghost_2_256.json", "ghost_3_256.json",
    ]  # fmt: skip


# --- Contracts -------------------------------------------------------------------------------

WRONG = {
    # what is wrong: (model it should be, inputs of the graph, what the message says)
    "size": (
        "inswapper_128", {"target": (1, 3, 256, 256), "source": (1, 512)},
        r"input target \(N, 3, 128, 128\), came \(1, 3, 256, 256\)",
    ),
    "layout": (
        "inswapper_128", {"target": (1, 128, 128, 3), "source": (1, 512)},
        r"input target \(N, 3, 128, 128\), came \(1, 128, 128, 3\)",
    ),
    "layout of a tall picture": (
        "xseg_1", {"input": (1, 3, 256, 256)}, r"input input \(N, 256, 256, 3\), came",
    ),
    "rank": (
        "2dfan4", {"input": (3, 256, 256)},
        r"input input \(N, 3, 256, 256\), came \(3, 256, 256\)",
    ),
    "too few inputs": (
        "inswapper_128", {"target": FACE}, r"2 inputs \(a picture, a vector\), came 1",
    ),
    "too many inputs": (
        "arcface_w600k_r50", {"a": (1, 3, 112, 112), "b": (1, 3, 112, 112)}, "1 inputs .*came 2",
    ),
    "an embedding of another length": (
        "ghost_1_256", {"target": (1, 3, 256, 256), "source": (1, 256)},
        r"input source \(N, 512\), came \(1, 256\)",
    ),
    "a picture for a vector": (
        "hyperswap_1a_256", {"target": (1, 3, 256, 256), "source": (1, 3, 112, 112)},
        r"input source \(N, 512\)",
    ),
    "a source of another size": (
        "blendswap_256", {"source": (1, 3, 256, 256), "target": (1, 3, 256, 256)},
        r"input source \(N, 3, 112, 112\)",
    ),
    "a converter of pictures": ("crossface_ghost", {"input": FACE}, r"input input \(N, 512\)"),
    "four channels": (
        "real_esrgan_x4", {"input": (1, 4, 64, 64)}, r"input input \(N, 3, any, any\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_graphs_of_another_kind_are_refused(what, tmp_path):
    name, inputs, said = WRONG[what]
    model = runtime.load(network(tmp_path / "graph.onnx", inputs), name="mine")
    with pytest.raises(ModelError, match=f"mine: not a network of the kind .*expected {said}"):
        contract.check(replace(zoo.find(name), outputs={}), model)


RIGHT = {
    "inswapper_128": {"target": FACE, "source": (1, 512)},
    "hyperswap_1a_256": {"source": (1, 512), "target": ("n", 3, 256, 256)},
    "simswap_unofficial_512": {"onnx::Gemm_1": (1, 512), "input": (1, 3, 512, 512)},
    "blendswap_256": {"target": (1, 3, 256, 256), "source": (1, 3, 112, 112)},
    "uniface_256": {"a": (1, 3, 256, 256), "b": (1, 3, 256, 256)},
    "crossface_simswap": {"input": ("n", 512)},
    "codeformer": {"weight": (1,), "input": (1, 3, 512, 512)},
    "gfpgan_1.4": {"input": (1, 3, 512, 512)},
    "scrfd_2.5g": {"input.1": (1, 3, "height", "width")},
    "yunet_n": {"input": ("n", 3, "height", "width")},
    "real_esrgan_x2": {"input": (1, 3, "height", "width")},
    "xseg_2": {"input": ("n", 256, 256, 3)},
    "dfm": {"in_face:0": ("n", 224, 224, 3), "morph_value:0": (1,)},
}


@pytest.mark.parametrize("name", RIGHT)
def test_graphs_of_the_kind_are_taken(name, tmp_path):
    file = network(tmp_path / "graph.onnx", RIGHT[name], outputs=3)
    contract.check(zoo.find(name), runtime.load(file))


def test_too_few_outputs_are_refused(tmp_path):
    model = runtime.load(network(tmp_path / "graph.onnx", {"in_face:0": (1, 224, 224, 3)}))
    with pytest.raises(ModelError, match=r"expected 3 outputs .*came 1"):
        contract.check(zoo.find("dfm"), model)


def test_opening_checks_the_contract(models, tmp_path):
    file = network(models.folder / "ghost_2_256.onnx", {"target": FACE, "source": (1, 512)})
    with pytest.raises(ModelError, match=r"ghost_2_256: not a network of the kind ghost"):
        models.open("ghost_2_256")
    assert file.is_file()


# --- Adding ----------------------------------------------------------------------------------


def test_add_then_use(models, swapper):
    card = zoo.add(models, swapper, like="inswapper_128", name="mine")
    assert names(models.folder) == ["cards/mine.toml", "pins/mine.json"]
    again = zoo.Zoo.at(models.folder)
    assert again.find("mine") == card
    assert again.open("mine")[1].inputs["source"] == (1, 512)
    like = zoo.find("inswapper_128")
    assert (card.swap, card.template, card.std) == (like.swap, like.template, like.std)
    assert (card.licence, card.commercial, card.sources) == ("unknown", False, ())
    assert card.sha256 == pins.digest(swapper)
    swapper.write_bytes(swapper.read_bytes() + b"\0")
    with pytest.raises(ModelError, match=r"my\.onnx: expected SHA-256"):
        again.open("mine")


def test_add_a_copy(models, swapper):
    card = zoo.add(
        models, swapper, like="inswapper_128", name="mine", licence="CC0-1.0", commercial=True,
        copy=True,
    )  # fmt: skip
    data = swapper.read_bytes()
    swapper.unlink()
    again = replace(zoo.Zoo.at(models.folder), commercial=True)
    again.open("mine")
    assert (card.licence, card.commercial, card.bytes) == ("CC0-1.0", True, len(data))
    assert names(models.folder) == ["cards/mine.toml", "mine.onnx", "pins/mine.json"]
    zoo.remove(again, again.find("mine"))
    assert names(models.folder) == []


def test_add_another_size(models, tmp_path):
    file = network(tmp_path / "big.onnx", {"target": (1, 3, 256, 256), "source": (1, 512)})
    with pytest.raises(ModelError, match=r"\(N, 3, 128, 128\), came"):
        zoo.add(models, file, like="inswapper_128", name="big")
    assert not models.folder.exists()
    card = zoo.add(models, file, like="inswapper_128", name="big", size=256)
    np.testing.assert_allclose(card.template[0], (92.5892, 103.3926), atol=1e-3)


def test_a_pattern_takes_its_size_from_the_graph(models, tmp_path):
    file = network(tmp_path / "me.dfm", {"in_face:0": ("n", 320, 320, 3)}, outputs=3)
    card = zoo.add(models, file, like="dfm", name="me", copy=True)
    assert (card.size, card.file) == (320, "me.dfm")
    np.testing.assert_allclose(card.template[0], (0.35342266 * 320, 0.39285716 * 320), atol=1e-3)
    assert zoo.Zoo.at(models.folder).open("me")[0] == card


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "relight"}, "'relight' is the name of a model that mien knows"),
        ({"name": "mesh"}, "'mesh' is the name of"),
        ({"name": "../mine"}, "name: expected letters"),
        ({"name": "a/b"}, "name: expected letters"),
        ({"name": ".hidden"}, "name: expected letters"),
        ({"name": "relight:eyes"}, "name: expected letters"),
        ({"name": ""}, "name: expected letters"),
        ({"like": "nothing"}, "like: expected the name of a model that mien knows, came 'nothing'"),
        ({"size": 10**6}, "size: expected a number from 0 to 8192"),
    ],
)
def test_add_refuses(models, swapper, changes, said):
    with pytest.raises(UsageError, match=said):
        zoo.add(models, swapper, **({"like": "inswapper_128", "name": "mine"} | changes))
    assert not models.folder.exists()


def test_add_refuses_what_is_no_model(models, tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        zoo.add(models, tmp_path / "gone.onnx", like="inswapper_128", name="mine")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(ModelError, match=r"text\.onnx"):
        zoo.add(models, tmp_path / "text.onnx", like="inswapper_128", name="mine")
    assert not models.folder.exists()


def test_add_refuses_a_name_that_is_taken(models, swapper):
    zoo.add(models, swapper, like="inswapper_128", name="mine")
    with pytest.raises(UsageError, match="'mine' has a card already; 'mien models remove mine'"):
        zoo.add(zoo.Zoo.at(models.folder), swapper, like="inswapper_128", name="mine")


def test_a_name_with_quotes_in_its_licence(models, swapper):
    text = 'mine "only" \\ ünïcödé \x7f'
    zoo.add(models, swapper, like="inswapper_128", name="mine", licence=text)
    assert zoo.Zoo.at(models.folder).find("mine").licence == text


def test_a_folder_that_is_none(models, swapper, pinning, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MediaError, match="file/models: cannot be made"):
        zoo.add(
            zoo.Zoo.at(tmp_path / "file" / "models"), swapper, like="inswapper_128", name="mine"
        )
    card, file = pinning
    file.unlink()
    file.mkdir()
    with pytest.raises(ModelError, match=r"ghost_2_256\.onnx: cannot be read"):
        pins.check(card, file, models.folder)


# --- Cards -----------------------------------------------------------------------------------


def test_every_key_can_be_set(models):
    card_file(
        models,
        """
        like = "uniface_256"
        name = "other"
        task = "generate"
        family = "uniface"
        file = "other.onnx"
        licence = "MIT"
        commercial = true
        origin = "me"
        sources = ["https://example.org/other.onnx"]
        sha256 = "%s"
        bytes = 12
        size = 512
        multiple = 2
        layout = "NHWC"
        order = "BGR"
        mean = 1
        std = [2, 3.5, 4]
        template = "ffhq_512"
        threshold = 0.25
        scale = 2
        precision = "fp16"
        outputs = { a = [3, "rows"] }

        [swap]
        source_size = 112
        source_template = "arcface_112_v2"
        normalise = false
        offset = -0.5
        output_std = 255
        """
        % ("a" * 64),
    )
    card = zoo.Zoo.at(models.folder).find("other")
    assert (card.name, card.file, card.commercial, card.size) == ("other", "other.onnx", True, 512)
    assert (card.mean, card.std) == ((1.0, 1.0, 1.0), (2.0, 3.5, 4.0))
    assert (card.layout, card.order, card.precision) == ("NHWC", "BGR", "fp16")
    assert card.outputs == {"a": (3, "rows")}
    np.testing.assert_allclose(card.template[0], (192.981, 239.947), atol=1e-3)
    assert card.swap is not None
    np.testing.assert_allclose(card.swap.source_template[0], (38.2946, 51.6963), atol=1e-3)
    assert (card.swap.source, card.swap.normalise, card.swap.offset) == ("image", False, -0.5)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("sise = 128", "sise: unknown key; known are like, name, task"),
        ("shipped = true", "shipped: unknown key"),
        ("swap.sauce = 1", r"swap\.sauce: unknown key; known are source, "),
        ("swap = 1", "swap: expected a table, came 1"),
        ("size = 128.0", "size: expected a whole number, came 128.0"),
        ("size = true", "size: expected a whole number, came True"),
        ("commercial = 'yes'", "commercial: expected true or false, came 'yes'"),
        ("layout = 'CHW'", "layout: expected one of NHWC, NCHW, came 'CHW'"),
        ("task = 'swap'", "task: expected one of detect, "),
        ("mean = [1, 2]", "mean: expected a number, or three of them, came"),
        ("std = [0, 1, 1]", "std: expected numbers other than 0"),
        ("std = [nan, 1, 1]", "std: expected a number"),
        ("template = [[1, 2]]", "template: expected five points"),
        ("template = 'arcface'", "template: expected five points .* or one of arcface_112_v1"),
        ("outputs = [1]", "outputs: expected a table of names and shapes"),
        ("sha256 = 'abc'", "sha256: expected 64 hexadecimal digits"),
        ("sources = 'https://a'", "sources: expected a list of texts"),
        ("sources = ['file:///etc/passwd']", "sources: expected addresses that begin with https"),
        ("sources = ['http://a/b']", "sources: http:// needs a sha256"),
        ("scale = 0", "scale: expected a number from 1 to 16"),
        ("file = '../../secret'", "file: expected a name in the folder of models, or a full path"),
        ("file = 'a/b.onnx'", "file: expected a name"),
        ("file = '..'", "file: expected a name"),
        ('file = "a\\\\b.onnx"', "file: expected a name"),
        ('file = "a\\u0000"', "file: expected a name"),
        ("file = ''", "file: expected a name"),
        ("name = 'inswapper_128'", "name: 'inswapper_128' is the name of"),
        ("name = '../../x'", "name: expected letters"),
        ("like = 'mine'", "like: expected the name of a model that mien knows, came 'mine'"),
        ("= 1", "is not valid TOML"),
    ],
)
def test_a_wrong_card_is_named_with_its_key(models, line, said):
    key = line.split()[0]
    base = {"like": "like = 'inswapper_128'", "file": "file = 'mine.onnx'"}
    base.pop(key, None)
    file = card_file(models, "\n".join([*base.values(), line]))
    with pytest.raises(ModelError, match=f"{file}: {said}"):
        zoo.Zoo.at(models.folder)


def test_a_card_of_a_detector_has_no_swap(models):
    card_file(models, "like = 'yunet_n'\nfile = 'a.onnx'\nswap.offset = 1")
    with pytest.raises(ModelError, match="swap: yunet_n makes no faces"):
        zoo.Zoo.at(models.folder)


def test_two_cards_of_one_name(models):
    card_file(models, "like = 'yunet_n'\nfile = 'a.onnx'", "one")
    card_file(models, "like = 'yunet_n'\nfile = 'b.onnx'\nname = 'one'", "two")
    with pytest.raises(ModelError, match=r"two\.toml: name: one has a card already"):
        zoo.Zoo.at(models.folder)


def test_what_is_of_a_file_is_not_taken_from_the_model_that_it_is_like():
    card = own.card_of({"like": "yunet_2023_mar", "name": "a", "file": "a.onnx"}, zoo.CARDS)
    assert (card.licence, card.commercial, card.sha256) == ("unknown", False, "")
    assert (card.bytes, card.sources, card.shipped) == (0, (), False)
    assert card.order == "BGR"


# --- Removing --------------------------------------------------------------------------------


def test_remove_leaves_a_user_s_own_file(models, swapper):
    zoo.add(models, swapper, like="inswapper_128", name="mine")
    again = zoo.Zoo.at(models.folder)
    gone = zoo.remove(again, again.find("mine"))
    assert [p.name for p in gone] == ["mine.json", "mine.toml"]
    assert swapper.is_file()
    with pytest.raises(ModelNotFound, match="'mine'"):
        zoo.Zoo.at(models.folder).find("mine")


def test_remove_a_fetched_file(models, pinning):
    card, file = pinning
    models.path(card)
    (models.folder / "partial" / card.file).mkdir(parents=True)
    (models.folder / "partial" / card.file / "part").write_text("half")
    assert len(zoo.remove(models, card)) == 3
    assert names(models.folder) == []
    assert not file.exists()
    with pytest.raises(ModelNotFound, match="nothing to remove"):
        zoo.remove(models, card)


def test_remove_follows_no_link(models, pinning, tmp_path):
    card, file = pinning
    file.unlink()
    precious = tmp_path / "precious.onnx"
    precious.write_text("mine")
    file.symlink_to(precious)
    zoo.remove(models, card)
    assert precious.read_text() == "mine"


def test_remove_spares_what_another_card_names(models, pinning):
    _, file = pinning
    card_file(models, f"like = 'ghost_1_256'\nfile = '{file.name}'")
    again = zoo.Zoo.at(models.folder)
    zoo.remove(again, again.find("mine"))
    assert file.is_file()


def test_remove_never_a_shipped_one(models):
    with pytest.raises(UsageError, match="relight is part of mien"):
        zoo.remove(models, zoo.find("relight"))


def test_a_pin_says_what_it_is_of(models, swapper):
    zoo.add(models, swapper, like="inswapper_128", name="mine")
    pin = json.loads((models.folder / "pins" / "mine.json").read_text())
    stat = swapper.stat()
    assert pin == {
        "sha256": pins.digest(swapper), "file": str(swapper), "bytes": stat.st_size,
        "mtime_ns": stat.st_mtime_ns,
    }  # fmt: skip
