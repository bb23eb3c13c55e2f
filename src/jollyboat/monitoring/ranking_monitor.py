"""The monitor's checks of a ranking: are the next items hit as often as in the holdout?"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtr

from jollyboat.bundles.bundle import open_bundle
from jollyboat.champions import champion
from jollyboat.monitoring import fleet, inputs, monitor
from jollyboat.monitoring.check import ALARM, ALL, FINE, Check, Limits, correct, unknown
from jollyboat.ranking import evaluate
from jollyboat.ranking.learner import HIT_RATE, MRR
from jollyboat.snapshots.snapshot import Snapshot
from jollyboat.store import UserError, quoted
from jollyboat.training import run

FEWEST = 50  # answers with a next item
NAMES = {MRR: f"MRR@{evaluate.COUNT}", HIT_RATE: f"HR@{evaluate.COUNT}"}
# Each answer, and the item that its session viewed next; null while none has followed.
ANSWERS = """
with predictions as materialized (  -- a payload of other sources may be no JSON
    select * from events where source = 'predictions'
),
answers as (
    select
        tenant_id,
        occurred_at as answered_at,
        payload ->> '$.entity_id' as entity_id,
        cast(rtrim(payload ->> '$.point_at', 'Z') as timestamp) as point_at,
        from_json(payload -> '$.items', '["VARCHAR"]') as items,
        payload ->> '$.model_version' as model_version,
        cast(payload ->> '$.latency_ms' as double) as latency_ms
    from predictions
    where payload ->> '$.question' = '{question}'
)
select answers.*, points.item
from answers
asof left join {points} as points
    on answers.tenant_id = points.tenant_id
    and answers.entity_id = points.entity_id
    and answers.point_at >= points.point_at
order by answered_at
"""


def judge(
    newest: Snapshot, as_of: datetime, limits: Limits
) -> tuple[list[Check], dict[str, Any], dict[str, Any]]:
    """The checks, the retraining decision, and the ids, times and counts of the report.

    Answers of the champion whose session has viewed a next item are compared with its holdout, all
    together and by tenant. UserError where there is no champion.
    """
    store = newest.store
    current = champion.current(store)
    if current is None:
        raise UserError("There is no champion to monitor. Run `make deploy`.")
    bundle = open_bundle(store.bundle(*current))
    trained, log = run.open(bundle.manifest["run"], store), read_answers(newest)
    own = log[(log["model_version"] == bundle.version) & log["item"].notna()]
    holdout = trained.predictions()
    rows = pd.concat([own["tenant_id"], holdout["tenant_id"]])
    tenants = rows.value_counts().index.tolist()
    reciprocal = holdout.rename(columns={bundle.candidate: "reciprocal"})
    quality = check_quality(tenants, own, reciprocal, limits)
    learned_until = pd.Timestamp(trained.metrics["split"]["validation"]["to"])
    facts = inputs.health(newest, log, as_of, (newest.ends_at - learned_until) / inputs.DAY)
    checks = [*quality, *monitor.health_checks(facts, limits)]
    outcomes = own["tenant_id"].value_counts().to_dict()
    return (
        checks,
        _decide(quality, facts.days_since_training, limits),
        {
            "is_ranking": True,
            "champion": bundle.owner,
            "version": bundle.version,
            "own": champion.own(store),
            "run": trained.id,
            "snapshot": newest.id,
            "learned_until": str(learned_until),
            "newest": str(newest.ends_at),
            "session_count": len(own),
            "calls": inputs.count_calls(log),
            "day_starts": [str(newest.ends_at)],
            "tenants": fleet.summarize(tenants, checks, [], outcomes, {}, NAMES[MRR]),
        },
    )


def read_answers(newest: Snapshot) -> pd.DataFrame:
    """The server's answers to the question, with the item that came next."""
    points = newest.scan(newest.features)
    query = ANSWERS.format(question=quoted(newest.store.question), points=points)
    return newest.relation("events").query("events", query).df()


def gains(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """Each answer's reciprocal place of the next item, and whether it is hit."""
    places = [
        list(items).index(item) + 1 if item in items else np.inf
        for items, item in zip(rows["items"], rows["item"], strict=True)
    ]
    place = np.array(places, dtype=float)
    is_hit = place <= evaluate.COUNT
    return {MRR: np.where(is_hit, 1 / place, 0), HIT_RATE: is_hit.astype(float)}


def check_quality(
    tenants: Sequence[str], own: pd.DataFrame, holdout: pd.DataFrame, limits: Limits
) -> list[Check]:
    """MRR and hit rate of the answers beside the holdout's, of all and of each tenant.

    `holdout` has `reciprocal`, the reciprocal place of each point's next item. A t-test of the
    means, with errors of sessions; the tenants' tests are corrected together.
    """
    then = {MRR: holdout["reciprocal"].to_numpy()}
    then[HIT_RATE] = (then[MRR] > 0).astype(float)
    names, checks = [ALL, *tenants], []
    for measure, values in gains(own).items():
        now, before = (
            _means(tenants, rows, each) for rows, each in ((own, values), (holdout, then[measure]))
        )
        is_judged = (now.rows >= FEWEST) & (before.rows > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.maximum(np.hypot(now.error, before.error), 1e-9)
            least = np.maximum(np.minimum(now.sessions, before.sessions) - 1, 1)
            p = np.where(is_judged, stdtr(least, (now.mean - before.mean) / error), np.nan)
        is_below = correct(p, names) < limits["alpha"]
        for place, tenant in enumerate(names):
            rows, subject = int(now.rows[place]), NAMES[measure]
            if not is_judged[place]:
                sentence = f"{rows} answers have a next item; {FEWEST} are needed."
                checks.append(unknown("quality", tenant, subject, None, sentence))
                continue
            sentence = (
                f"{run.interval(now.interval(place))} on {rows:,} answers with a next item is "
                f"{'' if is_below[place] else 'not '}significantly below the holdout's "
                f"{run.interval(before.interval(place))}."
            )
            figures = float(now.mean[place]), before.interval(place)["low"]
            state = ALARM if is_below[place] else FINE
            checks.append(Check("quality", tenant, subject, state, *figures, sentence))
    return checks


@dataclass(frozen=True)
class _Means:
    """Arrays by tenant, all together first: rows, sessions, the mean and its standard error."""

    rows: np.ndarray
    sessions: np.ndarray
    mean: np.ndarray
    error: np.ndarray

    def interval(self, place: int) -> dict[str, float]:
        mean, half = float(self.mean[place]), float(1.96 * self.error[place])
        return {"value": mean, "low": mean - half, "high": mean + half}


def _means(tenants: Sequence[str], rows: pd.DataFrame, values: np.ndarray) -> _Means:
    """The mean of all and of each tenant, with the standard error of a mean of sessions' sums."""
    place = 1 + pd.Index(tenants, dtype=object).get_indexer(rows["tenant_id"])
    session = rows.groupby(["tenant_id", "entity_id"], sort=False).ngroup().to_numpy()
    tenant, both = np.append(place, np.zeros_like(place)), np.append(values, values)
    size = 1 + len(tenants)
    count, total = np.bincount(tenant, minlength=size), np.bincount(tenant, both, size)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = total / count
        sums = pd.Series(both - mean[tenant]).groupby([tenant, np.append(session, session)]).sum()
        owner = sums.index.get_level_values(0).to_numpy()
        sessions = np.bincount(owner, minlength=size)
        squares = np.bincount(owner, sums.to_numpy() ** 2, size)
        error = np.sqrt(squares * sessions / (sessions - 1)) / count
    return _Means(count, sessions, mean, error)


def _decide(quality: list[Check], age_days: float, limits: Limits) -> dict[str, Any]:
    """Train again where the quality of all is below the holdout's, unless training was recent."""
    problems = [check.subject for check in quality if check.state == ALARM and check.tenant == ALL]
    if not problems:
        reason = "No quality is significantly below the holdout's."
        return {"retrain": False, "status": "not needed", "reason": reason}
    reason, cool_down = f"Quality: {', '.join(problems)}.", limits["cool_down_days"]
    if age_days < cool_down:
        reason += (
            f" But the newest training data is {age_days:.1f} days old; {cool_down} must pass."
        )
        return {"retrain": False, "status": "wait", "reason": reason}
    return {"retrain": True, "status": "train again", "reason": reason}
