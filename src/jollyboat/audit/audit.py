"""Great Expectations over the built tables, inside DuckDB: the one that decides whether they may be published.

A suite is `expectations/<table>.json`, plain GX: the project's own, else the library's.
A failed expectation of severity `critical` stops the publication.
`distributions` is no table of the warehouse but how far each feature has moved since the last snapshot.
"""

import gc
import json
import logging
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from duckdb_engine import Dialect
from sqlalchemy.dialects import registry

from jollyboat.snapshots import distribution
from jollyboat.snapshots.snapshot import Snapshot
from jollyboat.store import PROJECT, Store, write_json, write_text
from jollyboat.store.project import LIBRARY
from jollyboat.warehouse import warehouse

SUITES = (
    LIBRARY / "expectations",
    PROJECT / "expectations",
)  # later folders replace suites of the same name
KEYS_KEPT = 200
# Data Docs ask other hosts for their styles; these do, offline.
STYLE = """<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem; max-width: 75rem; } table { border-collapse: collapse; }
td, th { border-bottom: 1px solid #ddd; padding: .3rem 1rem .3rem 0; text-align: left; vertical-align: top; }
.fa-check-circle::before { content: "✓"; color: #1f6f43; } .fa-times::before { content: "✗"; color: #b3261e; }
.fa-exclamation-triangle::before { content: "!"; color: #875300; } nav, footer, .sticky, form { display: none; }
</style></head>"""
REMOTE = re.compile(
    r"<script.*?</script>|<link[^>]*>|<img[^>]*>|</?a\b[^>]*>|<input[^>]*>|<label.*?</label>",
    re.DOTALL,
)


@dataclass(frozen=True)
class Finding:
    """What one expectation said of one table; `keys` are of rows that failed it."""

    table: str
    expectation: str
    severity: str
    passed: bool
    observed: str
    keys: list[dict]

    @property
    def stops(self) -> bool:
        return not self.passed and self.severity == "critical"


class AuditDialect(Dialect):
    """duckdb-engine for reading only. Nothing is rolled back when a connection closes, for that discards the result
    which GX still reads (great_expectations issue 10738).
    """

    supports_statement_cache = True

    def do_begin(self, dbapi_connection) -> None: ...

    def do_commit(self, dbapi_connection) -> None: ...

    def do_rollback(self, dbapi_connection) -> None: ...


def load_gx():
    """Import Great Expectations (2 to 3 s, less without garbage collection), quietly and without telemetry."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    gc.disable()
    import great_expectations

    gc.freeze()
    gc.enable()
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    _count_at_once()
    return great_expectations


@cache
def _count_at_once() -> None:
    """Have GX count the rows that an unexpected-rows query gave, where it took all of them, instead of asking the query
    a second time for their number: a fifth of the audit of five million events."""
    from great_expectations.constants import MAX_RESULT_RECORDS
    from great_expectations.execution_engine import SqlAlchemyExecutionEngine
    from great_expectations.expectations.metrics.metric_provider import metric_value
    from great_expectations.expectations.metrics.query_metrics import UnexpectedRowsQueryRowCount
    from great_expectations.validator.metric_configuration import MetricConfiguration

    class RowCount(UnexpectedRowsQueryRowCount):  # takes the place of the one that has its name
        @classmethod
        def _get_evaluation_dependencies(cls, metric, *given, **named):
            rows = MetricConfiguration(
                "unexpected_rows_query.table",
                metric.metric_domain_kwargs,
                metric.metric_value_kwargs,
            )
            return super()._get_evaluation_dependencies(metric, *given, **named) | {"rows": rows}

        @metric_value(engine=SqlAlchemyExecutionEngine)
        def _sqlalchemy(cls, metrics, **given) -> int:
            rows = metrics["rows"]
            whole = len(rows) < MAX_RESULT_RECORDS
            return (
                len(rows)
                if whole
                else UnexpectedRowsQueryRowCount._sqlalchemy(cls, metrics=metrics, **given)
            )


def audit(
    store: Store, last: Snapshot | None = None, folders: Sequence[Path] = SUITES
) -> list[Finding]:
    """What every suite says of its table in the warehouse, which is opened to be read only and closed again.

    `last`: the snapshot to compare the features' distributions with.

    Each table's Data Docs, one page that opens offline, stand below `data/reports/data_docs`; the keys of rows that
    failed stand in `data/reports/failed_rows.json`.
    """
    gx = load_gx()
    moved = _distances(store, last)
    registry.register("duckdb.audit", __name__, "AuditDialect")
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    context.delete_data_docs_site("local_site")
    source = context.data_sources.add_sql(
        "warehouse",
        connection_string=f"duckdb+audit:///{store.warehouse}".replace(
            "$", r"\$"
        ),  # GX would look for a variable
        kwargs={"connect_args": {"read_only": True, "config": warehouse.memory_limit()}},
        create_temp_table=False,
    )
    computed = context.data_sources.add_pandas("computed")
    shutil.rmtree(store.data_docs, ignore_errors=True)
    findings = []
    try:
        for path in find_suites(folders):
            if path.stem == "distributions":
                batch = computed.add_dataframe_asset(
                    path.stem
                ).add_batch_definition_whole_dataframe("whole")
                parameters = {"dataframe": moved}
            else:
                table = source.add_table_asset(path.stem, table_name=path.stem)
                batch, parameters = table.add_batch_definition_whole_table("whole"), None
            result = _validate(gx, context, batch, parameters, path)
            write_text(store.data_docs / f"{path.stem}.html", _page(result))
            findings += [_finding(path.stem, each) for each in result.results]
    finally:
        # GX keeps the file open with its own settings; nobody else in this process could open it otherwise.
        source.get_execution_engine().close()
        source.get_engine().dispose()
    write_json(store.failed_rows, [asdict(each) for each in findings if not each.passed])
    return findings


def find_suites(folders: Sequence[Path] = SUITES) -> list[Path]:
    """The suites by name; of two that have the same name the one in the later folder."""
    suites = {path.name: path for folder in folders for path in folder.glob("*.json")}
    return [suites[name] for name in sorted(suites)]


def _distances(store: Store, last: Snapshot | None):
    """How far each column of session_features is from what it was, as a data frame; kept for the run's page."""
    import pandas as pd

    rows = []
    if last:
        with warehouse.connect(store) as connection:
            rows = distribution.compare(connection, last.sample(), "session_features")
    write_json(store.distributions, rows)
    return pd.DataFrame(rows, columns=["column_name", "distance", "before", "after"])


def _validate(gx, context, batch, parameters: dict | None, path: Path):
    content = json.loads(path.read_text(encoding="utf-8"))
    suite = context.suites.add(gx.ExpectationSuite(**content))
    definition = context.validation_definitions.add(
        gx.ValidationDefinition(name=path.stem, data=batch, suite=suite)
    )
    return definition.run(
        batch_parameters=parameters,
        result_format={
            "result_format": "COMPLETE",
            "unexpected_index_column_names": content["meta"]["key"],
            "return_unexpected_index_query": False,
        },
    )


@cache
def _view():
    """GX's view of pages; each new one would compile all templates again."""
    from great_expectations.render.view import DefaultJinjaPageView

    return DefaultJinjaPageView()


def _page(result) -> str:
    """GX's own page of one table's results, without what it would load from elsewhere."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer

    html = _view().render(ValidationResultsPageRenderer(run_info_at_end=True).render(result))
    return REMOTE.sub("", html).replace("</head>", STYLE, 1)


def _finding(table: str, result) -> Finding:
    configuration = result.expectation_config
    said = {
        name: value
        for name, value in configuration.kwargs.items()
        if name not in {"batch_id", "unexpected_rows_query"}
    }
    expectation = configuration.description or f"{configuration.type} {said}"
    severity = getattr(configuration.severity, "value", configuration.severity)
    if not result.result:
        return Finding(table, expectation, severity, False, _exception(result), [])
    found = result.result
    observed = found.get("observed_value")
    if configuration.type == "unexpected_rows_expectation":
        observed = f"{observed} {'row' if observed == 1 else 'rows'}"
    elif observed is None:
        observed = f"{found.get('unexpected_count') or 0} of {found.get('element_count') or 0} rows"
    rows = (
        found.get("unexpected_index_list") or found.get("details", {}).get("unexpected_rows") or []
    )
    rows = rows or [
        row for row in found.get("unexpected_list", []) if isinstance(row, dict)
    ]  # of compound keys
    keys = [{name: str(value) for name, value in row.items()} for row in rows[:KEYS_KEPT]]
    return Finding(table, expectation, severity, bool(result.success), str(observed), keys)


def _exception(result) -> str:
    details = result.exception_info or {}
    if "exception_message" not in details:
        details = next(iter(details.values()), {})
    return str(details.get("exception_message", "the expectation could not be evaluated"))
