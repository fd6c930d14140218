"""Asking many items: shared requests, several at a time, repeated and re-asked, every good answer stored at once."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal

from pipeline.errors import ServiceError
from pipeline.files import content_key
from pipeline.language.llm.answers import Verdict, judge
from pipeline.language.llm.client import Again, Client, Reply, messages, parameters
from pipeline.language.llm.endpoint import Endpoint, find_endpoint, model_name
from pipeline.language.llm.pace import Pace, backoff
from pipeline.language.llm.questions import AnswerT, Item, Question, item_key
from pipeline.language.llm.settings import LLMSettings
from pipeline.language.llm.store import AnswerStore, Say

OnBadItem = Literal["fatal", "skip"]
Progress = Callable[[int, int], None]

_SHRINK = 4  # what got no usable answer is asked again in requests so many times smaller
_EXHAUSTED = 3  # requests in a row that failed at every attempt: the endpoint is down
_USELESS = 10  # replies before the first usable answer: model or settings cannot do it
_CHARACTERS_PER_TOKEN = 4


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

    Answers are stored as they come, so a run that ends in any way goes on from there, and one whose answers are all
    stored needs neither network nor key. The result does not depend on the order in which answers arrive.

    Raises:
        SettingsError: No model is named, or the address cannot be used.
        ServiceError: The key is missing or refused, the endpoint is unreachable, down, over its limits or gives no
            usable answers; or, unless they are skipped, items remain without a usable answer.
        OutputError: Answers cannot be stored.
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
        run = _Run(question, asking, find_endpoint(asking.settings), state, usage)
        _complete(run)
        answers |= run.answers
        failures |= run.failures
        named = dict(zip(state.keys, items, strict=True))
        state.store.write_failures((named[key], failures[key]) for key in named if key in failures)
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
        DataError: An item's text is not valid Unicode.
    """
    settings = asking.settings
    store = AnswerStore(asking.store, question, model_name(settings), parameters(settings), asking.say)
    keys = tuple(item_key(item) for item in items)
    distinct = dict(zip(reversed(keys), reversed(items), strict=True))
    ordered = {key: distinct[key] for key in dict.fromkeys(keys)}
    answers = store.read(ordered)
    earlier = store.read_failures() if asking.on_bad_item == "skip" else {}
    failures = {key: earlier[key] for key in ordered if key in earlier and key not in answers}
    rest = {key: item for key, item in ordered.items() if key not in answers and key not in failures}
    return Open(store, keys, answers, failures, rest)


def batches(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    """Cut `keys` into requests of `size` items; the last may be smaller."""
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def compose(question: Question[Any], items: Sequence[Item], problems: Sequence[str | None]) -> str:
    """Write the user message: the items, numbered from 1, with what was wrong with the last answer to each."""
    shown = [
        {"id": number, **item} | ({} if problem is None else {"problem": problem})
        for number, (item, problem) in enumerate(zip(items, problems, strict=True), start=1)
    ]
    return json.dumps({question.items: shown}, ensure_ascii=False)


def tokens(text: str) -> int:
    """Estimate the tokens of a text: a quarter of its UTF-8 bytes, the usual rule of thumb for English."""
    return math.ceil(len(text.encode()) / _CHARACTERS_PER_TOKEN)


def request_tokens(question: Question[Any], settings: LLMSettings, content: str) -> int:
    """Estimate the tokens of a request's prompt; a JSON schema sent beside the messages is counted too."""
    count = sum(tokens(message["content"]) for message in messages(question, settings, content))
    return count + (tokens(json.dumps(question.schema)) if settings.structured == "json_schema" else 0)


def answer_tokens(question: Question[Any], items: Sequence[Item]) -> int:
    """Estimate the tokens of the answer to a request about `items`."""
    return math.ceil(sum(question.characters(item) for item in items) / _CHARACTERS_PER_TOKEN)


def _incomplete(question: Question[AnswerT], state: Open[AnswerT], failures: Mapping[str, str]) -> ServiceError:
    first = next(key for key in state.keys if key in failures)
    return ServiceError(
        f"{len(failures)} of {len(set(state.keys))} distinct {question.items} got no usable answer; the first, "
        f"{question.label(state.items[first])}: {failures[first]}",
        where=state.store.failures_file,
        fix="run again (the other answers are stored), take another model, or set `on_bad_item: skip`",
    )


def _complete(run: _Run[AnswerT]) -> None:
    """Run the requests to their end, also from a notebook, whose thread is busy with an event loop of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(run.all())
        return
    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as thread:
        thread.submit(asyncio.run, run.all()).result()


@dataclass
class _Run(Generic[AnswerT]):
    """The requests of one call of `ask`."""

    question: Question[AnswerT]
    asking: Asking
    endpoint: Endpoint
    open: Open[AnswerT]
    usage: Usage
    answers: dict[str, AnswerT] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._traffic = self.asking.settings.traffic
        self._pace = Pace(self._traffic)
        self._problems: dict[str, str] = {}
        self._replies = 0
        self._exhausted = 0
        self._end: ServiceError | None = None

    async def all(self) -> None:
        """Ask everything.

        Raises:
            ServiceError: The endpoint cannot go on. Requests that were under way then have ended, and their answers
                are stored.
        """
        self._slots = asyncio.Semaphore(self._traffic.concurrency)
        self._stopped = asyncio.Event()
        async with Client(self.endpoint, self.asking.settings) as self._client:
            await self._settle_all(list(self.open.items), 0)
        if self._end is None and not self._replies:
            reason = next(iter(self.failures.values()))
            self._end = self._down(reason)
        if self._end is not None:
            raise self._end

    async def _settle_all(self, keys: Sequence[str], round_: int) -> None:
        most = self.question.items_per_request
        rounds = self.asking.settings.rounds
        # The last round asks one by one, so that an item that spoils every answer spoils only its own.
        size = most if round_ == 0 else 1 if round_ == rounds else math.ceil(most / _SHRINK**round_)
        async with asyncio.TaskGroup() as group:
            for batch in batches(keys, size):
                group.create_task(self._settle(batch, round_))

    async def _settle(self, keys: Sequence[str], round_: int) -> None:
        items = [self.open.items[key] for key in keys]
        async with self._slots:
            if self._end is not None:
                return
            try:
                reply = await self._exchange(keys, items)
            except ServiceError as error:
                self._stop(error)
                return
            except Again as failure:
                verdict: Verdict[AnswerT] = Verdict({}, dict.fromkeys(range(len(items)), str(failure)))
            else:
                verdict = self._judge(items, reply)
            self._keep(keys, items, verdict)
        if not verdict.rejected or self._end is not None:
            return
        rejected = [keys[position] for position in verdict.rejected]
        self._problems |= dict(zip(rejected, verdict.rejected.values(), strict=True))
        if round_ < self.asking.settings.rounds:
            await self._settle_all(rejected, round_ + 1)
        else:
            self.failures |= {key: self._problems[key] for key in rejected}
            self._show_progress()

    def _judge(self, items: Sequence[Item], reply: Reply) -> Verdict[AnswerT]:
        if reply.problem is not None:
            return Verdict({}, dict.fromkeys(range(len(items)), reply.problem))
        verdict = judge(self.question, items, reply.text)
        reasons = {position: self.endpoint.clean(reason) for position, reason in verdict.rejected.items()}
        return Verdict(verdict.accepted, reasons)

    def _keep(self, keys: Sequence[str], items: Sequence[Item], verdict: Verdict[AnswerT]) -> None:
        # No `await` between the answer's arrival and its file: once this runs, an answer that was paid for is kept.
        if verdict.accepted:
            self.open.store.write((items[position], answer) for position, answer in verdict.accepted.items())
            self.answers |= {keys[position]: answer for position, answer in verdict.accepted.items()}
            self._show_progress()
        elif not self.answers and not self.open.answers and self._replies >= _USELESS:
            reason = next(iter(verdict.rejected.values()))
            self._stop(
                ServiceError(
                    f"the first {self._replies} replies held no usable answer; the last: {reason}",
                    where=f"{self.endpoint.address}, model {self.endpoint.model}",
                    fix="check `base_url`, `structured` and `max_tokens`, or take a model that can follow the prompt",
                )
            )

    async def _exchange(self, keys: Sequence[str], items: Sequence[Item]) -> Reply:
        """Send one request, again and again where that may help."""
        content = compose(self.question, items, [self._problems.get(key) for key in keys])
        size = request_tokens(self.question, self.asking.settings, content) + answer_tokens(self.question, items)
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
                    fix="run again later (answers so far are stored), or raise `traffic.wait_limit`",
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

    def _stop(self, error: ServiceError) -> None:
        """Start no further request; those under way end by themselves, so that nothing paid for is lost."""
        if self._end is None:
            self._end = error
        self._stopped.set()

    def _down(self, reason: str) -> ServiceError:
        return ServiceError(
            f"the language model's endpoint gave no answer in {self._traffic.retries + 1} attempts: {reason}",
            where=self.endpoint.address,
            fix="run again later: answers so far are stored. Against rate limits lower `traffic.concurrency` or set "
            "`traffic.requests_per_minute`",
        )

    def _show_progress(self) -> None:
        if self.asking.progress is not None:
            self.asking.progress(len(self.answers) + len(self.failures), len(self.open.items))
