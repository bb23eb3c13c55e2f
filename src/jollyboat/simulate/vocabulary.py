"""The words of the simulated tenants' logs: currencies, categories and the names of events."""

import numpy as np
import pandas as pd

from jollyboat.simulate.shop import STEPS

# By language: the same five categories.
CATEGORIES = {
    "en": ["shoes", "shirts", "jackets", "bags", "watches"],
    "de": ["Schuhe", "Hemden", "Jacken", "Taschen", "Uhren"],
    "fr": ["chaussures", "chemises", "vestes", "sacs", "montres"],
    "sv": ["skor", "skjortor", "jackor", "väskor", "klockor"],
}
# Currency, its units per euro, and language. The first is that of the default tenants.
MARKETS = [
    ("EUR", 1.0, "en"),
    ("EUR", 1.0, "de"),
    ("EUR", 1.0, "fr"),
    ("USD", 1.08, "en"),
    ("GBP", 0.85, "en"),
    ("CHF", 0.95, "de"),
    ("SEK", 11.4, "sv"),
]
MARKET_SHARES = [0.25, 0.2, 0.15, 0.15, 0.1, 0.1, 0.05]
# Other names of an event type: none, those of GA4, those of Segment, and those of one shop's team.
EVENT_NAMES = [
    {},
    {
        "product_view": "view_item",
        "cart_add": "add_to_cart",
        "cart_remove": "remove_from_cart",
        "checkout": "begin_checkout",
    },
    {
        "page_view": "Page Viewed",
        "search": "Products Searched",
        "product_view": "Product Viewed",
        "cart_add": "Product Added",
        "cart_remove": "Product Removed",
        "checkout": "Checkout Started",
        "purchase": "Order Completed",
    },
    {
        "page_view": "viewPage",
        "search": "siteSearch",
        "product_view": "viewProduct",
        "cart_add": "addToBasket",
        "cart_remove": "removeFromBasket",
        "checkout": "startCheckout",
        "purchase": "placeOrder",
    },
]
EVENT_NAME_SHARES = [0.5, 0.2, 0.2, 0.1]


def default_vocabulary(names: list[str]) -> pd.DataFrame:
    """English, euros and Jollyboat's event types for each of these tenants."""
    usual = np.zeros(len(names), int)
    return _look_up(names, usual, usual)


def draw_vocabulary(names: list[str], seed: int) -> pd.DataFrame:
    """A row per tenant: `name`, `currency`, `rate`, `categories`, and a `type` for each step."""
    rng = np.random.default_rng([13, seed])
    markets = rng.choice(len(MARKETS), len(names), p=MARKET_SHARES)
    return _look_up(names, markets, rng.choice(len(EVENT_NAMES), len(names), p=EVENT_NAME_SHARES))


def _look_up(names: list[str], markets: np.ndarray, event_names: np.ndarray) -> pd.DataFrame:
    currencies, rates, languages = zip(*(MARKETS[market] for market in markets), strict=True)
    types = [[words.get(step[0], step[0]) for step in STEPS] for words in EVENT_NAMES]
    return pd.DataFrame(
        {
            "tenant": range(len(names)),
            "name": names,
            "currency": currencies,
            "rate": rates,
            "categories": [CATEGORIES[language] for language in languages],
            "types": [types[place] for place in event_names],
        }
    )
