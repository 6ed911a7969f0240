"""`cuggu generate` and its client, against a small real HTTP server that says what each test wants."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import pytest
from typer.testing import CliRunner

from cli.client import ApiProblem, Client, Course, Unreachable
from cli.main import app
from cli.processes import free_port
from tests.waiting import wait_until

Answer = tuple[int, dict[str, str], bytes]
DROP: Answer = (0, {}, b"")  # cut the line without an answer
JOB = UUID("6f0d5ee8-7d7a-4a51-9a0e-6f3c0a3a0c11")
PHOTOS = [UUID(int=slot + 1) for slot in range(4)]


class ScriptedApi:
    """Answers each path from its list, the last answer again and again, and keeps every request."""

    def __init__(self) -> None:
        self.script: dict[str, list[Answer]] = {}
        self.requests: list[dict[str, Any]] = []
        self.lock = threading.Lock()
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                parts = urlsplit(self.path)
                call = f"{self.command} {parts.path}"
                with api.lock:
                    api.requests.append(
                        {
                            "call": call,
                            "query": parse_qs(parts.query),
                            "headers": {name.lower(): value for name, value in self.headers.items()},
                            "body": body,
                        }
                    )
                    answers = api.script.get(call, [problem(404, "not_found", "There is nothing here")])
                    status, headers, content = answers.pop(0) if len(answers) > 1 else answers[0]
                if not status:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = _serve

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def calls(self, call: str) -> list[dict[str, Any]]:
        with self.lock:
            return [request for request in self.requests if request["call"] == call]


def in_json(status: int, body: object, **headers: str) -> Answer:
    return status, {"Content-Type": "application/json", **headers}, json.dumps(body).encode()


def problem(status: int, code: str, detail: str, **more: object) -> Answer:
    body = {"type": "about:blank", "status": status, "code": code, "detail": detail, **more}
    return status, {"Content-Type": "application/problem+json"}, json.dumps(body).encode()


def job(status: str, photos: str, error: dict[str, object] | None = None) -> dict[str, object]:
    """`photos` has a letter for each: P, G, S, F."""
    words = {"P": "PENDING", "G": "GENERATING", "S": "STORED", "F": "FAILED"}
    return {
        "id": str(JOB),
        "status": status,
        "style": "CLASSIC",
        "role": None,
        "progress": {"done": photos.count("S"), "total": 4},
        "photos": [
            {
                "id": str(PHOTOS[slot]),
                "slot": slot,
                "status": words[letter],
                "url": f"/media/{PHOTOS[slot]}" if letter == "S" else None,
                "width": 900 if letter == "S" else None,
                "height": 1200 if letter == "S" else None,
            }
            for slot, letter in enumerate(photos)
        ],
        "portrait_url": None,
        "selected_photo_id": None,
        "error": error,
        "eta_seconds": None,
        "created_at": "2026-01-02T03:04:05Z",
        "completed_at": None if status in ("QUEUED", "PROCESSING") else "2026-01-02T03:04:35Z",
    }


def seen(status: str, photos: str, error: dict[str, object] | None = None) -> Answer:
    return in_json(200, job(status, photos, error), ETag=f'"{status}-{photos}"')


ACCEPTED = in_json(202, {**job("QUEUED", "PPPP"), "remaining_credits": 1})


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    api = ScriptedApi()
    thread = threading.Thread(target=api.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    api.script["POST /jobs"] = [ACCEPTED]
    for slot, photo in enumerate(PHOTOS):
        api.script[f"GET /media/{photo}"] = [(200, {"Content-Type": "image/jpeg"}, b"photo %d" % slot)]
    yield api
    api.server.shutdown()
    api.server.server_close()
    thread.join()


@pytest.fixture
def place(clean_environment: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a portrait in it, and no setting from outside."""
    monkeypatch.chdir(tmp_path)
    for name in ("CUGGU_TOKEN", "LC_ALL", "LC_MESSAGES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "en_US.UTF-8")
    (tmp_path / "me.jpg").write_bytes(b"a portrait")
    return tmp_path


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["generate", *words])


def form(request: dict[str, Any]) -> dict[str, bytes]:
    head = f"Content-Type: {request['headers']['content-type']}\r\n\r\n".encode()
    message = BytesParser(policy=HTTP).parsebytes(head + request["body"])
    return {
        str(part.get_param("name", header="content-disposition")): bytes(part.get_payload(decode=True) or b"")
        for part in message.iter_parts()
    }


# --- The client


def test_a_submission_whose_answer_is_lost_is_sent_again_under_the_same_key(api: ScriptedApi) -> None:
    api.script["POST /jobs"] = [DROP, (502, {}, b"bad gateway"), ACCEPTED]
    told: list[str] = []
    with Client(api.url, "a-token", on_lost=told.append) as client:
        accepted = client.submit(b"a portrait", "me.jpg", "CLASSIC", "GROOM", "one-key")
    assert (accepted.id, accepted.remaining_credits) == (JOB, 1)
    sent = api.calls("POST /jobs")
    assert [request["headers"]["idempotency-key"] for request in sent] == ["one-key"] * 3
    assert form(sent[0]) == {"style": b"CLASSIC", "role": b"GROOM", "image": b"a portrait"} == form(sent[2])
    assert len(told) == 1


def test_a_refused_submission_is_not_sent_again(api: ScriptedApi) -> None:
    api.script["POST /jobs"] = [problem(503, "face_check_unavailable", "Later, please"), ACCEPTED]
    with Client(api.url, "a-token") as client, pytest.raises(ApiProblem, match=r"^Later, please$") as refused:
        client.submit(b"a portrait", "me.jpg", "CLASSIC", None, "one-key")
    assert (refused.value.status, refused.value.code) == (503, "face_check_unavailable")
    assert len(api.calls("POST /jobs")) == 1


def test_following_asks_for_what_is_new_and_outlasts_a_server_that_is_away(api: ScriptedApi) -> None:
    api.script[f"GET /jobs/{JOB}"] = [
        seen("QUEUED", "PPPP"),
        (304, {"ETag": '"QUEUED-PPPP"'}, b""),
        problem(500, "internal", "Internal server error"),
        DROP,
        seen("PROCESSING", "SGGP"),
        seen("COMPLETED", "SSSS"),
    ]
    course, rounds = Course(), []
    with Client(api.url, "a-token") as client:
        followed = list(client.follow(JOB, wait_seconds=7, between=lambda: rounds.append(1)))
    for state in followed:
        course.note(state)
    assert [state.status for state in followed] == ["QUEUED", "PROCESSING", "COMPLETED"]
    assert [state["status"] for state in course.states] == ["QUEUED", "PROCESSING", "COMPLETED"]
    assert course.states[0]["at"] == "2026-01-02T03:04:05.000+00:00"
    assert course.states[-1]["at"] == "2026-01-02T03:04:35.000+00:00"
    polls = api.calls(f"GET /jobs/{JOB}")
    assert [request["headers"].get("if-none-match") for request in polls] == [
        None, *['"QUEUED-PPPP"'] * 4, '"PROCESSING-SGGP"'
    ]  # fmt: skip
    assert "wait" not in polls[0]["query"]
    assert polls[1]["query"] == {"wait": ["7"]}
    assert len(rounds) == 4  # one before each poll; a repeated request belongs to its poll


def test_the_token_goes_to_no_other_host(api: ScriptedApi, tmp_path: Path) -> None:
    storage = ScriptedApi()
    thread = threading.Thread(target=storage.server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        storage.script["GET /bucket/key"] = [(200, {"Content-Type": "image/webp"}, b"from the storage")]
        api.script[f"GET /media/{PHOTOS[0]}"] = [(307, {"Location": f"{storage.url}/bucket/key?sig=x"}, b"")]
        api.script[f"GET /jobs/{JOB}"] = [seen("PARTIAL", "SFFF")]
        with Client(api.url, "a-token") as client:
            saved = client.save_photos(next(client.follow(JOB)), tmp_path / "new" / "directory")
    finally:
        storage.server.shutdown()
        storage.server.server_close()
        thread.join()
    assert [path.name for path in saved] == ["photo-1.webp"]
    assert saved[0].read_bytes() == b"from the storage"
    assert api.calls(f"GET /media/{PHOTOS[0]}")[0]["headers"]["authorization"] == "Bearer a-token"
    assert "authorization" not in storage.calls("GET /bucket/key")[0]["headers"]


def test_a_server_that_never_was_there_is_given_up_soon() -> None:
    with Client(f"http://127.0.0.1:{free_port()}", "a-token", lost_seconds=1) as client:
        with pytest.raises(Unreachable) as given_up:
            client.me()
        assert given_up.value.refused
        assert not client.answered


@pytest.mark.parametrize("server", ["", "nonsense", "ftp://host", "http://", "127.0.0.1:8000"])
def test_what_is_no_address_of_a_server_is_said_at_once(server: str) -> None:
    with pytest.raises(ValueError, match="is not the address of a server"):
        Client(server, "a-token")


# --- The command


def test_four_photos_are_saved(api: ScriptedApi, place: Path) -> None:
    api.script[f"GET /jobs/{JOB}"] = [seen("QUEUED", "PPPP"), seen("PROCESSING", "GSPF"), seen("COMPLETED", "SSSS")]
    done = run("me.jpg", "--style", "classic", "--role", "bride", "--server", api.url, "--token", "t", "--out", "out")
    assert done.exit_code == 0, done.output
    paths = [Path(line) for line in done.stdout.splitlines()]
    assert [path.read_bytes() for path in paths] == [b"photo 0", b"photo 1", b"photo 2", b"photo 3"]
    sent = api.calls("POST /jobs")[0]
    assert sent["headers"]["authorization"] == "Bearer t"
    assert len(sent["headers"]["idempotency-key"]) >= 16
    assert form(sent)["style"] == b"CLASSIC"
    assert form(sent)["role"] == b"BRIDE"
    for words in ("credits left: 1", "QUEUED", "PROCESSING", "COMPLETED", "photo 2: stored", "photo 4: given up"):
        assert words in done.stderr


def test_a_development_server_on_this_machine_needs_no_token(api: ScriptedApi, place: Path) -> None:
    import jwt

    from api.auth import DEVELOPMENT_SECRET

    api.script[f"GET /jobs/{JOB}"] = [seen("COMPLETED", "SSSS")]
    done = run("me.jpg", "--style", "CLASSIC", "--server", api.url, "--email", "kim@example.com")
    assert done.exit_code == 0, done.output
    token = api.calls("POST /jobs")[0]["headers"]["authorization"].removeprefix("Bearer ")
    claims = jwt.decode(token, DEVELOPMENT_SECRET, ["HS256"], audience="cuggu-photos", issuer="cuggu-development")
    assert claims["email"] == "kim@example.com"
    assert sorted(path.name for path in (place / f"cuggu-{str(JOB)[:8]}").iterdir()) == [
        f"photo-{number}.jpg" for number in range(1, 5)
    ]


def test_no_development_token_is_sent_to_another_machine(place: Path) -> None:
    done = run("me.jpg", "--style", "CLASSIC", "--server", "https://photos.example.com")
    assert done.exit_code == 2
    assert "CUGGU_TOKEN" in done.stderr


@pytest.mark.parametrize(
    ("status", "photos", "refunded", "saved"),
    [("PARTIAL", "SFSF", True, 2), ("FAILED", "FFFF", True, 0), ("CANCELED", "SFFF", False, 1)],
)
def test_a_job_that_is_not_completed_ends_with_an_error_and_says_where_the_credit_is(
    api: ScriptedApi, place: Path, status: str, photos: str, refunded: bool, saved: int
) -> None:
    detail = "Something went wrong. Your credit has been returned" if refunded else "The job was canceled"
    error = {"code": "provider_failed", "detail": detail, "refunded": refunded}
    api.script[f"GET /jobs/{JOB}"] = [seen(status, photos, error)]
    done = run("me.jpg", "--style", "CLASSIC", "--server", api.url, "--token", "t", "--out", "out")
    assert done.exit_code == 1
    assert len(list((place / "out").iterdir())) == saved
    last = done.stderr.splitlines()[-1]
    assert f"{status}: {saved} of 4 photos" in last
    assert detail in last
    assert ("The credit was kept" in last) is not refunded


@pytest.mark.parametrize(
    ("given", "lang", "language"), [("ko", "en_US.UTF-8", "ko"), (None, "ko_KR.UTF-8", "ko"), (None, "C", "en")]
)
def test_the_apis_sentence_is_shown_in_the_users_language(
    api: ScriptedApi, place: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, lang: str, language: str
) -> None:
    monkeypatch.setenv("LANG", lang)
    api.script["POST /jobs"] = [problem(400, "no_face", "얼굴이 감지되지 않았습니다")]
    options = ["--language", given] if given else []
    done = run("me.jpg", "--style", "CLASSIC", "--server", api.url, "--token", "t", *options)
    assert done.exit_code == 1
    assert done.stderr == "얼굴이 감지되지 않았습니다\n"
    assert done.stdout == ""
    assert api.calls("POST /jobs")[0]["headers"]["accept-language"] == language


def test_an_unknown_style_is_answered_with_those_there_are(api: ScriptedApi, place: Path) -> None:
    api.script["POST /jobs"] = [problem(400, "unknown_style", "There is no such style", known=["CLASSIC", "MODERN"])]
    done = run("me.jpg", "--style", "GOTHIC", "--server", api.url, "--token", "t")
    assert done.exit_code == 1
    assert done.stderr == "There is no such style (CLASSIC, MODERN)\n"


@pytest.mark.parametrize(("name", "words"), [("nobody.jpg", "no file"), (".", "cannot be read"), ("empty", "is empty")])
def test_a_portrait_that_cannot_be_read_is_said_in_one_line(place: Path, name: str, words: str) -> None:
    (place / "empty").touch()
    done = run(name, "--style", "CLASSIC")
    assert done.exit_code == 2
    assert words in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_interrupted_command_says_that_the_job_goes_on_and_how_to_follow_it(api: ScriptedApi, place: Path) -> None:
    api.script[f"GET /jobs/{JOB}"] = [seen("QUEUED", "PPPP"), (304, {}, b"")]
    arguments = ["me.jpg", "--style", "CLASSIC", "--server", api.url, "--out", "my photos"]
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "generate", *arguments],
        cwd=place,
        env={**os.environ, "CUGGU_TOKEN": f"secret-{uuid4().hex}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(lambda: process.poll() is not None or len(api.calls(f"GET /jobs/{JOB}")) > 2, 60)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    key = api.calls("POST /jobs")[0]["headers"]["idempotency-key"]
    assert "goes on" in told
    assert told.splitlines()[-1].endswith(
        f"cuggu generate me.jpg --style CLASSIC --server {api.url} --out 'my photos' --idempotency-key {key}"
    )
    assert "secret-" not in told
    assert "Traceback" not in told


def test_a_given_key_goes_on_with_the_same_job(api: ScriptedApi, place: Path) -> None:
    replay = {**job("COMPLETED", "SSSS"), "remaining_credits": None}
    api.script["POST /jobs"] = [in_json(200, replay, **{"Idempotent-Replayed": "true"})]
    api.script[f"GET /jobs/{JOB}"] = [seen("COMPLETED", "SSSS")]
    done = run("me.jpg", "--style", "CLASSIC", "--server", api.url, "--token", "t", "--idempotency-key", "mine")
    assert done.exit_code == 0, done.output
    assert api.calls("POST /jobs")[0]["headers"]["idempotency-key"] == "mine"
    assert len(done.stdout.splitlines()) == 4
