"""The audit: Great Expectations over the built tables decides whether they are published.

A suite is `expectations/<table>.json`, plain GX: the project's own, else the library's.
A failed expectation of severity `critical` stops the publication of the tenants whose rows failed
it (held.py), or of all tables where its rows have no `tenant_id`.
The suite `distributions` has no table in the warehouse: it reads each feature's distance from the
last snapshot.
"""

import gc
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from urllib.parse import quote, unquote

import duckdb
from duckdb_engine import Dialect
from sqlalchemy.dialects import registry

from jollyboat.audit.data_docs import write_index
from jollyboat.audit.finding import KEYS_KEPT, Finding
from jollyboat.audit.points import audit_points
from jollyboat.pages.terminal import format_count
from jollyboat.snapshots import distribution
from jollyboat.snapshots.snapshot import Snapshot
from jollyboat.store import LIBRARY, PROJECT, Store, UserError, suggest, write_json, write_text
from jollyboat.warehouse import warehouse

# Later folders replace suites of the same name.
SUITES = (LIBRARY / "expectations", PROJECT / "expectations")
# GX's Data Docs load their styles from other hosts; these work offline.
STYLE = """<style>
:root { color-scheme: light dark; }
body { background: Canvas; color: CanvasText; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; max-width: 75rem; }
h1, h2, h3, h4, h5, h6 { font-size: 1.1rem; margin: 1.2rem 0 .3rem; }
table { border-collapse: collapse; background: none !important; }
td, th { border-bottom: 1px solid #8886; padding: .3rem 1rem .3rem 0; }
td, th { text-align: left; vertical-align: top; }
.fa-check-circle::before { content: "✓"; color: light-dark(#1f6f43, #6fcf97); }
.fa-times::before { content: "✗"; color: light-dark(#b3261e, #ff8a80); }
.fa-exclamation-triangle::before { content: "!"; color: light-dark(#875300, #f0b45b); }
nav, footer, .sticky, form { display: none; }
</style></head>"""
SEVERITIES = ("critical", "warning", "info")
BACK = '<p><a href="index.html">All tables</a> · <a href="../data.html">Data</a></p>'
REMOTE = re.compile(
    r"<script.*?</script>|<link[^>]*>|<img[^>]*>|</?a\b[^>]*>|<input[^>]*>|<label.*?</label>",
    re.DOTALL,
)


class AuditDialect(Dialect):
    """duckdb-engine for reading only, without transactions.

    A rollback at the end of a connection discards the result that GX still reads
    (great_expectations issue 10738).
    """

    supports_statement_cache = True

    def create_connect_args(self, url):
        return super().create_connect_args(url.set(database=unquote(url.database)))

    def do_begin(self, dbapi_connection) -> None: ...

    def do_commit(self, dbapi_connection) -> None: ...

    def do_rollback(self, dbapi_connection) -> None: ...


def load_gx():
    """Great Expectations, imported without telemetry; without garbage collection it takes 2 s."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    gc.disable()
    import great_expectations

    gc.freeze()
    gc.enable()
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    _count_rows_once()
    return great_expectations


@cache
def _count_rows_once() -> None:
    """Make GX count the unexpected rows that it has read, instead of running the query again.

    That saves a fifth of the audit of five million events. Above GX's maximum of rows the query
    still runs again.
    """
    from great_expectations.constants import MAX_RESULT_RECORDS
    from great_expectations.execution_engine import SqlAlchemyExecutionEngine
    from great_expectations.expectations.metrics.metric_provider import metric_value
    from great_expectations.expectations.metrics.query_metrics import UnexpectedRowsQueryRowCount
    from great_expectations.validator.metric_configuration import MetricConfiguration

    class RowCount(UnexpectedRowsQueryRowCount):  # GX registers it under its parent's name
        @classmethod
        def _get_evaluation_dependencies(cls, metric, *args, **kwargs):
            rows = MetricConfiguration(
                "unexpected_rows_query.table",
                metric.metric_domain_kwargs,
                metric.metric_value_kwargs,
            )
            return super()._get_evaluation_dependencies(metric, *args, **kwargs) | {"rows": rows}

        @metric_value(engine=SqlAlchemyExecutionEngine)
        def _sqlalchemy(cls, metrics, **kwargs) -> int:
            if len(metrics["rows"]) < MAX_RESULT_RECORDS:
                return len(metrics["rows"])
            return UnexpectedRowsQueryRowCount._sqlalchemy(cls, metrics=metrics, **kwargs)


def audit(
    store: Store, last: Snapshot | None = None, folders: Sequence[Path] = SUITES
) -> list[Finding]:
    """The results of every suite; the warehouse is opened read-only and closed again.

    `last` is the snapshot to compare the features' distributions with. Writes a page for each
    table and an index to data/reports/data_docs, and the keys of failed rows to
    data/reports/failed_rows.json.
    """
    gx = load_gx()
    moved = _distances(store, last)
    registry.register("duckdb.audit", __name__, "AuditDialect")
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    context.delete_data_docs_site("local_site")
    source = _open_warehouse(context, store)
    computed = context.data_sources.add_pandas("computed")
    shutil.rmtree(store.data_docs, ignore_errors=True)
    results = []
    try:
        for path in find_suites(folders):
            if path.stem == "distributions":
                frame = computed.add_dataframe_asset(path.stem)
                batch = frame.add_batch_definition_whole_dataframe("whole")
                parameters = {"dataframe": moved}
            else:
                table = source.add_table_asset(path.stem, table_name=path.stem)
                batch, parameters = table.add_batch_definition_whole_table("whole"), None
            result = _validate(gx, context, batch, parameters, path)
            results += [(path.stem, each, _failed_rows(path.stem, each)) for each in result.results]
            write_text(store.data_docs / f"{path.stem}.html", _page(result))
    finally:
        # GX keeps the file open with its own settings, so that this process could not open it.
        source.get_execution_engine().close()
        source.get_engine().dispose()
    with warehouse.connect(store) as connection:
        findings = [_finding(connection, *each) for each in results]
    findings += audit_points(store)
    write_json(store.failed_rows, [asdict(each) for each in findings if not each.passed])
    write_index(store, findings, {path.stem for path in find_suites(folders)})
    return findings


def _open_warehouse(context, store: Store):
    path = quote(str(store.warehouse))  # GX reads $ as the start of a variable
    return context.data_sources.add_sql(
        "warehouse",
        connection_string=f"duckdb+audit:///{path}",
        kwargs={"connect_args": {"read_only": True, "config": warehouse.memory_limit()}},
        create_temp_table=False,
    )


def find_suites(folders: Sequence[Path] = SUITES) -> list[Path]:
    """The suites by name; of two with the same name, the one in the later folder."""
    suites = {path.name: path for folder in folders for path in folder.glob("*.json")}
    return [suites[name] for name in sorted(suites)]


def _distances(store: Store, last: Snapshot | None):
    """The distance of each column of session_features from `last`; saved for the run's page."""
    import pandas as pd

    rows = []
    if last:
        with warehouse.connect(store) as connection:
            rows = distribution.compare(connection, last.sample(), "session_features")
    write_json(store.distributions, rows)
    return pd.DataFrame(rows, columns=["column_name", "distance", "before", "after"])


def _validate(gx, context, batch, parameters: dict | None, path: Path):
    content = json.loads(path.read_text(encoding="utf-8"))
    _refuse_misspelt(content.get("expectations", []), path)
    suite = context.suites.add(gx.ExpectationSuite(**content))
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name=path.stem, data=batch, suite=suite)
    )
    return definition.run(
        batch_parameters=parameters,
        result_format={
            "result_format": "COMPLETE",
            "unexpected_index_column_names": content["meta"]["key"],
            "return_unexpected_index_query": True,
        },
    )


def _refuse_misspelt(expectations: Sequence[Mapping], path: Path) -> None:
    """UserError for an expectation that GX would leave out, because it does not know its words."""
    from great_expectations.exceptions import ExpectationNotFoundError
    from great_expectations.expectations.registry import (
        get_expectation_impl,
        list_registered_expectation_implementations,
    )

    for number, each in enumerate(expectations, 1):
        kind, severity = each.get("type", ""), each.get("severity", "critical")
        try:
            get_expectation_impl(kind)
        except ExpectationNotFoundError:
            hint = suggest(kind, list_registered_expectation_implementations())
            raise UserError(
                f"Entry {number} of {path} has the type {kind!r}, which is no type of GX."
                f"{hint} Correct it, then run `make data`."
            ) from None
        if severity not in SEVERITIES:
            raise UserError(
                f"Entry {number} of {path} has the severity {severity!r}. It is one of "
                f"{', '.join(SEVERITIES)}. Correct it, then run `make data`."
            )


@cache
def _view():
    """GX's page renderer, once per process: each new one compiles all templates again."""
    from great_expectations.render.view import DefaultJinjaPageView

    return DefaultJinjaPageView()


def _page(result) -> str:
    """GX's own page of one table's results, without what it loads from other hosts."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer

    html = _view().render(ValidationResultsPageRenderer(run_info_at_end=True).render(result))
    page = REMOTE.sub("", html).replace("</head>", STYLE, 1)
    page = page.replace("<html>", '<html lang="en">', 1)
    return page.replace("<body>", f"<body>{BACK}", 1)


def _failed_rows(table: str, result) -> str | None:
    """The query of all rows that failed: the lists in the result end after some. None if unknown.

    GX's own query is taken out of the result, so that no page shows it: for compound columns it is
    wrong (a product of the table with its duplicates).
    """
    query = result.result.pop("unexpected_index_query", None)
    kwargs = result.expectation_config.kwargs
    if "unexpected_rows_query" in kwargs:
        return kwargs["unexpected_rows_query"].replace("{batch}", table)
    if "column_list" in kwargs:
        columns = ", ".join(kwargs["column_list"])
        every = f"select * from {table} qualify count(*) over (partition by {columns}) > 1"
        return None if kwargs.get("row_condition") else every
    return query


def _finding(
    connection: duckdb.DuckDBPyConnection, table: str, result, failed_rows: str | None
) -> Finding:
    configuration = result.expectation_config
    settings = {
        name: value
        for name, value in configuration.kwargs.items()
        if name not in {"batch_id", "unexpected_rows_query"}
    }
    expectation = configuration.description or f"{configuration.type} {settings}"
    severity = getattr(configuration.severity, "value", configuration.severity)
    details = result.result
    if not details:
        return Finding(table, expectation, severity, False, _exception(result), [])
    observed = details.get("observed_value")
    if configuration.type == "unexpected_rows_expectation":
        observed = format_count(observed, "row")
    elif observed is None:
        count, total = details.get("unexpected_count") or 0, details.get("element_count") or 0
        observed = f"{count:,} of {format_count(total, 'row')}"
    passed, keys = bool(result.success), _failed_keys(details)
    finding = Finding(table, expectation, severity, passed, str(observed), keys)
    if finding.stops:
        finding = replace(finding, tenants=_failed_tenants(connection, failed_rows))
    return finding


def _failed_tenants(
    connection: duckdb.DuckDBPyConnection, failed_rows: str | None
) -> dict[str, str] | None:
    """Every tenant whose rows failed, with its `observed` or its number of rows.

    None if a row has no tenant.
    """
    if failed_rows is None:
        return None
    rows = connection.sql(failed_rows)
    if "tenant_id" not in rows.columns:
        return None
    observed = "string_agg(distinct observed, ', ')" if "observed" in rows.columns else "''"
    counts = rows.aggregate(f"tenant_id, count(*), {observed}").order("all").fetchall()
    tenants = {tenant: observed or format_count(count, "row") for tenant, count, observed in counts}
    return None if None in tenants else tenants or None


def _failed_keys(details: dict) -> list[dict]:
    """The keys of the rows that failed; each type of expectation has them in another place."""
    rows = (
        details.get("unexpected_index_list")
        or details.get("details", {}).get("unexpected_rows")
        or [row for row in details.get("unexpected_list", []) if isinstance(row, dict)]
    )
    return [{name: str(value) for name, value in row.items()} for row in rows[:KEYS_KEPT]]


def _exception(result) -> str:
    details = result.exception_info or {}
    if "exception_message" not in details:
        details = next(iter(details.values()), {})
    return str(details.get("exception_message", "the expectation could not be evaluated"))
