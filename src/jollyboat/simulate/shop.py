"""The simulated shop: its visitors, their events, and the exact probability of a purchase.

A session's outcome is drawn first, from log-odds that depend on the visitor, the time and the
channel. Each step is then drawn from the distribution of buyers or of other visitors. By Bayes'
rule the log ratios of the steps keep the log-odds exact. The number of steps does not depend on
the outcome.
"""

import numpy as np
import pandas as pd

from jollyboat.simulate.tenants import Tenants

CATEGORY_COUNT = 5  # of a tenant
USUAL_PRICE, PRICE_SPREAD, APPEAL_SPREAD = 48.0, 0.6, 0.1  # the spreads on a logarithmic scale
COUPON_SHARE, DISCOUNT = 0.5, 0.1  # of visits; of every price
DEVICES, DEVICE_SHARES = ["mobile", "desktop", "tablet", "app", "bot"], [0.50, 0.32, 0.08, 0.10, 0]
DESKTOP, APP, BOT, IS_SMALL_SCREEN = 1, 3, 4, np.array([1, 0, 0, 1, 0])
CHANNELS = ["direct", "search", "email", "social", "ads"]
ANONYMOUS_CHANNEL_SHARES = [0.25, 0.32, 0.08, 0.17, 0.18]
LOGGED_IN_CHANNEL_SHARES = [0.38, 0.17, 0.28, 0.09, 0.08]
CHANNEL_SHARES = np.array([ANONYMOUS_CHANNEL_SHARES, LOGGED_IN_CHANNEL_SHARES])
COUNTRIES, COUNTRY_SHARES = ["DE", "AT", "CH", "FR", "US"], [0.62, 0.10, 0.08, 0.12, 0.08]
ACCOUNT_SHARE, LOGGED_IN_SHARE, LOGIN_MIDWAY_SHARE, BOT_SHARE = 0.35, 0.6, 0.2, 0.01
RETURN_LAG, LONGEST_LAG = 0.2, 30  # days from a cookie's first day to a visit: geometric, cut off
WEEKDAY_WEIGHTS = [1.05, 1.0, 0.97, 0.98, 0.95, 0.93, 1.12]  # from Monday
PEAK_HOUR, HOUR_SPREAD = np.array([13, 19]), 5.0  # in UTC; of large and of small screens

# Log-odds at the start of a session that every tenant has; tenants.py has the others.
BUYER_CAME_BACK, WINDOW_SHOPPER, CAME_BACK_SOON = 1.3, -0.8, 0.4

# The logarithm of the seconds between steps, by pace.
LOG_SECONDS, LOG_SECONDS_SPREAD, BOT_LOG_SECONDS = np.array([1.8, 3.0, 4.2]), 0.3, -2.0
MEDIAN_EXTRA_STEPS, EXTRA_STEPS_SPREAD, MOST_EXTRA_STEPS = 4.3, 0.85, 58  # after the first two
BOT_STEPS = 60, 150

# Event type and page. The shares of the step for visitors who do not buy: as the first step, after
# a product, after a cart, after any other step. The preference of buyers in log-odds, on a large
# and on a small screen.
STEPS = [
    ("page_view", "home", (0.35, 0.07, 0.10, 0.07), (-0.2, -0.2)),
    ("page_view", "category", (0.14, 0.20, 0.18, 0.22), (0.0, 0.0)),  # any category
    ("page_view", "help", (0.03, 0.04, 0.06, 0.05), (0.0, 0.0)),
    ("search", "search", (0.13, 0.11, 0.10, 0.13), (0.4, -0.4)),
    ("product_view", "product", (0.35, 0.41, 0.28, 0.53), (-0.2, 0.3)),
    ("product_view", "product", (0.00, 0.10, 0.08, 0.00), (0.4, -0.2)),  # the same product
    ("cart_add", "cart", (0.00, 0.05, 0.00, 0.00), (2.7, 2.1)),
    ("cart_remove", "cart", (0.00, 0.00, 0.20, 0.00), (-0.2, -0.6)),
    # These two come after the steps above.
    ("checkout", "checkout", (0.00, 0.00, 0.00, 0.00), (0.0, 0.0)),
    ("purchase", "thanks", (0.00, 0.00, 0.00, 0.00), (0.0, 0.0)),
]
CATEGORY, HELP, PRODUCT, CART_REMOVE, CHECKOUT, PURCHASE = 1, 2, 4, 7, 8, 9
SITUATIONS = np.array([3, 3, 3, 3, 1, 1, 2, 3])  # after each step: which of its four shares holds
_SHARES = np.array([shares for _, _, shares, _ in STEPS[:CHECKOUT]]).T
_PREFERENCE = np.array([preference for *_, preference in STEPS[:CHECKOUT]]).T
STEP_SHARES = np.stack([np.ones_like(_PREFERENCE), np.exp(_PREFERENCE)])[:, :, None] * _SHARES
STEP_SHARES /= STEP_SHARES.sum(axis=-1, keepdims=True)  # by outcome, screen, situation and step
# Log-odds on a large and on a small screen, per unit of the logarithm of the price.
BUYERS_LIKE_DEAR = [0.4, -0.4]
# Products go together: this share of the product views that follow another one in the session
# shows a companion of the product before, the others are off the category's shelf. The weights are
# of the first companion, the second and so on. By the logarithm of the price, visitors with a
# coupon prefer cheap companions and others dear ones; a product that the session has shown keeps
# SEEN_BEFORE of its weight. None of it depends on the outcome.
COMPANION_SHARE, COMPANION_WEIGHTS = 0.5, [0.4, 0.3, 0.2, 0.1]
COMPANIONS_BY_PRICE, SEEN_BEFORE = [1.5, -1.5], 0.1  # the log-odds without and with a coupon
CHECKOUT_AFTER = np.array([0.08, 0.5])  # by outcome; other buyers pay without a checkout event


def draw_products(tenants: Tenants, seed: int) -> pd.DataFrame:
    """All products by tenant and category, with their `appeal` to buyers.

    `category` counts over all tenants, `number` within a tenant.
    """
    rng = np.random.default_rng([1, seed])
    counts = np.repeat(tenants.products_per_category, CATEGORY_COUNT)
    products = pd.DataFrame({"category": np.repeat(np.arange(len(counts)), counts)})
    deviation, appeal, popularity = rng.normal(size=(3, len(products)))
    products["number"] = 1 + products.groupby(products["category"] // CATEGORY_COUNT).cumcount()
    products["price"] = np.round(USUAL_PRICE * np.exp(PRICE_SPREAD * deviation), 1)
    return products.assign(popularity=np.exp(popularity), appeal=APPEAL_SPREAD * appeal)


def draw_companions(products: pd.DataFrame, seed: int) -> np.ndarray:
    """The companions of each product, the first one first: others of its tenant, any category."""
    rng = np.random.default_rng([8, seed])
    companions = []
    # A tenant at a time: the order of all products after each product would not fit into memory.
    for _, own in products.groupby(products["category"] // CATEGORY_COUNT):
        order = rng.random((len(own), len(products)))[:, own.index]
        np.fill_diagonal(order, 1)
        companions.append(own.index[0] + np.argsort(order, axis=1)[:, : len(COMPANION_WEIGHTS)])
    return np.concatenate(companions)


def draw_visitors(tenants: Tenants, *, seed: int, days: int, sessions_per_day: int) -> pd.DataFrame:
    """All cookies by their first day, `sessions_per_day` of each, from a month before the logs."""
    size = (days + LONGEST_LAG) * sessions_per_day
    # One generator per column, so that more days only add visitors.
    rng = [np.random.default_rng([2, seed, column]) for column in range(5)]
    tenant = [
        rng[0].choice(len(tenants.names), sessions_per_day, p=tenants.shares_on(day))
        for day in range(-LONGEST_LAG, days)
    ]
    return pd.DataFrame(index=range(size)).assign(
        tenant=np.concatenate(tenant),
        device=rng[1].choice(len(DEVICES), size, p=DEVICE_SHARES),
        country=rng[2].choice(len(COUNTRIES), size, p=COUNTRY_SHARES),
        has_account=rng[3].random(size) < ACCOUNT_SHARE,
        cookie=rng[4].integers(2**63, size=size),
    )


def draw_sessions(
    tenants: Tenants,
    visitors: pd.DataFrame,
    customers: pd.DataFrame,
    past: pd.DataFrame,
    *,
    seed: int,
    day: int,
    weekday: int,
    sessions_per_day: int,
    has_campaign: bool = False,
) -> pd.DataFrame:
    """A day's sessions with their `log_odds` of a purchase and the outcome.

    `customers`: those who come on this day; they are logged in from the first event. `past`: the
    sessions of earlier days. With a campaign half of the visitors come by ads.
    """
    rng = np.random.default_rng([3, seed, day])
    size = max(1, int(sessions_per_day * WEEKDAY_WEIGHTS[weekday] * rng.uniform(0.95, 1.05)))
    cookies = max(0, size - len(customers))
    lag = np.minimum(rng.geometric(RETURN_LAG, cookies) - 1, LONGEST_LAG)
    visitor = (day + LONGEST_LAG - lag) * sessions_per_day
    visitor += rng.integers(sessions_per_day, size=cookies)
    who = pd.concat([visitors.iloc[visitor], customers[visitors.columns]], ignore_index=True)
    visitor, size = np.concatenate([visitor, customers["visitor"]]), len(who)
    is_customer = np.arange(size) >= cookies
    tenant = who["tenant"].to_numpy()
    small, has_account = IS_SMALL_SCREEN[who["device"]], who["has_account"].to_numpy()
    is_logged_in = has_account & (is_customer | (rng.random(size) < LOGGED_IN_SHARE))
    is_logged_in = is_logged_in.astype(int)
    logs_in = has_account & (rng.random(size) < LOGIN_MIDWAY_SHARE)
    channel = _choose(rng, CHANNEL_SHARES[is_logged_in])
    if has_campaign:
        by_ads = np.random.default_rng([7, seed, day]).random(size) < 0.5
        channel = np.where(by_ads, CHANNELS.index("ads"), channel)
    hour = rng.normal(PEAK_HOUR[small], HOUR_SPREAD).astype(int) % 24
    coupon = (rng.random(size) < COUPON_SHARE).astype(int)
    pace = rng.integers(len(LOG_SECONDS), size=size)
    is_bot = (rng.random(size) < BOT_SHARE) & ~is_customer
    log_odds = (
        tenants.log_odds[tenant]
        + tenants.screen_and_hour[tenant, small, np.searchsorted([6, 11, 17], hour, side="right")]
        + tenants.channel[tenant, channel]
        + tenants.coupon[tenant, coupon]
        + tenants.pace[tenant, pace]
        + _weigh_past(visitor, past, day)
        - 30 * is_bot
    )
    extra = rng.lognormal(np.log(MEDIAN_EXTRA_STEPS), EXTRA_STEPS_SPREAD, size)
    extra = np.minimum(extra, MOST_EXTRA_STEPS).astype(int)
    return who.assign(
        session_id=rng.integers(2**63, size=size),
        visitor=visitor,
        day=day,
        category=tenant * CATEGORY_COUNT + rng.integers(CATEGORY_COUNT, size=size),
        # Half of the bots show in the device that they are bots.
        device=np.where(is_bot, np.where(visitor % 2, BOT, DESKTOP), who["device"]),
        login_place=np.select([is_logged_in == 1, logs_in], [0, rng.integers(2, 7, size)], 10_000),
        channel=channel,
        discount=DISCOUNT * coupon,
        quantity=1 + (rng.random(size) < 0.15),
        at_ms=hour * 3_600_000 + rng.integers(3_600_000, size=size),
        log_seconds=np.where(is_bot, BOT_LOG_SECONDS, LOG_SECONDS[pace]),
        steps=np.where(is_bot, rng.integers(*BOT_STEPS, size), 2 + extra),
        log_odds=log_odds,
        outcome=(rng.random(size) < 1 / (1 + np.exp(-log_odds))).astype(int),
    )


def _weigh_past(visitor: np.ndarray, past: pd.DataFrame, day: int) -> np.ndarray:
    """The log-odds of each cookie's past: buyers buy again, frequent other visitors do not."""
    visits = past.groupby("visitor").agg(
        count=("day", "size"), last_day=("day", "max"), purchases=("outcome", "sum")
    )
    visits = visits.reindex(visitor)
    log_odds = (
        BUYER_CAME_BACK * (visits["purchases"] > 0)
        + CAME_BACK_SOON * (day - visits["last_day"] <= 2)
        + WINDOW_SHOPPER * ((visits["purchases"] == 0) & (visits["count"] >= 3))
    )
    return log_odds.to_numpy()


def draw_events(
    products: pd.DataFrame,
    companions: np.ndarray,
    sessions: pd.DataFrame,
    *,
    seed: int,
    day: int,
) -> pd.DataFrame:
    """A day's events: `session` (a row of `sessions`), its `place` in it, `at_ms`, `step`.

    Also the `category` and `product` on show, and the `probability` that a purchase follows.
    `companions` is what `draw_companions` returns.
    """
    rng, size = np.random.default_rng([4, seed, day]), len(sessions)
    buys, steps, pace = (sessions[name].to_numpy() for name in ("outcome", "steps", "log_seconds"))
    now = {name: sessions[name].to_numpy(copy=True) for name in ("at_ms", "category", "log_odds")}
    now |= {name: np.zeros(size, int) for name in ("place", "step")} | {"session": np.arange(size)}
    log_odds, category, situation = now["log_odds"], now["category"], np.zeros(size, int)
    steps_taken = []
    small, coupon = IS_SMALL_SCREEN[sessions["device"]], (sessions["discount"] > 0).to_numpy(int)
    shelf_shares, category_of = _share_views(products), products["category"].to_numpy()
    first_product = np.searchsorted(category_of, np.arange(category_of.max() + 1))
    companion_weights = _weigh_companions(products, companions)
    now["product"] = first_product[category]
    number = products["number"].to_numpy()
    is_seen = np.zeros((size, number.max() + 1), bool)  # by session and its tenant's product

    def take(rows: np.ndarray, step: np.ndarray | int) -> None:
        now["step"][rows] = step
        steps_taken.append({name: column[rows] for name, column in now.items()})
        seconds = np.exp(rng.normal(pace[rows], LOG_SECONDS_SPREAD))
        now["at_ms"][rows] += (1000 * seconds).astype(int)
        now["place"][rows] += 1

    def show(views: np.ndarray) -> None:
        each, last = np.arange(len(views)), now["product"][views]
        shelf, near = shelf_shares[:, small[views], category[views]], companions[last]
        weights = companion_weights[coupon[views], last]
        weights = weights * np.where(is_seen[views[:, None], number[near]], SEEN_BEFORE, 1)
        shares = _mix(shelf, weights, is_first=~is_seen[views, number[last]])
        on_shelf = first_product[category[views], None] + np.arange(shelf.shape[-1])
        on_show = np.concatenate([on_shelf, near], axis=1)
        product = on_show[each, _choose(rng, shares[buys[views], each])]
        # A companion may be on the shelf, too. Both ways to the product count.
        density = (shares * (on_show == product[:, None])).sum(axis=2)
        log_odds[views] += np.log(density[1] / density[0])
        is_seen[views, number[product]] = True
        now["product"][views], category[views] = product, category_of[product]

    for place in range(steps.max()):
        rows = np.flatnonzero(steps > place)
        state = small[rows], situation[rows]
        step = _choose(rng, STEP_SHARES[buys[rows], *state])
        log_odds[rows] += np.log(STEP_SHARES[1, *state, step] / STEP_SHARES[0, *state, step])
        situation[rows] = SITUATIONS[step]
        changes = rows[step == CATEGORY]
        chosen = rng.integers(CATEGORY_COUNT, size=len(changes))
        category[changes] += chosen - category[changes] % CATEGORY_COUNT
        show(rows[step == PRODUCT])
        take(rows, step)
    checkouts = np.flatnonzero(rng.random(size) < CHECKOUT_AFTER[buys])
    log_odds[checkouts] += np.log(CHECKOUT_AFTER[1] / CHECKOUT_AFTER[0])
    take(checkouts, CHECKOUT)
    buyers = np.flatnonzero(buys)
    log_odds[buyers] = -np.inf  # no second purchase follows
    take(buyers, PURCHASE)
    events = pd.DataFrame(
        {name: np.concatenate([each[name] for each in steps_taken]) for name in now}
    )
    # A cart or an order shows a product although the visitor went on to another category.
    events["category"] = np.where(
        events["step"] < PRODUCT, events["category"], category_of[events["product"]]
    )
    events["probability"] = 1 / (1 + np.exp(-events["log_odds"]))
    return events.assign(event_id=rng.integers(2**63, size=len(events)))


def _share_views(products: pd.DataFrame) -> np.ndarray:
    """The shares of a category's products among its views, by outcome, screen and category."""
    log_price = np.log(products["price"] / USUAL_PRICE)
    preference = products["appeal"].to_numpy() + np.outer(BUYERS_LIKE_DEAR, log_price)
    counts = products["category"].value_counts()
    shares = np.zeros((2, 2, len(counts), counts.max()))
    weights = products["popularity"].to_numpy() * np.exp([np.zeros_like(preference), preference])
    shares[:, :, products["category"], products.groupby("category").cumcount()] = weights
    return shares / shares.sum(axis=-1, keepdims=True)


def _weigh_companions(products: pd.DataFrame, companions: np.ndarray) -> np.ndarray:
    """The weights of each product's companions, by coupon and product."""
    preference = np.outer(COMPANIONS_BY_PRICE, np.log(products["price"] / USUAL_PRICE))
    return COMPANION_WEIGHTS * np.exp(preference)[:, companions]


def _mix(shelf: np.ndarray, weights: np.ndarray, is_first: np.ndarray) -> np.ndarray:
    """The shares of the shelf's places and of the companions, by outcome and view.

    A session's first view is off the shelf.
    """
    companion_share = np.where(is_first, 0, COMPANION_SHARE)[:, None]
    near = companion_share * weights / weights.sum(axis=1, keepdims=True)
    return np.concatenate([(1 - companion_share) * shelf, np.stack([near, near])], axis=2)


def _choose(rng: np.random.Generator, shares: np.ndarray) -> np.ndarray:
    """One column per row, drawn by the row's shares."""
    return (rng.random(len(shares))[:, None] > np.cumsum(shares, axis=1)[:, :-1]).sum(axis=1)
