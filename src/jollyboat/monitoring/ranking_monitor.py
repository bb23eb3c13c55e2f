"""The monitor's checks of a ranking: are the next items hit as often as in the holdout?"""

from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from jollyboat.bundles.bundle import Bundle, open_bundle
from jollyboat.champions import champion
from jollyboat.monitoring import inputs, monitor
from jollyboat.monitoring.monitor import ALARM, ALL, FINE, MOST_TENANTS, UNKNOWN, Check, Limits
from jollyboat.ranking import evaluate
from jollyboat.ranking.learner import HIT_RATE, MRR
from jollyboat.snapshots.snapshot import Snapshot
from jollyboat.store import UserError, quoted
from jollyboat.training import run

FEWEST = 50  # answers with a next item
RESAMPLES = 500
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
    quality = [
        check
        for tenant in [ALL, *own["tenant_id"].value_counts().index[:MOST_TENANTS]]
        for check in _quality(tenant, own, holdout, bundle)
    ]
    learned_until = pd.Timestamp(trained.metrics["split"]["validation"]["to"])
    facts = inputs.health(newest, log, as_of, (newest.ends_at - learned_until) / inputs.DAY)
    checks = [*quality, *monitor.health_checks(facts, limits)]
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


def _quality(tenant: str, own: pd.DataFrame, holdout: pd.DataFrame, bundle: Bundle) -> list[Check]:
    """MRR and hit rate of the answers beside the holdout's, for one tenant or all."""
    if tenant != ALL:
        own, holdout = (rows[rows["tenant_id"] == tenant] for rows in (own, holdout))
    if len(own) < FEWEST or holdout.empty:
        sentence = f"{len(own)} answers have a next item; {FEWEST} are needed."
        return [
            Check("quality", tenant, name, UNKNOWN, None, None, sentence) for name in NAMES.values()
        ]
    then = {MRR: holdout[bundle.candidate].to_numpy()}
    then[HIT_RATE] = (then[MRR] > 0).astype(float)
    groups = [
        rows.groupby(["tenant_id", "entity_id"], sort=False).ngroup().to_numpy()
        for rows in (own, holdout)
    ]
    checks = []
    for measure, values in gains(own).items():
        now, before = (
            evaluate.mean(each, group, RESAMPLES, 0)
            for each, group in zip((values, then[measure]), groups, strict=True)
        )
        is_below = None not in (now["high"], before["low"]) and now["high"] < before["low"]
        sentence = (
            f"{run.interval(now)} on {len(own):,} answers with a next item is "
            f"{'' if is_below else 'not '}significantly below the holdout's {run.interval(before)}."
        )
        state = ALARM if is_below else FINE
        figures = now["value"], before["low"]
        checks.append(Check("quality", tenant, NAMES[measure], state, *figures, sentence))
    return checks


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
