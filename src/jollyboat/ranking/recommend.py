"""The best items of each point, with a reason that a person understands."""

from collections.abc import Collection

import numpy as np
import pandas as pd

from jollyboat.ranking.evaluate import order
from jollyboat.ranking.rankers import POPULARITY, Ranker

POPULAR = "popular in the last days"
VIEWED_AFTER = "often viewed after {}"


def recommend(
    ranker: Ranker, frame: pd.DataFrame, count: int, withdrawn: Collection[str] = ()
) -> pd.DataFrame:
    """The top `count` items of each point: point, place, item, score, reason.

    `frame` is that of Pairs, or a server's pairs with a `point`. Items in `withdrawn` are left out.
    """
    frame = frame[~frame["item"].isin(withdrawn)].sort_values(["point", "candidate_rank"])
    score = ranker.score(frame)
    sorted_pairs, place = order(frame["point"].to_numpy(), score)
    top = place <= count
    best = frame.iloc[sorted_pairs[top]]
    has_source = best["because_of"].notna() & (ranker.name != POPULARITY)
    reasons = np.where(
        has_source, [VIEWED_AFTER.format(item) for item in best["because_of"]], POPULAR
    )
    return pd.DataFrame(
        {
            "point": best["point"].to_numpy(),
            "place": place[top],
            "item": best["item"].to_numpy(),
            "score": score[sorted_pairs[top]],
            "reason": reasons,
        }
    )
