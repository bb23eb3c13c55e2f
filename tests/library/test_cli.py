"""The command line lists its commands, suggests names, and refuses in a sentence."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
import yaml
from click.testing import CliRunner
from whole_path import JOLLYBOAT, run

from jollyboat.cli import options, parts
from jollyboat.cli.main import GROUPS, jollyboat
from jollyboat.store import LIBRARY, PROJECT, Store, UserError, write_json

HEAVY = {"duckdb", "fastapi", "numpy", "pandas", "pydantic", "sklearn", "uvicorn", "xgboost"}


def every(command: click.Command, *names: str) -> Iterator[tuple[str, ...]]:
    """The words of each command, and of each group of commands."""
    yield names
    for name, each in getattr(command, "commands", {}).items():
        yield from every(each, *names, name)


def call(*words: str, **environment: str):
    return CliRunner().invoke(jollyboat, words, prog_name="jollyboat", env=environment)


def test_help_lists_every_command_under_its_heading_and_says_how_to_complete_names():
    result = call("--help").output

    for heading, commands in GROUPS.items():
        assert f"\n{heading}:\n" in result
        assert all(f"\n  {command.name} " in result for command in commands)
    assert "_JOLLYBOAT_COMPLETE=bash_source" in result


@pytest.mark.parametrize("words", [words for words in every(jollyboat) if words], ids=" ".join)
def test_each_command_explains_itself_with_an_example_of_its_own(words):
    result = call(*words, "--help")

    assert result.exit_code == 0
    assert f"Example: jollyboat {' '.join(words)}" in result.output


def test_help_imports_nothing_heavy():
    code = (
        "import sys, jollyboat.cli.main; print(*{name.partition('.')[0] for name in sys.modules})"
    )

    command = [sys.executable, "-c", code]
    loaded = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True).stdout.split()

    assert "click" in loaded
    assert HEAVY.isdisjoint(loaded)


@pytest.mark.parametrize(
    ("words", "suggestion"),
    [
        (["compaer"], "Did you mean 'compare'?"),
        (["snapshots", "pruen"], "Did you mean 'prune'?"),
        (["rollback", "--too", "x"], "Did you mean '--to'?"),
        (["erase"], "Name a --tenant or a --person."),
    ],
)
def test_a_wrong_name_ends_with_exit_code_2_and_a_suggestion(words, suggestion):
    result = call(*words)

    assert result.exit_code == 2
    assert suggestion in result.output


def test_a_refusal_is_one_sentence_on_stderr_and_exit_code_1(tmp_path):
    result = run(Store(tmp_path), *JOLLYBOAT, "snapshots", "show", "nope")

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "There is no snapshot 'nope'; `make data` publishes one.\n"


def test_a_file_that_cannot_be_written_is_named_without_a_traceback(tmp_path):
    (tmp_path / "raw").write_text("no folder")

    result = run(Store(tmp_path), *JOLLYBOAT, "simulate", "--days", "1", "--sessions-per-day", "10")

    assert result.returncode == 1
    assert str(tmp_path / "raw") in result.stderr and "Traceback" not in result.stderr


def test_completion_offers_the_commands_that_begin_so(tmp_path):
    environment = {
        "_JOLLYBOAT_COMPLETE": "bash_complete",
        "COMP_WORDS": "jollyboat sna",
        "COMP_CWORD": "1",
    }

    assert call(**environment).output == "plain,snapshots\n"


def test_a_word_that_is_no_guide_names_the_guides_that_have_it():
    refusal = str(call("docs", "rollback").exception)

    assert refusal.startswith("There is no guide 'rollback'. The word is in production, ")
    assert "logs-from-ga4" not in refusal


def test_the_state_of_an_empty_project_says_what_to_type_first(tmp_path):
    result = call("status", STORE_ROOT=str(tmp_path)).output

    assert "snapshot    none" in result and "champion    none" in result
    assert "next        make simulate" in result


def publish_snapshot(store: Path, **more) -> None:
    counts = {name: {"rows": 3} for name in ("events", "quarantined_events", "sessions")}
    manifest = {"id": "s1", "published_at": "2026-01-01T10:00:00+00:00", "tables": counts}
    write_json(store / "snapshots/latest.json", {"snapshot": "s1"})
    write_json(store / "snapshots/s1/manifest.json", manifest | more)


def finish_run(store: Path) -> None:
    finished = {"run": "r1", "chosen": "rule", "finished_at": "2026-01-02T10:00:00+00:00"}
    write_json(store / "runs/r1/run.json", finished)


def test_the_state_names_what_is_there_and_the_step_that_is_missing(tmp_path):
    publish_snapshot(tmp_path)
    finish_run(tmp_path)

    result = call("status", STORE_ROOT=str(tmp_path)).output

    assert "snapshot    s1, published 2026-01-01 10:00, 3 events" in result
    assert "run         r1, finished 2026-01-02 10:00, rule chosen" in result
    assert "next        make deploy" in result


def test_the_state_names_what_refused_the_last_data_run_and_the_snapshot_that_stays(tmp_path):
    publish_snapshot(tmp_path)
    finding = {"table": "events", "expectation": "there are events", "severity": "critical"}
    write_json(tmp_path / "reports/failed_rows.json", [finding, finding | {"severity": "info"}])

    refused = " ".join(call("status", STORE_ROOT=str(tmp_path)).output.split())
    write_json(tmp_path / "reports/failed_rows.json", [finding | {"severity": "warning"}])
    published = call("status", STORE_ROOT=str(tmp_path)).output

    publish_snapshot(tmp_path, held={"acme": {}})
    write_json(tmp_path / "reports/failed_rows.json", [finding | {"tenants": {"acme": "1 row"}}])
    held = call("status", STORE_ROOT=str(tmp_path)).output

    assert "held back   acme: jollyboat snapshots show" in held and "refused" not in held
    assert "FAILED (critical): events: there are events; snapshot s1 stays" in refused
    assert f"{tmp_path / 'reports/data.html'}" in refused and "then make data" in refused
    assert "refused" not in published and "next        make train" in published


def test_the_state_names_the_deployment_that_the_gate_refused(tmp_path):
    publish_snapshot(tmp_path)
    finish_run(tmp_path)
    failed = [{"name": "smoke", "passed": True}, {"name": "calibration", "passed": False}]
    write_json(tmp_path / "models/shared/v2-gate.json", {"decision": {"checks": failed}})

    result = " ".join(call("status", STORE_ROOT=str(tmp_path)).output.split())

    page = tmp_path / "models/shared/v2-gate.html"
    assert f"refused the last make deploy, v2 failed calibration (page: {page})" in result
    assert "next change what the gate's page names, then make data train deploy" in result


def test_the_state_names_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "monitor").mkdir()
    (tmp_path / "monitor/latest.json").write_text("{broken")

    result = call("status", STORE_ROOT=str(tmp_path)).output

    assert f"unreadable  {tmp_path / 'monitor/latest.json'}" in result and "make monitor" in result


BROKEN = {
    "snapshots/latest.json": (["snapshots"], "make data"),
    "models/shared/champion.json": (["rollback"], "make deploy"),
    "models/acme/champion.json": (["models"], "make deploy"),
    "landed/catalog.json": (["land"], "make data"),
    "snapshots/s1/manifest.json": (["snapshots", "show", "s1"], "make data"),
    "models/shared/v1/manifest.json": (["models"], "make deploy"),
    "runs/r1/run.json": (["runs"], "make train"),
}
JUNK = [
    "{}",
    "[]",
    "5",
    '"x"',
    "null",
    "{",
    '{"snapshot": [], "files": [5], "tables": {"events": 5}}',
]
JUNK += [f'{{"version": "v1", "history": {history}}}' for history in ("{}", "[5]", "[{}]")]


@pytest.mark.parametrize("text", JUNK)
@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_holds_something_else_is_refused_with_the_command_that_writes_it(
    tmp_path, monkeypatch, name, text
):
    words, command = BROKEN[name]
    monkeypatch.setenv("STORE_ROOT", str(tmp_path))
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text(text)

    with pytest.raises(UserError) as refused:
        jollyboat(words, standalone_mode=False)

    assert f"{tmp_path / name} is not" in str(refused.value)
    assert str(refused.value).endswith(f"Delete it, then run `{command}`.")


def test_an_id_that_begins_with_a_hyphen_is_an_id(monkeypatch):
    from jollyboat.erasure import erase

    requests = []
    monkeypatch.setattr(erase, "erase", lambda store, *what: requests.append(what[:3]))
    monkeypatch.setattr(erase, "format_summary", lambda *_: "")
    monkeypatch.setattr(erase, "unknown_files", lambda _: [])

    for words in (("--person", "-x7"), ("--person", "--tenant"), ("--person=-x7",)):
        assert call("erase", *words).exit_code == 0, words
    assert [(None, "-x7", None), (None, "--tenant", None), (None, "-x7", None)] == requests


@pytest.mark.parametrize(
    "words, is_terminal, typed, goes",
    [
        ([], True, "y", True),
        ([], True, "\n", False),
        (["--yes"], True, "", True),
        ([], False, "", True),
    ],
)
def test_on_a_terminal_an_erasure_says_what_goes_and_asks(
    words, is_terminal, typed, goes, monkeypatch
):
    @click.command()
    @options.agree_option
    def remove(agree):
        agree("12 records of 3 files")

    stdin = SimpleNamespace(isatty=lambda: is_terminal)
    monkeypatch.setattr(options, "sys", SimpleNamespace(stdin=stdin))
    result = CliRunner().invoke(remove, words, input=typed)

    assert (result.exit_code == 0) == goes, result.output
    assert ("This removes 12 records of 3 files" in result.output) == (is_terminal and not words)


def test_where_an_erasure_removed_all_the_next_command_is_named(tmp_path):
    from jollyboat.snapshots import snapshot
    from jollyboat.training import run as training_run

    store = Store(tmp_path)
    store.erasures.write_text("{}\n")

    for module, command in ((snapshot, "`make data`"), (training_run, "`make train`")):
        with pytest.raises(
            UserError, match=f"an erasure or `make clean` removed it. Run {command}"
        ):
            module.open("", store)


def settings_of(project: Path) -> dict:
    return yaml.safe_load((project / parts.SETTINGS).read_text())["models"]


@pytest.fixture
def owned(tmp_path):
    """A project's settings of dbt, as they are shipped."""
    (tmp_path / "dbt").mkdir()
    shutil.copy(PROJECT / parts.SETTINGS, tmp_path / parts.SETTINGS)
    return tmp_path


def test_a_copied_model_is_the_projects_and_the_librarys_is_off(owned):
    before = settings_of(owned)
    for name in ("sessions", "events", "landed_files"):
        sentences = parts.eject_file("model", name, owned)

    assert sentences[0] == "wrote dbt/models/landed_files.sql, dbt/dbt_project.yml"
    off = {"+enabled": False}
    assert settings_of(owned) == before | {
        "jollyboat": {"landed_files": off, "marts": {"sessions": off, "events": off}}
    }
    shipped = (PROJECT / parts.SETTINGS).read_text().splitlines()
    assert set(shipped) <= set((owned / parts.SETTINGS).read_text().splitlines())
    copied = (owned / "dbt/models/marts/sessions.sql").read_text()
    assert copied == (LIBRARY / "dbt/models/marts/sessions.sql").read_text()


def test_a_suite_and_a_page_are_copied_and_a_file_of_the_project_is_kept(owned):
    parts.eject_file("suite", "sessions", owned)
    parts.eject_file("page", "run", owned)

    assert (owned / "expectations/sessions.json").exists()
    (owned / "templates/run.html").write_text("mine")
    with pytest.raises(UserError, match=r"has templates/run\.html already; change it there"):
        parts.eject_file("page", "run", owned)
    assert (owned / "templates/run.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("models", "sentence"),
    [
        ("models: {project: {+materialized: table}}", "Add models > jollyboat > marts > events: "),
        ("models: [", "dbt_project.yml is not valid YAML"),
    ],
)
def test_settings_that_cannot_be_edited_are_left_with_what_to_do(owned, models, sentence):
    before = (owned / parts.SETTINGS).read_text().partition("models:\n")[0]
    text = f"{before}{models}\n"
    (owned / parts.SETTINGS).write_text(text)

    with pytest.raises(UserError, match=sentence):
        parts.eject_file("model", "events", owned)

    assert (owned / parts.SETTINGS).read_text() == text
    assert not (owned / "dbt/models").exists()


def test_a_file_of_the_library_is_shown_and_a_wrong_name_gets_a_suggestion():
    assert "is_bot" in call("show", "model", "sessions").output
    assert "events\n" in call("show", "model").output
    refused = call("show", "page", "dta").exception
    assert str(refused) == "The library has no page 'dta'. Did you mean data?"
