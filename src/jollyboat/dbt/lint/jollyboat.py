"""Stand-ins for the package's macros: sqlfluff renders a model without dbt."""

import re
from collections.abc import Callable
from pathlib import Path

MACROS = Path(__file__).resolve().parent.parent / "macros"
# Macros that are a whole query.
QUERIES = [
    "candidate_items",
    "connected_components",
    "covisited_items",
    "data_end",
    "events_before_points",
    "feedback_events",
    "labeled_features",
    "points_with_next_item",
    "popular_items",
]


def _return_first(*arguments: str, **named: str) -> str:
    """The first argument: most macros wrap an expression."""
    return arguments[0] if arguments else "records"


def _stand_ins() -> dict[str, Callable]:
    text = "".join(path.read_text(encoding="utf-8") for path in MACROS.glob("*.sql"))
    columns = re.findall(
        r"'(\w+)'", re.search(r"macro canonical_columns\(\).*?return\((.*?)\)", text, re.DOTALL)[1]
    )
    return (
        dict.fromkeys(re.findall(r"{% macro (\w+)", text), _return_first)
        | {
            "canonical_columns": lambda: columns,
            "canonical_events": lambda cte: f"select * from {cte}",
            "days": lambda count: f"interval '{count}' day",
            "finite_columns": lambda *arguments: "*",
            "json_struct": lambda text, types: text,
            "materialized": lambda: "materialized",
            "median": lambda value: f"median({value})",
            "minutes": lambda count: f"interval '{count}' minute",
            "not_materialized": lambda: "not materialized",
            "quantile": lambda value, share: f"quantile_disc({value}, {share})",
            "question_names": lambda: [],
            "structure_leaves": lambda cte: f"select * from {cte}",
            "without": lambda *columns: f"exclude ({', '.join(columns)})",
        }
        | dict.fromkeys(QUERIES, lambda *arguments: "select 1 as tenant_id")
    )


globals().update(_stand_ins())
