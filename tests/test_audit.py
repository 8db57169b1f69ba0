"""The log: every edit, insertion, removal and truncation is found, and a crash is none of them."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mien import audit
from mien.audit import AuditLog, Head
from mien.errors import MediaError, UsageError


def filled(folder: Path, count: int = 6, **how) -> AuditLog:
    folder.mkdir(parents=True, exist_ok=True)
    log = AuditLog(folder, **how)
    for number in range(count):
        log.append("made", run=f"{number:04x}", output={"sha256": "ab" * 32})
    return log


def lines(log: AuditLog) -> list[bytes]:
    return (log.folder / audit.FILE).read_bytes().splitlines()


def put(log: AuditLog, changed: list[bytes]) -> None:
    (log.folder / audit.FILE).write_bytes(b"".join(line + b"\n" for line in changed))


def test_an_entry_is_canonical_json_chained_by_sha256(tmp_path):
    """Computed here anew, by hand."""
    log = filled(tmp_path, 2)
    first, second = lines(log)
    assert json.loads(first)["prev"] == "0" * 64
    assert [json.loads(line)["n"] for line in (first, second)] == [0, 1]
    assert json.loads(second)["prev"] == json.loads(first)["hash"]
    for line in (first, second):
        entry = json.loads(line)
        said = entry.pop("hash")
        body = json.dumps(entry, sort_keys=True, separators=(",", ":")).encode()
        assert hashlib.sha256(body).hexdigest() == said
    assert log.head() == Head(1, json.loads(second)["hash"])
    found = log.verify()
    assert (found.entries, found.problems, found.notes) == (2, [], [])


def test_files_are_for_their_owner_alone(tmp_path):
    log = filled(tmp_path, 1)
    for name in (audit.FILE, audit.HEAD, audit.LOCK):
        assert (log.folder / name).stat().st_mode & 0o077 == 0, name


def test_an_empty_log_is_sound(tmp_path):
    found = AuditLog(tmp_path).verify()
    assert (found.entries, found.problems) == (0, [])


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_whatever_is_done_to_the_lines_is_found(tmp_path_factory, data):
    """Edits, inserts, removes, swaps, duplicates and cuts off; only doing nothing is sound."""
    log = filled(tmp_path_factory.mktemp("log"), 5)
    before = lines(log)
    after = list(before)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(0, len(after) - 1)))
        match data.draw(
            st.sampled_from(("edit", "blank", "insert", "remove", "swap", "again", "cut"))
        ):
            case "edit" if after and after[at]:
                place = data.draw(st.integers(0, len(after[at]) - 1))
                byte = data.draw(st.integers(33, 126))
                after[at] = after[at][:place] + bytes([byte]) + after[at][place + 1 :]
            case "blank" if after:
                after[at] = after[at].replace(b":", b": ", 1)
            case "insert":
                after.insert(at, data.draw(st.sampled_from((b"", b"{}", b"[]", b"x", before[0]))))
            case "remove" if after:
                del after[at]
            case "swap" if len(after) > 1:
                other = data.draw(st.integers(0, len(after) - 1))
                after[at], after[other] = after[other], after[at]
            case "again" if after:
                after.append(after[at])
            case "cut":
                del after[at:]
    put(log, after)
    assert bool(log.verify().problems) == (after != before)


def test_what_was_done_by_hand_is_found_after_more_was_written_too(tmp_path):
    """The next run puts it on record, so that a new head does not cover it."""
    log = filled(tmp_path)
    put(log, lines(log)[:4])
    assert "cut off" in log.verify().problems[0]
    log.append("made", run="later")
    problems = log.verify().problems
    assert len(problems) == 1
    assert "did not end where its head said" in problems[0]
    assert [e["event"] for e in log.entries()][-2:] == [audit.BROKEN, "made"]


def test_a_head_that_is_gone_or_of_another_log_is_found(tmp_path):
    log, other = filled(tmp_path / "a"), filled(tmp_path / "b")
    (log.folder / audit.HEAD).unlink()
    assert "missing or damaged" in log.verify().problems[0]
    (log.folder / audit.HEAD).write_bytes((other.folder / audit.HEAD).read_bytes())
    assert "does not fit" in log.verify().problems[0]


def test_a_log_that_was_written_anew_needs_an_anchor_to_be_found(tmp_path):
    """What a local log cannot prove, said in the docs: only what lies elsewhere shows it."""
    log = filled(tmp_path / "log")
    anchor = log.head()
    for path in log.folder.iterdir():
        path.unlink()
    forged = filled(tmp_path / "log", 7)
    assert forged.verify().problems == []
    assert "anchored" in forged.verify(anchor).problems[0]
    honest = filled(tmp_path / "honest")
    kept = honest.head()
    honest.append("made")
    assert honest.verify(kept).problems == []


def test_with_a_key_a_forger_cannot_compute_the_hashes(tmp_path):
    filled(tmp_path, 3, key=b"secret")
    assert AuditLog(tmp_path, key=b"secret").verify().problems == []
    assert len(AuditLog(tmp_path, key=b"guess").verify().problems) == 3
    assert len(AuditLog(tmp_path).verify().problems) == 3


@pytest.mark.parametrize("cut", [1, 10, 100])
def test_a_crash_in_the_middle_of_a_line_is_put_on_record_and_no_break(tmp_path, cut):
    log = filled(tmp_path, 3)
    whole = (log.folder / audit.FILE).read_bytes()
    line = json.dumps({"n": 3, "event": "made", "note": "x" * 200}).encode()
    (log.folder / audit.FILE).write_bytes(whole + line[:cut])
    found = log.verify()
    assert found.problems == []
    assert "cut short by a crash" in found.notes[0]
    log.append("made", run="after")
    assert [e["event"] for e in log.entries()] == ["made"] * 3 + [audit.TORN, "made"]
    found = log.verify()
    assert (found.problems, len(found.notes)) == ([], 1)
    # The torn line itself cannot be changed any more.
    data = (log.folder / audit.FILE).read_bytes()
    (log.folder / audit.FILE).write_bytes(data.replace(line[:cut] + b"\n{", b"?\n{"))
    assert log.verify().problems


def test_a_crash_before_the_end_of_line_or_before_the_head(tmp_path):
    log = filled(tmp_path, 3)
    head = (log.folder / audit.HEAD).read_bytes()
    log.append("made", run="four")
    path = log.folder / audit.FILE
    path.write_bytes(path.read_bytes()[:-1])
    (log.folder / audit.HEAD).write_bytes(head)
    assert log.verify().problems == []
    log.append("made", run="five")
    found = log.verify()
    assert (found.entries, found.problems, found.notes) == (5, [], [])


def test_a_whole_line_that_is_no_entry_is_no_crash(tmp_path):
    """A crash leaves no end of line; who appends rubbish does not get it excused."""
    log = filled(tmp_path, 2)
    path = log.folder / audit.FILE
    path.write_bytes(path.read_bytes() + b"rubbish\n")
    assert "is no entry" in log.verify().problems[0]
    log.append("made")
    assert any("is no entry" in problem for problem in log.verify().problems)


def test_two_crashes_on_end(tmp_path):
    log = filled(tmp_path, 2)
    path = log.folder / audit.FILE
    path.write_bytes(path.read_bytes() + b'{"n":2,"ha')
    log.append("made")
    data = path.read_bytes()
    torn = data.index(b'{"n":2,"ha') + len(b'{"n":2,"ha\n') + 20  # within the entry that said so
    path.write_bytes(data[:torn])
    (log.folder / audit.HEAD).write_bytes(
        json.dumps(
            {"head": f"1:{json.loads(data.splitlines()[1])['hash']}", "policy": ""},
        ).encode()
    )
    log.append("made", run="at last")
    found = log.verify()
    assert found.problems == []
    assert [e["event"] for e in log.entries()] == ["made", "made", audit.TORN, "made"]


def test_full_files_are_turned_over_and_the_chain_goes_on(tmp_path):
    log = filled(tmp_path, 40, limit=1500)
    files = log.files()
    assert len(files) > 5
    assert all(path.stat().st_size < 2500 for path in files)
    found = log.verify()
    assert (found.entries, found.problems, found.notes) == (40, [], [])
    files[2].unlink()
    assert any("removed" in problem for problem in log.verify().problems)


def test_old_files_are_removed_by_the_policy_and_their_removal_is_in_the_chain(tmp_path):
    log = filled(tmp_path, 60, limit=1500, keep=2)
    assert len(log.files()) <= 4
    found = log.verify()
    assert found.problems == []
    assert "removed by the number of files" in found.notes[0]
    log.files()[0].unlink()  # by hand
    assert any("are missing" in p or "removed" in p for p in log.verify().problems)


def test_another_policy_is_an_entry(tmp_path):
    log = AuditLog(tmp_path)
    for policy in ("default", "default", "a" * 64, "a" * 64):
        log.append("begin", policy=policy)
    events = [(e["event"], e.get("sha256"), e.get("before")) for e in log.entries()]
    assert events == [
        ("policy", "default", ""), ("begin", None, None), ("begin", None, None),
        ("policy", "a" * 64, "default"), ("begin", None, None), ("begin", None, None),
    ]  # fmt: skip


def write_many(folder: str, count: int) -> None:
    log = AuditLog(Path(folder), limit=6000)
    for number in range(count):
        log.append("made", run=str(number))


def test_several_processes_and_threads_write_one_chain(tmp_path):
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=write_many, args=(str(tmp_path), 25)) for _ in range(2)]
    for process in others:
        process.start()
    threads = [threading.Thread(target=write_many, args=(str(tmp_path), 25)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for worker in (*threads, *others):
        worker.join(60)
    found = AuditLog(tmp_path).verify()
    assert (found.entries, found.problems) == (125, [])


def test_what_cannot_be_an_entry(tmp_path):
    log = AuditLog(tmp_path)
    for facts, words in (
        ({"hash": "x"}, "a name of the log's own"),
        ({"note": "x" * 70_000}, "are the most"),
        ({"value": float("nan")}, "audit log"),
        ({"value": object()}, "audit log"),
    ):
        with pytest.raises(UsageError, match=words):
            log.append("made", **facts)
    assert list(log.entries()) == []


def test_a_log_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / audit.FILE).mkdir()
    with pytest.raises(MediaError, match="audit"):
        AuditLog(tmp_path).append("made")


def test_a_copy_for_reading_alone_can_be_checked(tmp_path):
    log = filled(tmp_path / "log", 3)
    (log.folder / audit.LOCK).unlink()
    (log.folder / audit.LOCK).mkdir()  # cannot be opened
    assert log.verify().entries == 3


@pytest.mark.parametrize("words", ["", "5", "x:" + "0" * 64, "5:zz", "5:" + "0" * 63])
def test_heads_in_words(words):
    with pytest.raises(UsageError, match="NUMBER:HASH"):
        Head.of(words)
    assert Head.of(str(Head(7, "ab" * 32))) == Head(7, "ab" * 32)
