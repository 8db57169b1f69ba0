"""``mien models`` as a user meets it."""

from __future__ import annotations

import json
import os
import shutil
import threading
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from material import PHOTO, PORTRAIT
from mien import cli, zoo
from mien.zoo import store
from test_zoo_own import network

SWAP = ("-s", PORTRAIT, "--consent", "synthetic", "-t", PHOTO, "-o", "out.png")


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run ``mien models`` here, with a folder of its own; gives status, output and errors."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("MIEN_") and name != "MIEN_HOME":
            monkeypatch.delenv(name)
    monkeypatch.setenv("MIEN_MODELS", str(tmp_path / "models"))

    def run(*words, command="models"):
        monkeypatch.setattr("sys.argv", ["mien", command, *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capfd.readouterr()
        return left.value.code, said.out, said.err

    return run


@pytest.fixture
def swapper(tmp_path):
    return network(tmp_path / "my.onnx", {"target": (1, 3, 128, 128), "source": (1, 512)})


def test_list(run):
    status, out, err = run("list")
    assert (status, err) == (0, "")
    lines = [line.split("\t") for line in out.splitlines()]
    assert lines[0] == ["name", "task", "commercial", "size", "state", "licence"]
    assert [line[0] for line in lines[1:]] == [card.name for card in zoo.CARDS]
    rows = {line[0]: line[1:] for line in lines[1:]}
    assert rows["relight"] == ["generate", "yes", "2.8 MB", "shipped", "Apache-2.0"]
    assert rows["inswapper_128"][:4] == ["generate", "no", "554.3 MB", "missing"]
    assert rows["dfm"][3] == "pattern"


def test_list_as_json(run, tmp_path):
    status, out, _ = run("list", "--task", "segment", "--json")
    listed = json.loads(out)
    assert (status, listed["folder"]) == (0, str(tmp_path / "models"))
    assert {row["name"] for row in listed["models"]} == {
        "bisenet_resnet_18", "bisenet_resnet_34", "xseg_1", "xseg_2", "xseg_3",
    }  # fmt: skip
    assert listed["models"][0]["bytes"] == 53_205_356
    status, _, err = run("list", "--task", "swap")
    assert status == 2
    assert "--task 'swap' is unknown; known are detect" in err


def test_list_on_a_terminal(run, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("TERM", "dumb")
    status, out, _ = run("list", "--task", "occlude")
    assert status == 0
    assert "┃ name " in out
    rows = [[cell.strip() for cell in line.split("│")] for line in out.splitlines()]
    assert ["occlude", "occlude", "yes"] in [row[1:4] for row in rows]


def test_show(run, tmp_path):
    status, out, _ = run("show", "reswapper_256")
    assert status == 0
    facts = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert facts["swap.offset"] == "0.5"
    assert facts["state"] == "missing"
    assert facts["commercial"] == "no"
    _, out, _ = run("show", "reswapper_256", "--json")
    shown = json.loads(out)
    assert shown["swap"]["converter"] == "emap"
    assert shown["path"] == str(tmp_path / "models" / "reswapper_256.onnx")
    assert json.loads(run("show", "dfm", "--json")[1])["path"] is None
    status, _, err = run("show", "reswaper_256")
    assert status == 1
    assert "did you mean reswapper_256" in err


def test_add_swap_verify_remove(run, tmp_path, swapper):
    """A model of one's own is known to all commands until it is removed."""
    status, out, err = run("add", swapper, "--like", "inswapper_128", "--name", "mine", "--copy")
    assert (status, err) == (0, "")
    sha = zoo.Zoo.at(tmp_path / "models").find("mine").sha256
    assert out.splitlines()[1] == f"mine: pinned to SHA-256 {sha}"
    listed = json.loads(run("list", "--task", "generate", "--json")[1])["models"]
    assert [row["state"] for row in listed if row["name"] == "mine"] == ["present"]
    assert run("verify", "mine")[:2] == (0, "mine: as its card says\n")
    with (tmp_path / "models" / "mine.onnx").open("ab") as stream:
        stream.write(b"\0")
    status, out, err = run("verify", "--json")
    assert status == 1
    assert "mine.onnx: expected SHA-256" in err
    bad = [row for row in json.loads(out)["models"] if not row["good"]]
    assert [row["name"] for row in bad] == ["mine"]
    assert run("remove", "relight")[0] == 2
    status, out, _ = run("remove", "mine")
    assert status == 0
    assert out.count("removed") == 3
    assert swapper.is_file()
    assert run("show", "mine")[0] == 1


def test_add_of_another_kind(run, tmp_path, swapper):
    status, _, err = run("add", swapper, "--like", "hyperswap_1a_256", "--name", "mine")
    assert status == 1
    assert "expected input target (N, 3, 256, 256), came (1, 3, 128, 128)" in err
    assert not (tmp_path / "models").exists()
    status, _, err = run("add", swapper, "--like", "inswapper_128", "--name", "a/b")
    assert status == 2
    assert "name: expected letters" in err


def test_a_wrong_card_stops_every_command(run, tmp_path):
    file = tmp_path / "models" / "cards" / "mine.toml"
    file.parent.mkdir(parents=True)
    file.write_text('like = "inswapper_128"\nfile = "a.onnx"\nsise = 1')
    for words in (("list",), ("verify",)):
        status, _, err = run(*words)
        assert status == 1
        assert f"{file}: sise: unknown key" in err


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def published(tmp_path, swapper, monkeypatch):
    """A local server that has a generator and its converter, listed as if mien knew them."""
    files = tmp_path / "published"
    files.mkdir()
    shutil.move(swapper, files / "swapper.onnx")
    network(files / "converter.onnx", {"input": (1, 512)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=files))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    like = zoo.find("inswapper_128")
    assert like.swap is not None
    converter = replace(
        zoo.find("crossface_ghost"), name="theirs_converter", file="converter.onnx", bytes=0,
        sources=(f"{url}/converter.onnx",),
    )  # fmt: skip
    generator = replace(
        like, name="theirs", file="swapper.onnx", sha256=store.pins.digest(files / "swapper.onnx"),
        bytes=0, sources=(f"{url}/swapper.onnx",),
        swap=replace(like.swap, recogniser="relight", converter="theirs_converter"),
    )  # fmt: skip
    monkeypatch.setattr(store, "CARDS", (*zoo.CARDS, converter, generator))
    yield files
    server.shutdown()
    server.server_close()
    thread.join()


def test_pull_with_what_it_needs(run, tmp_path, published):
    status, out, err = run("pull", "theirs")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    folder = tmp_path / "models"
    assert lines[0].startswith("relight: is here")
    assert lines[1] == (
        f"theirs_converter: fetched, {folder / 'converter.onnx'} (unknown; no commercial use)"
    )
    sha = store.pins.digest(folder / "converter.onnx")
    assert lines[2].startswith(f"theirs_converter: pinned to SHA-256 {sha}")
    assert lines[3].startswith("theirs: fetched")
    assert run("verify", "theirs", "theirs_converter")[1] == (
        "theirs: as its card says\ntheirs_converter: as pinned\n"
    )
    _, out, _ = run("pull", "theirs", "--json")
    assert [row["state"] for row in json.loads(out)["models"]] == ["shipped", "present", "present"]


def test_pull_says_what_it_may_not(run, tmp_path, published):
    for flag, word in (("--offline", "offline"), ("--licence=commercial", "commercially")):
        status, out, err = run("pull", "theirs_converter", flag)
        assert (status, out) == (2, "")
        assert word in err
    assert not (tmp_path / "models").exists()
    (published / "converter.onnx").unlink()
    status, _, err = run("pull", "theirs_converter")
    assert status == 1
    assert "the server answered 404" in err


def test_first_use_without_a_known_hash_is_said(run, tmp_path, published):
    shutil.copytree(published, tmp_path / "models")
    _, out, _ = run("verify", "theirs_converter")
    assert "pinned to SHA-256" in out
    assert "nobody has published its hash" in out


def test_other_commands_say_what_is_missing_and_fetch_nothing(run, tmp_path):
    for flag, words in ((), "mien models pull "), (("--offline",), "put its file (SHA-256"):
        swap = (*SWAP, "--generator", "hififace_unofficial_256", *flag)
        status, _, err = run(*swap, command="swap")
        assert status == 1
        assert words in err
    status, _, err = run(
        *SWAP, "--generator", "inswapper_128", "--licence", "commercial", command="swap"
    )
    assert status == 2
    assert "may not be used commercially" in err
    assert not list(tmp_path.iterdir())
