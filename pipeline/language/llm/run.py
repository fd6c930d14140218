"""The requests of one run: several at a time, repeated and re-asked, every good answer stored at once."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic

from pipeline.errors import SageccError, ServiceError
from pipeline.files import content_key
from pipeline.language.llm.answers import Verdict, judge
from pipeline.language.llm.client import Again, Client, Reply
from pipeline.language.llm.endpoint import Endpoint
from pipeline.language.llm.estimate import answer_tokens, request_tokens
from pipeline.language.llm.pace import Pace, backoff
from pipeline.language.llm.questions import AnswerT, Item, Question, batches, compose
from pipeline.language.llm.settings import LLMSettings
from pipeline.language.llm.store import AnswerStore

Progress = Callable[[int, int], None]

_SHRINK = 4  # what got no usable answer is asked again in requests so many times smaller
_EXHAUSTED = 3  # requests in a row that failed at every attempt: the endpoint is down
_USELESS = 10  # replies before the first usable answer: model or settings cannot do it


@dataclass
class Usage:
    """What a run has sent and spent.

    Attributes:
        stored: Items whose answer was on disk already.
        requests: Requests sent, repetitions included.
        prompt_tokens: Tokens sent, as the endpoint counted them.
        answer_tokens: Tokens received, likewise.
    """

    stored: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0


@dataclass
class Run(Generic[AnswerT]):
    """The requests about some items.

    Attributes:
        question: What is asked.
        settings: Model, pace, rounds.
        endpoint: Where it is asked.
        store: Where answers are kept.
        items: Distinct items to ask, by key.
        usage: Counts what is sent and spent.
        progress: Called with the items that are done and all that are to do.
        answers: Usable answers so far, by key.
        failures: Why items got none after all rounds, by key.
    """

    question: Question[AnswerT]
    settings: LLMSettings
    endpoint: Endpoint
    store: AnswerStore[AnswerT]
    items: Mapping[str, Item]
    usage: Usage
    progress: Progress | None = None
    answers: dict[str, AnswerT] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._traffic = self.settings.traffic
        self._pace = Pace(self._traffic)
        self._problems: dict[str, str] = {}
        self._replies = 0
        self._exhausted = 0
        self._end: SageccError | None = None

    async def all(self) -> None:
        """Ask everything.

        Raises:
            ServiceError: The endpoint cannot go on. Requests that were under way then have ended, and their answers
                are stored.
        """
        self._slots = asyncio.Semaphore(self._traffic.concurrency)
        self._stopped = asyncio.Event()
        async with Client(self.endpoint, self.settings) as self._client:
            await self._settle_all(list(self.items), 0)
        if self._end is None and not self._replies:
            reason = next(iter(self.failures.values()))
            self._end = self._down(reason)
        if self._end is not None:
            raise self._end

    async def _settle_all(self, keys: Sequence[str], round_: int) -> None:
        most = self.question.items_per_request
        rounds = self.settings.rounds
        # The last round asks one by one, so that an item that spoils every answer spoils only its own.
        size = most if round_ == 0 else 1 if round_ == rounds else math.ceil(most / _SHRINK**round_)
        async with asyncio.TaskGroup() as group:
            for batch in batches(keys, size):
                group.create_task(self._settle(batch, round_))

    async def _settle(self, keys: Sequence[str], round_: int) -> None:
        items = [self.items[key] for key in keys]
        async with self._slots:
            if self._end is not None:
                return
            try:
                verdict = await self._verdict(keys, items)
                self._keep(keys, items, verdict)
            except SageccError as error:
                self._stop(error)
                return
        if not verdict.rejected or self._end is not None:
            return
        if round_ < self.settings.rounds:
            await self._settle_all([keys[position] for position in verdict.rejected], round_ + 1)
        else:
            self.failures |= {keys[position]: reason for position, reason in verdict.rejected.items()}
            self._show_progress()

    async def _verdict(self, keys: Sequence[str], items: Sequence[Item]) -> Verdict[AnswerT]:
        try:
            reply = await self._exchange(keys, items)
        except Again as failure:
            return Verdict({}, dict.fromkeys(range(len(items)), str(failure)))
        if reply.problem is not None:
            verdict: Verdict[AnswerT] = Verdict({}, dict.fromkeys(range(len(items)), reply.problem))
        else:
            verdict = judge(self.question, items, reply.text)
        reasons = {position: self.endpoint.clean(reason) for position, reason in verdict.rejected.items()}
        # Told with the next request: a model without randomness would otherwise repeat its mistake.
        self._problems |= {keys[position]: reason for position, reason in reasons.items()}
        return Verdict(verdict.accepted, reasons)

    def _keep(self, keys: Sequence[str], items: Sequence[Item], verdict: Verdict[AnswerT]) -> None:
        # No `await` between the answer's arrival and its file: once this runs, an answer that was paid for is kept.
        if verdict.accepted:
            self.store.write((items[position], answer) for position, answer in verdict.accepted.items())
            self.answers |= {keys[position]: answer for position, answer in verdict.accepted.items()}
            self._show_progress()
        elif not self.answers and not self.usage.stored and self._replies >= _USELESS:
            reason = next(iter(verdict.rejected.values()))
            self._stop(
                ServiceError(
                    f"the first {self._replies} replies held no usable answer; the last: {reason}",
                    where=f"{self.endpoint.address}, model {self.endpoint.model}",
                    fix="under `graph.build.llm` check `base_url`, `structured` and `max_tokens`, or take a model that "
                    "can follow the prompt",
                )
            )

    async def _exchange(self, keys: Sequence[str], items: Sequence[Item]) -> Reply:
        """Send one request, again and again where that may help."""
        content = compose(self.question, items, [self._problems.get(key) for key in keys])
        size = request_tokens(self.question, self.settings, content) + answer_tokens(self.question, items)
        name = content_key(content)
        failure = Again("")
        for attempt in range(self._traffic.retries + 1):
            await self._wait_for_start(size)
            if self._end is not None:
                raise self._end
            self.usage.requests += 1
            try:
                reply = await self._client.complete(self.question, content)
            except Again as again:
                failure = again
                if attempt < self._traffic.retries:
                    await self._wait_after(again, attempt, name)
                continue
            self._exhausted = 0
            self._replies += 1
            self.usage.prompt_tokens += reply.prompt_tokens
            self.usage.answer_tokens += reply.answer_tokens
            return reply
        self._exhausted += 1
        if failure.limited or self._exhausted >= _EXHAUSTED:
            raise self._down(str(failure))
        raise failure

    async def _wait_for_start(self, size: int) -> None:
        now = asyncio.get_running_loop().time
        start = self._pace.book(now(), size)
        while self._end is None and (wait := self._pace.wait(now(), start)) > 0:
            await self._sleep(wait)

    async def _wait_after(self, failure: Again, attempt: int, name: str) -> None:
        wait = backoff(self._traffic, attempt, name)
        if failure.wait is not None:
            if failure.wait > self._traffic.wait_limit:
                raise ServiceError(
                    f"the endpoint asks to wait {failure.wait:.0f} s, more than wait_limit "
                    f"({self._traffic.wait_limit:g} s): {failure}",
                    where=self.endpoint.address,
                    fix="run again later (answers so far are stored), or raise `graph.build.llm.traffic.wait_limit`",
                )
            wait = max(wait, failure.wait)
        if failure.limited:
            self._pace.hold(asyncio.get_running_loop().time() + wait)
        else:
            await self._sleep(wait)

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopped.wait(), seconds)
        except TimeoutError:
            return

    def _stop(self, error: SageccError) -> None:
        """Start no further request; those under way end by themselves, so that nothing paid for is lost."""
        if self._end is None:
            self._end = error
        self._stopped.set()

    def _down(self, reason: str) -> ServiceError:
        return ServiceError(
            f"the language model's endpoint gave no answer in {self._traffic.retries + 1} attempts: {reason}",
            where=self.endpoint.address,
            fix="run again later: answers so far are stored. Against rate limits lower `concurrency` or set "
            "`requests_per_minute` under `graph.build.llm.traffic`",
        )

    def _show_progress(self) -> None:
        if self.progress is not None:
            self.progress(len(self.answers) + len(self.failures), len(self.items))
