"""Rows and files of the service: SQLite and a folder, PostgreSQL and an S3-compatible store."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import servers
from mien.errors import MediaError

sqlalchemy = pytest.importorskip("sqlalchemy")

from alembic.autogenerate import compare_metadata  # noqa: E402
from alembic.migration import MigrationContext  # noqa: E402
from sqlalchemy import select, text  # noqa: E402
from sqlalchemy.exc import IntegrityError  # noqa: E402

from mien.service.database import Database, Event, File, Job, Key, Part, Row, new_id  # noqa: E402
from mien.service.files import Files  # noqa: E402


@pytest.fixture(scope="module")
def cluster() -> Iterator[servers.Postgres]:
    if servers.postgres_programs() is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with tempfile.TemporaryDirectory(prefix="mien-pg-") as folder:
        Path(folder).chmod(0o755)
        with servers.postgres(Path(folder)) as server:
            yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.system)])
def database(request, tmp_path) -> Iterator[Database]:
    if request.param == "sqlite":
        made = Database(f"sqlite:///{tmp_path / 'rows.db'}")
    else:
        made = Database(request.getfixturevalue("cluster").url)
        with made.engine.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
    made.upgrade()
    yield made
    made.close()


def job(**more: object) -> Job:
    return Job(**{"tenant": "a", "key": "k", "kind": "video", "asked": {"faces": "all"}} | more)


def test_migrations_make_the_rows_that_the_program_has(database):
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Row.metadata) == []


def test_upgrading_again_changes_nothing(database):
    with database() as rows:
        rows.add(job())
    database.upgrade()
    with database(write=False) as rows:
        found = rows.scalars(select(Job)).one()
    assert (found.state, found.asked, found.due) == ("queued", {"faces": "all"}, None)


def test_two_that_start_at_once_both_find_the_tables(database, tmp_path):
    others = [Database(database.url) for _ in range(3)]
    with database.engine.begin() as connection:
        for table in reversed(Row.metadata.sorted_tables):
            connection.execute(text(f"DROP TABLE {table.name}"))
        connection.execute(text("DROP TABLE alembic_version"))
    failures: list[BaseException] = []

    def upgrade(one: Database) -> None:
        try:
            one.upgrade()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=upgrade, args=(one,)) for one in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in others:
        one.close()
    assert failures == []
    with database() as rows:
        rows.add(job())


def test_a_later_version_is_refused(database):
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'v9999'"))
    with pytest.raises(MediaError, match="later version of mien"):
        database.upgrade()
    with database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'v0001'"))


def test_an_error_takes_everything_back(database):
    twice = [Key(tenant=t, sha256="1", scopes="jobs") for t in "ab"]
    with pytest.raises(IntegrityError), database() as rows:
        rows.add_all(twice)
    with database(write=False) as rows:
        assert rows.scalars(select(Key)).all() == []


def test_parts_need_their_job_and_go_with_it(database):
    with pytest.raises(IntegrityError), database() as rows:
        rows.add(Part(job="none", number=0, first=0))
    with database() as rows:
        made = job()
        rows.add(made)
        rows.flush()
        rows.add(Part(job=made.id, number=0, first=0))
    with database() as rows:
        rows.delete(rows.get(Job, made.id))
    with database(write=False) as rows:
        assert rows.scalars(select(Part)).all() == []


def test_events_are_numbered_in_order(database):
    with database() as rows:
        for n in range(5):
            rows.add(Event(tenant="a", job="j", kind="progress", data={"done": n}))
            rows.flush()
    with database(write=False) as rows:
        found = rows.scalars(select(Event).order_by(Event.id)).all()
    assert [e.data["done"] for e in found] == [0, 1, 2, 3, 4]
    assert len({e.id for e in found}) == 5


def test_writers_in_many_threads_wait_for_each_other(database):
    with database() as rows:
        made = job()
        rows.add(made)
    failures: list[BaseException] = []

    def count() -> None:
        try:
            for _ in range(10):
                with database() as rows:
                    found = rows.get(Job, made.id, with_for_update=True)
                    assert found is not None
                    found.done += 1
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with database(write=False) as rows:
        found = rows.get(Job, made.id)
        assert found is not None
        assert found.done == 40


def test_a_database_that_is_not_there_is_named_without_its_password():
    gone = Database(f"postgresql+psycopg://mien:secret@127.0.0.1:{servers.free_port()}/mien")
    with pytest.raises(MediaError, match=r"mien:\*\*\*@127\.0\.0\.1") as caught:
        gone.upgrade()
    assert "secret" not in str(caught.value)
    gone.close()


@pytest.mark.system
def test_what_was_committed_survives_a_power_cut(cluster):
    with tempfile.TemporaryDirectory(prefix="mien-pg-") as folder:
        Path(folder).chmod(0o755)
        with servers.postgres(Path(folder)) as server:
            database = Database(server.url)
            database.upgrade()
            with database() as rows:
                rows.add(job(id=new_id()))
            server.kill()
            server.start()
            with database(write=False) as rows:
                assert len(rows.scalars(select(Job)).all()) == 1
            database.close()


# --- files --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    pytest.importorskip("moto")
    with servers.object_store() as address:
        yield address


@pytest.fixture(params=["folder", "s3"])
def files(request, tmp_path) -> Files:
    if request.param == "folder":
        return Files(str(tmp_path / "files"))
    address = request.getfixturevalue("s3")
    options = {"endpoint_url": address, "key": "test", "secret": "test"}
    return Files(f"s3://mien/{new_id()}", **options, skip_instance_cache=True)


def test_what_is_put_there_is_found_there(files, tmp_path):
    data = bytes(range(256)) * 20_000
    (tmp_path / "a").write_bytes(data)
    stored = files.put("t/one/a.mp4", tmp_path / "a")
    assert stored == (len(data), hashlib.sha256(data).hexdigest())
    files.get("t/one/a.mp4", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == data
    assert b"".join(files.read("t/one/a.mp4", 1000, 3_000_000)) == data[1000:3_000_000]
    assert b"".join(files.read("t/one/a.mp4", len(data) - 5, len(data) + 9)) == data[-5:]
    files.put("t/one/a.mp4", io.BytesIO(b"other"))
    assert b"".join(files.read("t/one/a.mp4", 0, 100)) == b"other"
    files.remove("t/one/a.mp4")
    files.remove("t/one/a.mp4")
    with pytest.raises(MediaError, match=r"a\.mp4: cannot be read from the store"):
        files.get("t/one/a.mp4", tmp_path / "c")


def test_a_folder_of_the_store_is_cleared(files):
    for path in ("jobs/a/x", "jobs/a/deep/y", "jobs/ab/z"):
        files.put(path, io.BytesIO(b"1"))
    files.clear("jobs/a")
    files.clear("jobs/a")
    for path in ("jobs/a/x", "jobs/a/deep/y"):
        with pytest.raises(MediaError):
            list(files.read(path, 0, 1))
    assert list(files.read("jobs/ab/z", 0, 1)) == [b"1"]


def test_what_breaks_off_leaves_nothing(tmp_path):
    class Breaks(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            if not data:
                raise OSError(28, "No space left on device")
            return data

    files = Files(str(tmp_path / "files"))
    with pytest.raises(MediaError, match="No space left"):
        files.put("t/a.mp4", Breaks(b"x" * 5_000_000))
    assert [p for p in (tmp_path / "files").rglob("*") if p.is_file()] == []


@pytest.mark.parametrize(
    "path", ["../a", "a/../../b", "/etc/passwd", "", "a//b", "a/./b", "a\\b", "a\nb", "a\0b"]
)
def test_paths_do_not_leave_the_store(tmp_path, path):
    files = Files(str(tmp_path / "files"))
    for act in (lambda: files.put(path, io.BytesIO(b"x")), lambda: files.remove(path),
                lambda: list(files.read(path, 0, 1))):  # fmt: skip
        with pytest.raises(MediaError, match="expected a path inside the store"):
            act()


@given(path=st.text(max_size=30))
def test_no_path_leaves_the_store(tmp_path_factory, path):
    root = tmp_path_factory.mktemp("s")
    files = Files(str(root / "files"))
    with contextlib.suppress(MediaError):
        files.put(path, io.BytesIO(b"x"))
    assert {p.name for p in root.iterdir()} <= {"files"}


def test_an_unknown_store_is_refused():
    with pytest.raises(MediaError, match="there is no such store"):
        Files("nosuch://x/y")


def test_a_store_that_does_not_answer_is_said_to_be(tmp_path):
    pytest.importorskip("s3fs")
    address = f"http://127.0.0.1:{servers.free_port()}"
    files = Files("s3://mien/x", endpoint_url=address, key="t", secret="t",
                  config_kwargs={"connect_timeout": 1, "retries": {"max_attempts": 0}})  # fmt: skip
    with pytest.raises(MediaError, match="cannot be stored"):
        files.put("t/a", io.BytesIO(b"x"))


def test_file_rows_hold_large_sizes(database):
    with database() as rows:
        rows.add(File(tenant="a", kind="upload", path="a/b", size=5 << 40))
    with database(write=False) as rows:
        assert rows.scalars(select(File)).one().size == 5 << 40
