"""The notice is shown once, to people alone, and says what the page says."""

from __future__ import annotations

import html
import io
import os
import re
from pathlib import Path

import pytest

from mien import notice
from mien.cli import main


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_it_is_shown_once_on_a_terminal():
    first, second = Screen(), Screen()
    assert notice.show_once(stream=first)
    assert not notice.show_once(stream=second)
    assert "agreed to it" in first.getvalue()
    assert second.getvalue() == ""


def test_a_script_gets_nothing_and_nothing_is_remembered_for_it():
    pipe = io.StringIO()
    assert not notice.show_once(stream=pipe)
    assert pipe.getvalue() == ""
    assert not (Path(os.environ["MIEN_HOME"]) / notice.FILE).exists()
    assert notice.show_once(stream=Screen())


def test_where_it_cannot_be_remembered_it_is_shown_again(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MIEN_HOME", str(tmp_path / "file" / "home"))
    assert notice.show_once(stream=Screen())
    assert notice.show_once(stream=Screen())


def test_another_text_is_shown_anew():
    assert notice.show_once(stream=Screen())
    assert notice.show_once("abuse@example.org", stream=Screen())


def test_the_page_says_the_same(root):
    page = (root / "src/mien/serve/static/index.html").read_text("utf-8")
    words = html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page)))
    for sentence in notice.SHARED:
        assert sentence in words, sentence


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("", "Report abuse as SECURITY.md says."),
        ('contact = "a@b.org"', "Report abuse to a@b.org."),
    ],
)
def test_the_command_shows_it_with_the_operators_contact(
    set_policy, monkeypatch, capsys, policy, said
):
    set_policy(policy)
    monkeypatch.setattr("sys.argv", ["mien", "notice"])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 0
    assert said in capsys.readouterr().out
