"""Captions as the metrics see them: Penn Treebank tokens without punctuation, in lower case."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from pipeline.errors import ServiceError
from pipeline.evaluation.java import JAVA_CURE, Java, java_environment

_PATIENCE = 600.0
_CONTRACTION = re.compile(r"(?<=\w)(n't|'(?:s|m|d|re|ve|ll))(?!\w)")
_BRACKETS = str.maketrans(
    {"(": " -lrb- ", ")": " -rrb- ", "[": " -lsb- ", "]": " -rsb- ", "{": " -lcb- ", "}": " -rcb- "}
)
_COMPOUNDS = re.compile(r"\b(can)(not)\b|\b(gon|wan)(na)\b")
_WORD = re.compile(r"-[lr][rsc]b-|n't\b|'(?:s|m|d|re|ve|ll)\b|\d+(?:[.,]\d+)*(?!\w)|\w+(?:[-/'&]\w+)*|%|\$|#")


def tokenize(captions: Iterable[str], java: Java | None) -> dict[str, str]:
    """Tokenize distinct captions, with one Java process for all of them.

    Args:
        captions: Any captions; repetitions are tokenized once.
        java: Runs Stanford's PTBTokenizer, the one of the field; None takes `plain_tokens`.

    Returns:
        For each distinct caption its tokens, joined by single spaces.

    Raises:
        ServiceError: Java failed.
    """
    distinct = list(dict.fromkeys(captions))
    tokens = [plain_tokens(caption) for caption in distinct] if java is None else ptb_tokens(distinct, java)
    return dict(zip(distinct, tokens, strict=True))


def ptb_tokens(captions: list[str], java: Java) -> list[str]:
    """Tokenize as `pycocoevalcap.tokenizer.PTBTokenizer` does, with the same jar, options and list of punctuation.

    Its own class runs whatever `java` is first on PATH and writes into the folder of the installed package, which may
    be read-only; here the text goes through a pipe. White space within a caption counts as one space.

    Raises:
        ServiceError: Java failed or answered with another number of lines.
    """
    from pycocoevalcap.tokenizer import ptbtokenizer

    if not captions:
        return []
    folder = Path(ptbtokenizer.__file__).parent
    command = java.command(
        *("-cp", str(folder / ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR), "edu.stanford.nlp.process.PTBTokenizer"),
        *("-preserveLines", "-lowerCase"),
    )
    text = "".join(" ".join(caption.split()) + "\n" for caption in captions)
    try:
        answer = subprocess.run(
            command,
            input=text.encode(),
            capture_output=True,
            timeout=_PATIENCE,
            env=java_environment(),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServiceError(f"the PTB tokenizer did not run: {error}", where=java.path, fix=JAVA_CURE) from error
    if answer.returncode != 0:
        reason = answer.stderr.decode(errors="replace").strip()[-500:]
        raise ServiceError(
            f"the PTB tokenizer ended with code {answer.returncode}: {reason}", where=java.path, fix=JAVA_CURE
        )
    lines = answer.stdout.decode(errors="replace").split("\n")[:-1]
    if len(lines) != len(captions):
        raise ServiceError(
            f"the PTB tokenizer answered {len(lines)} lines to {len(captions)} captions", where=java.path
        )
    punctuation = frozenset(ptbtokenizer.PUNCTUATIONS)
    return [" ".join(word for word in line.rstrip().split(" ") if word not in punctuation) for line in lines]


def plain_tokens(caption: str) -> str:
    """Tokenize without Java.

    Lower case; words of letters and digits, with hyphens, slashes and apostrophes inside them; clitics ("'s", "n't")
    and "cannot", "gonna", "wanna" split as in the Penn Treebank; `%`, `$` and `#` kept; brackets named
    ("-lrb-"), which pycocoevalcap's list of punctuation means to drop but knows in capitals only; all other marks
    dropped. On the captions of LEVIR-CC and Dubai-CC this equals `ptb_tokens`; on abbreviations with periods ("e.g.")
    it does not.
    """
    text = caption.lower().replace("’", "'").translate(_BRACKETS)
    text = _COMPOUNDS.sub(lambda match: " ".join(part for part in match.groups() if part), text)
    return " ".join(_WORD.findall(_CONTRACTION.sub(r" \1", text)))
