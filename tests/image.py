"""Performs the Dockerfile step by step in a folder, where no container engine is at hand.

`/opt/venv`, `/src`, `/app` and `/data` become folders below one root, everything else runs as written. Two things
are not done: the image's own account is not made on this machine, and instead of downloading what a lock pins, the
same versions are linked from the environment that runs the tests (they were installed there by the same hashes).

`python -m tests.image FOLDER [NAME=VALUE ...]` does download, with build arguments if there are any.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path

PROJECT = Path(__file__).parents[1]
FOLDERS = re.compile(r"(?<![\w./])/(opt/venv|src|app|data)\b")
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^ ;\\]+)(?: ; ([^\\]+))?", re.M)


@dataclass
class Image:
    """What the Dockerfile made: where it stands, and how its commands are run."""

    root: Path
    workdir: Path
    environment: dict[str, str] = field(default_factory=dict)
    command: list[str] = field(default_factory=list)
    healthcheck: list[str] = field(default_factory=list)
    user: str = "root"

    def environment_with(self, settings: Mapping[str, str]) -> dict[str, str]:
        """The image's variables, what an engine adds, and these settings; nothing of our own environment."""
        own = {"HOME": str(self.root), "HOSTNAME": os.uname().nodename}
        return {**own, **self.environment, **settings}

    def run(self, argv: Sequence[str], settings: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, as `docker run` would."""
        return subprocess.run(
            argv, cwd=self.workdir, env=self.environment_with(settings), capture_output=True, text=True, check=False
        )


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """(instruction, its arguments on one line), without comments."""
    text = "\n".join(line for line in dockerfile.splitlines() if not line.startswith("#"))
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1].strip()) for line in lines if line.strip()]


def perform(root: Path, arguments: Mapping[str, str], *, download: bool = False) -> Image:
    """Run every step of the Dockerfile below `root`. Raises CalledProcessError with what the failed step said."""
    tools = root / "tools"
    tools.mkdir(parents=True)
    for name in ("useradd", "chown"):
        _script(tools / name, "#!/bin/sh")
    if download:
        subprocess.run([sys.executable, "-m", "venv", root / "system"], check=True)
        build_path = f"{tools}:{root}/system/bin:/usr/bin:/bin"
    else:
        _script(tools / "pip", f'#!/bin/sh\nPYTHONPATH={PROJECT} exec {sys.executable} -m tests.image pip "$@"')
        build_path = f"{tools}:{Path(sys.executable).parent}:/usr/bin:/bin"
    image = Image(root, root)
    variables: dict[str, str] = {}
    for name, text in instructions((PROJECT / "Dockerfile").read_text()):
        here = FOLDERS.sub(lambda found: f"{root}{found[0]}", text)
        match name:
            case "FROM":
                image.workdir, variables = root, {}
                # The last stage finds nothing but the system and what it was given.
                image.environment = {"PATH": build_path if " AS " in text else f"{tools}:/usr/bin:/bin"}
            case "WORKDIR":
                image.workdir = Path(here)
                image.workdir.mkdir(parents=True, exist_ok=True)
            case "ARG":
                argument, _, default = here.partition("=")
                variables[argument] = arguments.get(argument, default)
            case "ENV":
                for assignment in here.split():
                    variable, _, value = assignment.partition("=")
                    image.environment[variable] = value.replace("$PATH", image.environment["PATH"])
            case "COPY":
                _copy(here.split(), image.workdir)
            case "RUN":
                done = image.run(["sh", "-ec", here], variables)
                if done.returncode:
                    raise RuntimeError(f"RUN {text}\nended with {done.returncode}:\n{done.stdout}{done.stderr}")
            case "HEALTHCHECK":
                image.healthcheck = json.loads(here.partition(" CMD ")[2])
            case "CMD":
                image.command = json.loads(here)
            case "USER":
                image.user = here
            case "EXPOSE":
                pass
            case _:
                raise ValueError(f"{name} is not known here")
    return image


def context_files() -> set[str]:
    """What .dockerignore lets through: everything is out, and single names are in again."""
    lines = [line for line in (PROJECT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    if lines[0] != "*":
        raise ValueError(".dockerignore must keep everything out first")
    return {line[1:] for line in lines if line.startswith("!")}


def _copy(words: list[str], workdir: Path) -> None:
    if words[0].startswith("--from="):
        source, target = words[1:]
        if source != target:  # the stages share one root, so the same folder is there already
            raise ValueError("COPY --from must keep the path: a virtual environment cannot be moved")
        return
    *sources, target = words
    for source in sources:
        if source not in context_files():
            raise ValueError(f".dockerignore keeps {source} out")
        place = workdir / target if target != "./" else workdir / source
        if (PROJECT / source).is_dir():
            shutil.copytree(PROJECT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(PROJECT / source, place)


def _script(path: Path, text: str) -> None:
    path.write_text(text + "\n")
    path.chmod(0o755)


def _pip(arguments: list[str]) -> None:
    """pip as the Dockerfile calls it; what `--require-hashes` would download is linked instead."""
    if "--require-hashes" not in arguments:
        os.execv(sys.executable, [sys.executable, "-m", "pip", *arguments])
    lock = Path(arguments[arguments.index("-r") + 1]).read_text()
    python = Path(arguments[arguments.index("--python") + 1]) if "--python" in arguments else None
    for name, version in pins(lock):
        installed = distribution(name)
        if installed.version != version:
            raise SystemExit(f"{name} {installed.version} is installed here, the lock says {version}: run make install")
        if python is not None:
            _link(name, python)


def pins(lock: str) -> list[tuple[str, str]]:
    """(name, version) of what a lock pins for this Python and system."""
    from packaging.markers import Marker

    found = PIN.findall(lock)
    return [(name, version) for name, version, marker in found if not marker or Marker(marker.strip()).evaluate()]


def _link(name: str, python: Path) -> None:
    found = distribution(name)
    packages = next((python.parents[1] / "lib").glob("python*")) / "site-packages"
    for file in found.files or ():
        if ".." in file.parts:
            continue
        whole = Path(file.parts[0])
        if not (Path(str(found.locate_file(whole))) / "__init__.py").exists():
            whole = Path(file)  # not a package: a module, or a namespace where other distributions have files, too
        place = packages / whole
        if not place.is_symlink():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(str(found.locate_file(whole)))
    for script in found.entry_points.select(group="console_scripts"):
        call = f"import sys\nfrom {script.module} import {script.attr}\nsys.exit({script.attr}())"
        _script(python.parent / script.name, f"#!{python}\n{call}")


if __name__ == "__main__":
    if sys.argv[1] == "pip":
        _pip(sys.argv[2:])
    else:
        made = perform(Path(sys.argv[1]).absolute(), dict(word.split("=", 1) for word in sys.argv[2:]), download=True)
        print(f"cd {made.workdir}; PATH={made.environment['PATH']}; {' '.join(made.command)}")
