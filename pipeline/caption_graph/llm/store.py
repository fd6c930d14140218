"""Store of accepted answers on disk; a stored answer needs neither a request nor a key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Generic

from pipeline.caption_graph.llm.questions import AnswerT, Question, QuestionItem, Rejected, accept, item_key
from pipeline.errors import DataError
from pipeline.files import content_key, list_files, read_json, write_json
from pipeline.system_errors import output_error

Say = Callable[[str], None]


class AnswerStore(Generic[AnswerT]):
    """Answers to one question by one model with one set of parameters.

    `<folder>/<question>-<16 digits of its key>/` holds `question.json` (prompt, schema, model, parameters; for
    people), `answers/*.json` (one file for each request with accepted answers, and their items) and `failures.json`
    (items without one, with the reason).

    Args:
        folder: Folder of all stored answers.
        question: The question.
        model: Name of the model.
        parameters: Other fields of the request.
        say: Called with a line about each file that is dropped.
    """

    def __init__(
        self, folder: Path, question: Question[AnswerT], model: str, parameters: Mapping[str, Any], say: Say
    ) -> None:
        self._question = question
        self._model = model
        self._parameters = dict(parameters)
        self._key = question.key(model, parameters)
        self._say = say
        self.folder = folder / f"{question.name}-{self._key[:16]}"
        self.failures_file = self.folder / "failures.json"

    def prepare(self) -> None:
        """Make the folder and write question.json.

        Raises:
            OutputError: Nothing can be written there.
        """
        path = self.folder / "question.json"
        if not path.exists():
            write_json(
                path,
                {
                    "question": self._question.name,
                    "key": self._key,
                    "model": self._model,
                    "parameters": self._parameters,
                    "schema": self._question.schema,
                    "prompt": self._question.prompt,
                },
            )

    def read(self, items: Mapping[str, QuestionItem]) -> dict[str, AnswerT]:
        """Return the stored answers to `items` (by item key), each checked again.

        A damaged file is set aside with a line, and its items count as unanswered.

        Raises:
            UnreadableError: A file or the folder cannot be read; nothing is dropped, and nothing is asked again.
        """
        answers: dict[str, AnswerT] = {}
        refused: dict[str, str] = {}
        for path in list_files(self.folder / "answers", "*.json"):
            for item, stored in self._entries(path):
                key = item_key(item)
                if key not in items or key in answers:
                    continue
                try:
                    answers[key] = accept(self._question, items[key], {**stored, "id": 0})
                except Rejected as reason:
                    refused[key] = f"{path}: a stored answer no longer holds and is asked again: {reason}"
        for key, line in refused.items():
            if key not in answers:
                self._say(line)
        return answers

    def write(self, answers: Iterable[tuple[QuestionItem, AnswerT]]) -> None:
        """Store the answers of one request in a file of their own, atomically."""
        entries = [
            {"item": dict(item), "answer": answer.model_dump(mode="json", by_alias=True, exclude={"id"})}
            for item, answer in answers
        ]
        write_json(
            self.folder / "answers" / f"{content_key(entries)}.json",
            {"question": self._key, "sha256": content_key(entries), "answers": entries},
        )

    def read_failures(self) -> dict[str, str]:
        """Return the reasons of items without an accepted answer in earlier runs, by item key."""
        return {item_key(item): reason for item, reason in self._failures()}

    def write_failures(self, items: Mapping[str, QuestionItem], reasons: Mapping[str, str]) -> None:
        """Record which of `items` (by item key) got no accepted answer; earlier records of other items stay."""
        failures = [(item, reason) for item, reason in self._failures() if item_key(item) not in items]
        failures += [(items[key], reasons[key]) for key in items if key in reasons]
        if failures:
            listed = [{"item": dict(item), "reason": reason} for item, reason in failures]
            write_json(self.failures_file, {"failures": listed})
        else:
            self.failures_file.unlink(missing_ok=True)

    def _failures(self) -> list[tuple[QuestionItem, str]]:
        if not self.failures_file.exists():
            return []
        try:
            document = read_json(self.failures_file)
            return [(dict(entry["item"]), str(entry["reason"])) for entry in document["failures"]]
        except (DataError, KeyError, TypeError, ValueError) as error:
            self._drop(self.failures_file, error)
            return []

    def _entries(self, path: Path) -> list[tuple[QuestionItem, dict[str, Any]]]:
        try:
            document = read_json(path)
            entries = document["answers"]
            if document["question"] != self._key:
                raise DataError("it belongs to another question, model or parameters")
            if document["sha256"] != content_key(entries):
                raise DataError("its content was altered")
            return [(dict(entry["item"]), dict(entry["answer"])) for entry in entries]
        except (DataError, KeyError, TypeError, ValueError) as error:
            self._drop(path, error)
            return []

    def _drop(self, path: Path, error: Exception) -> None:
        reason = error.what if isinstance(error, DataError) else "a field is missing or of another kind"
        # Set aside, not removed: answers cost money, and a person may yet mend the file.
        aside = path.with_name(f"{path.name}.damaged")
        self._say(
            f"{path}: a damaged file of stored answers is dropped and asked again: {reason}; kept as {aside.name}"
        )
        try:
            path.replace(aside)
        except OSError as error:
            raise output_error(error, path) from error
