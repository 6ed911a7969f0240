"""The documents say what the code says: calls, errors, commands, files, states, settings; and both languages alike."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from PIL import Image
from starlette.routing import Route

from api.errors import PROBLEMS
from api.main import create_app
from api.routes import health, metrics
from cli.main import app as cuggu
from shared.settings import Settings
from shared.states import ACTIVE_JOB, ACTIVE_PHOTO, JobStatus, PhotoStatus

PROJECT = Path(__file__).parents[1]
README, KOREAN = PROJECT / "README.md", PROJECT / "README.ko.md"
ARCHITECTURE = PROJECT / "docs/architecture.md"
DOCUMENTS = [README, KOREAN, *sorted((PROJECT / "docs").glob("*.md"))]
PACKAGES = ("api", "worker", "shared", "cli", "migrations")
# Read from the environment by others than us.
FOREIGN_SETTINGS = {
    "FORWARDED_ALLOW_IPS",  # uvicorn
    "PROMETHEUS_MULTIPROC_DIR",  # prometheus_client
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_SERVICE_NAME",
    "OTEL_TRACES_EXPORTER",
    "OTEL_TRACES_SAMPLER",
}

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
HANGUL = re.compile("[가-힣]")

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


def blocks(document: Path, *languages: str) -> list[str]:
    return [body for language, body in FENCED.findall(document.read_text()) if not languages or language in languages]


def prose(document: Path) -> str:
    return FENCED.sub("", document.read_text())


def spans(text: str) -> list[str]:
    """What stands between single backquotes. A table's `\\|` is a plain bar."""
    return [span.replace("\\|", "|") for span in re.findall(r"`([^`\n]+)`", text)]


def commands(document: Path) -> list[str]:
    """Every line that a reader may type: shell blocks, without comments, and spans."""
    shell = "".join(blocks(document, "sh")).replace("\\\n", " ")
    return [re.sub(r"(^|\s)#.*", "", line).strip() for line in shell.splitlines()] + spans(document.read_text())


def table(document: Path, first_cell: str) -> list[list[str]]:
    """The rows of every table whose header begins with this cell."""
    found: list[list[str]] = []
    for block in re.findall(r"(?:^\|.*\n)+", document.read_text(), re.M):
        rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.splitlines()]
        if rows[0][0] == first_cell:
            found += rows[2:]
    return found


# --- Commands


def makefile_targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):.*## ", (PROJECT / "Makefile").read_text(), re.M))


@each_document
def test_every_make_target_that_is_named_exists(document: Path) -> None:
    named = {found for line in commands(document) for found in re.findall(r"^make ([a-z-]+)", line)}
    assert named <= makefile_targets()


def test_the_readme_names_every_make_target() -> None:
    named = {found for line in commands(README) for found in re.findall(r"^make ([a-z-]+)", line)}
    assert named == makefile_targets()


def subcommand(words: list[str]) -> tuple[str, Any, list[str]]:
    """The command that these words call, by name and as typer knows it, and the words that are left for it."""
    command: Any = typer.main.get_command(cuggu)
    path: list[str] = []
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        assert words[0] in command.commands, f"there is no `cuggu {' '.join([*path, words[0]])}`"
        command = command.commands[words[0]]
        path.append(words[0])
        words = words[1:]
    return " ".join(path), command, words


def cuggu_calls(document: Path) -> Iterator[list[str]]:
    for line in commands(document):
        for call in re.findall(r"(?:^|[\s(])cuggu ([^()|]+)", line):
            yield shlex.split(call)


def all_subcommands(command: Any, path: str = "") -> set[str]:
    if not hasattr(command, "commands"):
        return {path.strip()}
    return {name for word, below in command.commands.items() for name in all_subcommands(below, f"{path} {word}")}


@each_document
def test_every_cuggu_command_and_option_that_is_named_exists(document: Path) -> None:
    for words in cuggu_calls(document):
        name, command, rest = subcommand(words)
        options = {"--help"} | {option for parameter in command.params for option in parameter.opts}
        assert {word for word in rest if word.startswith("-")} <= options, f"cuggu {name}"


def test_the_readme_names_every_cuggu_command() -> None:
    named = {subcommand(words)[0] for words in cuggu_calls(README)}
    assert all_subcommands(typer.main.get_command(cuggu)) <= named


# --- The HTTP contract


@pytest.fixture
def contract(offline_settings: Settings) -> dict[str, Any]:
    paths: dict[str, Any] = create_app(offline_settings).openapi()["paths"]
    calls = {f"{method.upper()} {path}": about for path, way in paths.items() for method, about in way.items()}
    # Load balancers' and Prometheus' routes stand in no schema.
    for route in [*health.router.routes, *metrics.router.routes]:
        assert isinstance(route, Route)
        calls |= {f"GET {route.path}": {}}
    return calls


@pytest.mark.parametrize(("document", "header"), [(README, "call"), (KOREAN, "호출")])
def test_the_calls_are_those_of_the_api(document: Path, header: str, contract: dict[str, Any]) -> None:
    rows = table(document, header)
    assert Counter(spans(row[0])[0] for row in rows) == Counter(list(contract))
    for call, answer in rows:
        parameters = {parameter["name"] for parameter in contract[spans(call)[0]].get("parameters", ())}
        for query in (span for span in spans(answer) if span.startswith("?")):
            assert set(re.findall(r"[?&](\w+)=", query)) <= parameters, call


@pytest.mark.parametrize(("document", "header"), [(README, "code"), (KOREAN, "코드")])
def test_the_errors_are_those_of_the_one_table(document: Path, header: str) -> None:
    told = [(spans(row[0])[0], int(row[1])) for row in table(document, header)]
    assert Counter(told) == Counter((code, problem.status) for code, problem in PROBLEMS.items())


# --- States and promises


@pytest.mark.parametrize(
    ("document", "kind", "active"), [(README, JobStatus, ACTIVE_JOB), (ARCHITECTURE, PhotoStatus, ACTIVE_PHOTO)]
)
def test_state_pictures_show_every_status_and_no_way_out_of_an_end(document: Path, kind: Any, active: Any) -> None:
    (picture,) = (body for body in blocks(document, "mermaid") if body.startswith("stateDiagram"))
    arrows = re.findall(r"^\s*(\S+) --> (\S+)$", picture, re.M)
    assert {state for arrow in arrows for state in arrow} - {"[*]"} == set(kind)
    assert {start for start, _ in arrows} == {"[*]", *active}


@pytest.mark.parametrize(("document", "header"), [(README, "a job ends as"), (KOREAN, "작업의 끝")])
def test_every_end_of_a_job_is_explained(document: Path, header: str) -> None:
    assert [row[0] for row in table(document, header)] == [status for status in JobStatus if status not in ACTIVE_JOB]


@pytest.mark.parametrize("document", [README, KOREAN])
def test_every_promise_is_told_once(document: Path) -> None:
    assert [row[0] for row in table(document, "")] == [f"I{number}" for number in range(1, 12)]


# --- Files


def house_map(document: Path) -> Iterator[tuple[str, list[str]]]:
    """Each path of the map (a folder ends with a slash), and the files that its explanation names."""
    (tree,) = blocks(document, "text")
    folder = ""
    for line in tree.splitlines():
        names, _, explanation = line.strip().partition("  ")
        inside = folder if line.startswith("  ") else ""
        if not inside and names.endswith("/"):
            folder = names
        for name in names.split():
            yield inside + name, [folder + other for other in re.findall(r"\b\w+\.(?:py|md)\b", explanation)]


def ignored(name: str) -> bool:
    patterns = [line.rstrip("/") for line in (PROJECT / ".gitignore").read_text().split()]
    return name == ".git" or any(fnmatch(name, pattern) for pattern in patterns)


@pytest.mark.parametrize("document", [README, KOREAN, ARCHITECTURE])
def test_the_house_map_names_what_is_there(document: Path) -> None:
    for path, others in house_map(document):
        assert (PROJECT / path).is_dir() if path.endswith("/") else (PROJECT / path).is_file(), path
        assert [other for other in others if not (PROJECT / other).is_file()] == [], path


def test_the_house_map_leaves_no_module_out() -> None:
    named = [path for path, _ in house_map(ARCHITECTURE)]
    assert len(named) == len(set(named))
    # A folder of which no file is named stands for all of them.
    whole = [path for path in named if path.endswith("/") and sum(other.startswith(path) for other in named) == 1]
    modules = [path.relative_to(PROJECT).as_posix() for name in PACKAGES for path in (PROJECT / name).rglob("*.py")]
    missing = [
        module
        for module in modules
        if not module.endswith("__init__.py") and module not in named and not module.startswith(tuple(whole))
    ]
    assert missing == []


@pytest.mark.parametrize("document", [README, KOREAN, ARCHITECTURE])
def test_the_house_map_shows_everything_at_the_root(document: Path) -> None:
    named = {path.split("/")[0] for path, _ in house_map(document)} | {".gitignore", ".dockerignore"}
    if document is not ARCHITECTURE:
        named |= {"README.md", "README.ko.md"}
    there = [path for path in PROJECT.iterdir() if not ignored(path.name)]
    empty = {path.name for path in there if path.is_dir() and not any(path.iterdir())}
    assert {path.name for path in there} - empty == named


@each_document
def test_every_file_that_is_named_exists(document: Path) -> None:
    kinds = r"[\w.-][\w./-]*(?:\.(?:py|md|yml|toml|lock|example)|/)"
    named = {span for span in spans(prose(document)) if re.fullmatch(kinds, span) and not ignored(span.split("/")[0])}
    assert [path for path in named if not (PROJECT / path).exists()] == []


# --- Settings


@each_document
def test_every_setting_that_is_named_exists_and_takes_that_value(document: Path) -> None:
    example = set(re.findall(r"^#?([A-Z][A-Z0-9_]*)=", (PROJECT / ".env.example").read_text(), re.M))
    for line in commands(document):
        for name, value in re.findall(r"(?:^|\s)([A-Z][A-Z0-9_]*)=(\w*)", line):
            if line.startswith(f"{name}=") and line in "".join(blocks(document, "sh")):
                continue  # the reader's own shell variable
            if line.startswith("make ") and f"$({name})" in (PROJECT / "Makefile").read_text():
                continue  # an argument of that target
            assert name in example, line
            field = Settings.model_fields.get(name.lower())
            choices = get_args(field.annotation) if field else ()
            if value and all(isinstance(choice, str) for choice in choices):
                assert not choices or value in choices, line
    words = {span for span in spans(prose(document)) if re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+", span)}
    assert words - FOREIGN_SETTINGS <= example


# --- Links, and the picture


def anchors(document: Path) -> set[str]:
    """The fragments by which GitHub lets headings be linked to."""
    titles = re.findall(r"^#+ (.*)$", prose(document), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@each_document
def test_every_link_within_the_repository_leads_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(document))
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        path, _, fragment = target.partition("#")
        file = document.parent / path if path else document
        assert file.is_file(), target
        assert not fragment or fragment in anchors(file), target


def test_the_readme_leads_to_every_other_document() -> None:
    linked = {(PROJECT / target.split("#")[0]) for target in re.findall(r"\]\(([^):\s]+)\)", prose(README))}
    assert set(DOCUMENTS) - {README} <= linked


def test_the_pictures_are_small_and_their_source_is_told() -> None:
    for document in (README, KOREAN):
        paths = re.findall(r"!\[[^\]]+\]\((\S+)\)", document.read_text())
        assert len(paths) == 3
        for path in paths:
            assert (PROJECT / path).stat().st_size <= 200_000
            with Image.open(PROJECT / path, formats=["JPEG", "WEBP"]) as opened:
                opened.load()
                assert opened.width >= 1400
        assert "(cli/sample/SOURCES.md)" in document.read_text()


# --- Both languages


def without_words(language: str, body: str) -> list[str]:
    """A block without what is translated: comments, and the explanations of the map."""
    if language == "text":
        return [line.strip().partition("  ")[0] for line in body.splitlines()]
    return [re.sub(r"\s+(?:#|//) .*", "", line) for line in body.splitlines()]


def test_the_korean_page_has_the_same_parts() -> None:
    def parts(document: Path) -> tuple[Any, ...]:
        headings = [len(marks) for marks in re.findall(r"^(#+) ", prose(document), re.M)]
        shapes = [line.replace("\\|", "").count("|") for line in document.read_text().splitlines() if line[:1] == "|"]
        code = [without_words(*found) for found in FENCED.findall(document.read_text())]
        # Pictures of the page are in the document's own language.
        links = Counter(
            re.sub(r"-(en|ko)\.webp$", "", link) for link in re.findall(r"\]\(([^):#\s]+)", prose(document))
        )
        links[README.name] = links[KOREAN.name] = 0  # each leads to the other
        return headings, shapes, code, links

    for english, korean in zip(parts(README), parts(KOREAN), strict=True):
        assert english == korean


def test_the_korean_page_names_the_same_things_in_korean() -> None:
    english, korean = (set(spans(prose(document))) for document in (README, KOREAN))
    assert english == korean
    paragraphs = [part for part in re.split(r"\n{2,}", prose(KOREAN)) if part.strip() and part[0] != "#"]
    assert [part for part in paragraphs if not HANGUL.search(part)] == []
