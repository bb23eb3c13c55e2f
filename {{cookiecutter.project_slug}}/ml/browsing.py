"""What visitors do in a visit, drawn given its outcome, with the exact chance of a purchase after each event.

Every choice has two distributions, one for buyers and one for the rest. The sum of the log ratios of what was observed,
added to the log-odds of `p0`, is the posterior. How many events a visit has says nothing about its outcome.
"""

import numpy as np
import pandas as pd

from ml.shop import CATEGORIES, DISCOUNT_SHARES, DISCOUNTS, IS_SMALL_SCREEN, Catalogue

STATES = ["home", "category", "help", "search", "product", "cart_add", "cart_remove", "popup", "checkout", "purchase"]
HOME, CATEGORY, HELP, SEARCH, PRODUCT, CART_ADD, CART_REMOVE, POPUP, CHECKOUT, PURCHASE = range(len(STATES))
START = POPUP + 1  # as the state before the first event

# How often a state (row) is followed by another (column) in visits that do not end in a purchase.
FOLLOWERS = np.array(
    [  # home  categ  help  search product  add  remove popup
        [0.08, 0.42, 0.05, 0.20, 0.25, 0.00, 0.00, 0.002],  # home
        [0.07, 0.28, 0.03, 0.12, 0.50, 0.00, 0.00, 0.002],  # category
        [0.25, 0.25, 0.15, 0.12, 0.23, 0.00, 0.00, 0.002],  # help
        [0.05, 0.13, 0.03, 0.27, 0.52, 0.00, 0.00, 0.002],  # search
        [0.09, 0.24, 0.05, 0.13, 0.44, 0.05, 0.00, 0.002],  # product
        [0.10, 0.22, 0.08, 0.12, 0.30, 0.00, 0.18, 0.002],  # cart_add
        [0.20, 0.27, 0.08, 0.15, 0.30, 0.00, 0.00, 0.002],  # cart_remove
        [0.15, 0.30, 0.05, 0.15, 0.35, 0.00, 0.00, 0.002],  # popup
        [0.42, 0.22, 0.03, 0.08, 0.25, 0.00, 0.00, 0.000],  # start
    ]
)
# By how much (log-odds) buyers prefer a step: large screen new, large returning, small new, small returning visitor.
BUYERS_PREFER = {
    (START, PRODUCT): [0.2, 0.2, 0.5, 0.5],
    (START, HOME): [0.1, -0.1, -0.1, -0.1],
    (HOME, PRODUCT): [0.2, 0.2, 0.5, 0.5],
    (HOME, HOME): [-0.2, -0.2, -0.2, -0.2],
    (HOME, HELP): [-0.2, -0.2, -0.1, -0.1],
    (CATEGORY, PRODUCT): [0.2, 0.2, 0.5, 0.5],
    (CATEGORY, CATEGORY): [0.1, 0.1, -0.2, -0.2],
    (SEARCH, PRODUCT): [0.2, 0.2, 0.5, 0.5],
    (SEARCH, SEARCH): [-0.2, -0.2, 0.1, 0.1],
    (PRODUCT, CART_ADD): [2.9, 2.6, 2.0, 1.4],
    (PRODUCT, SEARCH): [0.1, -0.1, -0.1, 0.1],
    (PRODUCT, HOME): [-0.2, -0.2, -0.2, -0.2],
    (PRODUCT, HELP): [0.1, -0.1, 0.1, -0.1],
    (CART_ADD, CART_REMOVE): [-0.1, -0.1, -0.2, -0.2],
    (CART_ADD, HELP): [0.2, 0.2, 0.2, 0.2],
}
BUYERS_ADD_AGAIN = -1.2  # with something in the cart already, a further cart_add counts for less: collectors add on

# Seconds until the next event, as mean and deviation of the logarithm, by the state it follows.
LOG_SECONDS = np.array([2.6, 2.9, 3.1, 2.7, 3.3, 2.9, 2.7, 2.0, 4.0, 3.5])
BUYERS_LOG_SECONDS = np.array(  # large, small screen: longer on products, shorter on the home page
    [[-0.15, 0.0, 0.05, 0.05, 0.15, 0.05, 0, 0, 0, 0], [-0.10, 0.05, 0.0, -0.10, 0.08, -0.05, 0, 0, 0, 0]]
)
LOG_SECONDS_DEVIATION = np.array([1.0, 0.93])  # others, buyers: these neither hurry nor leave the page open

SWITCH_CATEGORY = np.array([0.32, 0.25])  # others, buyers: who will buy keeps to one kind of thing
VIEW_AGAIN = np.array([0.15, 0.22])  # the same product once more
QUERY_WORDS = np.array([[0.35, 0.32, 0.22, 0.11], [0.27, 0.32, 0.26, 0.15]])  # one to four words
BUYERS_LIKE_DEAR = np.array([0.65, -0.65])  # large, small screen; per deviation of price within its category
BUYERS_LIKE_DISCOUNT = np.array([-2.5, 3.0])  # other channels, deal channels; per unit of discount
DEAL_CHANNELS = [2, 4]  # email, ads
CHECKOUT_AFTER = np.array([0.08, 0.5])  # others give up there; the remaining buyers pay by express

MEDIAN_EXTRA_EVENTS, EXTRA_EVENTS_DEVIATION, MOST_EVENTS = 4.3, 0.85, 60
BLOCKED_SHARE = 0.015  # of purchases are seen by the back end only
TRUTH_OF_BOTS = 0.0


def draw_events(shop: Catalogue, sessions: pd.DataFrame, *, seed: int, day: int) -> pd.DataFrame:
    """The events of a day's visits, one row each: `session` (row of `sessions`), `place`, `at` (ms of the day),
    `state`, what it is about, and `probability`, that a purchase follows."""
    rng = np.random.default_rng([3, seed, day])
    browser = _Browser(shop, sessions[~sessions["is_bot"]], rng, _discount(seed, day, len(shop.price)))
    bot_events = _draw_bot_events(shop, sessions[sessions["is_bot"]], rng)
    events = pd.concat([browser.run(), bot_events], ignore_index=True)
    return events.assign(id=rng.integers(0, 2**63, len(events)))


class _Browser:
    """All visits of a day, advanced together by one event at a time. Those with most events come first, so that the
    visits still under way are always the first rows."""

    def __init__(self, shop: Catalogue, sessions: pd.DataFrame, rng: np.random.Generator, discount: np.ndarray):
        extra = np.exp(rng.normal(np.log(MEDIAN_EXTRA_EVENTS), EXTRA_EVENTS_DEVIATION, len(sessions)))
        length = np.minimum(2 + extra.astype(int), MOST_EVENTS)
        order = np.argsort(-length, kind="stable")
        sessions, self.length = sessions.iloc[order], length[order]
        self.shop, self.rng, self.discount = shop, rng, discount
        self.session = sessions.index.to_numpy()
        self.buys = sessions["outcome"].to_numpy().astype(int)
        self.small = IS_SMALL_SCREEN[sessions["device"]]
        self.segment = 2 * self.small + sessions["is_returning"].to_numpy()
        self.taste = 2 * self.small + np.isin(sessions["channel"], DEAL_CHANNELS)
        self.category = sessions["tenant"].to_numpy() * len(CATEGORIES) + sessions["category"].to_numpy()
        self.has_category = np.zeros(len(sessions), bool)
        self.product = np.full(len(sessions), -1)
        self.has_cart = np.zeros(len(sessions), int)
        self.previous = np.full(len(sessions), START)
        self.at = sessions["start"].to_numpy(copy=True)
        p0 = sessions["p0"].to_numpy()
        self.log_odds = np.log(p0 / (1 - p0))
        self.follow = _follow_table()
        self.choice = _product_table(shop, discount)
        self.running_choice = np.cumsum(self.choice)

    def run(self) -> pd.DataFrame:
        under_way = [np.count_nonzero(self.length > place) for place in range(self.length.max(initial=0))]
        rows = [*(self._browse(place, size) for place, size in enumerate(under_way)), *self._end()]
        return pd.DataFrame({name: np.concatenate([row[name] for row in rows]) for name in rows[0]})

    def _browse(self, place: int, size: int) -> dict:
        now = slice(0, size)
        buys, previous, cart = self.buys[now], self.previous[now], self.has_cart[now]
        if place:
            self._wait(now, self.rng.normal(size=size))
        odds = self.follow[:, self.segment[now], cart, previous]
        chosen = odds[buys, np.arange(size)]
        state = (self.rng.random(size)[:, None] * chosen.sum(1, keepdims=True) > np.cumsum(chosen, axis=1)).sum(1)
        self.log_odds[now] += np.log(odds[1, np.arange(size), state] / odds[0, np.arange(size), state])
        self.has_cart[now] = np.where(state == CART_ADD, 1, np.where(state == CART_REMOVE, 0, cart))
        self._look(np.flatnonzero(state == PRODUCT))
        self._turn(np.flatnonzero(state == CATEGORY))
        words = self._search(np.flatnonzero(state == SEARCH), size)
        self.previous[now] = state
        return self._row(np.arange(size), place, state, words=words, probability=_probability(self.log_odds[now]))

    def _wait(self, now: slice, deviate: np.ndarray) -> None:
        previous, buys = self.previous[now], self.buys[now]
        every, shift = np.arange(len(previous)), BUYERS_LOG_SECONDS[self.small[now], previous]
        mean = LOG_SECONDS[previous] + np.stack([np.zeros(len(previous)), shift])
        log_seconds = mean[buys, every] + LOG_SECONDS_DEVIATION[buys] * deviate
        z = (log_seconds - mean) / LOG_SECONDS_DEVIATION[:, None]
        self.log_odds[now] += (z[0] ** 2 - z[1] ** 2) / 2 - np.log(LOG_SECONDS_DEVIATION[1] / LOG_SECONDS_DEVIATION[0])
        self.at[now] += np.maximum(1, np.exp(log_seconds) * 1000).astype(np.int64)

    def _turn(self, rows: np.ndarray) -> None:
        """A category page: the same category or another; the first one says nothing."""
        switches = self.has_category[rows] & (self.rng.random(len(rows)) < SWITCH_CATEGORY[self.buys[rows]])
        stay_odds = np.log((1 - SWITCH_CATEGORY[1]) / (1 - SWITCH_CATEGORY[0]))
        switch_odds = np.log(SWITCH_CATEGORY[1] / SWITCH_CATEGORY[0])
        self.log_odds[rows] += np.where(self.has_category[rows], np.where(switches, switch_odds, stay_odds), 0.0)
        self.category[rows] = np.where(switches, self._other_category(self.category[rows]), self.category[rows])
        self.has_category[rows] = True

    def _look(self, rows: np.ndarray) -> None:
        """A product: the last one again, or one of this or another category. Its likelihood is the sum of both ways."""
        buys, last, category = self.buys[rows], self.product[rows], self.category[rows]
        again = (last >= 0) & (self.rng.random(len(rows)) < VIEW_AGAIN[buys])
        switches = self.has_category[rows] & (self.rng.random(len(rows)) < SWITCH_CATEGORY[buys])
        target = np.where(switches, self._other_category(category), category)
        product = np.where(again, last, self._draw_products(buys, self.taste[rows], target))
        moved = self.shop.category[product] != category
        likelihood = []
        for kind in (0, 1):
            way = np.where(moved, SWITCH_CATEGORY[kind] / (len(CATEGORIES) - 1), 1 - SWITCH_CATEGORY[kind])
            fresh = np.where(self.has_category[rows], way, 1.0) * self.choice[kind, self.taste[rows], product]
            repeated = np.where(last >= 0, VIEW_AGAIN[kind], 0.0)
            likelihood.append(repeated * (product == last) + (1 - repeated) * fresh)
        self.log_odds[rows] += np.log(likelihood[1] / likelihood[0])
        self.product[rows], self.category[rows], self.has_category[rows] = product, self.shop.category[product], True

    def _search(self, rows: np.ndarray, size: int) -> np.ndarray:
        """Words of each query (0 where there is none)."""
        edges = np.cumsum(QUERY_WORDS, axis=1)[self.buys[rows], :-1]
        words = (self.rng.random(len(rows))[:, None] > edges).sum(1)
        self.log_odds[rows] += np.log(QUERY_WORDS[1, words] / QUERY_WORDS[0, words])
        self.has_category[rows] = True
        every = np.zeros(size, int)
        every[rows] = words + 1
        return every

    def _end(self) -> list[dict]:
        """Checkout by most buyers and some others, then the purchase."""
        rows = np.flatnonzero(self.rng.random(len(self.buys)) < CHECKOUT_AFTER[self.buys])
        buyers = np.flatnonzero(self.buys)
        unseen = buyers[self.product[buyers] < 0]
        self.product[unseen] = self._draw_products(self.buys[unseen], self.taste[unseen], self.category[unseen])
        self.at[rows] += self._pause(rows)
        probability = _probability(self.log_odds[rows] + np.log(CHECKOUT_AFTER[1] / CHECKOUT_AFTER[0]))
        checkout = self._row(rows, self.length[rows], CHECKOUT, probability=probability)
        self.at[buyers] += self._pause(buyers)
        place = self.length[buyers] + np.isin(buyers, rows)
        is_blocked = self.rng.random(len(buyers)) < BLOCKED_SHARE
        return [checkout, self._row(buyers, place, PURCHASE, probability=0.0, is_blocked=is_blocked)]

    def _pause(self, rows: np.ndarray) -> np.ndarray:
        return (np.exp(LOG_SECONDS[CHECKOUT] + 0.6 * self.rng.normal(size=len(rows))) * 1000).astype(np.int64)

    def _row(self, rows, place, state, *, words=0, probability=0.0, is_blocked=False) -> dict:
        state = np.broadcast_to(state, len(rows))
        product = np.where((state == PRODUCT) | (state >= CART_ADD) & (state != POPUP), self.product[rows], -1)
        quantity = np.where(np.isin(state, [CART_ADD, PURCHASE]), 1 + (self.rng.random(len(rows)) < 0.15), 0)
        columns = {"session": self.session[rows], "place": place, "at": self.at[rows], "state": state.astype(np.int8)}
        columns |= {"product": product, "discount": np.where(product >= 0, self.discount[product], 0)}
        columns |= {"category": np.where(np.isin(state, [CATEGORY, SEARCH]), self.category[rows], -1), "words": words}
        columns |= {"quantity": quantity, "probability": probability, "is_blocked": is_blocked}
        return {name: np.broadcast_to(column, len(rows)) for name, column in columns.items()}

    def _other_category(self, category: np.ndarray) -> np.ndarray:
        size = len(CATEGORIES)
        return category // size * size + (category + self.rng.integers(1, size, len(category))) % size

    def _draw_products(self, buys: np.ndarray, taste: np.ndarray, category: np.ndarray) -> np.ndarray:
        """One search finds them all: in the running sum of the whole table each category of each row weighs one."""
        tastes, products = self.choice.shape[1:]
        row = buys * tastes + taste
        point = row * (self.shop.category[-1] + 1) + category + np.clip(self.rng.random(len(row)), 1e-9, 1 - 1e-9)
        return np.searchsorted(self.running_choice, point) - row * products


def _probability(log_odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-log_odds))


def _follow_table() -> np.ndarray:
    """Probability of the next state, by outcome, segment, whether the cart holds something, and previous state."""
    table = np.broadcast_to(FOLLOWERS, (2, 4, 2, *FOLLOWERS.shape)).copy()
    for (before, after), preference in BUYERS_PREFER.items():
        table[1, :, :, before, after] *= np.exp(preference)[:, None]
    table[1, :, 1, PRODUCT, CART_ADD] *= np.exp(BUYERS_ADD_AGAIN)
    return table / table.sum(axis=-1, keepdims=True)


def _product_table(shop: Catalogue, discount: np.ndarray) -> np.ndarray:
    """Probability of a product within its category, by outcome and taste (screen and kind of channel)."""
    dear = BUYERS_LIKE_DEAR[:, None, None] * shop.price_position
    deal = BUYERS_LIKE_DISCOUNT[None, :, None] * DISCOUNTS[discount]
    buyers = np.exp(shop.appeal + dear + deal).reshape(4, -1)
    weight = shop.popularity * np.stack([np.ones_like(buyers), buyers])
    starts = np.flatnonzero(np.diff(shop.category, prepend=-1))
    return weight / np.add.reduceat(weight, starts, axis=2)[:, :, shop.category]


def _discount(seed: int, day: int, size: int) -> np.ndarray:
    """Each product's discount (its place in DISCOUNTS), for a week."""
    return np.random.default_rng([4, seed, day // 7]).choice(len(DISCOUNTS), size, p=DISCOUNT_SHARES)


def _draw_bot_events(shop: Catalogue, sessions: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Sixty to three hundred product and category pages a visit, a fraction of a second apart."""
    length = rng.integers(60, 300, len(sessions))
    session = np.repeat(sessions.index.to_numpy(), length)
    place = np.arange(len(session)) - np.repeat(np.cumsum(length) - length, length)
    tenant = np.repeat(sessions["tenant"].to_numpy(), length)
    first, last = np.searchsorted(shop.tenant, tenant), np.searchsorted(shop.tenant, tenant, side="right")
    product = first + (rng.random(len(session)) * (last - first)).astype(int)
    state = np.where(rng.random(len(session)) < 0.8, PRODUCT, CATEGORY).astype(np.int8)
    columns = {"session": session, "place": place, "state": state, "discount": 0, "words": 0, "quantity": 0}
    columns["at"] = np.repeat(sessions["start"].to_numpy(), length) + place * 400 + rng.integers(0, 300, len(session))
    columns["product"] = np.where(state == PRODUCT, product, -1)
    columns["category"] = np.where(state == CATEGORY, shop.category[product], -1)
    return pd.DataFrame(columns | {"probability": TRUTH_OF_BOTS, "is_blocked": False})
