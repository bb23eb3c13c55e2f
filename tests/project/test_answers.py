"""Answers are taken as they are, or refused in a sentence that leaves nothing behind."""

import json
import shutil
import sys
import tomllib
from pathlib import Path

import pytest

import demo

QUESTIONS = {"project_name", "project_slug", "description", "owner"}
HARMLESS = [
    "Shop Intent",
    "O'Brien & Sons' <b>shop</b>",
    "'''",
    "{{ 7*7 }}",
    "{% raw %}",
    "${HOME} $(id) `id`",
    "日本語の店",
    "חנות שלנו",
    "فروشگاه‌ها",
    "🛒 👨‍👩‍👧",
    "# not a heading | nor a table",
    "a" * 60,
]
REFUSED = {
    "empty": "",
    "blank": "   ",
    "long": "a" * 300,
    "double quote": 'The "best" shop',
    "three double quotes": '"""',
    "backslash": r"\n \u0000 \\",
    "new line": "one\ntwo",
    "escape": "\x1b[31mred",
    "right-to-left override": "\u202eevil",
}
BAD_SLUGS = [
    "",
    "..",
    "../x",
    "a/b/c",
    "/x",
    "my project!",
    "My_Project",
    "my-project",
    "9lives",
    "_x",
    "a__b",
    "mañana",
    "class",
    "test",
    "ml",
    "json",
    "a'b",
    'a"b',
    "a\\b",
    "{{ 7*7 }}",
    "$(id)",
    "x" * 300,
]


def generated(around: Path) -> list[str]:
    return sorted(str(path.relative_to(around)) for path in around.rglob("*") if path.name != "out")


def test_there_are_four_questions_each_with_a_default_and_a_sentence_of_help():
    context = json.loads((demo.HERE / "cookiecutter.json").read_text())

    assert {name for name in context if not name.startswith("_")} == QUESTIONS
    assert set(context["__prompts__"]) == QUESTIONS
    assert all(context[name] for name in QUESTIONS)


def test_pressing_return_four_times_generates_a_project(ask, around):
    result = ask(typed=["", "", "", ""])

    assert result.returncode == 0, result.stdout + result.stderr
    assert (around / "out/shop_intent/Makefile").exists()


@pytest.mark.parametrize("text", HARMLESS)
def test_a_harmless_text_typed_as_an_answer_arrives_as_it_is(ask, around, text):
    result = ask(typed=[text, "shop", text, text])

    assert result.returncode == 0, result.stdout + result.stderr
    settings = tomllib.loads((around / "out/shop/project.toml").read_text())
    assert settings["project"] == {"name": text, "slug": "shop", "description": text, "owner": text}
    assert (around / "out/shop/README.md").read_text().startswith(f"# {text}\n")


@pytest.mark.parametrize("name", ["日本語の店", "🛒", "3rd try", "Déjà vu – très long " * 3])
def test_the_suggested_folder_does_whatever_the_name(ask, around, name):
    result = ask(typed=[name[:60], "", "", ""])

    assert result.returncode == 0, result.stdout + result.stderr
    assert len(list((around / "out").iterdir())) == 1


@pytest.mark.parametrize("question", ["project_name", "description", "owner"])
@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
def test_a_text_that_would_not_do_is_refused_in_a_sentence(ask, around, question, text):
    result = ask(**{"project_slug": "shop", question: text})

    assert result.returncode == 1
    assert f"{question} " in result.stderr and ". Type " in result.stderr
    assert generated(around) == []


@pytest.mark.parametrize("slug", BAD_SLUGS)
def test_a_slug_that_would_not_do_is_refused_and_leaves_nothing_anywhere(ask, around, slug):
    result = ask(project_slug=slug)

    assert result.returncode == 1
    assert result.stderr.startswith("project_slug ")
    assert generated(around) == []


@pytest.mark.parametrize("slug", ["../x", "a/b", "x" * 300])
def test_a_slug_typed_at_the_prompt_is_refused_as_well(ask, around, slug):
    result = ask(typed=["", slug, "", ""])

    assert result.returncode == 1
    assert generated(around) == []


def test_a_project_that_is_there_already_is_left_alone(ask, around):
    ask()
    mine = around / "out/shop_intent/README.md"
    mine.write_text("mine")

    assert ask().returncode == 1
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "value", "other", "sentence"),
    [
        ("platform", "win32", None, "inside WSL"),
        ("version_info", (3, 10, 9), None, "3.11, 3.12 and 3.13"),
        (
            "version_info",
            (3, 10, 9),
            "/usr/bin/python3.13",
            "cookiecutter runs on a Python before 3.11",
        ),
    ],
)
def test_a_system_or_python_that_would_not_do_is_refused_before_anything_is_generated(
    monkeypatch, name, value, other, sentence
):
    answers = {
        "project_name": "a",
        "project_slug": "a",
        "__answered_slug": "a",
        "description": "a",
        "owner": "a",
    }
    hook = (demo.HERE / "hooks/pre_gen_project.py").read_text()
    rendered = hook.replace("{{cookiecutter | jsonify | jsonify}}", repr(json.dumps(answers)))

    exec(rendered, {})
    with monkeypatch.context() as patched, pytest.raises(SystemExit, match=sentence):
        patched.setattr(shutil, "which", lambda name: other)
        patched.setattr(sys, name, value)
        exec(rendered, {})
