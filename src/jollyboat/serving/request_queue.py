"""The queue of waiting requests; one pass over many costs little more than one over one."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

from jollyboat.bundles.features import FeatureQuery
from jollyboat.bundles.model import LoadedModel, Prediction, Session, predict_together
from jollyboat.serving.champions import Champions

# Of one pass, which delays all other requests.
MOST_REQUESTS = 64
MOST_EVENTS = 1_000
SESSIONS_A_TURN = 8
Result = tuple[LoadedModel, str, Prediction | Exception] | None


class Waiting(NamedTuple):
    session: Session
    anonymous_id: str | None
    explain: bool
    result: asyncio.Future[Result]


@dataclass
class RequestQueue:
    """A queue and its worker in the event loop; with a thread, throughput was half.

    A request's sessions wait for successive turns, eight for each, and a pass ends a turn. So a
    small request comes before most sessions of an earlier batch, and a batch is never put off.
    """

    champions: Champions
    _waiting: asyncio.PriorityQueue[tuple[int, int, Waiting]] = field(
        default_factory=asyncio.PriorityQueue
    )
    _numbers: Iterator[int] = field(default_factory=count)
    _turn: int = 0

    def predict(
        self, session: Session, anonymous_id: str | None, explain: bool, place: int = 0
    ) -> asyncio.Future[Result]:
        """The model, its variant and its prediction or error; None where there is no champion.

        `place` is the session's in its request.
        """
        result = asyncio.get_running_loop().create_future()
        waiting = Waiting(session, anonymous_id, explain, result)
        turn = self._turn + place // SESSIONS_A_TURN
        self._waiting.put_nowait((turn, next(self._numbers), waiting))
        return result

    async def work(self) -> None:
        """Answer waiting requests, forever."""
        while True:
            *_, first = await self._waiting.get()
            # Received requests join the batch: one turn of the loop reads them, one parses them.
            idle_turns, size = 0, 0
            while idle_turns < 2:
                await asyncio.sleep(0)
                idle_turns = idle_turns + 1 if size == self._waiting.qsize() else 0
                size = self._waiting.qsize()
            self._answer(self._take_batch(first))
            self._turn += 1

    def _take_batch(self, first: Waiting) -> list[Waiting]:
        batch, event_count = [first], len(first.session[2])
        while (
            len(batch) < MOST_REQUESTS and event_count < MOST_EVENTS and not self._waiting.empty()
        ):
            batch.append(self._waiting.get_nowait()[-1])
            event_count += len(batch[-1].session[2])
        return batch

    def _answer(self, batch: list[Waiting]) -> None:
        by_query: dict[FeatureQuery, list[tuple[Waiting, LoadedModel, str]]] = {}
        for request in batch:
            if request.result.cancelled():
                continue
            choice = self.champions.pick(request.session[0], request.anonymous_id)
            if choice is None:
                request.result.set_result(None)
            else:
                by_query.setdefault(choice[0].query, []).append((request, *choice))
        for chosen in by_query.values():
            _predict(chosen)


def _predict(chosen: list[tuple[Waiting, LoadedModel, str]]) -> None:
    """Predict all in one pass, or one by one if that fails, so that only the bad ones fail."""
    try:
        predictions = predict_together(
            [(model, request.session, request.explain) for request, model, _ in chosen]
        )
    except Exception as error:  # a user's SQL or candidate may raise anything
        if len(chosen) > 1:
            for each in chosen:
                _predict([each])
            return
        predictions = [error]
    for (request, model, variant), prediction in zip(chosen, predictions, strict=True):
        request.result.set_result((model, variant, prediction))
