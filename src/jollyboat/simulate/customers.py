"""The simulated shop's customers: people with an account, who come by habit until they lapse.

A customer who is active visits on each day with a chance of their own. After a visit the customer
lapses for good with a probability that depends on the visit and on the purchases before it. On the
next day a new customer with the same habit takes the place, so their number stays the same.
"""

import numpy as np
import pandas as pd

from jollyboat.simulate.shop import (
    CART_REMOVE,
    COUNTRIES,
    COUNTRY_SHARES,
    DEVICE_SHARES,
    DEVICES,
    HELP,
)
from jollyboat.simulate.tenants import Tenants

CUSTOMER_SHARE = 0.2  # of the sessions
VISIT_CHANCES, HABIT_SHARES = [1 / 2, 1 / 4, 1 / 7], [0.2, 0.4, 0.4]  # on a day; of the customers
FIRST_CUSTOMER = 10**9  # the visitor numbers of customers begin here; those of cookies are smaller

# Log-odds of a lapse after a visit, about 8 % of the visits. HELP_PAGE is for each of at most two
# help pages; BOUGHT for a purchase in this visit or in one of the two before it.
LAPSE, HELP_PAGE, REMOVED_FROM_CART, HAD_COUPON, BOUGHT = -3.0, 2.2, 1.5, -1.5, -1.5
MOST_HELP_PAGES, VISITS_OF_A_PURCHASE = 2, 3


def draw_customers(tenants: Tenants, *, seed: int, sessions_per_day: int) -> pd.DataFrame:
    """The customers of the first day, a row each: who they are, and their chance of a visit."""
    rng = np.random.default_rng([9, seed])
    size = round(CUSTOMER_SHARE * sessions_per_day / np.dot(VISIT_CHANCES, HABIT_SHARES))
    return pd.DataFrame(
        {
            "visitor": FIRST_CUSTOMER + np.arange(size),
            "tenant": rng.choice(len(tenants.names), size, p=tenants.shares),
            "visit_chance": rng.choice(VISIT_CHANCES, size, p=HABIT_SHARES),
        }
    ).assign(
        has_account=True,
        **_draw_persons(rng, size),
        visits_since_purchase=VISITS_OF_A_PURCHASE,
    )


def draw_visits(tenants: Tenants, customers: pd.DataFrame, *, seed: int, day: int) -> pd.DataFrame:
    """The customers who come on a day, once each; nobody comes before the tenant's first day."""
    rng = np.random.default_rng([10, seed, day])
    has_started = tenants.first_days[customers["tenant"]] <= day
    return customers[has_started & (rng.random(len(customers)) < customers["visit_chance"])]


def draw_lapses(
    customers: pd.DataFrame,
    sessions: pd.DataFrame,
    events: pd.DataFrame,
    *,
    seed: int,
    day: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The customers of the next day, and this day's visits with their `lapse_probability`."""
    rng, size = np.random.default_rng([11, seed, day]), len(customers)
    visits = sessions[sessions["visitor"] >= FIRST_CUSTOMER]
    place = (visits["visitor"] - FIRST_CUSTOMER) % size
    since_purchase = customers["visits_since_purchase"].to_numpy(copy=True)
    since_purchase[place] = np.where(visits["outcome"], 0, since_purchase[place] + 1)
    log_odds = _weigh_visits(visits, events, since_purchase[place])
    truth = visits[["visitor"]].assign(
        visit_chance=customers["visit_chance"].to_numpy()[place],
        lapse_probability=1 / (1 + np.exp(-log_odds)),
    )
    has_lapsed = np.zeros(size, bool)
    has_lapsed[place] = rng.random(len(truth)) < truth["lapse_probability"]
    successors = customers.assign(
        visitor=customers["visitor"] + size,
        **_draw_persons(rng, size),
        visits_since_purchase=VISITS_OF_A_PURCHASE,
    )
    customers = customers.assign(visits_since_purchase=since_purchase)
    return pd.concat([customers[~has_lapsed], successors[has_lapsed]]).sort_index(), truth


def predict_absence(
    visit_chance: np.ndarray,
    lapse_probability: np.ndarray,
    silent_days: np.ndarray,
    horizon_days: int,
) -> np.ndarray:
    """The exact probability that a customer does not visit in the next `horizon_days` days.

    With the chance r of a visit on a day, the probability p of a lapse after the last visit, and d
    whole days without a visit since the day of the last one:

    P(lapsed) = p / (p + (1 - p) (1 - r)^d)
    P(absent) = P(lapsed) + (1 - P(lapsed)) (1 - r)^h

    A visit belongs to the day on which it begins: at the start of a day, d is 0 for a visit on the
    day before. One that begins just before midnight may have its last events on the next day.
    """
    stayed = (1 - lapse_probability) * (1 - visit_chance) ** silent_days
    lapsed = lapse_probability / (lapse_probability + stayed)
    return lapsed + (1 - lapsed) * (1 - visit_chance) ** horizon_days


def _draw_persons(rng: np.random.Generator, size: int) -> dict[str, np.ndarray]:
    return {
        "device": rng.choice(len(DEVICES), size, p=DEVICE_SHARES),
        "country": rng.choice(len(COUNTRIES), size, p=COUNTRY_SHARES),
        "cookie": rng.integers(2**63, size=size),
    }


def _weigh_visits(
    visits: pd.DataFrame, events: pd.DataFrame, visits_since_purchase: np.ndarray
) -> pd.Series:
    """The log-odds of a lapse after each of these sessions."""
    return (
        LAPSE
        + HELP_PAGE * _count(events, HELP, visits).clip(upper=MOST_HELP_PAGES)
        + REMOVED_FROM_CART * (_count(events, CART_REMOVE, visits) > 0)
        + HAD_COUPON * (visits["discount"] > 0)
        + BOUGHT * (visits_since_purchase < VISITS_OF_A_PURCHASE)
    )


def _count(events: pd.DataFrame, step: int, sessions: pd.DataFrame) -> pd.Series:
    """How many events of this step each of these sessions has."""
    counts = events.loc[events["step"] == step, "session"].value_counts()
    return counts.reindex(sessions.index, fill_value=0)
