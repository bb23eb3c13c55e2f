"""The simulated tenants: how large they are, when they start, and what drives their purchases.

By default there are three, with the same log-odds. Any other number has few large tenants and
many small ones, of four kinds. A large one has enough sessions to learn what drives its own
purchases; a small one is better off with what all shops share.
"""

from dataclasses import dataclass

import numpy as np

# The default tenants, all of the first kind.
TENANTS, TENANT_SHARES = ["acme", "globex", "initech"], [0.70, 0.25, 0.05]
TENANT_LOG_ODDS = np.array([-2.85, -2.8, -2.9])
PRODUCTS_PER_CATEGORY = [24, 12, 6]

# Log-odds at the start of a session, by kind of shop. Channel and coupon fit a linear model; only
# trees find the hours of a screen and the middle pace. SCREEN_AND_HOUR is by large and small
# screen, and by part of the day (to 6, 11, 17, 24 h); CHANNEL is of direct, search, email, social
# and ads; COUPON is without and with one; PACE is of a hurried, usual and slow pace.
KINDS = ["fashion", "groceries", "electronics", "gifts"]
KIND_LOG_ODDS = np.array([-2.85, -1.8, -2.6, -3.2])
SCREEN_AND_HOUR = 1.2 * np.array(
    [
        [[-1, 1, 1, -1], [-1, -1, -1, 1]],
        [[-1, -1, -1, 1], [-1, 1, 1, -1]],
        [[-1, 1, -1, 1], [1, -1, 1, -1]],
        [[1, -1, -1, 1], [1, 1, 1, -1]],
    ]
)
CHANNEL = np.array(
    [
        [0.1, 0.6, -0.9, -0.7, 0.8],
        [0.8, -0.7, 0.6, 0.1, -0.9],
        [-0.7, 0.8, 0.1, -0.9, 0.6],
        [-0.9, 0.1, 0.6, 0.8, -0.7],
    ]
)
COUPON = np.array([[-0.15, 0.15], [-0.6, 0.6], [-0.15, 0.15], [0.3, -0.3]])
PACE = 1.2 * np.array([[-1, 1, -1], [1, -1, -1], [-1, -1, 1], [1, -1, 1]])
# Of any number of tenants, the one of rank r has a share of r ** -SIZE_EXPONENT. A tenant adds
# its own numbers to the log-odds of its kind: LEVEL_SPREAD is the standard deviation of what it
# adds to KIND_LOG_ODDS, OWN_SPREAD of what it adds to each of the others.
SIZE_EXPONENT, LEVEL_SPREAD, OWN_SPREAD = 0.8, 0.15, 0.6
MOST_PRODUCTS, FEWEST_PRODUCTS = 24, 2  # of a category, by the square root of the tenant's size
# The sixth tenant and each eighth one after it start on a day from the 6th to the 24th. The days
# do not depend on how many are simulated, so that more days only add files.
FIRST_LATE, LATE_EACH, LATE_DAYS, LONG_AGO = 5, 8, (5, 24), -10_000


@dataclass(frozen=True)
class Tenants:
    """The tenants, the largest first: an entry of each list or array belongs to a tenant."""

    names: list[str]
    shares: np.ndarray  # of the sessions
    first_days: np.ndarray  # 0 is the first day of the logs
    products_per_category: np.ndarray
    kinds: np.ndarray  # the place in KINDS
    log_odds: np.ndarray
    screen_and_hour: np.ndarray  # by screen and part of the day
    channel: np.ndarray
    coupon: np.ndarray
    pace: np.ndarray

    def shares_on(self, day: int) -> np.ndarray:
        """The shares of the new visitors of a day: tenants that start later have none."""
        shares = np.where(self.first_days <= day, self.shares, 0)
        return shares / shares.sum()


def default_tenants() -> Tenants:
    """Acme, globex and initech, which differ in size alone."""
    kinds = np.zeros(len(TENANTS), int)
    return Tenants(
        TENANTS,
        np.array(TENANT_SHARES),
        np.full(len(TENANTS), LONG_AGO),
        np.array(PRODUCTS_PER_CATEGORY),
        kinds,
        TENANT_LOG_ODDS,
        *(driver[kinds] for driver in (SCREEN_AND_HOUR, CHANNEL, COUPON, PACE)),
    )


def draw_tenants(count: int, seed: int) -> Tenants:
    """So many tenants, `shop-0001` and so on, with sizes by a power law."""
    rng = np.random.default_rng([12, seed])
    sizes = np.arange(1, count + 1) ** -SIZE_EXPONENT
    first_days = np.full(count, LONG_AGO)
    late = slice(FIRST_LATE, None, LATE_EACH)
    first_days[late] = rng.integers(*LATE_DAYS, len(first_days[late]))
    kinds = rng.permutation(np.arange(count) % len(KINDS))
    drivers = (SCREEN_AND_HOUR, CHANNEL, COUPON, PACE)
    return Tenants(
        [f"shop-{rank:04}" for rank in range(1, count + 1)],
        sizes / sizes.sum(),
        first_days,
        np.maximum(FEWEST_PRODUCTS, (MOST_PRODUCTS * sizes**0.5).astype(int)),
        kinds,
        rng.normal(KIND_LOG_ODDS[kinds], LEVEL_SPREAD),
        *(rng.normal(driver[kinds], OWN_SPREAD) for driver in drivers),
    )
