"""Small generated logs full of nulls, ties, odd times and emoji, with predictions and judgements."""

import json
import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

DAYS = ["2026-01-01", "2026-01-02", "2026-01-03", "2026-01-05", "2026-01-06", "2026-01-07"]
TENANTS = ["acme", "acme", "acme", "globex", "initech", None, "not valid!"]
TYPES = ["page_view", "product_view", "product_view", "cart_add", "search", "purchase", None, "🛒"]
TEXTS = [
    None,
    "",
    " ",
    "null",
    "shoes",
    "Schuhe und Stiefel",
    "👟",
    "👩‍👩‍👧 é",
    'it\'s "x"',
    "a\\b",
    "%_",
]
PRICES = [None, 0, 1, 19.99, "19,90", "1,299", "free", -1, 0.005, 1e9, "€ 5"]
TIMES = ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S.125+00:00"]
ODD_TIMES = [
    None,
    "yesterday",
    "infinity",
    "2099-01-01T00:00:00Z",
    "1970-01-01T00:00:00Z",
    1767261600,
]


def write_odd_logs(raw: Path, seed: int = 7, lines_per_day: int = 150) -> None:
    """Write web lines, orders, predictions and judgements of a few days below `raw`.

    From the fifth day on a field is another one and an event has another name; the last day has
    many more lines.
    """
    draw = random.Random(seed)
    for number, day in enumerate(DAYS):
        start = datetime.fromisoformat(day)
        count = lines_per_day * (6 if day == DAYS[-1] else 1)
        web = [_web_line(draw, start, is_changed=number >= 4) for _ in range(count)]
        web += [*draw.choices(web, k=8), "{", "[1]", "", '{"shop":"acme"}', *_bot(day)]
        _write(raw / "web" / f"dt={day}" / f"{number}.jsonl", web)
        _write(raw / "orders" / f"dt={day}" / "orders.csv", _orders(draw, start))
        _write(raw / "predictions" / f"dt={day}" / "a.jsonl", _predictions(draw, start))
        _write(raw / "labels" / f"dt={day}" / "a.jsonl", _judgements(draw, start, number))


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _time(draw: random.Random, start: datetime) -> Any:
    """A time of few different ones, so that many events have the same."""
    if draw.random() < 0.05:
        return draw.choice(ODD_TIMES)
    moment = start + timedelta(minutes=15 * draw.randrange(96), seconds=draw.choice([0, 0, 1]))
    return moment.strftime(draw.choice(TIMES))


def _id(draw: random.Random, prefix: str, count: int) -> str | None:
    return draw.choice(
        [None, "👤", f"{prefix}{draw.randrange(count)}", f"{prefix}{draw.randrange(count)}"]
    )


def _web_line(draw: random.Random, start: datetime, is_changed: bool) -> str:
    product = {
        "id": _id(draw, "p", 12),
        "price": draw.choice(PRICES),
        "category": draw.choice(TEXTS),
        "discount": draw.choice([None, 0, 0.25, 1.1, "0.10", "ten", [1], {"a": 1}]),
        "a b": {"c.d": draw.choice([1, "x", None, True]), "👟": [[1]], "": "empty"},
    }
    line = {
        "event": {"id": _id(draw, "e", 900), "type": draw.choice(TYPES), "ts": _time(draw, start)},
        "received": draw.choice([None, _time(draw, start)]),
        "shop": draw.choice(TENANTS),
        "visitor": {"anonymous_id": _id(draw, "a", 40), "user_id": _id(draw, "u", 25)},
        "session": {"id": draw.choice([None, None, f"s{draw.randrange(60)}"])},
        "context": {
            "page": {
                "name": draw.choice(TEXTS),
                "referrer": draw.choice([*TEXTS, "https://x.y/z"]),
            },
            "device": {"type": draw.choice([None, "mobile", "bot", "🖥"])},
            "channel": draw.choice(TEXTS),
        },
        "product": draw.choice([None, product, product]),
        "search": {"q" if is_changed else "query": draw.choice(TEXTS)},
        "order": {"id": draw.choice([None, None, f"o{draw.randrange(80)}"])},
        draw.choice(["x-y", "ü", "1st", "a.b", "$k"]): draw.choice(
            [1, "1", None, [], {}, [{"z": [2]}]]
        ),
    }
    if is_changed and line["event"]["type"] == "search":
        line["event"]["type"] = "suche 🔎"
    return json.dumps(line, ensure_ascii=draw.random() < 0.5)


def _bot(day: str) -> list[str]:
    """A session of 60 events in a minute, and two devices that one account links to a third."""
    visitors = [("crawler", None)] * 60 + [("d1", "chain1"), ("d2", "chain1"), ("d2", "chain2")]
    return [
        json.dumps(
            {
                "event": {
                    "id": f"{day}-{n}",
                    "type": "page_view",
                    "ts": f"{day}T08:00:{n % 60:02}Z",
                },
                "shop": "acme",
                "visitor": {"anonymous_id": device, "user_id": account},
            }
        )
        for n, (device, account) in enumerate(visitors)
    ]


def _orders(draw: random.Random, start: datetime) -> list[str]:
    header = "order_no,shop_code,customer_no,visitor_cookie,placed_at,total,currency"
    rows = [
        f"o{draw.randrange(80)},{draw.choice(['acme', 'globex'])},u{draw.randrange(25)},"
        f"{draw.choice(['', 'a1', 'a2'])},{start + timedelta(minutes=15 * draw.randrange(96))},"
        f"{draw.choice(['', '10.5', '7'])},EUR"
        for _ in range(12)
    ]
    return [header, *rows]


def _predictions(draw: random.Random, start: datetime) -> list[str]:
    """Answers about sessions, and about users to the question churn."""
    return [
        json.dumps(_prediction(draw, start, number, draw.random() < 0.3)) for number in range(30)
    ]


def _prediction(draw: random.Random, start: datetime, number: int, is_churn: bool) -> dict:
    entity = "u" if is_churn else "s"
    return {
        "tenant_id": draw.choice(["acme", "globex"]),
        "question": "churn" if is_churn else None,
        "request_id": f"r{start:%d}-{number}",
        "answered_at": f"{start:%Y-%m-%d}T12:00:00Z",
        "entity_id": draw.choice([None, "none", f"{entity}{draw.randrange(25)}"]),
        "anonymous_id": _id(draw, "a", 40),
        "user_id": _id(draw, "u", 25),
        "event_count": draw.choice([None, 1, 3]),
        "point_at": _time(draw, start),
        "probability": draw.choice([None, 0.25, 1 / 3]),
        "decision": draw.choice([None, True, False]),
        "threshold": 0.5,
        "latency_ms": draw.random(),
    }


def _judgements(draw: random.Random, start: datetime, day: int) -> list[str]:
    return [
        json.dumps(
            {
                "tenant_id": "acme",
                "judgement_id": f"j{day}-{number}",
                "judged_at": f"{start:%Y-%m-%d}T1{draw.randrange(3)}:00:00Z",
                "by": draw.choice(["Ann", "👩", None]),
                "entity_id": f"s{draw.randrange(60)}",
                "point_at": _time(draw, start),
                "judgement": draw.choice(["outcome_true", "outcome_false", "not_a_person", "undo"]),
                "undoes": f"j{max(day - 1, 0)}-{draw.randrange(8)}",
                "comment": draw.choice(TEXTS),
            }
        )
        for number in range(8)
    ]
