"""Asking many items, each distinct one once: from the store where it is answered there, else from the endpoint.

What asking will take, before anything is sent: requests, tokens, cost.

The requests of one run: several at a time, repeated and re-asked, every good answer stored at once.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal

from pipeline.caption_graph.llm.client import (
    Again,
    Client,
    Endpoint,
    Pace,
    Reply,
    backoff,
    find_endpoint,
    messages,
    model_name,
    parameters,
)
from pipeline.caption_graph.llm.questions import AnswerT, Item, Question, Verdict, batches, compose, item_key, judge
from pipeline.caption_graph.llm.store import AnswerStore, Say
from pipeline.caption_graph.settings import LLMSettings
from pipeline.errors import SageccError, ServiceError
from pipeline.files import content_key

_BYTES_PER_TOKEN = 4


def tokens(text: str) -> int:
    """Estimate the tokens of a text: a quarter of its UTF-8 bytes, the usual rule of thumb for English."""
    return math.ceil(len(text.encode()) / _BYTES_PER_TOKEN)


def request_tokens(question: Question[Any], settings: LLMSettings, content: str) -> int:
    """Estimate the tokens of a request's prompt; a JSON schema sent beside the messages is counted too."""
    count = sum(tokens(message["content"]) for message in messages(question, settings, content))
    return count + (tokens(json.dumps(question.schema)) if settings.structured == "json_schema" else 0)


def answer_tokens(question: Question[Any], items: Sequence[Item]) -> int:
    """Estimate the tokens of the answer to a request about `items`."""
    return math.ceil(sum(question.characters(item) for item in items) / _BYTES_PER_TOKEN)


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


OnBadItem = Literal["fatal", "skip"]


@dataclass(frozen=True)
class Asking:
    """How and where questions are asked.

    Attributes:
        settings: Model, endpoint, pace.
        store: Folder of stored answers, shared by all questions.
        on_bad_item: An item without a usable answer is fatal (after all others are done) or skipped.
        say: Called with lines for the user.
        progress: Called with the items that are done and all that are to do.
    """

    settings: LLMSettings
    store: Path
    on_bad_item: OnBadItem = "fatal"
    say: Say = print
    progress: Progress | None = None


@dataclass(frozen=True)
class Answers(Generic[AnswerT]):
    """The answers to a sequence of items.

    Attributes:
        answers: One for each item, in order; None for an item that was skipped.
        failures: Why items got no usable answer, by position.
        usage: What was sent and spent.
    """

    answers: tuple[AnswerT | None, ...]
    failures: dict[int, str]
    usage: Usage


@dataclass(frozen=True)
class Open(Generic[AnswerT]):
    """What is known of a sequence of items before anything is sent.

    Attributes:
        store: Where answers lie.
        keys: Key of each item, in order.
        answers: Stored answers, by key.
        failures: Reasons of items that an earlier run has skipped, by key; empty unless skipping is allowed.
        items: Distinct items still to ask, by key, in order of their first occurrence.
    """

    store: AnswerStore[AnswerT]
    keys: tuple[str, ...]
    answers: dict[str, AnswerT]
    failures: dict[str, str]
    items: dict[str, Item]


def ask(question: Question[AnswerT], items: Sequence[Item], asking: Asking) -> Answers[AnswerT]:
    """Ask `question` about all items, each distinct item once; what is stored already is not asked.

    Every answer is on disk before the next one is looked at, so a run that ends in any way goes on from there: what is
    stored is never asked again, and a kill costs at most the `concurrency` requests that were under way, those among
    them whose answer had reached this machine but not yet its file. None can be kept for certain: the endpoint does not
    know what was stored. A run whose answers are all stored needs neither network nor key. The result does not depend
    on the order in which answers arrive.

    Raises:
        SettingsError: No model is named, or the address cannot be used.
        ServiceError: The key is missing or refused, the endpoint is unreachable, down, over its limits or gives no
            usable answers; or, unless they are skipped, items remain without a usable answer.
        OutputError: Answers cannot be stored; that much is tried before the first is paid for.
    """
    state = look_up(question, items, asking)
    usage = Usage(stored=len(state.answers))
    answers, failures = dict(state.answers), dict(state.failures)
    if failures:
        asking.say(
            f"{len(failures)} of the {question.items} got no usable answer in an earlier run and are skipped; delete "
            f"{state.store.failures_file} to ask again"
        )
    if state.items:
        endpoint = find_endpoint(asking.settings)
        state.store.prepare()
        run = Run(question, asking.settings, endpoint, state.store, state.items, usage, asking.progress)
        _complete(run)
        answers |= run.answers
        failures |= run.failures
        state.store.write_failures(state.items, run.failures)
    if failures and asking.on_bad_item == "fatal":
        raise _incomplete(question, state, failures)
    return Answers(
        tuple(answers.get(key) for key in state.keys),
        {position: failures[key] for position, key in enumerate(state.keys) if key in failures},
        usage,
    )


def look_up(question: Question[AnswerT], items: Sequence[Item], asking: Asking) -> Open[AnswerT]:
    """Read what is stored and find what is still to ask; sends nothing and needs no key.

    Raises:
        SettingsError: No model is named.
    """
    settings = asking.settings
    store = AnswerStore(asking.store, question, model_name(settings), parameters(settings), asking.say)
    keys = tuple(item_key(item) for item in items)
    distinct: dict[str, Item] = {}
    for key, item in zip(keys, items, strict=True):
        distinct.setdefault(key, item)
    answers = store.read(distinct)
    earlier = store.read_failures() if asking.on_bad_item == "skip" else {}
    failures = {key: earlier[key] for key in distinct if key in earlier and key not in answers}
    rest = {key: item for key, item in distinct.items() if key not in answers and key not in failures}
    return Open(store, keys, answers, failures, rest)


def _incomplete(question: Question[AnswerT], state: Open[AnswerT], failures: Mapping[str, str]) -> ServiceError:
    first = next(key for key in state.keys if key in failures)
    return ServiceError(
        f"{len(failures)} of {len(set(state.keys))} distinct {question.items} got no usable answer; the first, "
        f"{question.label(state.items[first])}: {failures[first]}",
        where=state.store.failures_file,
        fix="run again (the other answers are stored), take another model, or set "
        "`graph.build.extraction.on_bad_caption: skip`",
    )


def _complete(run: Run[AnswerT]) -> None:
    """Run the requests to their end, also from a notebook, whose thread is busy with an event loop of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(run.all())
        return
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, run.all()).result()


@dataclass(frozen=True)
class Estimate:
    """What asking would take if every request succeeded at once.

    Attributes:
        what: What the items are called in the plural.
        items: Distinct items to ask.
        stored: Distinct items whose answer is stored.
        requests: Requests to send.
        prompt_tokens: Tokens to send.
        answer_tokens: Tokens to receive.
        cost: What they cost, in `currency`; None where a price is unknown.
        currency: Unit of the cost.
    """

    what: str
    items: int
    stored: int
    requests: int
    prompt_tokens: int
    answer_tokens: int
    cost: float | None
    currency: str


def estimate(question: Question[Any], items: Sequence[Item], asking: Asking) -> Estimate:
    """Tell what `ask` would send, without key and network.

    Tokens are a quarter of the UTF-8 bytes; the length of an answer is the question's own guess. For English both
    are right within some tens of per cent, which is what a decision needs.

    Raises:
        SettingsError: No model is named.
    """
    state = look_up(question, items, asking)
    settings, prices = asking.settings, asking.settings.prices
    requests = [[state.items[key] for key in keys] for keys in batches(list(state.items), question.items_per_request)]
    sent = sum(
        request_tokens(question, settings, compose(question, request, [None] * len(request))) for request in requests
    )
    received = sum(answer_tokens(question, request) for request in requests)
    cost = None
    if prices.prompt is not None and prices.answer is not None:
        cost = (sent * prices.prompt + received * prices.answer) / 1e6
    return Estimate(
        question.items, len(state.items), len(state.answers), len(requests), sent, received, cost, prices.currency
    )
