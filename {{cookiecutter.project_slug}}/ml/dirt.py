"""What goes wrong between a browser and a log file, at realistic rates. Each is a share of events unless named."""

import numpy as np
import pandas as pd

from ml.shop import DAY_MS

BROKEN, REPEATED, LATE, BLANK = 0.001, 0.005, 0.01, 0.0005
SKEWED_SESSIONS, SKEW_MS = 0.005, 240_000  # their device's clock is minutes off, either way
NO_EVENT_ID, NO_ANONYMOUS_ID = 0.003, 0.002
WITH_OFFSET, PRICE_AS_TEXT, ABSURD_TIME = 0.02, 0.005, 0.0001
LATEST_MS = 2 * DAY_MS
RENAMED_FROM_DAY = 20  # two thirds into the first month, `context.channel` becomes `context.utm_medium`
ABSURD_MS = np.array([0, 4_086_547_200_000])  # 1970-01-01 and 2099-07-01


def soil(events: pd.DataFrame, *, seed: int, day: int) -> tuple[pd.DataFrame, dict[str, int]]:
    """The lines that a day's events become, and how often what was done to them.

    Adds `received` and `arrived` (ms), `cut` (share of the line that is left; 0 is a blank line) and a flag for each
    kind of dirt that the line's text shows.
    """
    rng = np.random.default_rng([5, seed, day])
    size = len(events)

    def hit(rate: float) -> np.ndarray:
        return rng.random(size) < rate

    late = hit(LATE)
    delay = np.where(late, np.exp(rng.uniform(np.log(3_600_000), np.log(LATEST_MS), size)), rng.gamma(2, 350, size))
    received = events["at"].to_numpy() + delay.astype(np.int64)
    sessions = int(events["session"].max()) + 1 if size else 0
    wrong_by = np.where(rng.random(sessions) < SKEWED_SESSIONS, rng.normal(0, SKEW_MS, sessions), 0)
    skew, absurd, broken = wrong_by.astype(np.int64)[events["session"]], hit(ABSURD_TIME), hit(BROKEN)
    lines = events.assign(
        at=np.where(absurd, ABSURD_MS[rng.integers(0, 2, size)], events["at"] + skew),
        received=received,
        arrived=received,
        cut=np.where(broken, rng.uniform(0.05, 0.95, size), 1.0),
        has_id=~hit(NO_EVENT_ID),
        has_anonymous_id=~hit(NO_ANONYMOUS_ID),
        has_offset=hit(WITH_OFFSET),
        has_text_price=hit(PRICE_AS_TEXT) & (events["product"] >= 0),
        is_renamed=day >= RENAMED_FROM_DAY,
    )[~events["is_blocked"]]
    # The collector repeats a line some minutes later, sometimes past midnight, with the `received` of the first time.
    again, blank = lines[rng.random(len(lines)) < REPEATED], lines[rng.random(len(lines)) < BLANK]
    again = again.assign(arrived=again["arrived"] + rng.exponential(600_000, len(again)).astype(np.int64))
    counts = {
        "broken": broken.sum(),
        "repeated": len(again),
        "late": late.sum(),
        "blank": len(blank),
        "clock_skewed": (skew != 0).sum(),
        "absurd_time": absurd.sum(),
        "without_event_id": (~lines["has_id"]).sum(),
        "without_anonymous_id": (~lines["has_anonymous_id"]).sum(),
        "with_offset": lines["has_offset"].sum(),
        "price_as_text": lines["has_text_price"].sum(),
        "renamed_field": lines["is_renamed"].sum(),
    }
    everything = pd.concat([lines, again, blank.assign(cut=0.0)], ignore_index=True)
    return everything, {name: int(count) for name, count in counts.items()}
