"""A suite that names a feature which no SQL makes is refused before the tables are built."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jollyboat.audit.audit import SUITES, find_suites
from jollyboat.audit.staging_columns import check_staging
from jollyboat.store import LIBRARY, UserError
from jollyboat.warehouse.warehouse import DBT

FEATURES, TABLE = "features_at_point.sql", "session_features"
OWN = "dbt/models/intermediate/int_features.sql"  # adds the status and the label
# Such Jinja can make a column of any name. The library's macros of other names make expressions.
ANY_NAME = re.compile(r"{%|{{(?!\s*(?:config|ref|jollyboat\.(?!\w*columns)\w+)\()")


def check_columns(dbt: Path = DBT, folders: Sequence[Path] = SUITES) -> None:
    """Raise UserError if the suite of session_features names a column that no SQL makes.

    The columns of staging models are checked first, see `check_staging`. Only the texts are
    compared, which takes milliseconds; a build takes minutes. Features that are named by Jinja are
    not checked here: the audit finds them after the build. dbt itself reports a missing model, and
    two of one name.
    """
    check_staging(dbt)
    models = list(dbt.glob(f"models/**/{FEATURES}"))
    sql = "".join(model.read_text(encoding="utf-8") for model in models)
    if len(models) != 1 or ANY_NAME.search(sql):
        return
    own = (LIBRARY / OWN).read_text(encoding="utf-8")
    words = set(re.findall(r"\w+", sql + own))
    for path in find_suites(folders):
        if path.stem == TABLE:
            for place, name in _columns(json.loads(path.read_text(encoding="utf-8"))):
                if name not in words:
                    raise UserError(
                        f"{path.parent.name}/{path.name}: expectation {place} is about the column "
                        f"{name}, which {models[0].relative_to(dbt.parent)} does not make. Delete "
                        "the expectation or correct the name, then run `make data`."
                    )


def _columns(suite: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The description of each expectation with each column that it names."""
    for expectation in suite["expectations"]:
        kwargs = expectation["kwargs"]
        names = [kwargs[key] for key in ("column", "column_A", "column_B") if key in kwargs]
        for name in [*names, *kwargs.get("column_list", []), *kwargs.get("column_set", [])]:
            yield repr(expectation.get("description", expectation["type"])), name
