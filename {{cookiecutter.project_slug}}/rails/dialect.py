"""The SQLAlchemy dialect through which Great Expectations reads DuckDB (see great_expectations issue 10738)."""

from duckdb_engine import Dialect


class AuditDialect(Dialect):
    """duckdb-engine for reading only: nothing is begun, committed or rolled back, so no pending result is lost."""

    supports_statement_cache = True

    def do_begin(self, dbapi_connection) -> None: ...

    def do_commit(self, dbapi_connection) -> None: ...

    def do_rollback(self, dbapi_connection) -> None: ...
