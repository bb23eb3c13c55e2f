"""What a build on Spark needs before it starts, and the SQL that both engines read alike."""

import re
import runpy

import pytest

import demo
from jollyboat.store import PROJECT, Store, UserError, explain
from jollyboat.store.settings import Build, check
from jollyboat.warehouse import spark_build

LINT = runpy.run_path(str(demo.HERE / "tools/lint_portable.py"))
# What is not portable, beside what means the same on both engines.
CASES = {
    "select * exclude (a) from t": "select * {{ jollyboat.without('a') }} from t",
    "select * replace (a + 1 as a) from t": "select replace(a, 'x', 'y') as a from t",
    "select a union all by name select b": "select a union all select a",
    "with t as not materialized (select 1)": "with t as {{ jollyboat.not_materialized() }} (select 1)",
    "select cast(a as varchar)": "select cast(a as string)",
    "select a + interval (30) minute": "select a + interval '30' minute",
    "select payload ->> '$.a'": "select {{ jollyboat.json_field('payload', 'a') }}",
    "select json_valid(payload)": "select '{\"json_valid(\": 1}'",
    "select epoch(a - b)": "select {{ jollyboat.seconds_between('b', 'a') }}",
    "select date_diff('day', a, b)": "select {{ jollyboat.days_between('a', 'b') }}",
    "select isodow(a)": "select {{ jollyboat.weekday('a') }}",
    "select median(a) over w": "select {{ jollyboat.median('a') }} over w",
    "select len(list(a))": "select array_agg(a)",
    "select mode(a)": "select mode() within group (order by a)",
    "select regexp_matches(a, 'b')": "select {{ jollyboat.matches('a', 'b') }}",
    "select regexp_extract(a, '(b)')": "select regexp_extract(a, '(b)', 1)",
    "select isfinite(a)": "select abs(a) < cast('infinity' as double)",
    "select hash(a)": "select md5(a)",
    "select format('{}', a)": "select printf('%d', a)",
    "select distinct on (a) a": "select distinct a",
    "select a::int": "select cast(a as int) -- a::int",
    "select a[1]": "select case a when 1 then 2 end {# a[1] #}",
    "with recursive t as (select 1)": "with t as (select 1)",
    "{% macro x() %}len(a){% endmacro %}": "{% macro default__x() %}len(a){% endmacro %}",
}


@pytest.mark.parametrize(("bad", "good"), CASES.items())
def test_the_lint_finds_what_the_engines_read_differently(bad, good):
    assert LINT["find"](bad)
    assert LINT["find"](good) == []


def test_every_rule_of_the_lint_has_a_case():
    assert all(
        any(re.search(pattern, bad.replace("'$.a'", "''")) for bad in CASES)
        for pattern in LINT["RULES"]
    )


def test_the_librarys_and_the_templates_models_are_portable(capsys):
    with pytest.raises(SystemExit) as ended:
        LINT["main"]()

    assert ended.value.code == 0, capsys.readouterr().out


def test_without_dbt_spark_the_build_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setattr(spark_build, "find_spec", lambda name: None)

    with pytest.raises(UserError, match=r"uv pip install .* -r requirements-spark\.txt"):
        spark_build.check_machine(Store(tmp_path))

    pins = (PROJECT / "requirements-spark.txt").read_text()
    assert "\npyspark==" in pins and "\ndbt-spark==" in pins and "--hash=sha256:" in pins
    assert "http" not in pins and "index" not in pins


@pytest.mark.parametrize("home", ["", "/nowhere"])
def test_without_java_the_build_says_which_to_install(monkeypatch, tmp_path, home):
    monkeypatch.setattr(spark_build, "find_spec", lambda name: name)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setenv("JAVA_HOME", home)

    with pytest.raises(UserError, match="Java 17 or later") as refused:
        spark_build.check_machine(Store(tmp_path))

    assert "\n" not in str(refused.value) and 'engine = "duckdb"' in str(refused.value)


def test_a_path_that_spark_would_read_as_a_pattern_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"the path has a '\{'"):
        spark_build.check_machine(Store(tmp_path / "{a,b}"))


@pytest.mark.parametrize(
    "line",
    [
        "java.lang.OutOfMemoryError: Java heap space",
        "System memory 103809024 must be at least 471859200. Please increase heap size using",
        "# There is insufficient memory for the Java Runtime Environment to continue.",
    ],
)
def test_too_little_memory_names_the_setting(line):
    assert "raise spark_memory under [build] in project.toml" in explain(f"INFO\n{line}\n")


def test_the_settings_of_a_build_are_checked():
    tables = demo.tomllib.loads((PROJECT / "project.toml").read_text())

    assert check(tables).build == Build(engine="duckdb")
    for wrong in ({"engine": "presto"}, {"spark_memory": "much"}, {"master": "local"}):
        with pytest.raises(UserError, match=r"build"):
            check(tables | {"build": wrong})
