"""One feature query, with one set of lookups, for all models that share their SQL."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jollyboat.bundles.bundle import Bundle
from jollyboat.bundles.features import FeatureQuery


class FeatureQueries:
    """Feature queries by their SQL, for one thread at a time; each is made at its first use.

    Hundreds of tenants' models of one training run read the same features. A query of its own for
    each of 600 took 160 s to start and 5 GB.
    """

    def __init__(self) -> None:
        self._queries: dict[str, FeatureQuery] = {}

    def of(
        self, bundle: Bundle, files: Mapping[str, Sequence[Path]] | None = None, **limits: Any
    ) -> FeatureQuery:
        """The query of the bundle's SQL over these files of lookups; `limits` as FeatureQuery's.

        Files and limits should be the same in all calls; without files the lookups are empty. A
        query with `files` None is another one than that with no file: one thread checks samples
        while another one serves.
        """
        is_sample = files is None
        parts = [bundle.feature_sql, bundle.lookups, bundle.outcome, bundle.question, is_sample]
        key = json.dumps(parts, sort_keys=True)
        if key not in self._queries:
            self._queries[key] = FeatureQuery(bundle.feature_sql, bundle.lookups, files, **limits)
        return self._queries[key]

    def close(self) -> None:
        """Give the memory back."""
        for query in self._queries.values():
            query.close()
        self._queries.clear()
