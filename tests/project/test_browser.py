"""The server's pages open in a browser without a complaint, fit a phone, and take judgements by keyboard."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import browser
from runs import JOLLYBOAT, run

import demo


@contextmanager
def served(project: Path, store: Path) -> Iterator[str]:
    """The address of the project's server over a store."""
    environment = demo.environment() | {"STORE_ROOT": str(store), "PORT": "0"}
    command = [project / ".venv/bin/python", *JOLLYBOAT, "serve"]
    with subprocess.Popen(
        command, cwd=project, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield re.search(r"http://\S+?(?=;)", process.stdout.readline())[0]
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def watched(untouched: Path, built: Path, tmp_path_factory) -> Path:
    """A store with a monitor's page, to be judged."""
    store = Path(shutil.copytree(built, tmp_path_factory.mktemp("watched") / "store"))
    result = run(untouched, store, "flows/monitor.py", "run")
    assert result.returncode == 0, result.stdout
    return store


@pytest.mark.parametrize("width", [390, 1200])
def test_every_page_opens_without_an_error_asks_nobody_else_and_is_no_wider_than_the_screen(
    untouched, watched, width
):
    with served(untouched, watched) as address, browser(width) as page:
        page.open(f"{address}/")
        links = page.evaluate("[...document.links].map(link => link.href)")
        own = [link for link in links if re.search(r"/page/|/review$|/docs$", link)]
        for link in ["/", *own]:
            page.open(link if link != "/" else f"{address}/")
            wide = page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert wide <= 0, link
            assert page.evaluate("document.querySelectorAll('h1').length") == 1, link
            landmarks = page.evaluate(
                "['header', 'main', 'footer'].every(name => document.querySelector(name))"
            )
            assert landmarks, link
            assert page.hindrances() == [], link

        assert {"data.html", "report.html", "card.html", "review", "docs"} <= {
            link.rpartition("/")[2] for link in own
        }
        assert [
            requested
            for requested in page.requests
            if not requested.startswith((f"{address}/", "data:"))
        ] == []
        assert page.errors == []


def test_axe_would_have_seen_pale_text_and_a_picture_without_words():
    with browser() as page:
        pale = "<p style='color:#bbb;background:#fff'>pale</p><img>"
        page.evaluate(f'document.body.innerHTML = "{pale}"')

        seen = " ".join(page.hindrances())

    assert "color-contrast" in seen and "image-alt" in seen


def test_the_browser_would_have_told_of_an_error():
    with browser() as page:
        page.evaluate("console.error('seen')")
        page.evaluate("setTimeout(() => missing())")
        page(
            "Runtime.evaluate",
            expression="new Promise(done => setTimeout(done, 200))",
            awaitPromise=True,
        )

        assert len(page.errors) == 2


def test_three_sessions_reviewed_by_keyboard_are_three_lines_and_one_undone_a_fourth(
    untouched, watched
):
    with served(untouched, watched) as address, browser() as page:
        page.open(f"{address}/review")
        assert page.evaluate("document.querySelectorAll('button[data-key]').length") == 5
        for key in "fnc":
            page.press(key)
        judged = lines(watched)
        page.press("u")
        waiting = page.evaluate("document.querySelector('[role=status]').textContent")

        assert page.errors == []
    assert [line["judgement"] for line in judged] == ["fit", "not_a_person", "cannot_say"]
    assert len({line["entity_id"] for line in judged}) == 3
    assert lines(watched)[-1]["undoes"] == judged[-1]["judgement_id"]
    assert "2 judged" in waiting


def test_three_keys_pressed_at_once_judge_one_session_once(untouched, watched):
    before = len(lines(watched))
    with served(untouched, watched) as address, browser() as page:
        page.open(f"{address}/review")
        page.press_at_once("fnc")
        page.press("c")

    added = lines(watched)[before:]
    assert len({line["entity_id"] for line in added}) == len(added) == 2


def test_letters_of_a_comment_judge_nothing_and_a_reviewers_name_is_remembered(untouched, watched):
    before = len(lines(watched))
    with served(untouched, watched) as address, browser() as page:
        page.open(f"{address}/review")
        for field, letters in (("by", "fn"), ("comment", "tc")):
            page.evaluate(f"document.querySelector('[name={field}]').focus()")
            for key in (*letters, "Enter"):
                page("Input.dispatchKeyEvent", type="keyDown", key=key, text=key[:1])
                page("Input.dispatchKeyEvent", type="keyUp", key=key)
        assert before == len(lines(watched))
        page.evaluate("document.activeElement.blur()")
        page.press("f")
        page.press("c")
        page.press("u")

        assert page.errors == []
    added = lines(watched)[before:]
    assert ["tc", None, None] == [line.get("comment") for line in added]
    assert ["fn"] * 3 == [line["by"] for line in added]


def lines(store: Path) -> list[dict]:
    """The judgements that landed, oldest first."""
    actual = [json.loads(path.read_text()) for path in store.glob("raw/labels/dt=*/*.jsonl")]
    return sorted(actual, key=lambda line: line["judged_at"])
