"""Lexicon of change captions: words by part of speech; closed classes whole, open classes as captions use them."""

from __future__ import annotations

from typing import Final

from pipeline.caption_graph.triples.normalisation import KNOWN_VERBS, NUMBERS, word_set

Tag = str
"""DET NUM ADJ NOUN PRON VB VBZ VBN VBG BE HAVE MODAL ADV PREP TO AND COMMA SUB REL NEG THERE."""

CLOSED: Final[dict[str, Tag]] = {
    **dict.fromkeys(word_set("a an the this that these those its their his our your such every another whole"), "DET"),
    **dict.fromkeys(
        NUMBERS
        | word_set(
            "some many several few more most much all both each either any eleven twelve dozens hundreds various "
            "numerous multiple enough fewer less another"
        ),
        "NUM",
    ),
    **dict.fromkeys(word_set("it them they he she we you i one's ones others themselves itself"), "PRON"),
    **dict.fromkeys(word_set("is are was were be been being am"), "BE"),
    **dict.fromkeys(word_set("has have had having"), "HAVE"),
    **dict.fromkeys(word_set("will would can could may might must shall should do does did"), "MODAL"),
    **dict.fromkeys(
        word_set(
            "on in at along alongside near beside besides between among amongst amid around round by with from into "
            "onto upon through throughout across behind above below under underneath beneath over inside outside "
            "within opposite for of without toward towards against beyond via off up down out per despite nearby "
            "about except"
        ),
        "PREP",
    ),
    "to": "TO",
    "and": "AND",
    "or": "AND",
    "&": "AND",
    ",": "COMMA",
    ";": "SUB",
    ".": "SUB",
    ":": "SUB",
    "!": "SUB",
    "?": "SUB",
    **dict.fromkeys(
        word_set("while whereas where when but then so because since though although as until after"), "SUB"
    ),
    **dict.fromkeys(word_set("which who whose whom"), "REL"),
    **dict.fromkeys(word_set("not n't never"), "NEG"),
    "no": "DET",
    "there": "THERE",
    **dict.fromkeys(
        word_set(
            "also now again very still just only too already almost nearly newly together away back forward instead "
            "here quite rather much-more even previously formerly originally once before later finally recently "
            "sporadically apart well outward outwards inward upward downward yet however further all-around somewhat "
            "everywhere side-by-side respectively neat-and-tidy as-well longer"
        ),
        "ADV",
    ),
}

ADJECTIVES: Final = word_set(
    "large small big huge giant massive tiny little long short wide narrow tall high low new old original former "
    "existing additional extra other main major minor central upper lower left-hand right-hand lower-left lower-right "
    "upper-left upper-right top-left top-right bottom-left bottom-right neat tidy orderly dense sparse lush green red "
    "white blue black yellow gray grey brown dark light bright straight circular round square rectangular curved "
    "curly arc t-shaped u-shaped l-shaped s-shaped vertical horizontal parallel diagonal perpendicular detached "
    "single double bare barren open empty vacant flat dry dirty wild deserted desolate residential industrial "
    "commercial urban rural different same similar whole entire great wooded grassy sandy muddy bigger larger smaller "
    "wider narrower longer shorter taller higher lower thicker thinner denser greener lusher bushier sparser newer "
    "fewer better stronger luxuriant exuberant prosperous vigorous uneven rugged medium medium-sized brand asphalt "
    "concrete cement brick dirt complete incomplete uncompleted unfinished unsurfaced full visible present absent "
    "clear level deep shallow thick thin raw first second third last next clean near-by adjacent various certain "
    "typical regular irregular complex-shaped ring-shaped crisscross zigzag longitudinal transverse overgrown crooked "
    "many-storey tow tiled sporadic multi-storey unchanged identical brushy oval triangular modern lonely gone "
    "missing ready available partial extensive considerable beautiful obvious elongated functional electronic "
    "electric artificial natural previous current remaining surrounding neighbouring neighboring neat-looking bushy "
    "yellowish"
)
"""Words that are always adjectives; most others before a noun need no entry, since the last noun is the head."""

NOUNS_TOO: Final = {"square": "square", "residential": "residential area", "industrial": "industrial area"}
"""Adjectives that are nouns where no noun follows."""

EVENT_NOUNS: Final = word_set(
    "construction appearance disappearance emergence expansion reconstruction removal addition demolition building-up "
    "renovation development extension replacement density coverage size height length width area region"
)
"""Nouns of events and measures, whose "of" phrase is the entity: "the construction of a house" is the house."""

NOUN_OR_VERB: Final = word_set(
    "plant plants park parks line lines cross crosses circle circles ring rings branch branches turn turns place "
    "places face faces space spaces run track block group form forms change changes border borders building parking "
    "crossing clearing opening cover start level part parts bypass bypasses frame landing housing swimming teaching "
    "shopping remains leaves stand stands link links water ground grounds pass dot dots cluster clusters stack stacks "
    "pile piles bend bends playing farming meadow surroundings buildings lot level levels trail trails end ends "
    "surrounding wind bound lay bridge bridges fence fences house houses pool pools tower towers field yard well top "
    "project projects sand dirt fall falls waste light lights set sets increase decrease clusters bottom turning "
    "intersection intersections open close part complex joint joints dry crossings clearings openings junction shape "
    "separate landscaping planting plantings foot view shore shores store stores wood woods work works settling "
    "extension"
)
"""Forms that are a noun or a verb depending on their context."""

EXTRA_VERBS: Final = word_set(
    "widen broaden extend expand enlarge lengthen narrow shrink reduce decrease increase change renovate reshape "
    "modify alter level flatten move relocate restore repair upgrade transform urbanize urbanise continue make take "
    "give get see observe notice find hide begin seem look keep use cause let allow need serve undergo restructure "
    "shorten straighten thin thicken deepen raise lower improve refurbish redesign redevelop replant flourish thrive "
    "recede bloom flood retreat decline drop accumulate vary shift split fork bend turn reveal expose remodel "
    "resurface tile clean harden simplify beautify double triple cultivate exploit stop finish end overlap shade tidy "
    "pack crowd loosen deepen shape redecorate repaint swallow hollow overgrow deteriorate wall fence preserve "
    "abandon"
)
VERBS: Final = KNOWN_VERBS | EXTRA_VERBS

INTRANSITIVE: Final = word_set(
    "appear disappear vanish emerge rise grow come become fade extend expand increase decrease occur die wither fall "
    "go shrink show arise dry happen exist arrive continue remain develop change turn evolve flourish recede widen "
    "spread"
)
"""Verbs whose bare past form after a noun is finite: "a house appeared"."""

SEEING: Final = word_set("see observe notice find")
"""Verbs that mean "appear" in the passive."""

CONNECTING: Final = word_set("connect link join attach combine merge")
ENCLOSING: Final = word_set(
    "surround cover fill occupy enclose line flank border encircle dot frame overgrow divide separate cross shade "
    "intersperse crowd pack"
)
"""Verbs whose passive is inverted: "a house surrounded by trees" has the trees as its head."""

PEOPLE: Final = word_set("people person man men worker human government developer resident owner someone")

PLURAL_PRONOUNS: Final = word_set("them they themselves ones others some many several few both two three four five six")

MULTIWORD: Final[dict[tuple[str, ...], tuple[str, Tag]]] = {
    ("next", "to"): ("next-to", "PREP"),
    ("close", "to"): ("near", "PREP"),
    ("near", "to"): ("near", "PREP"),
    ("closed", "to"): ("near", "PREP"),
    ("adjacent", "to"): ("adjacent-to", "PREP"),
    ("parallel", "to"): ("parallel-to", "PREP"),
    ("parallel", "with"): ("parallel-to", "PREP"),
    ("opposite", "to"): ("opposite", "PREP"),
    ("in", "front", "of"): ("in-front-of", "PREP"),
    ("at", "the", "back", "of"): ("behind", "PREP"),
    ("on", "top", "of"): ("on", "PREP"),
    ("in", "place", "of"): ("replace", "PREP"),
    ("in", "the", "place", "of"): ("replace", "PREP"),
    ("in", "replace", "of"): ("replace", "PREP"),
    ("in", "replacement", "of"): ("replace", "PREP"),
    **{
        (verb, *article, "place", "of"): (form, tag)
        for verb, form, tag in (
            ("take", "replace", "VB"),
            ("takes", "replaces", "VBZ"),
            ("took", "replaced", "VBN"),
            ("taken", "replaced", "VBN"),
            ("taking", "replacing", "VBG"),
        )
        for article in ((), ("the",))
    },
    **{("left", *way): ("became", "VBN") for way in (("the", "place", "to"), ("the", "place", "for"), ("place", "to"))},
    ("full", "of"): ("with", "PREP"),
    ("under", "construction"): ("under-construction", "ADJ"),
    ("perpendicular", "to"): ("perpendicular-to", "PREP"),
    ("instead", "of"): ("replace", "PREP"),
    ("in", "stead", "of"): ("replace", "PREP"),
    ("in", "exchange", "for"): ("replace", "PREP"),
    ("in", "addition", "to"): ("and", "AND"),
    ("as", "well", "as"): ("and", "AND"),
    ("as", "well"): ("also", "ADV"),
    ("along", "with"): ("with", "PREP"),
    ("together", "with"): ("with", "PREP"),
    ("such", "as"): ("with", "PREP"),
    ("out", "of"): ("from", "PREP"),
    ("away", "from"): ("from", "PREP"),
    ("due", "to"): ("for", "PREP"),
    ("because", "of"): ("for", "PREP"),
    ("so", "that"): ("so", "SUB"),
    ("no", "longer"): ("not", "NEG"),
    ("at", "the", "same", "time"): ("also", "ADV"),
    ("a", "lot", "of"): ("many", "NUM"),
    ("lots", "of"): ("many", "NUM"),
    ("plenty", "of"): ("many", "NUM"),
    ("a", "number", "of"): ("many", "NUM"),
    ("large", "number", "of"): ("many", "NUM"),
    ("large", "numbers", "of"): ("many", "NUM"),
    ("a", "few"): ("few", "NUM"),
    ("a", "little"): ("few", "NUM"),
    ("much", "more"): ("more", "NUM"),
    ("in", "this", "way"): ("also", "ADV"),
    ("one", "by", "one"): ("also", "ADV"),
    ("in", "rows"): ("also", "ADV"),
    ("in", "a", "row"): ("also", "ADV"),
    ("in", "lines"): ("also", "ADV"),
    ("in", "number"): ("also", "ADV"),
    ("in", "order"): ("also", "ADV"),
    ("side", "by", "side"): ("also", "ADV"),
    ("each", "other"): ("others", "PRON"),
    ("one", "another"): ("others", "PRON"),
    ("in", "parallel"): ("also", "ADV"),
}
"""Sequences that are read as one word."""
