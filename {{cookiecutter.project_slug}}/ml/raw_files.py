"""The simulated shop's logs as text: gzipped JSON lines from the browsers, CSV from the back end."""

import json
import os
import zlib
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

from ml.browsing import CATEGORY, PRODUCT, SEARCH, STATES
from ml.shop import APP, CATEGORIES, CHANNELS, COUNTRIES, CURRENCIES, DEVICES, DISCOUNTS, TENANTS, Catalogue

TYPES = ["page_view", "page_view", "page_view", "search", "product_view", "cart_add", "cart_remove"]
TYPES += ["newsletter_popup", "checkout", "purchase"]
PAGES = ["home", "category", "help", "search", "product", "cart", "cart", "home", "checkout", "thanks"]
USER_AGENTS = [
    "Mozilla/5.0 (Linux; Android 15) AppleWebKit/537.36 Mobile Safari/537.36",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) Gecko/20100101 Firefox/143.0",
    "Mozilla/5.0 (iPad; CPU OS 18_5 like Mac OS X) AppleWebKit/605.1.15 Safari/604.1",
    "ShopApp/5.2 (Android 15)",
    "Mozilla/5.0 (compatible; PriceBot/2.1; +https://pricebot.example/about)",
]
REFERRERS = [
    None,
    "https://www.google.com/",
    "https://mail.example/",
    "https://www.instagram.com/",
    "https://ads.example/",
]
WORDS = ["{0}", "red {0}", "red {0} sale", "light red {0} sale"]
GZIP_LEVEL = 1  # level 6 takes twice as long for a quarter less
CHUNK = 1 << 20
PHONE_ORDERS, ORDERS_WITHOUT_COOKIE, ORDERS_WITH_EXTRA = 0.015, 0.01, 0.3  # shares of web purchases

# ----- the browser's line; its small parts are enumerations, so that a line is one concatenation
LINE = """
select substr(line, 1, cast(floor(length(line) * cut) as bigint)) as line from (
    select cut, concat(
        '{"event":{', case when has_id then concat('"id":"e', lower(to_hex(id)), '",') end,
        '"type":"', type, '","ts":"',
        case
            when has_offset then strftime(epoch_ms("at" + 7200000), '%Y-%m-%dT%H:%M:%S.%g+02:00')
            else strftime(epoch_ms("at"), '%Y-%m-%dT%H:%M:%S.%gZ')
        end,
        '"},"received":"', strftime(epoch_ms(received), '%Y-%m-%dT%H:%M:%S.%gZ'), '","shop":"', shop,
        '","visitor":{"anonymous_id":',
        case when has_anonymous_id then concat('"a', lower(to_hex(cookie)), '"') else 'null' end, ',"user_id":',
        case when is_known then concat('"u', "user", '"') else 'null' end, '}',
        case when has_session then concat(',"session":{"id":"s', lower(to_hex(session_id)), '"}') end,
        ',"context":{"page":{', page, referrer, '},', device,
        case when is_renamed then 'utm_medium":"' else 'channel":"' end, channel, '","country":"', country,
        '","ip":"203.0.', address // 250 % 250, '.', address % 250, '"}', product,
        case
            when has_text_price then concat(',"price":"', printf('%.2f', price), '"')
            when price > 0 then concat(',"price":', price)
        end,
        case when quantity > 0 then concat(',"quantity":', quantity) end, case when product <> '' then '}' end,
        search, case when order_no > 0 then concat(',"order":{"id":"o', order_no, '"}') end, '}'
    ) as line
    from lines
)
"""
ORDER = """
select
    concat('o', order_no) as order_no, shop_code, case when "user" >= 0 then concat('u', "user") end as customer_no,
    case when has_cookie then concat('a', lower(to_hex(cookie))) end as visitor_cookie,
    strftime(epoch_ms(placed + 3600000), '%Y-%m-%d %H:%M:%S+01:00') as placed_at,
    cast(price * quantity + extra_price as decimal(12, 2)) as total, currency,
    concat(
        '[{"sku": "p', sku, '", "qty": ', quantity, ', "price": ', price, '}',
        case
            when extra_price > 0 then concat(', {"sku": "p', extra_sku, '", "qty": 1, "price": ', extra_price, '}')
        end,
        ']'
    ) as items
from orders order by placed, order_no
"""


def describe_lines(shop: Catalogue, sessions: pd.DataFrame, lines: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """The columns that a web line's text needs, without reference to `sessions`; one row a line, with `arrived`."""
    of = sessions.iloc[lines["session"]].reset_index(drop=True)
    lines = lines.reset_index(drop=True)
    state, tenant = lines["state"].to_numpy(), of["tenant"].to_numpy()
    category, product = lines["category"].to_numpy(), lines["product"].to_numpy()
    query = category * len(WORDS) + lines["words"].to_numpy() - 1
    pages, products, category_count = _list_pages(shop), _list_products(shop), len(TENANTS) * len(CATEGORIES)
    page = np.select(
        [state == CATEGORY, state == SEARCH, state == PRODUCT],
        np.cumsum([len(TENANTS) * len(STATES), category_count, category_count * len(WORDS)])[:, None]
        + np.stack([category, query, product]),
        tenant * len(STATES) + state,
    )
    about = np.select(
        [product >= 0, state == CATEGORY],
        [1 + category_count + product * len(DISCOUNTS) + lines["discount"].to_numpy(), 1 + category],
    )
    kept = ["id", "at", "received", "arrived", "cut", "has_id", "has_anonymous_id", "has_offset", "has_text_price"]
    return lines[[*kept, "is_renamed", "quantity", "order_no"]].assign(
        cookie=name_cookies(of["visitor"], seed),
        user=of["user"],
        session_id=of["id"],
        has_session=of["device"] != APP,
        is_known=lines["place"] >= of["login_place"],
        address=of["visitor"] * 7919 % 62_500,
        price=np.where(product >= 0, price_products(shop, product, lines["discount"]), 0.0),
        type=_name(TYPES, state),
        shop=_name(TENANTS, tenant),
        channel=_name(CHANNELS, of["channel"]),
        country=_name(COUNTRIES, of["country"]),
        device=_name(_list_devices(), of["device"]),
        referrer=_name(_list_referrers(), np.where(lines["place"] == 0, of["channel"], len(CHANNELS) + tenant)),
        page=_name(pages, page),
        product=_name(products, about),
        search=_name(_list_queries(), np.where(state == SEARCH, 1 + query, 0)),
    )


def describe_orders(
    shop: Catalogue, sessions: pd.DataFrame, bought: pd.DataFrame, *, seed: int, day: int
) -> pd.DataFrame:
    """The back end's rows: every purchase, seen by the browser or not, and those made by telephone."""
    rng = np.random.default_rng([6, seed, day])
    is_by_phone = np.repeat([False, True], [len(bought), rng.binomial(len(bought), PHONE_ORDERS)])
    copied = bought.iloc[np.arange(len(is_by_phone)) % max(1, len(bought))].reset_index(drop=True)
    of = sessions.iloc[copied["session"]].reset_index(drop=True)
    size, tenant, product = len(copied), of["tenant"].to_numpy(), copied["product"].to_numpy()
    other = product - shop.number[product] % 2  # a neighbour in the catalogue, or the same once more
    other = np.where(shop.tenant[other] == tenant, other, product)
    has_extra = rng.random(size) < ORDERS_WITH_EXTRA
    return pd.DataFrame(
        {
            "order_no": np.where(is_by_phone, (day + 1) * 1_000_000 + 900_000 + np.arange(size), copied["order_no"]),
            "shop_code": np.array(TENANTS)[tenant],
            "user": np.where((copied["place"] >= of["login_place"]) & ~is_by_phone, of["user"], -1),
            "cookie": name_cookies(of["visitor"], seed),
            "has_cookie": ~is_by_phone & (rng.random(size) >= ORDERS_WITHOUT_COOKIE),
            "placed": copied["at"] + rng.integers(300, 4000, size) + is_by_phone * rng.integers(0, 3_600_000, size),
            "price": price_products(shop, product, copied["discount"]),
            "quantity": copied["quantity"],
            "extra_price": np.where(has_extra, shop.price[other], 0.0),
            "currency": np.array(CURRENCIES)[tenant],
            "sku": shop.number[product],
            "extra_sku": shop.number[other],
        }
    )


def write_web_day(path: Path, lines: pd.DataFrame) -> None:
    """One day's lines in order of arrival, as one gzip member without name or time: same rows, same bytes."""
    lines = lines.iloc[np.argsort(lines["arrived"].to_numpy(), kind="stable")]
    text = path.with_name(f".{path.name}.text")
    _copy(LINE, "lines", lines, text, "header false, quote '', escape '', delimiter '\x1f', nullstr ''")
    temporary = path.with_name(f".{path.name}.part")
    packer = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 31)
    with open(text, "rb") as source, open(temporary, "wb") as target:
        while chunk := source.read(CHUNK):
            target.write(packer.compress(chunk))
        target.write(packer.flush())
    text.unlink()
    os.replace(temporary, path)


def write_orders_day(path: Path, orders: pd.DataFrame) -> None:
    """One day of the back end's record of purchases; a file with only a header if there were none."""
    temporary = path.with_name(f".{path.name}.part")
    _copy(ORDER, "orders", orders, temporary, "header true")
    os.replace(temporary, path)


def write_truth(path: Path, truth: pd.DataFrame) -> None:
    """A row per event: session_id, event_id, event_number (from 1) and probability."""
    temporary = path.with_name(f".{path.name}.part")
    names = "concat('s', lower(to_hex(session_id))) as session_id, concat('e', lower(to_hex(id))) as event_id"
    query = f"select {names}, place + 1 as event_number, probability from truth"
    _copy(query, "truth", truth, temporary, "format parquet")
    os.replace(temporary, path)


def name_cookies(visitor: np.ndarray, seed: int) -> np.ndarray:
    """A number per cookie that does not show how many there are: an odd factor permutes the 64-bit numbers."""
    return (np.asarray(visitor).astype(np.uint64) + np.uint64(seed % 1_000_003 + 1)) * np.uint64(0x9E3779B97F4A7C15)


def price_products(shop: Catalogue, product: np.ndarray, discount: np.ndarray) -> np.ndarray:
    return np.round(shop.price[product] * (1 - DISCOUNTS[discount]), 2)


def _copy(query: str, table: str, rows: pd.DataFrame, path: Path, options: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(config={"threads": 1}) as connection:  # days are written side by side, each in its order
        connection.register(table, rows)
        connection.execute(f"copy ({query}) to '{str(path).replace(chr(39), chr(39) * 2)}' ({options})")


def _name(names: list[str], code: np.ndarray) -> pd.Categorical:
    """Each code's name, as DuckDB's enumeration."""
    unique, place = np.unique(np.array(names, dtype=object), return_inverse=True)
    return pd.Categorical.from_codes(place[np.asarray(code)], unique)


def _list_devices() -> list[str]:
    return [f'"device":{{"type":"{d}"}},"user_agent":"{a}","' for d, a in zip(DEVICES, USER_AGENTS, strict=True)]


def _list_referrers() -> list[str]:
    return [f',"referrer":{json.dumps(r)}' for r in [*REFERRERS, *(f"https://{t}.example/" for t in TENANTS)]]


def _list_pages(shop: Catalogue) -> list[str]:
    """By tenant and state, then by category, query and product."""
    paths = [(t, page, "" if page == "home" else page) for t in TENANTS for page in PAGES]
    paths += [(t, "category", f"c/{c}") for t in TENANTS for c in CATEGORIES]
    queries = [w.format(c).replace(" ", "+") for c in CATEGORIES for w in WORDS]
    paths += [(t, "search", f"search?q={query}") for t in TENANTS for query in queries]
    paths += [(TENANTS[t], "product", f"p/p{n}") for t, n in zip(shop.tenant, shop.number, strict=True)]
    return [f'"name":"{page}","url":"https://{t}.example/{path}"' for t, page, path in paths]


def _list_products(shop: Catalogue) -> list[str]:
    """Nothing, then by category, then by product and discount; the closing brace is left to the line."""
    groups = [f',"product":{{"category":"{c}"' for _ in TENANTS for c in CATEGORIES]
    for tenant, category, number in zip(shop.tenant, shop.category, shop.number, strict=True):
        about = f'"category":"{CATEGORIES[category % len(CATEGORIES)]}","currency":"{CURRENCIES[tenant]}"'
        groups += [f',"product":{{"id":"p{number}",{about},"discount":{d}' for d in DISCOUNTS]
    return ["", *groups]


def _list_queries() -> list[str]:
    queries = [w.format(c) for _ in TENANTS for c in CATEGORIES for w in WORDS]
    return ["", *(f',"search":{{"query":"{query}"}}' for query in queries)]
