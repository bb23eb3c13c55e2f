"""Checks the answers before a file is written: a sentence for each wrong one."""

import json
import keyword
import re
import shutil
import sys

# Encoded twice, as JSON and as a Python literal, so that no answer can end the literal.
# The file is also valid Python before it is rendered.
ANSWERS = json.loads({{cookiecutter | jsonify | jsonify}})  # noqa: F821 - names of Jinja's

LONGEST = {"project_name": 60, "description": 200, "owner": 60}
# Not printable by themselves; Persian words and composed emoji need them.
JOINERS = "\u200c\u200d"
FOLDERS = "data dbt docs expectations flows ml project test tests vendor"
PACKAGES = (
    "cookiecutter duckdb fastapi jinja2 jollyboat metaflow numpy pandas pytest sklearn xgboost"
)
TAKEN = {*FOLDERS.split(), *PACKAGES.split()}
VERSIONS = "3.11", "3.12", "3.13"


def errors():
    """Yields a sentence for each thing that is wrong."""
    if sys.platform == "win32":
        yield "The project runs on Linux and macOS. On Windows, generate and run it inside WSL."
    is_supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    if not is_supported and not any(shutil.which(f"python{version}") for version in VERSIONS):
        yield (
            "The project runs on Python 3.11, 3.12 and 3.13, and none of them is on PATH. "
            "Install one of them."
        )
    elif sys.version_info < (3, 11):  # noqa: UP036 - cookiecutter itself runs on 3.10
        yield (
            "cookiecutter runs on a Python before 3.11 here. "
            "Install it on 3.11 or newer, then run it again."
        )
    for question, longest in LONGEST.items():
        yield from errors_of_text(question, ANSWERS[question], longest)
    yield from errors_of_slug(ANSWERS["__answered_slug"], ANSWERS["project_slug"])


def errors_of_text(question, text, longest):
    if not text.strip():
        yield f"{question} is empty. Type 1 to {longest} characters."
    elif len(text) > longest:
        yield f"{question} has {len(text)} characters. Type at most {longest}."
    bad = [letter for letter in text if not is_allowed(letter)]
    if bad:
        yield (
            f"{question} contains {bad[0]!a}. "
            "Type one line of text without double quotes and backslashes."
        )


def is_allowed(letter):
    return letter not in '"\\' and (letter.isprintable() or letter in JOINERS)


def errors_of_slug(slug, safe):
    if slug != safe or not re.fullmatch("[a-z][a-z0-9]*(_[a-z0-9]+)*", slug):
        yield (
            f"project_slug {slug[:60]!a} is not valid. Type up to 40 lower-case letters, digits "
            f"and single underscores that begin with a letter, such as {safe}."
        )
    elif keyword.iskeyword(slug) or slug in sys.stdlib_module_names or slug in TAKEN:
        yield (
            f"project_slug {slug} is a name that Python or the project uses. "
            f"Type another, such as {slug}_project."
        )


sentences = list(errors())
if sentences:
    sys.exit("\n".join(sentences))
