"""`cuggu demo`, run as anybody would run it: one command, real processes, and nothing left behind."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from cli.processes import StartFailed
from cli.vendors import doubled_vendors
from shared.settings import Settings
from tests.test_embedded import is_gone
from tests.waiting import wait_until

SAMPLES = Path(__file__).parents[1] / "cli" / "sample"
SECONDS = 170  # several processes start on shared cores
pytestmark = pytest.mark.timeout(420)


def run(place: Path, *words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "demo", *words],
        cwd=place,
        env={**surroundings(), **(env or {})},
        check=False,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def surroundings() -> dict[str, str]:
    settings = {name.upper() for name in Settings.model_fields}
    language = {"LC_ALL", "LC_MESSAGES"}
    return {name: value for name, value in os.environ.items() if name not in settings | language} | {"LANG": "C"}


def working_in(place: Path) -> list[str]:
    """The command lines of processes that have to do with the directory."""
    found = []
    for process in psutil.process_iter():
        try:
            words = [process.cwd(), *process.cmdline(), process.environ().get("DATA_DIR", "")]
        except psutil.Error:
            continue
        if any(str(place) in word for word in words) and process.status() != psutil.STATUS_ZOMBIE:
            found.append(" ".join(words))
    return found


def check_result(shown: dict[str, Any], directory: Path) -> None:
    """Every field of the JSON object, and the files that it names."""
    job = shown["job"]
    assert job["status"] == "COMPLETED"
    assert [state["status"] for state in job["states"]] == ["QUEUED", "PROCESSING", "COMPLETED"]
    times = [datetime.fromisoformat(state["at"]) for state in job["states"]]
    assert times == sorted(times)
    assert [photo["status"] for photo in job["photos"]] == ["STORED"] * 4
    assert job["selected_photo_id"] in {photo["id"] for photo in job["photos"]}

    photos = [Path(path) for path in shown["photos"]]
    assert len(set(photos)) == 4
    for path, photo in zip(photos, job["photos"], strict=True):
        assert directory in path.parents
        with Image.open(path) as picture:
            picture.load()
            assert picture.size == (photo["width"], photo["height"])
    assert len({hashlib.sha256(path.read_bytes()).digest() for path in photos}) == 4
    sheet = Path(shown["contact_sheet"])
    assert sheet.parent == photos[0].parent
    with Image.open(sheet) as picture:
        picture.load()
        assert picture.width > picture.height > 400

    assert shown["credits"] == {"before": 2, "after": 1}
    charge, signup = shown["ledger"]
    assert (signup["kind"], signup["amount"], signup["balance_after"]) == ("SIGNUP", 2, 2)
    assert (charge["kind"], charge["amount"], charge["balance_after"]) == ("CHARGE", -1, 1)
    assert charge["job_id"] == job["id"]
    seconds = shown["seconds"]
    assert {"start", "submit", "generate", "total"} <= seconds.keys()
    assert all(value > 0 for value in seconds.values())
    assert seconds["total"] >= seconds["start"] + seconds["submit"] + seconds["generate"]


def test_the_demo_works_twice_in_a_row_and_leaves_nothing_running(open_dir: Path) -> None:
    # Whatever the surroundings name, the demonstration touches nothing but its own servers.
    (open_dir / ".env").write_text("STORAGE=s3\nJWT_SECRET=short\n")
    elsewhere = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "REDIS_URL": "redis://127.0.0.1:1/0"}
    first = run(open_dir, "--json", env={**elsewhere, "PREDICTOR": "replicate"})
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""
    check_result(json.loads(first.stdout), open_dir / ".cuggu" / "demo")
    assert working_in(open_dir) == []

    out = open_dir / "my photos"
    second = run(open_dir, "--portrait", str(SAMPLES / "astronaut.jpg"), "--style", "modern", "--role", "BRIDE",
                 "--out", "my photos")  # fmt: skip
    assert second.returncode == 0, second.stderr
    assert sorted(path.name for path in out.iterdir()) == [
        "contact-sheet.jpg",
        *(f"photo-{n}.jpg" for n in range(1, 5)),
    ]
    for words in ("QUEUED", "PROCESSING", "COMPLETED", str(out / "photo-4.jpg"), str(out / "contact-sheet.jpg"),
                  "Credits: 2 -> 1", "SIGNUP", "CHARGE", "Chosen: photo 1"):  # fmt: skip
        assert words in second.stdout
    assert working_in(open_dir) == []


def test_the_demo_with_the_vendors_clients_pays_for_four_predictions_and_can_prove_it(open_dir: Path) -> None:
    done = run(open_dir, "--vendors", "--json", "--style", "CINEMATIC")
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    check_result(shown, open_dir / ".cuggu" / "demo-vendors")
    vendors = shown["vendors"]
    predictions = {run["id"]: run for run in vendors["replicate"]["predictions"]}
    assert len(predictions) == 4
    assert {run["status"] for run in predictions.values()} == {"succeeded"}
    assert vendors["replicate"]["refused"] == 0
    assert vendors["azure"]["calls"] == 1
    assert [entry["key"].rpartition("/")[0] for entry in vendors["s3"]["objects"]] == [
        f"photos/{shown['job']['id']}/{slot}" for slot in range(4)
    ]
    assert all(entry["size_bytes"] > 1000 for entry in vendors["s3"]["objects"])
    attempts = vendors["attempts"]
    assert [(attempt["slot"], attempt["number"]) for attempt in attempts] == [(slot, 1) for slot in range(4)]
    assert {attempt["prediction_id"] for attempt in attempts} == predictions.keys()
    for attempt in attempts:
        made = predictions[attempt["prediction_id"]]
        assert attempt["seed"] == made["seed"]
        assert Decimal(attempt["cost"]) == Decimal(made["cost_usd"]) > 0
        assert attempt["currency"] == "USD"
        assert attempt["provider_seconds"] > 0
    assert working_in(open_dir) == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--portrait", "nobody.jpg"], "There is no file nobody.jpg."),
        (["--style", "gothic"], "There is no style gothic: choose one of CLASSIC, MODERN,"),
        (["--role", "king"], "There is no role king: choose GROOM or BRIDE."),
    ],
)
def test_what_can_be_seen_to_be_wrong_is_said_before_anything_starts(
    open_dir: Path, words: list[str], sentence: str
) -> None:
    done = run(open_dir, *words, "--json")
    assert done.returncode == 2
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert list(open_dir.iterdir()) == []


def test_a_portrait_without_a_face_ends_with_the_apis_sentence_and_nothing_running(open_dir: Path) -> None:
    done = run(open_dir, "--json", "--portrait", str(SAMPLES / "chelsea.jpg"), env={"LANG": "ko_KR.UTF-8"})
    assert done.returncode == 1
    assert done.stderr == "얼굴이 감지되지 않았습니다\n"
    assert done.stdout == ""
    assert working_in(open_dir) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_ends_all_that_it_started(open_dir: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "demo"],
        cwd=open_dir,
        env=surroundings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        log = open_dir / ".cuggu" / "demo" / "logs" / "api.log"  # the servers run, the processes are being started
        wait_until(lambda: process.poll() is not None or log.exists(), SECONDS)
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(number)
        _, told = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, told) == (130, "Stopped.\n")
    wait_until(lambda: all(is_gone(child.pid) for child in children))
    assert working_in(open_dir) == []


def test_without_the_source_checkout_there_are_no_doubles(open_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.vendors.CHECKOUT", open_dir)
    with pytest.raises(StartFailed, match="source checkout"), doubled_vendors(open_dir):
        pytest.fail("there was something to start")
