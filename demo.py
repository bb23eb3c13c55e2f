"""Generates a project with default answers into build/demo and runs its whole path.

It prints a line per stage, and skips a finished stage until template or project change.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from datetime import date, timedelta
from pathlib import Path

HERE = Path(__file__).resolve().parent
TEMPLATE = "{{cookiecutter.project_slug}}"
BUILD = HERE / "build"
PROJECT = BUILD / "demo"
DONE = PROJECT / "data" / "demo.json"
LEFTOVERS = {
    *(".venv", "data", ".metaflow", "metaflow_card_cache", "__pycache__", "dbt_packages"),
    *(".pytest_cache", ".ruff_cache", "jollyboat.egg-info"),
}
SECONDS = re.compile(r"[;,] [\d.]+ s$")

MAKE = ["make", "-s", "--no-print-directory"]
STAGES = {
    "setup": [*MAKE, "setup"],
    "simulate": [*MAKE, "simulate"],
    "data": [*MAKE, "data"],
    "train": [*MAKE, "train"],
    "deploy": [*MAKE, "deploy"],
    "ask": [".venv/bin/python", "-m", "jollyboat.cli", "ask"],
    "score": [*MAKE, "score"],
    "traffic": [".venv/bin/python", str(HERE / "visitors.py")],
    "outcomes": [*MAKE, "data"],
    "monitor": [".venv/bin/python", "flows/monitor.py", "run"],
}


def main() -> None:
    began = time.monotonic()
    done = json.loads(DONE.read_text()) if DONE.exists() else {}
    template = digest(HERE, template_files())
    if done.get("template") != template or not PROJECT.exists():
        shutil.rmtree(PROJECT, ignore_errors=True)
        copy_template(BUILD / "template")
        answers = ["--no-input", "-o", "build", "build/template", "project_slug=demo"]
        run_stage("generate", [sys.executable, "-m", "cookiecutter", *answers], HERE)
    project = digest(PROJECT, files_below(PROJECT))
    DONE.parent.mkdir(exist_ok=True)
    if done.get("project") != project:
        done = {"template": template, "project": project, "outputs": {}}
    outputs = done["outputs"]
    for stage, command in STAGES.items():
        if stage in outputs and stage != "ask":
            print(f"{stage:9} as before: {summary(stage, outputs[stage])}")
        else:
            outputs[stage] = run_stage(stage, command + arguments(stage), PROJECT)
            DONE.write_text(json.dumps(done))
        if stage == "ask":
            print("\n".join(re.findall(r"^200 .*(?:\n .*)*", outputs[stage], re.MULTILINE)))
    print_results(outputs, time.monotonic() - began)


def arguments(stage: str) -> list[str]:
    """The end of the simulated visitors' day, which the monitor takes for now."""
    if stage != "monitor":
        return []
    settings = tomllib.loads((PROJECT / "project.toml").read_text())["simulate"]
    day = date.fromisoformat(settings["start"]) + timedelta(days=settings["days"] + 1)
    return ["--as-of", str(day)]


def template_files() -> list[Path]:
    """The files that generate a project, relative to the repository, without ignored files."""
    folders = [TEMPLATE, "src", "hooks"]
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *folders]
    listed = subprocess.run(command, cwd=HERE, capture_output=True, text=True).stdout
    names = listed.split("\0")[:-1] or [
        f"{folder}/{path}" for folder in folders for path in files_below(HERE / folder)
    ]
    files = [Path(name) for name in ["cookiecutter.json", "pyproject.toml", *sorted(names)]]
    return [path for path in files if (HERE / path).is_file()]


def files_below(folder: Path) -> list[Path]:
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in files if LEFTOVERS.isdisjoint(path.parts))


def digest(folder: Path, files: list[Path]) -> str:
    hashes = [hashlib.sha256((folder / path).read_bytes()).hexdigest() for path in files]
    lines = [f"{path} {digits}" for path, digits in zip(files, hashes, strict=True)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def copy_template(into: Path) -> None:
    """Copy the template alone, because cookiecutter generates every file in its folder."""
    shutil.rmtree(into, ignore_errors=True)
    for path in template_files():
        (into / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(HERE / path, into / path)


def environment() -> dict[str, str]:
    """The environment of a person who types in the generated project, with uv on PATH."""
    own = {"MAKEFLAGS", "MAKELEVEL", "VENV", "STORE_ROOT", "JOLLYBOAT_PROJECT"}
    others = {name: value for name, value in os.environ.items() if name not in own}
    return others | {"PATH": f"{others['PATH']}{os.pathsep}{Path(sys.executable).parent}"}


def run_stage(stage: str, command: list[str], folder: Path) -> str:
    """The stage's output. A stage that fails prints it and ends the demo."""
    began = time.monotonic()
    log = BUILD / "logs" / f"{stage}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"{stage:9} ", end="", flush=True)
    with log.open("w") as file:
        streams = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, cwd=folder, env=environment(), **streams)
        while process.poll() is None:
            try:
                process.wait(timeout=2)
            except subprocess.TimeoutExpired:
                print(".", end="", flush=True)
    output = log.read_text(errors="replace").replace(f"{PROJECT}/", "")
    if process.returncode:
        print(f" failed\n\n{output}\n{stage} ended with exit code {process.returncode}.")
        print("Fix it, then run `make demo` again; it goes on from there.")
        sys.exit(1)
    print(f" {summary(stage, output)} ({time.monotonic() - began:.1f} s)")
    return output


def unwrap(text: str) -> str:
    """The text without the line breaks that the console put in."""
    return re.sub(r"\n +", " ", text)


def summary(stage: str, output: str) -> str:
    """The last line that begins with the stage's verb, else the last line; without its seconds."""
    lines = [SECONDS.sub("", line.strip()) for line in unwrap(output).splitlines() if line.strip()]
    command = STAGES.get(stage, [])
    verb = command[-1] if "make" in command else stage
    sums = [line.removeprefix(f"{verb}: ") for line in lines if line.startswith(f"{verb}: ")]
    return (sums or lines or ["done"])[-1]


def print_results(outputs: dict[str, str], seconds: float) -> None:
    """Print the champion, the pages and the next commands."""
    pages = dict.fromkeys(re.findall(r"^page: (.+)", "\n".join(outputs.values()), re.MULTILINE))
    print(f"\nAfter {seconds:.0f} s build/demo contains:")
    print(f"  champion  {summary('deploy', outputs['deploy'])}")
    for page in ["data/index.html", *pages]:
        print(f"  page      {os.path.relpath(PROJECT / page)}")
    print("  next      cd build/demo")
    print("            make serve       # answers POST /predict on 127.0.0.1:8000")
    print("            make pipeline    # again, after new logs")
    print("            For your own logs read docs/bring-your-own-logs.md.")


if __name__ == "__main__":
    main()
