"""Generates a project with default answers into build/demo and runs its whole path, a line a stage.

What a stage has done is remembered for as long as the template and the generated project stay as they are.
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
    *(".venv", "data", ".metaflow", "metaflow_card_cache", "__pycache__"),
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
    "monitor": [
        ".venv/bin/python",
        "flows/monitor.py",
        "run",
        "--as-of",
    ],  # the end of the simulated day
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
        done = {"template": template, "project": project, "said": {}}
    for stage, command in STAGES.items():
        if stage in done["said"] and stage != "ask":
            print(f"{stage:9} as before: {last_sentence(stage, done['said'][stage])}")
        else:
            done["said"][stage] = run_stage(stage, [*command, *after_traffic(stage)], PROJECT)
            DONE.write_text(json.dumps(done))
        if stage == "ask":
            print("\n".join(re.findall(r"^200 .*(?:\n .*)*", done["said"][stage], re.MULTILINE)))
    tell_what_exists(done["said"], time.monotonic() - began)


def after_traffic(stage: str) -> list[str]:
    """What the monitor takes for now: the day of traffic is over."""
    if stage != "monitor":
        return []
    settings = tomllib.loads((PROJECT / "project.toml").read_text())["simulate"]
    return [str(date.fromisoformat(settings["start"]) + timedelta(days=settings["days"] + 1))]


def template_files() -> list[Path]:
    """What a project is generated from, relative to the repository: what git tracks or would, not what work leaves."""
    command = [
        "git",
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
        TEMPLATE,
        "src",
        "hooks",
    ]
    listed = subprocess.run(command, cwd=HERE, capture_output=True, text=True).stdout
    unlisted = [
        f"{folder}/{path}"
        for folder in (TEMPLATE, "src", "hooks")
        for path in files_below(HERE / folder)
    ]
    below = listed.split("\0")[:-1] or unlisted
    files = [Path(name) for name in ["cookiecutter.json", "pyproject.toml", *sorted(below)]]
    return [path for path in files if (HERE / path).is_file()]


def files_below(folder: Path) -> list[Path]:
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not LEFTOVERS & set(path.parts))


def digest(folder: Path, files: list[Path]) -> str:
    each = [f"{path} {hashlib.sha256((folder / path).read_bytes()).hexdigest()}" for path in files]
    return hashlib.sha256("\n".join(each).encode()).hexdigest()


def copy_template(into: Path) -> None:
    """The template alone, for cookiecutter generates whatever lies in its folder."""
    shutil.rmtree(into, ignore_errors=True)
    for path in template_files():
        (into / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(HERE / path, into / path)


def environment() -> dict[str, str]:
    """That of somebody who types the verbs by hand in the generated project, with uv at hand."""
    ours = {"MAKEFLAGS", "MAKELEVEL", "VENV", "STORE_ROOT", "JOLLYBOAT_PROJECT"}
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return kept | {"PATH": f"{kept['PATH']}{os.pathsep}{Path(sys.executable).parent}"}


def run_stage(stage: str, command: list[str], folder: Path) -> str:
    """What the stage said. One that fails shows it and ends the demo."""
    began = time.monotonic()
    log = BUILD / "logs" / f"{stage}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"{stage:9} ", end="", flush=True)
    with log.open("w") as output:
        running = subprocess.Popen(
            command,
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        while running.poll() is None:
            try:
                running.wait(timeout=2)
            except subprocess.TimeoutExpired:
                print(".", end="", flush=True)
    said = log.read_text(errors="replace").replace(f"{PROJECT}/", "")
    if running.returncode:
        print(
            f" failed\n\n{said}\n{stage} ended with exit code {running.returncode}; `make demo` goes on from there."
        )
        sys.exit(1)
    print(f" {last_sentence(stage, said)} ({time.monotonic() - began:.1f} s)")
    return said


def unwrap(text: str) -> str:
    """The text with each line that was wrapped in one piece again."""
    return re.sub(r"\n +", " ", text)


def last_sentence(stage: str, said: str) -> str:
    """What follows the stage's own name, which is how a verb sums itself up; else the last line. Less its seconds."""
    lines = [SECONDS.sub("", line.strip()) for line in unwrap(said).splitlines() if line.strip()]
    verb = STAGES[stage][-1] if "make" in STAGES.get(stage, []) else stage
    summed_up = [line.removeprefix(f"{verb}: ") for line in lines if line.startswith(f"{verb}: ")]
    return (summed_up or lines or ["done"])[-1]


def tell_what_exists(said: dict[str, str], seconds: float) -> None:
    pages = dict.fromkeys(re.findall(r"^page: (.+)", "\n".join(said.values()), re.MULTILINE))
    print(f"\nAfter {seconds:.0f} s there is in build/demo:")
    print(f"  champion  {last_sentence('deploy', said['deploy'])}")
    for page in pages:
        print(f"  page      {os.path.relpath(PROJECT / page)}")
    print("  next      cd build/demo")
    print("            make serve       # answers POST /predict on 127.0.0.1:8000")
    print(
        "            make pipeline    # again, after new logs; for your own: docs/bring-your-own-logs.md"
    )


if __name__ == "__main__":
    main()
