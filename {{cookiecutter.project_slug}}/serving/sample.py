"""A made-up session that a bundle carries to be asked with: common words, nobody's ids."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

_START = datetime(2026, 1, 5, 10, 0)


def sample_request(values: Mapping[str, Sequence[str]], event_count: int = 6) -> dict[str, Any]:
    """A body for POST /predict; its events go through the values given of `event_type`, `page`, `device` and others."""
    kinds = list(values.get("event_type", ())) or ["page_view"]
    others = {name: list(known) for name, known in values.items() if name != "event_type" and known}
    # One visitor has one device: what does not change within a session keeps its first value.
    changing = {name for name in others if name in ("page", "category", "query")}
    events = [
        {
            "event_id": f"sample-{number}",
            "event_type": kinds[number % len(kinds)],
            "occurred_at": (_START + timedelta(seconds=20 * number)).isoformat() + "Z",
            "anonymous_id": "sample-visitor",
            "product_id": f"sample-product-{number % 2}",
            "price": 10.0 + number,
            **{name: known[number % len(known) if name in changing else 0] for name, known in others.items()},
        }
        for number in range(event_count)
    ]
    return {"tenant_id": "sample", "events": events}
