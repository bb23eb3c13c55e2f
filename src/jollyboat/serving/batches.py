"""Requests that wait are answered together: a lone one at once, many in one pass that costs little more than one."""

import asyncio
from dataclasses import dataclass, field

from jollyboat.bundles.model import LoadedModel, Prediction, Session
from jollyboat.serving.champions import Champions

MOST_REQUESTS = 64
MOST_EVENTS = 4_000
Answer = tuple[LoadedModel, str, Prediction | Exception] | None
Waiting = tuple[
    Session, str | None, bool, asyncio.Future
]  # anonymous_id, whether to explain, where the answer goes


@dataclass
class Batches:
    """A queue and the one worker that empties it, within the event loop: a thread would halve the throughput."""

    champions: Champions
    _waiting: asyncio.Queue[Waiting] = field(default_factory=asyncio.Queue)

    def predict(
        self, session: Session, anonymous_id: str | None, explain: bool
    ) -> asyncio.Future[Answer]:
        """The model, its variant and its prediction for a session (or why it failed); None where nobody can answer."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((session, anonymous_id, explain, future))
        return future

    async def work(self) -> None:
        """Answer what waits, for ever."""
        while True:
            first = await self._waiting.get()
            idle, seen = 0, 0
            while (
                idle < 2
            ):  # lets in the requests whose bytes are there: one turn of the loop reads them, one parses
                await asyncio.sleep(0)
                idle, seen = (
                    (idle + 1, seen)
                    if seen == self._waiting.qsize()
                    else (0, self._waiting.qsize())
                )
            self._answer(self._drain(first))

    def _drain(self, first: Waiting) -> list[Waiting]:
        batch, events = [first], len(first[0][2])
        while len(batch) < MOST_REQUESTS and events < MOST_EVENTS and not self._waiting.empty():
            batch.append(self._waiting.get_nowait())
            events += len(batch[-1][0][2])
        return batch

    def _answer(self, batch: list[Waiting]) -> None:
        by_model: dict[tuple[LoadedModel, str], list[Waiting]] = {}
        for one in batch:
            (tenant_id, *_), anonymous_id, _, future = one
            if future.cancelled():
                continue
            if (picked := self.champions.pick(tenant_id, anonymous_id)) is None:
                future.set_result(None)
            else:
                by_model.setdefault(picked, []).append(one)
        for (model, variant), group in by_model.items():
            _answer_group(model, variant, group)


def _answer_group(model: LoadedModel, variant: str, group: list[Waiting]) -> None:
    """One pass for all; if that fails, one for each, so that a session that cannot be answered fails alone."""
    sessions, _, explained, futures = zip(*group, strict=True)
    try:
        predictions = model.predict(sessions, explained)
    except Exception as error:  # whatever a user's SQL or candidate raises must not end the worker
        if len(group) > 1:
            for one in group:
                _answer_group(model, variant, [one])
            return
        predictions = [error]
    for future, prediction in zip(futures, predictions, strict=True):
        future.set_result((model, variant, prediction))
