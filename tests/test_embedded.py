"""The embedded servers: they keep what they were given, recover from a kill, and never outlive their starter."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

import cli.embedded
import cli.embedded_server
from cli import postgres_account
from cli.embedded import EmbeddedPostgres, EmbeddedRedis
from cli.processes import StartFailed, end_child, start_child
from shared.database import make_engine
from tests.conftest import RUN_DIR
from tests.servers import Servers
from tests.waiting import wait_until


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # ended, and its parent has not looked yet
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def data_dir(open_dir: Path) -> Path:
    return open_dir / "data"


def execute(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def test_postgres_keeps_its_data_through_a_kill_a_restart_and_a_new_run(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir, durable=False) as postgres:
        execute(postgres.url, "CREATE TABLE kept AS SELECT 1 AS n")
        address = postgres.url
        postgres.kill()
        assert (data_dir / "postgres" / "cluster" / "postmaster.pid").exists()
        postgres.start()
        execute(postgres.url, "INSERT INTO kept VALUES (2)")
        postgres.restart()
        assert postgres.url == address
        assert execute(postgres.url, "SELECT n FROM kept ORDER BY n") == [(1,), (2,)]
        pid = postgres.process.pid if postgres.process else 0
    assert is_gone(pid)
    with EmbeddedPostgres(data_dir, durable=False) as postgres:
        assert execute(postgres.url, "SELECT count(*) FROM kept") == [(2,)]
        engine = make_engine(postgres.url, transaction_pooling=False)
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SHOW fsync").scalar() == "off"
        engine.dispose()


def test_durable_servers_write_through_to_the_disk(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as postgres, EmbeddedRedis(data_dir) as valkey:
        settings = execute(postgres.url, "SELECT setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes')")
        assert settings == [("on",), ("on",)]
        with redis.Redis.from_url(valkey.url) as client:
            client.set("kept", "yes")
            assert client.config_get("appendonly") == {"appendonly": "yes"}
        valkey.restart()
        with redis.Redis.from_url(valkey.url) as client:
            assert client.get("kept") == b"yes"


def test_servers_refuse_whoever_does_not_know_the_password(servers: Servers) -> None:
    run_dir = Path(os.environ[RUN_DIR])
    password = (run_dir / "postgres-password").read_text().strip()
    assert password in servers.admin_url
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(servers.admin_url.replace(password, "guess"))
    stranger = servers.redis_url.replace((run_dir / "redis-password").read_text().strip(), "guess")
    with redis.Redis.from_url(stranger) as client, pytest.raises(redis.AuthenticationError):
        client.ping()


def test_passwords_are_kept_from_other_users(servers: Servers) -> None:
    run_dir = Path(os.environ[RUN_DIR])
    for secret in ("postgres-password", "redis-password", "redis/valkey.conf"):
        assert (run_dir / secret).stat().st_mode & 0o077 == 0
    passwords = [(run_dir / f"{name}-password").read_text().strip() for name in ("postgres", "redis")]
    command_lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert any(str(run_dir) in line for line in command_lines)
    assert not [line for line in command_lines if any(password in line for password in passwords)]


def test_one_directory_serves_one_starter_at_a_time(data_dir: Path) -> None:
    with EmbeddedRedis(data_dir, durable=False) as valkey:
        with pytest.raises(StartFailed, match="in use by another process"):
            EmbeddedRedis(data_dir, durable=False).start()
        assert valkey.running
    with EmbeddedRedis(data_dir, durable=False) as valkey:
        assert valkey.running


def test_a_server_that_cannot_start_says_why(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EmbeddedRedis(data_dir, durable=False) as first:
        monkeypatch.setattr(cli.embedded_server, "PORT_ATTEMPTS", 1)
        with pytest.raises(StartFailed, match="Address already in use"):
            EmbeddedRedis(data_dir / "other", port=first.port, durable=False).start()


def test_servers_end_when_their_starter_is_killed(data_dir: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from cli.embedded import EmbeddedPostgres, EmbeddedRedis\n"
        "postgres = EmbeddedPostgres(Path(sys.argv[1]), durable=False); postgres.start()\n"
        "valkey = EmbeddedRedis(Path(sys.argv[1]), durable=False); valkey.start()\n"
        "print(postgres.process.pid, valkey.process.pid, flush=True); sys.stdin.read()\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", program, str(data_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert starter.stdout
    pids = [int(word) for word in starter.stdout.readline().split()]
    assert len(pids) == 2
    starter.kill()
    starter.communicate()
    if sys.platform != "linux":  # there the next start ends them
        with EmbeddedPostgres(data_dir, durable=False), EmbeddedRedis(data_dir, durable=False):
            pass
    wait_until(lambda: all(is_gone(pid) for pid in pids))


def test_a_server_left_behind_is_ended_by_the_next_start(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in for the kernel's signal where there is none."""
    monkeypatch.setattr("cli.processes._die_with_parent", lambda _: None)
    forgotten = EmbeddedPostgres(data_dir, durable=False), EmbeddedRedis(data_dir, durable=False)
    for server in forgotten:
        server.start()
        assert server._lock
        server._lock.release()  # as the kernel does for a starter that was killed
    execute(forgotten[0].url, "CREATE TABLE kept (n int)")
    with EmbeddedPostgres(data_dir, durable=False) as postgres, EmbeddedRedis(data_dir, durable=False) as valkey:
        assert not forgotten[0].running
        assert not forgotten[1].running
        assert execute(postgres.url, "SELECT count(*) FROM kept") == [(0,)]
        assert valkey.running


def test_postgres_runs_where_its_account_may_not_enter(open_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As root the cluster and the programs move to a refuge; as anybody else they stay. No mode is changed."""
    private = open_dir / "home"
    private.mkdir(mode=0o700)
    (private / "project").mkdir()
    refuge = open_dir / "refuge"
    place, programs, runs = postgres_account.place, postgres_account.programs, postgres_account._runs
    monkeypatch.setattr(cli.embedded, "place", lambda home, account: place(home, account, refuge))
    monkeypatch.setattr(cli.embedded, "programs", lambda account: programs(account, refuge))
    # The wheel of this very run can be reached: say that it cannot.
    monkeypatch.setattr(
        postgres_account, "_runs", lambda program, account: refuge in program.parents and runs(program, account)
    )
    for expected in (0, 1):
        with EmbeddedPostgres(private / "project", durable=False) as postgres:
            execute(postgres.url, "CREATE TABLE IF NOT EXISTS kept (n int)")
            assert execute(postgres.url, "SELECT count(*) FROM kept") == [(expected,)]
            execute(postgres.url, "INSERT INTO kept VALUES (1)")
    assert private.stat().st_mode & 0o777 == 0o700
    home = private / "project" / "postgres"
    assert home.is_symlink() == (os.geteuid() == 0)
    assert (home / "cluster" / "PG_VERSION").exists()
    real = home.resolve()
    if os.geteuid() == 0:
        real.rename(refuge / "elsewhere")
        with pytest.raises(StartFailed, match="remove the link to start anew"):
            EmbeddedPostgres(private / "project", durable=False).start()
        (refuge / "elsewhere").rename(real)
    EmbeddedPostgres(private / "project").discard()
    assert not real.exists()
    assert not home.is_symlink()


def test_a_child_that_ignores_the_request_is_killed_after_the_limit(tmp_path: Path) -> None:
    log = tmp_path / "log"
    stubborn = start_child(["/bin/sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 0.1; done"], log=log)
    wait_until(lambda: log.read_text() == "deaf\n")
    assert end_child(stubborn, signal.SIGTERM, timeout_seconds=0.3) is False
    assert stubborn.returncode == -signal.SIGKILL
