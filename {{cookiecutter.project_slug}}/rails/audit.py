"""Great Expectations over the built tables, inside DuckDB: the one that decides whether they may be published.

A suite is `expectations/<table>.json`, plain GX. A failed expectation of severity `critical` stops the publication.
"""

import gc
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from duckdb_engine import Dialect
from sqlalchemy.dialects import registry

from rails.store import PROJECT

SUITES = PROJECT / "expectations"
KEYS_SHOWN = 20


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
    return great_expectations


def audit(warehouse: Path, suites: Path = SUITES) -> list[Finding]:
    """What every suite says of its table in the warehouse, which is opened to be read only and closed again."""
    gx = load_gx()
    registry.register("duckdb.audit", __name__, "AuditDialect")
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_sql(
        "warehouse",
        connection_string=f"duckdb+audit:///{warehouse}",
        kwargs={"connect_args": {"read_only": True}},
        create_temp_table=False,
    )
    try:
        return [
            finding for path in sorted(suites.glob("*.json")) for finding in _audit_table(gx, context, source, path)
        ]
    finally:
        # GX keeps the file open with its own settings; nobody else in this process could open it otherwise.
        source.get_execution_engine().close()
        source.get_engine().dispose()
        context.delete_data_docs_site("local_site")


def _audit_table(gx, context, source, path: Path) -> Iterator[Finding]:
    table = path.stem
    content = json.loads(path.read_text(encoding="utf-8"))
    suite = context.suites.add(gx.ExpectationSuite(**content))
    asset = source.add_table_asset(table, table_name=table)
    batch = asset.add_batch_definition_whole_table("whole")
    definition = context.validation_definitions.add(gx.ValidationDefinition(name=table, data=batch, suite=suite))
    result = definition.run(
        result_format={
            "result_format": "COMPLETE",
            "unexpected_index_column_names": content["meta"]["key"],
            "return_unexpected_index_query": False,
        }
    )
    for each in result.results:
        yield _finding(table, each)


def _finding(table: str, result) -> Finding:
    configuration = result.expectation_config
    said = {
        name: value for name, value in configuration.kwargs.items() if name not in {"batch_id", "unexpected_rows_query"}
    }
    expectation = configuration.description or f"{configuration.type} {said}"
    severity = getattr(configuration.severity, "value", configuration.severity)
    if not result.result:
        return Finding(table, expectation, severity, False, _exception(result), [])
    found = result.result
    observed = found.get("observed_value")
    if observed is None:
        observed = f"{found.get('unexpected_count', 0)} of {found.get('element_count', 0)} rows"
    rows = found.get("unexpected_index_list") or found.get("details", {}).get("unexpected_rows") or []
    keys = [{name: str(value) for name, value in row.items()} for row in rows[:KEYS_SHOWN]]
    return Finding(table, expectation, severity, bool(result.success), str(observed), keys)


def _exception(result) -> str:
    details = result.exception_info or {}
    if "exception_message" not in details:
        details = next(iter(details.values()), {})
    return str(details.get("exception_message", "the expectation could not be evaluated"))
