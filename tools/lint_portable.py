"""Finds SQL that DuckDB and Spark do not read alike, in the models and macros after staging.

docs/portable-sql.md says what to write instead.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = (
    "src/jollyboat/dbt/models",
    "src/jollyboat/dbt/macros",
    "src/jollyboat/scaffold",
    "{{cookiecutter.project_slug}}/dbt/models",
)
# They read raw files, or say how an engine materializes a model.
ONLY_DUCKDB = ("models/staging/", "models/landed_files.sql")
ONLY_DUCKDB += tuple(
    f"macros/{name}.sql"
    for name in ("canonical_events", "fields", "raw_records", "staged", "table_in_chunks")
)
OF_ONE_ENGINE = re.compile(r"{% macro (default|spark)__.*?endmacro %}", re.DOTALL)
JINJA = re.compile(r"{#.*?#}|{%.*?%}|{{.*?}}", re.DOTALL)
LITERAL = re.compile(r"'[^']*'")
COMMENT = re.compile(r"--.*")
# What is not portable, and what to write.
RULES = {
    r"\bexclude\s*\(|\breplace\s*\((?=[^()]*\bas\b)": "jollyboat.without(...), or all columns",
    r"\bby name\b": "`union all` of columns in one order",
    r"\bas (not )?materialized\b": "jollyboat.materialized() or jollyboat.not_materialized()",
    r"\bas varchar\b": "string",
    r"\binterval\s*\(": "interval '30' day",
    r"(?<!->>)->>?(?=\s*'')|\bjson_\w+\s*\(": "jollyboat.json_field(...) or json_struct(...)",
    r"\b(epoch|epoch_us|strftime|strptime|make_timestamp)\s*\(": "jollyboat.seconds_between(...)",
    r"\b(date_diff|datediff)\s*\(": "jollyboat.days_between(...)",
    r"\b(isodow|dayofweek|weekday)\s*\(": "jollyboat.weekday(...)",
    r"\b(median|quantile_disc|quantile_cont|quantile)\s*\(": "jollyboat.median(...), quantile(...)",
    r"\b(list|list_\w+|len|unnest|explode|array_(?!agg)\w+)\s*\(": "a macro of dialects.sql",
    r"\bmode\s*\(\s*\w": "mode() within group (order by ...)",
    r"\bregexp_(?!extract)\w+\s*\(": "jollyboat.matches(...)",
    r"\bregexp_extract\s*\((?:[^(),]|\([^()]*\))*,(?:[^(),]|\([^()]*\))*\)": "(..., 1), the group",
    r"\b(isfinite|isinf|isnan)\s*\(": "abs(x) < cast('infinity' as double)",
    r"\bhash\s*\(": "md5(...) or jollyboat.hash_bucket(...)",
    r"\bformat\s*\(": "printf(...)",
    r"\bdistinct on\b": "qualify row_number() over (...) = 1",
    r"//|::|\*\*": "a function or cast(x as type)",
    r"\[": "case, or a macro of dialects.sql",
    r"\b(using|window) key\b|\brecursive\b": "jollyboat.connected_components(...)",
}


def find(text: str) -> list[tuple[int, str, str]]:
    """What is not portable: line, the words, and what to write instead."""
    blank = lambda match: re.sub(r"[^\n]", " ", match[0])  # noqa: E731 (keeps the lines' numbers)
    sql = COMMENT.sub(blank, JINJA.sub(blank, OF_ONE_ENGINE.sub(blank, text)))
    sql = LITERAL.sub(lambda match: "''" + " " * (len(match[0]) - 2), sql)
    return sorted(
        (sql.count("\n", 0, match.start()) + 1, match[0].strip(), remedy)
        for pattern, remedy in RULES.items()
        for match in re.finditer(pattern, sql)
    )


def main() -> None:
    count = 0
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.sql")):
            name = str(path.relative_to(ROOT))
            if any(part in name for part in ONLY_DUCKDB):
                continue
            for line, words, remedy in find(path.read_text(encoding="utf-8")):
                print(f"{name}:{line}: {words!r} is not portable; write {remedy}")
                count += 1
    print(f"portable: {count or 'nothing'} found")
    sys.exit(bool(count))


if __name__ == "__main__":
    main()
