"""Whether a champion still does what it did on its holdout, and whether to train anew. Each check has its limit."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import accumulate
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm, poisson

from jollyboat.monitoring.drift import BEYOND_KNOWN, Group, Series, watch
from jollyboat.training.evaluate import Ranking
from jollyboat.training.schema import FeatureSchema
from jollyboat.training.segments import FEW_POSITIVES

ALL = "all"
RESAMPLES, FEW_AT_K, FEWEST_A_DAY, MOST_TENANTS = 200, 5, 10, 20
FINE, ALARM, UNKNOWN = "fine", "alarm", "cannot say yet"
Limits = Mapping[str, Any]
ByK = Mapping[int, pd.DataFrame]


@dataclass(frozen=True)
class Facts:
    """What is known of the present. Frames have `tenant_id` and `day`: 24 hours, 0 the newest, negative before.

    - reference, live: features of sessions of training and since; reference_scores, live_scores: `score` of them.
    - holdout, answers: event_count, probability, label (NaN: not known yet).
    - volumes: session_count by day; latency: p99_ms of answers.
    - arrivals: record_count and quarantined_count by `source` and day, whose 0 is the source's own newest; no tenant.
    """

    days: Sequence[int]  # the live days, oldest first
    schema: FeatureSchema
    reference: pd.DataFrame
    live: pd.DataFrame
    reference_scores: pd.DataFrame
    live_scores: pd.DataFrame
    holdout: pd.DataFrame
    answers: pd.DataFrame
    volumes: pd.DataFrame
    arrivals: pd.DataFrame
    latency: pd.DataFrame
    age_hours: float
    days_since_training: float
    owners: Sequence[str] = ()  # tenants that a champion of their own answers


@dataclass(frozen=True)
class Check:
    """One question to the present; `sentence` says what was found, `history` its figure by live day."""

    name: str
    tenant: str
    subject: str
    state: str
    value: float | None
    limit: float | None
    sentence: str
    history: tuple[float | None, ...] = ()

    @property
    def key(self) -> str:
        """What an incident of this check is known by."""
        return f"{self.name}/{self.tenant}/{self.subject}"


def judge(facts: Facts, limits: Limits) -> tuple[list[Check], dict[str, Any]]:
    """All checks, the shared ones first, and the retrain decision; `limits` is [monitor] with latency_ms of [gate]."""
    known = facts.reference["tenant_id"].value_counts().index
    told = list(dict.fromkeys([*known[:MOST_TENANTS], *facts.owners]))
    tenants, others = (
        [ALL, *(told if len(told) > 1 else [])],
        [one for one in known if one not in told],
    )
    pairs = [(facts.reference, facts.live), (facts.reference_scores, facts.live_scores)]
    groups = [Group(one, *(_of(one, rows) for rows in pair)) for one in tenants for pair in pairs]
    series = watch(groups, facts.days, limits)
    quality, few = (
        _quality(facts, tenants, limits),
        [volume_check(facts, one, limits) for one in others],
    )
    checks = [
        *quality,
        *_drift_checks(series, len(facts.days)),
        *(volume_check(facts, one, limits) for one in tenants),
        *(check for check in few if check.state == ALARM),
        _freshness(facts, limits),
        _quarantine(facts, limits),
        *_unknown(facts, limits),
        _latency(facts, limits),
    ]
    return checks, decide_retraining(facts, series, quality, limits)


def quality_checks(facts: Facts, tenant: str, limits: Limits, day: int = 0) -> list[Check]:
    """Average precision and the rate of outcomes on that day and before, against the holdout at the same k."""
    holdout, answers = _judgeable(_of(tenant, facts.holdout)), _of(tenant, facts.answers)
    answers = answers[answers["day"].isin(facts.days) & (answers["day"] <= day)]
    waiting, known = int(answers["label"].isna().sum()), answers[answers["label"].notna()]
    alpha = limits["alpha"] / len(limits["windows"])
    looks = [
        _ballpark(holdout, known[known["day"] > day - window]) | {"window": window}
        for window in limits["windows"]
    ]
    looks = [look for look in looks if look["positives"] >= FEW_POSITIVES]
    past = cache(partial(_past, holdout, known, [one for one in facts.days if one <= day]))
    history = lambda window, figure: tuple(figures.get(figure) for figures in past(window))  # noqa: E731
    if not looks:
        few = (
            f"{int(known['label'].sum())} outcomes are known and {waiting:,} answers wait; {FEW_POSITIVES} are needed "
            f"at numbers of events with {FEW_AT_K} or more each."
        )
        return [
            Check(
                "quality",
                tenant,
                subject,
                UNKNOWN,
                None,
                None,
                few,
                history(limits["windows"][-1], figure),
            )
            for subject, figure in (("average precision", "value"), ("rate of outcomes", "ratio"))
        ]
    rank = min(looks, key=lambda look: look["z"])
    rate = max(looks, key=lambda look: abs(look["rate_z"]))
    is_below = bool(norm.cdf(rank["z"]) < alpha)
    lowest = 1 / limits["rate_ratio"]
    is_off = (
        not lowest <= rate["ratio"] <= limits["rate_ratio"]
        and 2 * norm.sf(abs(rate["rate_z"])) < alpha
    )
    where = "below the holdout's" if is_below else "in the ballpark of the holdout's"
    return [
        Check(
            *(
                "quality",
                tenant,
                "average precision",
                ALARM if is_below else FINE,
                rank["value"],
                rank["low"],
            ),
            f"{rank['value']:.3f} over {_span(rank['window'])} is {where} at the same number of events "
            f"({rank['low']:.3f} to {rank['high']:.3f}; {rank['positives']} outcomes, {waiting:,} answers wait).",
            history(rank["window"], "value"),
        ),
        Check(
            *(
                "quality",
                tenant,
                "rate of outcomes",
                ALARM if is_off else FINE,
                rate["ratio"],
                limits["rate_ratio"],
            ),
            f"Over {_span(rate['window'])} outcomes came {rate['ratio']:.2f} times as often as said, "
            "measured by the holdout.",
            history(rate["window"], "ratio"),
        ),
    ]


def decide_retraining(
    facts: Facts, series: Sequence[Series], quality: Sequence[Check], limits: Limits
) -> dict[str, Any]:
    """{"retrain", "reason"}: for what has held for some days, and not soon after the last training.

    A broken feature asks for mended data: training on it would learn the fault. What is of a tenant's own champion
    alone asks for nothing: training makes the shared one.
    """
    held, cool_down = limits["retrain_after_days"], limits["cool_down_days"]
    broken = sorted({one.feature for one in series if one.is_broken[-1]})
    open_for = [
        one for one in series if len(one.psi) >= held and one.state["is_open"][-held:].all()
    ]
    drifted = sorted({one.feature for one in open_for if one.tenant not in facts.owners})
    tenants = sorted({check.tenant for check in quality})
    now = [check for check in quality if check.state == ALARM and check.tenant not in facts.owners]
    earlier = _quality(facts, tenants, limits, 1 - held) if now else []
    before = {check.key for check in earlier if check.state == ALARM}
    worse = [f"{check.subject} ({check.tenant})" for check in now if check.key in before]
    reasons = [("drift of ", drifted[:5]), ("quality: ", worse)]
    why = "; ".join(name + ", ".join(some) for name, some in reasons if some)
    if broken:
        return {
            "retrain": False,
            "reason": f"Mend {', '.join(broken[:5])} first: training now would learn the fault.",
        }
    if not why:
        return {
            "retrain": False,
            "reason": f"Nothing that training could mend has held for {held} days.",
        }
    if facts.days_since_training < cool_down:
        wait = f"the last training saw data up to {facts.days_since_training:.1f} days ago, and {cool_down} are to pass"
        return {"retrain": False, "reason": f"For {held} days: {why}. But {wait}."}
    return {"retrain": True, "reason": f"For {held} days: {why}."}


def volume_check(facts: Facts, tenant: str, limits: Limits) -> Check:
    """Sessions of the newest day against the training days' smallest and largest.

    A tenant stopped that has had none for more days in a row than ever in training.
    """
    by_day = _of(tenant, facts.volumes).groupby("day")["session_count"].sum()
    trained = set(facts.reference["day"])
    before = by_day[by_day.index.isin(trained)].reindex(sorted(trained), fill_value=0)
    history = tuple(by_day.reindex(facts.days, fill_value=0).astype(float))
    if not history or before.empty or before.median() < FEWEST_A_DAY:
        return Check(
            "volume",
            tenant,
            "sessions",
            UNKNOWN,
            None,
            None,
            "There are too few days or sessions.",
            history,
        )
    now, low, high = (
        history[-1],
        before.min() / limits["volume_ratio"],
        before.max() * limits["volume_ratio"],
    )
    stopped = _empty_days([*before, *history])[-1] > max(_empty_days(before))
    is_off = stopped or (now < low and poisson.cdf(now, low) < limits["alpha"]) or now > high
    found = "No session came" if stopped else f"{now:,.0f} sessions came"
    sentence = f"{found} in the newest 24 hours; {before.min():,.0f} to {before.max():,.0f} a day in training."
    return Check(
        "volume", tenant, "sessions", ALARM if is_off else FINE, now, low, sentence, history
    )


def _empty_days(counts: Iterable[float]) -> list[int]:
    """For each day, how many in a row up to it had nothing."""
    return list(accumulate(counts, lambda run, count: 0 if count else run + 1, initial=0))


def _quality(facts: Facts, tenants: Sequence[str], limits: Limits, day: int = 0) -> list[Check]:
    """The quality of all together, and of each tenant, by a level that is shared among the tenants."""
    shared = {**limits, "alpha": limits["alpha"] / max(len(tenants) - 1, 1)}
    return [
        check
        for one in tenants
        for check in quality_checks(facts, one, limits if one == ALL else shared, day)
    ]


def _drift_checks(series: Sequence[Series], days: int) -> list[Check]:
    """One check per feature and group. A tenant's is told only where all tenants together show none."""
    if not series:
        few = (
            "There is no full day of sessions since training."
            if not days
            else "Training had too few sessions."
        )
        return [Check("drift", ALL, "features", UNKNOWN, None, None, few)]
    by_feature: dict[tuple[str, str], list[Series]] = {}
    for one in series:
        by_feature.setdefault((one.tenant, one.feature), []).append(one)
    told = {
        feature
        for (tenant, feature), some in by_feature.items()
        if tenant == ALL and any(s.is_open for s in some)
    }
    checks = []
    for (tenant, feature), some in by_feature.items():
        if tenant != ALL and (
            feature in told or (not any(s.is_open for s in some) and feature != "score")
        ):
            continue
        judged = [one for one in some if np.isfinite(one.psi[-1])]
        worst = max(
            judged or some, key=lambda one: (one.is_open, one.psi[-1] / one.state["limit"][-1])
        )
        value, limit = float(worst.psi[-1]), float(worst.state["limit"][-1])
        state = ALARM if any(one.is_open for one in some) else FINE if judged else UNKNOWN
        how = (
            "holds one value"
            if worst.is_broken[-1]
            else f"stability index {value:.2f} over {_span(worst.window)}"
        )
        sentence = (
            f"{feature}: {how}; {worst.moved}."
            if judged
            else f"{feature}: too few sessions in the newest 24 hours."
        )
        history = tuple(None if np.isnan(psi) else float(psi) for psi in some[0].psi)
        name = "broken" if worst.is_broken[-1] else "drift"
        checks.append(
            Check(
                name,
                tenant,
                feature,
                state,
                None if np.isnan(value) else value,
                limit,
                sentence,
                history,
            )
        )
    return sorted(
        checks, key=lambda one: (one.state != ALARM, -(one.value or 0) / (one.limit or 1))
    )


def _ballpark(holdout: ByK, live: pd.DataFrame) -> dict[str, Any]:
    """Live average precision less the holdout's, k by k, weighted by the live answers; and outcomes over those said."""
    rng, gap, expected, pairs = np.random.default_rng(0), 0.0, 0.0, _pairs(holdout, live)
    if not pairs:
        return {"positives": 0}
    figures, total = _figures(pairs), sum(len(now) for now, _ in pairs)
    for now, then in pairs:
        expected = expected + len(now) / total * _precision(then)
        gap = gap + len(now) / total * (_drawn(now, rng) - _drawn(then, rng))
    spread = max(float(np.std(gap)), 1e-9)
    spread_of_ratio = np.sqrt(
        1 / figures["positives"] + 1 / sum(then["label"].sum() for _, then in pairs)
    )
    return figures | {
        "z": (figures["value"] - expected) / spread,
        "low": expected - 1.96 * spread,
        "high": expected + 1.96 * spread,
        "rate_z": float(np.log(figures["ratio"]) / spread_of_ratio),
    }


def _past(
    holdout: ByK, known: pd.DataFrame, days: Sequence[int], window: int
) -> list[dict[str, Any]]:
    """The figures of each day's window; none where it had few outcomes."""
    looks = [_pairs(holdout, known[known["day"].between(day - window + 1, day)]) for day in days]
    found = [_figures(pairs) if pairs else {"positives": 0} for pairs in looks]
    return [figures if figures["positives"] >= FEW_POSITIVES else {} for figures in found]


def _judgeable(rows: pd.DataFrame) -> ByK:
    """The rows by their number of events, where they hold enough of both outcomes."""
    groups = rows.groupby("event_count")
    return {
        k: some for k, some in groups if FEW_AT_K <= some["label"].sum() <= len(some) - FEW_AT_K
    }


def _pairs(holdout: ByK, live: pd.DataFrame) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """The live answers beside the holdout's at the same number of events."""
    return [(rows, holdout[k]) for k, rows in _judgeable(live).items() if k in holdout]


def _figures(pairs: Sequence[tuple[pd.DataFrame, pd.DataFrame]]) -> dict[str, Any]:
    """Live outcomes, average precision weighted by the live answers, outcomes over those said by the holdout's."""
    total = sum(len(now) for now, _ in pairs)
    (now, said), (then, said_then) = (
        [sum(rows[name].sum() for rows in some) for name in ("label", "probability")]
        for some in zip(*pairs, strict=True)
    )
    value = sum(len(rows) / total * _precision(rows) for rows, _ in pairs)
    return {"positives": int(now), "value": value, "ratio": float(now / said / (then / said_then))}


def _precision(rows: pd.DataFrame) -> float:
    return float(_ranking(rows).average_precision(np.ones(len(rows))))


def _drawn(rows: pd.DataFrame, rng: np.random.Generator) -> np.ndarray:
    """Average precision of resamples."""
    ranking, n = _ranking(rows), len(rows)
    drawn = rng.multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(float)
    found = np.array([ranking.average_precision(weights) for weights in drawn])
    return np.where(np.isfinite(found), found, np.nanmean(found))


def _ranking(rows: pd.DataFrame) -> Ranking:
    return Ranking.of(rows["label"].to_numpy(), rows["probability"].to_numpy())


def _freshness(facts: Facts, limits: Limits) -> Check:
    is_old = facts.age_hours > limits["freshness_hours"]
    sentence = f"The newest event came {facts.age_hours:,.0f} hours ago."
    state = ALARM if is_old else FINE
    return Check(
        "freshness", ALL, "data", state, facts.age_hours, limits["freshness_hours"], sentence
    )


def _quarantine(facts: Facts, limits: Limits) -> Check:
    """Of the sources, each on its own newest day, the worst."""
    checks = []
    for source, rows in facts.arrivals.groupby("source"):
        counts = rows.groupby("day")[["quarantined_count", "record_count"]].sum()
        share = counts["quarantined_count"] / counts["record_count"].clip(lower=1)
        text = f"of the newest day's records of {source} are quarantined"
        checks.append(
            _share("quarantine", "records", share, facts, limits["quarantined_share"], text)
        )
    nothing = "No file says the day on which it arrived."
    none = Check("quarantine", ALL, "records", UNKNOWN, None, limits["quarantined_share"], nothing)
    return max(checks, key=lambda check: (check.state == ALARM, check.value or 0), default=none)


def _unknown(facts: Facts, limits: Limits) -> list[Check]:
    both, found = pd.concat([facts.reference, facts.live]), []
    for feature in facts.schema.features:
        if feature.kind == "category" and feature.name in both:
            unknown = both[feature.name].notna() & ~both[feature.name].isin(feature.categories)
            text = f"of the sessions have a {feature.name} that training did not know"
            by_day = unknown.groupby(both["day"]).mean()
            found.append(
                _share(
                    "unknown category", feature.name, by_day, facts, limits["unknown_share"], text
                )
            )
    return [check for check in found if check.state == ALARM] or sorted(
        found, key=lambda one: -(one.value or 0)
    )[:1]


def _share(
    name: str, subject: str, by_day: pd.Series, facts: Facts, limit: float, text: str
) -> Check:
    """A share of the newest day against its limit, or against more where the training days had more."""
    history = tuple(
        None if np.isnan(value) else float(value) for value in by_day.reindex(facts.days)
    )
    if not history or history[-1] is None:
        return Check(
            name,
            ALL,
            subject,
            UNKNOWN,
            None,
            limit,
            f"{subject}: nothing came in the newest 24 hours.",
            history,
        )
    known = by_day[by_day.index.isin(set(facts.reference["day"]))].max()
    limit = max(limit, BEYOND_KNOWN * known) if known == known else limit
    state = ALARM if history[-1] > limit else FINE
    return Check(
        name, ALL, subject, state, history[-1], float(limit), f"{history[-1]:.2%} {text}.", history
    )


def _latency(facts: Facts, limits: Limits) -> Check:
    if facts.latency.empty:
        nobody = "Nobody has asked the server about one session yet."
        return Check("latency", ALL, "answers", UNKNOWN, None, limits["latency_ms"], nobody)
    history = tuple(facts.latency.sort_values("day")["p99_ms"].astype(float))
    state = ALARM if history[-1] > limits["latency_ms"] else FINE
    sentence = f"99 of 100 answers took at most {history[-1]:.0f} ms."
    return Check(
        "latency", ALL, "answers", state, history[-1], limits["latency_ms"], sentence, history
    )


def _span(days: int) -> str:
    return "24 hours" if days == 1 else f"{days} days"


def _of(tenant: str, rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of one tenant, or of all, without its name."""
    rows = rows if tenant == ALL else rows[rows["tenant_id"] == tenant]
    return rows.drop(columns=["tenant_id"])
