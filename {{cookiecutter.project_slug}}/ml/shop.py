"""The simulated shop: what it sells, who comes, and how likely each visit is to end in a purchase.

A visit's outcome is drawn first, from `p0`, a function of what is known when it starts. `ml.browsing` then draws the
events given the outcome, so that the exact probability after each event follows by Bayes' rule.
"""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

TENANTS = ["acme", "globex", "initech"]
TENANT_SHARES = np.array([0.70, 0.25, 0.05])
TENANT_LOG_ODDS = np.array([-4.0, -3.6, -4.2])
CURRENCIES = ["EUR", "EUR", "USD"]
PRODUCTS_PER_CATEGORY = [24, 12, 6]
CATEGORIES = ["shoes", "shirts", "jackets", "bags", "watches"]
CATEGORY_PRICES = np.array([45.0, 35.0, 60.0, 50.0, 55.0])
PRICE_SPREAD, APPEAL_SPREAD = 0.7, 0.4  # deviations, on a logarithmic scale
DISCOUNTS = np.array([0.0, 0.1, 0.2, 0.3])
DISCOUNT_SHARES = [0.6, 0.2, 0.12, 0.08]

DEVICES = ["mobile", "desktop", "tablet", "app", "bot"]
DEVICE_SHARES = [0.50, 0.32, 0.08, 0.10]
APP, BOT = DEVICES.index("app"), DEVICES.index("bot")
IS_SMALL_SCREEN = np.array([1, 0, 0, 1, 0])
CHANNELS = ["direct", "search", "email", "social", "ads"]
CHANNEL_SHARES = [[0.25, 0.32, 0.08, 0.17, 0.18], [0.38, 0.17, 0.28, 0.09, 0.08]]  # anonymous; logged in
COUNTRIES = ["DE", "AT", "CH", "FR", "US"]
COUNTRY_SHARES = [0.62, 0.10, 0.08, 0.12, 0.08]

# Visits by hour of day (UTC): large screens in office hours, small ones in the evening; and by weekday from Monday.
HOUR_WEIGHTS = np.array(
    [
        [2, 1, 1, 1, 1, 2, 4, 8, 12, 14, 14, 13, 11, 13, 14, 13, 11, 9, 8, 8, 8, 7, 5, 3],
        [5, 3, 2, 1, 1, 3, 7, 10, 8, 6, 6, 8, 10, 8, 7, 7, 9, 12, 15, 18, 19, 17, 13, 8],
    ]
)
WEEKDAY_WEIGHTS = [1.05, 1.0, 0.97, 0.98, 0.95, 0.93, 1.12]

# Log-odds known at the start. By part of the day: night, morning, afternoon, evening.
LOG_ODDS_BY_SCREEN_AND_PART = np.array([[-0.6, 1.4, 1.1, -1.9], [-0.5, -1.8, -1.5, 1.3]])
LOG_ODDS_BY_LOGIN_AND_CHANNEL = np.array([[0.0, 0.8, -1.5, -0.9, 1.1], [0.2, -1.1, 1.6, 0.2, -1.7]])
BUYER_CAME_BACK, WINDOW_SHOPPER, CAME_BACK_SOON, LONG_AWAY = 0.9, -0.9, 0.5, -0.4

RETURN_SHARE = 0.45  # of visits are by a cookie that came before; most within days
RETURN_LAG = 0.25  # geometric, in days
SECOND_DEVICE_SHARE = 0.10  # of new cookies belong to an account seen on another device
ACCOUNT_SHARE, LOGGED_IN_SHARE, LOGIN_MIDWAY_SHARE = 0.35, 0.6, 0.4
FAVOURITE_SHARE = 0.7  # of visits begin in the visitor's favourite category
BOT_SHARE = 0.01
DAY_MS = 86_400_000


@dataclass(frozen=True)
class Catalogue:
    """Products of all tenants in one list, ordered by tenant and category; `category` counts over all tenants."""

    tenant: np.ndarray
    category: np.ndarray
    number: np.ndarray
    price: np.ndarray
    price_position: np.ndarray  # standard deviations above its category's usual price
    popularity: np.ndarray
    appeal: np.ndarray  # log-odds by which buyers prefer it: what makes one product convert better than another


@dataclass
class Visitors:
    """Every cookie so far (one row each, numbered by arrival) and every day's visits by cookie number."""

    traits: pd.DataFrame = field(default_factory=pd.DataFrame)
    visits: list[np.ndarray] = field(default_factory=list)

    def remember(self, sessions: pd.DataFrame, day: int) -> None:
        """Count a finished day, so that the next days know who came and who bought."""
        people = sessions[~sessions["is_bot"]]
        cookie = people["visitor"].to_numpy()
        self.visits.append(cookie)
        visit_count, purchase_count = (self.traits[c].to_numpy(copy=True) for c in ("visit_count", "purchase_count"))
        np.add.at(visit_count, cookie, 1)
        np.add.at(purchase_count, cookie, people["outcome"].to_numpy())
        last_day = self.traits["last_day"].to_numpy(copy=True)
        last_day[cookie] = day
        self.traits = self.traits.assign(visit_count=visit_count, purchase_count=purchase_count, last_day=last_day)


def stock(seed: int) -> Catalogue:
    """The catalogue of a seed, the same for every day."""
    rng = np.random.default_rng([1, seed])
    counts = np.repeat(PRODUCTS_PER_CATEGORY, len(CATEGORIES))
    category = np.repeat(np.arange(len(counts)), counts)
    tenant = category // len(CATEGORIES)
    size = len(category)
    position = rng.normal(size=size)
    number = np.concatenate([1 + rng.permutation(n * len(CATEGORIES)) for n in PRODUCTS_PER_CATEGORY])
    price = CATEGORY_PRICES[category % len(CATEGORIES)] * np.exp(PRICE_SPREAD * position)
    popularity, appeal = rng.pareto(1.5, size) + 0.3, rng.normal(0, APPEAL_SPREAD, size)
    return Catalogue(tenant, category, number, np.round(price, 1), position, popularity, appeal)


def draw_sessions(visitors: Visitors, *, seed: int, day: int, weekday: int, sessions_per_day: int) -> pd.DataFrame:
    """The visits that start on a day, in order of start: who, on what, from where, `p0` and the outcome.

    New cookies are added to `visitors`; call `visitors.remember` before the next day is drawn.
    """
    rng = np.random.default_rng([2, seed, day])
    size = max(1, int(sessions_per_day * WEEKDAY_WEIGHTS[weekday] * rng.uniform(0.95, 1.05)))
    visitor = _choose_visitors(visitors, rng, size, day)
    who = visitors.traits.iloc[visitor].reset_index(drop=True)
    is_known = who["has_account"].to_numpy() & (rng.random(size) < LOGGED_IN_SHARE)
    is_later_known = who["has_account"].to_numpy() & ~is_known & (rng.random(size) < LOGIN_MIDWAY_SHARE)
    hour = _choose_rows(rng, HOUR_WEIGHTS, IS_SMALL_SCREEN[who["device"]])
    sessions = who[["tenant", "device", "country", "user"]].assign(
        visitor=visitor,
        channel=_choose_rows(rng, np.array(CHANNEL_SHARES), is_known.astype(int)),
        start=(hour * 3_600_000 + rng.integers(0, 3_600_000, size)).astype(np.int64),
        login_place=np.where(is_known, 0, np.where(is_later_known, rng.integers(2, 7, size), 10_000)),
        category=np.where(rng.random(size) < FAVOURITE_SHARE, who["favourite"], rng.integers(0, len(CATEGORIES), size)),
        id=rng.integers(0, 2**63, size),
        is_bot=rng.random(size) < BOT_SHARE,
    )
    log_odds = (
        TENANT_LOG_ODDS[who["tenant"]]
        + LOG_ODDS_BY_SCREEN_AND_PART[IS_SMALL_SCREEN[who["device"]], np.searchsorted([6, 11, 17], hour, side="right")]
        + LOG_ODDS_BY_LOGIN_AND_CHANNEL[is_known.astype(int), sessions["channel"]]
        + _weigh_history(who, day)
    )
    sessions["is_returning"] = who["visit_count"].to_numpy() > 0
    sessions["p0"] = np.where(sessions["is_bot"], 0.0, 1 / (1 + np.exp(-log_odds)))
    sessions["outcome"] = rng.random(size) < sessions["p0"]
    named_bot = sessions["is_bot"] & (rng.random(size) < 0.5)  # the other half passes for a desktop
    sessions["device"] = np.select([named_bot, sessions["is_bot"]], [BOT, 1], sessions["device"])
    return sessions.sort_values("start", kind="stable", ignore_index=True)


def _choose_visitors(visitors: Visitors, rng: np.random.Generator, size: int, day: int) -> np.ndarray:
    """Cookie numbers of a day's visits; a cookie that visits often is more likely to come again."""
    lag = rng.geometric(RETURN_LAG, size)
    place = rng.random(size)
    is_return = (rng.random(size) < RETURN_SHARE) & (lag <= day)
    is_second_device = ~is_return & (rng.random(size) < SECOND_DEVICE_SHARE) & (lag <= day)
    earlier = np.full(size, -1)
    for days_ago in np.unique(lag[is_return | is_second_device]):
        chosen = (is_return | is_second_device) & (lag == days_ago)
        before = visitors.visits[day - days_ago]
        if len(before):
            earlier[chosen] = before[(place[chosen] * len(before)).astype(int)]
    known = len(visitors.traits)
    is_new = ~is_return | (earlier < 0)
    visitor = np.where(is_new, known + np.cumsum(is_new) - 1, earlier)
    traits = _draw_traits(rng, size).assign(user=known + np.arange(size))[is_new]
    traits["user"] = visitor[is_new]
    if known:
        other = visitors.traits.iloc[np.maximum(earlier[is_new], 0)].set_axis(traits.index)
        same_person = is_second_device[is_new] & (earlier[is_new] >= 0) & other["has_account"].to_numpy()
        for trait in ("tenant", "country", "favourite", "has_account", "user"):
            traits[trait] = np.where(same_person, other[trait], traits[trait])
    visitors.traits = pd.concat([visitors.traits, traits], ignore_index=True)
    return visitor


def _draw_traits(rng: np.random.Generator, size: int) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "tenant": rng.choice(len(TENANTS), size, p=TENANT_SHARES),
            "device": rng.choice(len(DEVICE_SHARES), size, p=DEVICE_SHARES),
            "country": rng.choice(len(COUNTRIES), size, p=COUNTRY_SHARES),
            "favourite": rng.integers(0, len(CATEGORIES), size),
            "has_account": rng.random(size) < ACCOUNT_SHARE,
            "visit_count": 0,
            "purchase_count": 0,
            "last_day": -1,
        }
    )


def _weigh_history(who: pd.DataFrame, day: int) -> np.ndarray:
    """Log-odds of what this cookie did on earlier days: buyers come back to buy, frequent lookers do not."""
    visit_count, purchase_count = who["visit_count"].to_numpy(), who["purchase_count"].to_numpy()
    days_away = day - who["last_day"].to_numpy()
    log_odds = np.where(purchase_count > 0, BUYER_CAME_BACK * np.minimum(purchase_count, 2), 0.0)
    log_odds += np.where((purchase_count == 0) & (visit_count >= 3), WINDOW_SHOPPER, 0.0)
    log_odds += np.where(days_away <= 2, CAME_BACK_SOON, np.where(days_away > 6, LONG_AWAY, 0.0))
    return np.where(visit_count > 0, log_odds, 0.0)


def _choose_rows(rng: np.random.Generator, weights: np.ndarray, row: np.ndarray) -> np.ndarray:
    """One column per entry of `row`, drawn by that row's weights."""
    edges = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)[:, :-1]
    return (rng.random(len(row))[:, None] > edges[row]).sum(axis=1)
