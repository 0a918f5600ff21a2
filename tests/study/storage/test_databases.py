"""Workers that share a study through a database or Optuna's gRPC proxy."""

import threading
import time
from contextlib import contextmanager
from importlib.util import find_spec

import pytest
from optuna.storages import JournalStorage, RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from nas.study.storage.connect import shown
from nas.study.storage.journal import Journal
from nas.study.storage.studies import StudyError, close_study
from tests.patience import wait_until
from tests.study.crews import check_study, open_toy, run_workers
from tests.study.postgresql import running_server


@contextmanager
def opened(directory, url):
    study = open_toy(directory, url)
    yield study
    close_study(study)


@pytest.fixture(scope="module")
def server():
    with running_server() as running:
        yield running


def test_four_workers_on_postgresql_lose_nothing_repeat_nothing_and_survive_its_restart(tmp_path, server):
    def restart():
        with opened(tmp_path, server.url) as study:
            wait_until(lambda: sum(t.state == TrialState.COMPLETE for t in study.trials) >= 3, "three trials are over")
        server.stop()
        time.sleep(1.0)
        server.start()
        restarted.set()

    restarted = threading.Event()
    thread = threading.Thread(target=restart)
    thread.start()
    codes = run_workers(tmp_path, 4, total=12, storage=server.url, seconds=0.1)
    thread.join()
    assert restarted.is_set()
    assert codes == [0] * 4
    with opened(tmp_path, server.url) as study:
        check_study(study, 12)


def test_workers_on_sqlite_make_its_tables_once(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    assert run_workers(tmp_path, 2, total=4, storage=url) == [0, 0]
    with opened(tmp_path, url) as study:
        check_study(study, 4)


def test_workers_share_a_journal_through_the_grpc_proxy(tmp_path):
    pytest.importorskip("grpc", reason="gRPC is not installed: pip install -e '.[grpc]'")
    from optuna.storages._grpc.server import make_server

    proxy = make_server(JournalStorage(Journal(tmp_path / "proxied.log")), "127.0.0.1", 0)
    port = proxy.add_insecure_port("127.0.0.1:0")  # one that is free; make_server does not tell its own
    proxy.start()
    try:
        url = f"grpc://127.0.0.1:{port}"
        assert run_workers(tmp_path, 2, total=4, storage=url) == [0, 0]
        with opened(tmp_path, url) as study:
            check_study(study, 4)
    finally:
        proxy.stop(None)


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("nonsense", "storage must be null, a database's URL such as .* but got 'nonsense'"),
        ("sqlite:////nowhere/at/all.db", "The database sqlite.* cannot be opened .*is it running?"),
        ("nosuch://user:secret@host/name", r"storage=nosuch://user:\*\*\*@host/name needs a driver"),
        ("grpc://nowhere", "storage must be like grpc://host:13000, but got 'grpc://nowhere'"),
    ],
)
def test_a_storage_that_cannot_be_used_is_one_sentence(tmp_path, monkeypatch, url, sentence):
    monkeypatch.setattr("nas.study.storage.connect.TRIES_TO_CONNECT", 1)
    with pytest.raises(StudyError, match=sentence) as raised:
        open_toy(tmp_path, url)
    assert "secret" not in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.skipif(find_spec("psycopg") is not None, reason="psycopg is installed")
def test_a_missing_driver_is_told_with_its_extra(tmp_path):
    with pytest.raises(StudyError, match=r"install the extra: pip install -e '\.\[postgresql\]'"):
        open_toy(tmp_path, "postgresql+psycopg://postgres@127.0.0.1:1/postgres")


def test_a_database_of_another_version_is_one_sentence(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db"
    storage = RDBStorage(url)
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = 'v0.9.0.a'")
    storage.engine.dispose()
    with pytest.raises(StudyError, match=r"was made by another version of Optuna .*optuna storage upgrade"):
        open_toy(tmp_path, url)


def test_a_database_that_cannot_be_opened_leaves_no_connection(tmp_path, monkeypatch):
    pools = []

    def fail(url, engine, session):
        pools.append(engine.pool)
        assert engine.pool.checkedin() > 0, "there is one to be left"
        raise OperationalError("CREATE TABLE", {}, Exception("another worker makes it"))

    monkeypatch.setattr("optuna.storages._rdb.storage._VersionManager", fail)
    monkeypatch.setattr("nas.study.storage.connect.TRIES_TO_CONNECT", 2)
    with pytest.raises(StudyError, match=r"cannot be opened .another worker makes it."):
        open_toy(tmp_path, f"sqlite:///{tmp_path}/study.db")
    assert [pool.checkedin() for pool in pools] == [0, 0]


def test_a_journal_of_a_later_version_is_one_sentence(tmp_path):
    open_toy(tmp_path)
    with (tmp_path / "journal.log").open("a") as journal:
        journal.write('{"op_code":99,"worker_id":"x","study_id":0}\n')
    with pytest.raises(StudyError, match=r"cannot be read as a study .*another version: move it away"):
        open_toy(tmp_path)


def test_passwords_are_not_shown():
    assert shown("postgresql+psycopg://me:secret@host:5432/name") == "postgresql+psycopg://me:***@host:5432/name"
    assert shown("sqlite:///a/b.db") == "sqlite:///a/b.db"
