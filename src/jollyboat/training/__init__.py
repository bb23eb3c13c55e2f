"""From a snapshot to a run: schema, split, candidates, search, evaluation, leakage."""
