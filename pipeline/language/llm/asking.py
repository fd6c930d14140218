"""Asking many items, each distinct one once: from the store where it is answered there, else from the endpoint."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal

from pipeline.errors import ServiceError
from pipeline.language.llm.client import parameters
from pipeline.language.llm.endpoint import find_endpoint, model_name
from pipeline.language.llm.estimate import answer_tokens, request_tokens
from pipeline.language.llm.questions import AnswerT, Item, Question, batches, compose, item_key
from pipeline.language.llm.run import Progress, Run, Usage
from pipeline.language.llm.settings import LLMSettings
from pipeline.language.llm.store import AnswerStore, Say

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
