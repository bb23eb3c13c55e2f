"""Refuses answers that would not do, each in a sentence, before a file is written."""

import json
import keyword
import re
import shutil
import sys

# Encoded twice, as text and then as a Python literal, which no answer can end. So this file parses unrendered, too.
ANSWERS = json.loads({{cookiecutter | jsonify | jsonify}})  # noqa: F821 - names of Jinja's

LONGEST = {"project_name": 60, "description": 200, "owner": 60}
JOINERS = "\u200c\u200d"  # not printable by themselves; Persian words and composed emoji need them
TAKEN = {
    *(
        "data",
        "dbt",
        "docs",
        "expectations",
        "flows",
        "ml",
        "project",
        "rails",
        "serving",
        "test",
        "tests",
    ),
    *(
        "cookiecutter",
        "duckdb",
        "fastapi",
        "jinja2",
        "metaflow",
        "numpy",
        "pandas",
        "pytest",
        "sklearn",
        "xgboost",
    ),
}


def refusals():
    """Yields a sentence for each thing that would not do."""
    if sys.platform == "win32":
        yield "The project runs on Linux and macOS; on Windows generate and run it inside WSL."
    others = [f"python3.{minor}" for minor in (11, 12, 13)]
    if not (3, 11) <= sys.version_info[:2] <= (3, 13) and not any(map(shutil.which, others)):
        yield "The project runs on Python 3.11, 3.12 and 3.13, and none of them was found; install one of them."
    elif sys.version_info < (3, 11):  # noqa: UP036 - cookiecutter itself runs on 3.10
        yield "cookiecutter runs on a Python before 3.11 here; install it on 3.11 or newer and run it again."
    for question, longest in LONGEST.items():
        yield from refusals_of_text(question, ANSWERS[question], longest)
    yield from refusals_of_slug(ANSWERS["__answered_slug"], ANSWERS["project_slug"])


def refusals_of_text(question, text, longest):
    if not text.strip():
        yield f"{question} is empty; 1 to {longest} characters would do."
    elif len(text) > longest:
        yield f"{question} has {len(text)} characters; {longest} at most would do."
    bad = [
        letter
        for letter in text
        if letter in '"\\' or not (letter.isprintable() or letter in JOINERS)
    ]
    if bad:
        yield f"{question} holds {bad[0]!a}; one line of letters without double quotes and backslashes would do."


def refusals_of_slug(slug, safe):
    if slug != safe or not re.fullmatch("[a-z][a-z0-9]*(_[a-z0-9]+)*", slug):
        yield (
            f"project_slug {slug[:60]!a} would not do: it is up to 40 lower-case letters, digits and single "
            f"underscores, beginning with a letter, such as {safe}."
        )
    elif keyword.iskeyword(slug) or slug in sys.stdlib_module_names or slug in TAKEN:
        yield f"project_slug {slug} is a name that Python or the project itself uses; {slug}_project would do."


found = list(refusals())
if found:
    sys.exit("\n".join(found))
