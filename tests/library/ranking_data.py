"""The SQL of the question next_product rendered without dbt, and a tiny shop to run it on."""

from collections.abc import Callable, Mapping
from types import SimpleNamespace

import duckdb
import jinja2
import pandas as pd

from jollyboat.bundles.features import EVENT_COLUMNS
from jollyboat.store import LIBRARY

QUESTION, MODELS = "next_product", LIBRARY / "scaffold" / "next_product"
POPULAR, COVISITS = f"lookup_{QUESTION}_popular", f"lookup_{QUESTION}_covisits"
POINTS, EVENTS, PAIRS = (
    f"{QUESTION}_{each}" for each in ("points", "events_at_point", "pairs_at_point")
)
TABLES = [POINTS, POPULAR, COVISITS, EVENTS]  # in the order of a build


class _Return(Exception):
    """What dbt's `return` hands over."""


def _return(value: object) -> None:
    raise _Return(value)


def _call(macro: Callable) -> Callable:
    def call(*arguments: object) -> object:
        try:
            return macro(*arguments)
        except _Return as returned:
            return returned.args[0]

    return call


def render(model: str, in_chunk: str = "true", **settings: object) -> str:
    """The SQL of a model; `settings` stand in the meta of next_product_points."""
    package = SimpleNamespace(in_chunk=lambda _: in_chunk)
    question = {"entity": "session_id"} | settings
    node = SimpleNamespace(
        name=POINTS,
        resource_type="model",
        config=SimpleNamespace(meta=SimpleNamespace(question=question)),
    )
    environment = jinja2.Environment(extensions=["jinja2.ext.do"])
    environment.globals |= {
        "jollyboat": package,
        "adapter": SimpleNamespace(
            dispatch=lambda name, _: getattr(package, f"default__{name}"),
        ),
        "ref": '"{}"'.format,
        "config": lambda **_: "",
        "return": _return,
        "execute": True,
        "graph": {"nodes": {POINTS: node}},
        "var": lambda _: ["predictions", "labels"],
    }
    macros = LIBRARY / "dbt" / "macros"
    names = ("canonical_events", "dialects", "fields", "raw_records", "questions")
    for path in [*macros.glob("ranking*.sql"), *(macros / f"{name}.sql" for name in names)]:
        text = path.read_text()
        for key, macro in vars(environment.from_string(text).module).items():
            if callable(macro):
                setattr(package, key, _call(macro))
    return environment.from_string((MODELS / f"{model}.sql").read_text()).render()


def shop(
    views: list[tuple], data_end: str = "2026-01-10 23:00", **settings: object
) -> duckdb.DuckDBPyConnection:
    """The question's tables of these product views: session, time, product, and other columns.

    Tenant acme has all sessions, unless a view has another `tenant_id`.
    """
    connection = duckdb.connect()
    columns = ", ".join(f"cast(null as {kind}) as {name}" for name, kind in EVENT_COLUMNS.items())
    rows = pd.DataFrame(
        [
            {"session_id": session, "occurred_at": pd.Timestamp(at), "product_id": product} | other
            for session, at, product, other in ((*view, {})[:4] for view in views)
        ]
    )
    defaults: Mapping = {
        "tenant_id": "acme",
        "event_type": "product_view",
        "source": "web",
    }
    rows = rows.assign(**{name: value for name, value in defaults.items() if name not in rows})
    connection.register("given", rows.fillna(defaults))
    connection.execute(
        f"create table events as select * replace (coalesce(received_at, occurred_at) as received_at),"
        " row_number() over (partition by tenant_id, session_id order by occurred_at) as event_number,"
        " 'a' as file, event_number as line_number, 0 as part "
        f"from (select {columns} where false union all by name from given)"
    )
    connection.execute(
        "create table sessions as select tenant_id, session_id, "
        "case when bool_or(device = 'bot') then 'bot' else 'train' end as status from events group by all"
    )
    connection.execute(
        f"create table int_data_end as select timestamp '{data_end}' as received_until"
    )
    for table in TABLES:
        kind = "view" if table == EVENTS else "table"
        connection.execute(f"create {kind} {table} as {render(table, **settings)}")
    return connection


def frame(connection: duckdb.DuckDBPyConnection, sql: str) -> pd.DataFrame:
    """The rows of a query."""
    return connection.sql(sql).df()
