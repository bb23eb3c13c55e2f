"""The simulated files: JSON lines from browsers, CSV from the back end, and their errors."""

import gzip
import os
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

from jollyboat.simulate.shop import (
    CATEGORY_COUNT,
    CHANNELS,
    COUNTRIES,
    DEVICES,
    PURCHASE,
    STEPS,
)

HOUR_MS, MINUTE_MS = 3_600_000, 60_000
BROKEN, REPEATED, LATE, NO_EVENT_ID, NO_ANONYMOUS_ID = 0.001, 0.005, 0.01, 0.003, 0.002  # of lines
SKEWED_SESSIONS, SKEW_MS = 0.005, 4 * MINUTE_MS  # their device's clock is fast or slow
RENAMED_FROM_DAY = 20  # from this day on `context.channel` is `context.utm_medium`
# Of purchases; no browser reports the unreported ones.
UNREPORTED, ORDERS_WITHOUT_COOKIE = 0.03, 0.01

NAMED = f"""
with named as (select * replace (
        concat('e', lower(to_hex(event_id))) as event_id,
        concat('s', lower(to_hex(session_id))) as session_id,
        concat('a', lower(to_hex(cookie))) as cookie,
        round(price * rate * (1 - discount), 2) as price,
        categories[1 + category % {CATEGORY_COUNT}] as category,
        name as tenant,
        {CHANNELS}[1 + channel] as channel,
        {DEVICES}[1 + device] as device,
        {COUNTRIES}[1 + country] as country
    ),
    types[1 + step] as type,
    {[step[1] for step in STEPS]}[1 + step] as page,
    case when place >= login_place then concat('u', visitor) end as account
    from (
        select * from rows inner join vocabulary using (tenant) order by arrived_ms, event_id
    )
)
"""
LINE = """
select substr(line, 1, cast(length(line) * left_share as bigint)) as line from (
    select left_share, case when has_new_shape then concat(
        '{"v":2,"shop":"', tenant, '","kind":"', type, '","at":', at_ms, '}'
    ) else concat(
        '{"event":{', case when has_id then concat('"id":"', event_id, '",') end, '"type":"', type,
        '","ts":"', strftime(epoch_ms(at_ms), '%Y-%m-%dT%H:%M:%S.%gZ'),
        '"},"received":"', strftime(epoch_ms(received_ms), '%Y-%m-%dT%H:%M:%S.%gZ'),
        '","shop":"', tenant,
        '","visitor":{"anonymous_id":',
        case when has_cookie then concat('"', cookie, '"') else 'null' end,
        ',"user_id":', coalesce('"' || account || '"', 'null'), '}',
        case when device <> 'app' then concat(',"session":{"id":"', session_id, '"}') end,
        ',"context":{"page":{"name":"', page, '","url":"https://', tenant, '.example/', page, case
            when place > 0 then concat('","referrer":"https://', tenant, '.example/')
            when channel <> 'direct' then concat('","referrer":"https://', channel, '.example/')
        end,
        '"},"device":{"type":"', device, '"},"user_agent":"Mozilla/5.0 (', device, ')","',
        case when is_renamed then 'utm_medium' else 'channel' end, '":"', channel,
        '","country":"', country,
        '","ip":"203.0.', visitor // 250 % 250, '.', visitor % 250, '"}', case
            when page = 'search' then concat(',"search":{"query":"', category, '"}')
            when page = 'category' then concat(',"product":{"category":"', category, '"}')
            when page not in ('home', 'help') then concat(
                ',"product":{"id":"p', number, '","category":"', category,
                '","currency":"', currency, '","discount":', discount, ',"price":', price,
                ',"quantity":', quantity, '}'
            )
        end,
        case when page = 'thanks' then concat(',"order":{"id":"o', event_id, '"}') end, '}'
    ) end as line from named
)
"""
ORDER = """
select concat('o', event_id) as order_no, tenant as shop_code, account as customer_no,
    case when has_cookie then cookie end as visitor_cookie,
    strftime(epoch_ms(arrived_ms + 3600000), '%Y-%m-%d %H:%M:%S+01:00') as placed_at,
    cast(price * quantity as decimal(12, 2)) as total, currency,
    concat('[{"sku": "p', number, '", "qty": ', quantity, ', "price": ', price, '}]') as items
from named
"""
TRUTH = """
select concat('s', lower(to_hex(session_id))) as session_id,
    concat('e', lower(to_hex(event_id))) as event_id,
    place + 1 as event_number, probability from rows
"""
CUSTOMERS = """
select concat('u', visitor) as user_id, day, visit_chance, lapse_probability from rows
"""


def record_orders(
    events: pd.DataFrame, *, seed: int, day: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The back end's rows of a day's purchases, and the events that browsers report."""
    rng = np.random.default_rng([6, seed, day])
    bought = events[events["step"] == PURCHASE]
    orders = bought.assign(
        has_cookie=rng.random(len(bought)) >= ORDERS_WITHOUT_COOKIE,
        arrived_ms=bought["at_ms"] + rng.integers(300, 4000, len(bought)),
    )
    return orders, events.drop(bought.index[rng.random(len(bought)) < UNREPORTED])


def soil(
    events: pd.DataFrame, *, seed: int, day: int, broken_tenant: int | None = None
) -> pd.DataFrame:
    """The browsers' lines with their errors, and `arrived_ms`, which is later for a repeat.

    The lines of a broken tenant have another shape, of whose fields only `shop` is the same.
    """
    rng = np.random.default_rng([5, seed, day])
    size, sessions = len(events), int(events["session"].max()) + 1
    is_late, late = rng.random(size) < LATE, HOUR_MS * 48 ** rng.random(size)  # an hour to 2 days
    delay = np.where(is_late, late, rng.gamma(2, 350, size))
    is_skewed, skew = rng.random(sessions) < SKEWED_SESSIONS, rng.normal(0, SKEW_MS, sessions)
    skew = np.where(is_skewed, skew, 0).astype(int)
    received = events["at_ms"] + delay.astype(int)
    lines = events.assign(
        at_ms=events["at_ms"] + skew[events["session"]],
        received_ms=received,
        arrived_ms=received,
        left_share=np.where(rng.random(size) < BROKEN, rng.uniform(0.05, 0.95, size), 1.0),
        has_id=rng.random(size) >= NO_EVENT_ID,
        has_cookie=rng.random(size) >= NO_ANONYMOUS_ID,
        is_renamed=day >= RENAMED_FROM_DAY,
        has_new_shape=events["tenant"] == (-1 if broken_tenant is None else broken_tenant),
    )
    wait = rng.exponential(10 * MINUTE_MS, size).astype(int)
    return pd.concat([lines, lines.assign(arrived_ms=received + wait)[rng.random(size) < REPEATED]])


def write(path: Path, query: str, rows: pd.DataFrame, vocabulary: pd.DataFrame) -> None:
    """Write the rows as LINE, ORDER, TRUTH or CUSTOMERS; the same rows give the same bytes.

    `vocabulary` has the words of each tenant, as vocabulary.py returns them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    # One thread keeps the order; other days are written at the same time.
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("rows", rows)
        connection.register("vocabulary", vocabulary)
        if query is LINE:
            verbatim = {"header": False, "sep": "\x1f", "quotechar": "", "escapechar": ""}
            connection.sql(NAMED + query).to_csv(str(temporary), **verbatim)
            temporary.write_bytes(gzip.compress(temporary.read_bytes(), 1, mtime=0))
        elif query in (TRUTH, CUSTOMERS):
            connection.sql(query).to_parquet(str(temporary))
        else:
            connection.sql(NAMED + query).to_csv(str(temporary))
    os.replace(temporary, path)
