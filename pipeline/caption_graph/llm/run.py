"""Runs of a question over many items: stored answers first, then requests, several at a time.

In the order of the data: a run is estimated or asked for (`estimate`, `ask`), stored answers are read, `RequestRunner`
sends the remaining items, repeats failed requests, asks again about rejected answers, and stores accepted ones at once.
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
    Client,
    Endpoint,
    Pace,
    RetryableError,
    backoff,
    find_endpoint,
    messages,
    model_name,
    parameters,
)
from pipeline.caption_graph.llm.questions import (
    AnswerT,
    CheckedReply,
    Question,
    QuestionItem,
    batches,
    check_reply,
    compose,
    item_key,
)
from pipeline.caption_graph.llm.replies import Reply
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


def answer_tokens(question: Question[Any], items: Sequence[QuestionItem]) -> int:
    """Estimate the tokens of the answer to a request about `items`."""
    return math.ceil(sum(question.characters(item) for item in items) / _BYTES_PER_TOKEN)


Progress = Callable[[int, int], None]

_SHRINK = 4  # factor by which requests about rejected answers are smaller
_EXHAUSTED = 3  # consecutive requests that failed at every attempt, after which the endpoint counts as down
_USELESS = 10  # replies without any accepted answer, after which model or settings count as unsuitable


@dataclass
class Usage:
    """Requests and tokens of a run.

    Attributes:
        stored: Items whose answer was on disk.
        requests: Requests sent, repetitions included.
        prompt_tokens: Tokens sent, as the endpoint counted them.
        answer_tokens: Tokens received, likewise.
    """

    stored: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0


@dataclass
class RequestRunner(Generic[AnswerT]):
    """Requests about the items without a stored answer.

    openai's own retries repeat one request; here requests are also paced together, held back together after a 429, and
    asked again with the reason when the answer was rejected.

    Attributes:
        question: The question.
        settings: Model, pace, rounds.
        endpoint: Address and key.
        store: Takes the accepted answers.
        items: Distinct items to send, by key.
        usage: Counts requests and tokens.
        progress: Called with the numbers of finished items and of all items.
        answers: Accepted answers so far, by key.
        failures: Why items have none after all rounds, by key.
        advice: What to do about the last problem of an item, by key, where the problem says so.
    """

    question: Question[AnswerT]
    settings: LLMSettings
    endpoint: Endpoint
    store: AnswerStore[AnswerT]
    items: Mapping[str, QuestionItem]
    usage: Usage
    progress: Progress | None = None
    answers: dict[str, AnswerT] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    advice: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._traffic = self.settings.traffic
        self._pace = Pace(self._traffic)
        self._problems: dict[str, str] = {}
        self._replies = 0
        self._exhausted = 0
        self._end: SageccError | None = None

    async def run(self) -> None:
        """Send all items.

        Raises:
            ServiceError: The endpoint cannot go on. The requests under way at that time have ended, and their answers
                are stored.
        """
        self._slots = asyncio.Semaphore(self._traffic.concurrency)
        self._stopped = asyncio.Event()
        async with Client(self.endpoint, self.settings) as self._client:
            await self._send_all(list(self.items), 0)
        if self._end is None and not self._replies:
            key, reason = next(iter(self.failures.items()))
            self._end = self._down(reason, self.advice.get(key))
        if self._end is not None:
            raise self._end

    async def _send_all(self, keys: Sequence[str], round_: int) -> None:
        largest = self.question.items_per_request
        rounds = self.settings.rounds
        # The last round sends items singly, so that an item that spoils every reply spoils its own alone.
        size = largest if round_ == 0 else 1 if round_ == rounds else math.ceil(largest / _SHRINK**round_)
        async with asyncio.TaskGroup() as group:
            for batch in batches(keys, size):
                group.create_task(self._send(batch, round_))

    async def _send(self, keys: Sequence[str], round_: int) -> None:
        items = [self.items[key] for key in keys]
        async with self._slots:
            if self._end is not None:
                return
            try:
                checked = await self._request(keys, items)
                self._accept(keys, items, checked)
            except SageccError as error:
                self._stop(error)
                return
        if not checked.rejected or self._end is not None:
            return
        if round_ < self.settings.rounds:
            await self._send_all([keys[position] for position in checked.rejected], round_ + 1)
        else:
            self.failures |= {keys[position]: reason for position, reason in checked.rejected.items()}
            self._show_progress()

    async def _request(self, keys: Sequence[str], items: Sequence[QuestionItem]) -> CheckedReply[AnswerT]:
        try:
            reply = await self._send_request(keys, items)
        except RetryableError as failure:
            self._advise(keys, failure.fix)
            return CheckedReply({}, dict.fromkeys(range(len(items)), str(failure)))
        self._advise(keys, reply.fix)
        if reply.problem is not None:
            checked: CheckedReply[AnswerT] = CheckedReply({}, dict.fromkeys(range(len(items)), reply.problem))
        else:
            checked = check_reply(self.question, items, reply.text)
        reasons = {position: self.endpoint.clean(reason) for position, reason in checked.rejected.items()}
        # Sent with the next request, because a model without randomness would otherwise repeat its mistake.
        self._problems |= {keys[position]: reason for position, reason in reasons.items()}
        return CheckedReply(checked.accepted, reasons)

    def _advise(self, keys: Sequence[str], fix: str | None) -> None:
        for key in keys:
            self.advice.pop(key, None)
            if fix:
                self.advice[key] = fix

    def _accept(self, keys: Sequence[str], items: Sequence[QuestionItem], checked: CheckedReply[AnswerT]) -> None:
        # No `await` between the answer's arrival and its file, so that no paid answer is lost.
        if checked.accepted:
            self.store.write((items[position], answer) for position, answer in checked.accepted.items())
            self.answers |= {keys[position]: answer for position, answer in checked.accepted.items()}
            self._show_progress()
        elif not self.answers and not self.usage.stored and self._replies >= _USELESS:
            position, reason = next(iter(checked.rejected.items()))
            self._stop(
                ServiceError(
                    f"the first {self._replies} replies held no usable answer; the last: {reason}",
                    where=f"{self.endpoint.address}, model {self.endpoint.model}",
                    fix=self.advice.get(keys[position])
                    or "under `graph.build.llm` check `base_url`, `structured` and `max_tokens`, or take a model that "
                    "can follow the prompt",
                )
            )

    async def _send_request(self, keys: Sequence[str], items: Sequence[QuestionItem]) -> Reply:
        """Send one request and repeat it after failures that may pass."""
        content = compose(self.question, items, [self._problems.get(key) for key in keys])
        size = request_tokens(self.question, self.settings, content) + answer_tokens(self.question, items)
        name = content_key(content)
        failure = RetryableError("")
        for attempt in range(self._traffic.retries + 1):
            await self._wait_for_start(size)
            if self._end is not None:
                raise self._end
            self.usage.requests += 1
            try:
                reply = await self._client.complete(self.question, content)
            except RetryableError as error:
                failure = error
                if attempt < self._traffic.retries:
                    await self._wait_after(error, attempt, name)
                continue
            self._exhausted = 0
            self._replies += 1
            self.usage.prompt_tokens += reply.prompt_tokens
            self.usage.answer_tokens += reply.answer_tokens
            return reply
        self._exhausted += 1
        if failure.limited or self._exhausted >= _EXHAUSTED:
            raise self._down(str(failure), failure.fix)
        raise failure

    async def _wait_for_start(self, size: int) -> None:
        now = asyncio.get_running_loop().time
        start = self._pace.book(now(), size)
        while self._end is None and (wait := self._pace.wait(now(), start)) > 0:
            await self._sleep(wait)

    async def _wait_after(self, failure: RetryableError, attempt: int, name: str) -> None:
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
        """Start no further request; those under way run to their end, so that no paid answer is lost."""
        if self._end is None:
            self._end = error
        self._stopped.set()

    def _down(self, reason: str, fix: str | None) -> ServiceError:
        return ServiceError(
            f"the language model's endpoint gave no answer in {self._traffic.retries + 1} attempts: {reason}",
            where=self.endpoint.address,
            fix=fix or "run again later: answers so far are stored",
        )

    def _show_progress(self) -> None:
        if self.progress is not None:
            self.progress(len(self.answers) + len(self.failures), len(self.items))


OnBadItem = Literal["fatal", "skip"]


@dataclass(frozen=True)
class LLMSession:
    """Model, answer store and callbacks that all questions share.

    Attributes:
        settings: Model, endpoint, pace.
        store: Folder of stored answers.
        on_bad_item: An item without an accepted answer is fatal (after all others are done) or skipped.
        say: Called with lines for the user.
        progress: Called with the numbers of finished items and of all items.
    """

    settings: LLMSettings
    store: Path
    on_bad_item: OnBadItem = "fatal"
    say: Say = print
    progress: Progress | None = None


@dataclass(frozen=True)
class QuestionResult(Generic[AnswerT]):
    """Answers to a sequence of items.

    Attributes:
        answers: One for each item, in order; None for an item that was skipped.
        failures: Why items have no accepted answer, by position.
        usage: Requests and tokens.
    """

    answers: tuple[AnswerT | None, ...]
    failures: dict[int, str]
    usage: Usage


@dataclass(frozen=True)
class PendingItems(Generic[AnswerT]):
    """Items still to send, and the stored answers of the others.

    Attributes:
        store: The answer store.
        keys: Key of each item, in order.
        answers: Stored answers, by key.
        failures: Reasons of items that an earlier run has skipped, by key; empty unless skipping is allowed.
        items: Distinct items to send, by key, in order of their first occurrence.
    """

    store: AnswerStore[AnswerT]
    keys: tuple[str, ...]
    answers: dict[str, AnswerT]
    failures: dict[str, str]
    items: dict[str, QuestionItem]


def ask(question: Question[AnswerT], items: Sequence[QuestionItem], session: LLMSession) -> QuestionResult[AnswerT]:
    """Ask `question` about all items, each distinct one once, except those with a stored answer.

    Every answer is stored on arrival, so an interrupted run goes on where it ended: stored answers are never asked for
    again, and a kill loses at most the `concurrency` requests under way. A run whose answers are all stored needs
    neither network nor key. The result does not depend on the order in which answers arrive.

    Raises:
        SettingsError: No model is named, or the address cannot be used.
        ServiceError: The key is missing or refused, the endpoint is unreachable, down, over its limits or gives no
            usable answers; or, unless they are skipped, items remain without an accepted answer.
        OutputError: Answers cannot be stored; this is tried before the first request.
    """
    state = find_pending(question, items, session)
    usage = Usage(stored=len(state.answers))
    answers, failures = dict(state.answers), dict(state.failures)
    advice: dict[str, str] = {}
    if failures:
        session.say(
            f"{len(failures)} of the {question.items} got no usable answer in an earlier run and are skipped; delete "
            f"{state.store.failures_file} to ask again"
        )
    if state.items:
        endpoint = find_endpoint(session.settings)
        state.store.prepare()
        runner = RequestRunner(question, session.settings, endpoint, state.store, state.items, usage, session.progress)
        _complete(runner)
        answers |= runner.answers
        failures |= runner.failures
        advice = runner.advice
        state.store.write_failures(state.items, runner.failures)
    if failures and session.on_bad_item == "fatal":
        raise _incomplete(question, state, failures, advice)
    return QuestionResult(
        tuple(answers.get(key) for key in state.keys),
        {position: failures[key] for position, key in enumerate(state.keys) if key in failures},
        usage,
    )


def find_pending(
    question: Question[AnswerT], items: Sequence[QuestionItem], session: LLMSession
) -> PendingItems[AnswerT]:
    """Read the stored answers and find the items still to send; sends nothing and needs no key.

    Raises:
        SettingsError: No model is named.
    """
    settings = session.settings
    store = AnswerStore(session.store, question, model_name(settings), parameters(settings), session.say)
    keys = tuple(item_key(item) for item in items)
    distinct: dict[str, QuestionItem] = {}
    for key, item in zip(keys, items, strict=True):
        distinct.setdefault(key, item)
    answers = store.read(distinct)
    earlier = store.read_failures() if session.on_bad_item == "skip" else {}
    failures = {key: earlier[key] for key in distinct if key in earlier and key not in answers}
    pending = {key: item for key, item in distinct.items() if key not in answers and key not in failures}
    return PendingItems(store, keys, answers, failures, pending)


def _incomplete(
    question: Question[AnswerT],
    state: PendingItems[AnswerT],
    failures: Mapping[str, str],
    advice: Mapping[str, str],
) -> ServiceError:
    first = next(key for key in state.keys if key in failures)
    skip = "set `graph.build.extraction.on_bad_caption: skip`"
    return ServiceError(
        f"{len(failures)} of {len(set(state.keys))} distinct {question.items} got no usable answer; the first, "
        f"{question.label(state.items[first])}: {failures[first]}",
        where=state.store.failures_file,
        fix=f"{advice[first]}; the other answers are stored"
        if first in advice
        else f"run again (the other answers are stored), take another model, or {skip}",
    )


def _complete(runner: RequestRunner[AnswerT]) -> None:
    """Run all requests, also from a notebook, whose thread already has a running event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(runner.run())
        return
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, runner.run()).result()


@dataclass(frozen=True)
class Estimate:
    """Estimated requests, tokens and cost if every request succeeds at once.

    Attributes:
        what: Name of the items in the plural.
        items: Distinct items to send.
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


def estimate(question: Question[Any], items: Sequence[QuestionItem], session: LLMSession) -> Estimate:
    """Estimate what `ask` would send, without key and network.

    Tokens are a quarter of the UTF-8 bytes; the length of an answer is the question's estimate. For English both are
    right within some tens of per cent.

    Raises:
        SettingsError: No model is named.
    """
    state = find_pending(question, items, session)
    settings, prices = session.settings, session.settings.prices
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
