"""What a clinic calls a structure -> TG-263: for a training set, and for what comes back from planning systems.

Mayo et al., AAPM Task Group 263, 2018. A name that is not surely an organ is UNKNOWN: never taken for one.
"""

from __future__ import annotations

import difflib
import re
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from types import MappingProxyType

from contourd.model.structures import Laterality, Structure, catalogue, etc_folder

NO_ORGAN = "-"
ALIKE = 0.84
SHORTEST_GUESS = 5
# TG-263 marks a structure that is drawn in part; the others are what keyboards and exports make of it.
TILDES = "~\u02dc\u223c\uff5e"
LIGATURES = str.maketrans({"œ": "oe", "æ": "ae", "ø": "o", "ł": "l", "đ": "d", "ß": "ss"})
UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue"})

MARGIN = re.compile(r"(?:\+|plus|exp|\b)\s*\d+(?:[.,]\d+)?\s*(?:mm|cm)\b|\+\s*\d|\b\d+(?:[.,]\d+)?\s*gy\b|\d\s*%")
HIDDEN = re.compile(r"^(?:z+|x+|_+|zz?z?)[_ .-]+|^\W*(?:not|non?)[_ -]", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Words:
    """etc/naming.toml.

    Attributes
    ----------
    sides, doubtful
        Word -> side; a doubtful one gives a suggestion only.
    may_be
        Organ -> spellings that may be it, a part of it, or another.
    targets, planning
        Beginnings of words, and words, of what is no organ.
    """

    sides: Mapping[str, Laterality]
    doubtful: Mapping[str, Laterality]
    may_be: Mapping[str, Sequence[str]]
    targets: tuple[str, ...]
    planning: frozenset[str]


@cache
def _naming() -> _Words:
    content = tomllib.loads((etc_folder() / "naming.toml").read_text(encoding="utf-8"))
    left = Laterality.LEFT
    right = Laterality.RIGHT
    sides = content["sides"]
    return _Words(
        MappingProxyType(dict.fromkeys(sides["left"], left) | dict.fromkeys(sides["right"], right)),
        MappingProxyType(dict.fromkeys(sides["doubtful_left"], left) | dict.fromkeys(sides["doubtful_right"], right)),
        MappingProxyType({organ: tuple(spellings) for organ, spellings in content["doubtful"].items()}),
        tuple(content["no_organ"]["targets"]),
        frozenset(content["no_organ"]["words"]),
    )


class Certainty(Enum):
    """How sure a reading is."""

    EXACT = "exact"  # the TG-263 name
    ALIAS = "alias"  # a spelling of the catalogue, with a side in any language
    LIKELY = "likely"  # resembles one: not used until a person confirms it
    NONE = "none"  # nothing that the catalogue knows
    PARTIAL = "partly drawn"  # marked with TG-263's tilde: never the whole organ
    NO_ORGAN = "no organ"  # a target, a margin, a planning aid
    CONFIRMED = "confirmed"  # a person said so


# Of these a reading takes a spelling for no organ.
UNSURE = (Certainty.LIKELY, Certainty.NONE, Certainty.PARTIAL, Certainty.NO_ORGAN)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a spelling is taken for.

    Attributes
    ----------
    taken_for
        TG-263 name; NO_ORGAN; or empty: unknown.
    suggestion
        What it probably is, where that is not sure enough.
    """

    taken_for: str
    certainty: Certainty
    suggestion: str = ""

    @property
    def organ(self) -> str | None:
        """The organ, None where it is none or unknown."""
        return self.taken_for if self.taken_for not in ("", NO_ORGAN) else None


def interpret(spelling: str, vocabulary: Vocabulary | None = None) -> Reading:
    """Read one spelling.

    Targets, margins and planning aids are no organs, unless the whole name stands in the catalogue (``larynx_opt``). A
    paired organ without its side is unknown, and so is one that is marked as partly drawn.

    Parameters
    ----------
    vocabulary
        By default that of the catalogue that ships.
    """
    vocabulary = vocabulary or shipped_vocabulary()
    if spelling in vocabulary.known:
        return Reading(spelling, Certainty.EXACT)
    words = _words(spelling)
    if not words:
        return Reading("", Certainty.NONE)
    if any(tilde in spelling for tilde in TILDES):
        no_organ = _is_no_organ(spelling, words)
        return Reading(NO_ORGAN, Certainty.NO_ORGAN) if no_organ else Reading("", Certainty.PARTIAL)
    found = _look_up(words, _naming().sides, vocabulary.bases)
    if found is not None and not MARGIN.search(_plain(spelling)):
        return Reading(found, Certainty.ALIAS)
    both = {**_naming().sides, **_naming().doubtful}
    may_be = _look_up(words, both, vocabulary.bases) or _look_up(words, both, vocabulary.may_be)
    if may_be is not None and not MARGIN.search(_plain(spelling)):
        return Reading("", Certainty.LIKELY, may_be)
    if _is_no_organ(spelling, words):
        return Reading(NO_ORGAN, Certainty.NO_ORGAN)
    guess = _guess(words, vocabulary)
    return Reading("", Certainty.LIKELY, guess) if guess else Reading("", Certainty.NONE)


def _plain(spelling: str) -> str:
    """Lower case without accents."""
    decomposed = unicodedata.normalize("NFKD", spelling)
    return "".join(c for c in decomposed if not unicodedata.combining(c)).casefold().translate(LIGATURES)


def _words(spelling: str) -> tuple[str, ...]:
    """Split at what is no letter or digit, and where a small letter is followed by a capital one."""
    parted = re.sub(r"(?<=[a-z])(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z]$)", " ", spelling)
    return tuple(re.findall(r"[a-z0-9]+", _plain(parted)))


@dataclass(frozen=True, slots=True, eq=False)
class Vocabulary:
    """A catalogue, and its organs by what they are called: name without side, in one word -> side -> organ.

    Attributes
    ----------
    may_be
        The same with the spellings that may be an organ.
    """

    known: Mapping[str, Structure]
    bases: Mapping[str, Mapping[Laterality, str]]
    may_be: Mapping[str, Mapping[Laterality, str]]


def vocabulary_of(known: Mapping[str, Structure]) -> Vocabulary:
    """Sort a catalogue's organs by their spellings."""
    bases = _families({name: [name, *structure.aliases] for name, structure in known.items()}, known)
    return Vocabulary(known, bases, _families({name: _naming().may_be.get(name, ()) for name in known}, known))


@cache
def shipped_vocabulary() -> Vocabulary:
    """Return that of the catalogue that ships."""
    return vocabulary_of(catalogue())


def _families(
    spellings: Mapping[str, Sequence[str]], known: Mapping[str, Structure]
) -> Mapping[str, Mapping[Laterality, str]]:
    bases: dict[str, dict[Laterality, str]] = {}
    for name, structure in known.items():
        family = [*spellings[name], *(spellings[structure.pair] if structure.pair is not None else ())]
        # An umlaut is written with an e, or without its dots.
        for spelling in dict.fromkeys(text for one in family for text in (one, one.translate(UMLAUTS))):
            words = [w for w in _words(spelling) if structure.pair is None or w not in _naming().sides]
            bases.setdefault("".join(words), {})[structure.laterality] = name
    return MappingProxyType(bases)


def _look_up(
    words: Sequence[str], sides: Mapping[str, Laterality], bases: Mapping[str, Mapping[Laterality, str]]
) -> str | None:
    """Find a whole name, then one with exactly one side in front of it or behind it."""
    whole = bases.get("".join(words), {}).get(Laterality.MIDLINE)
    if whole is not None:
        return whole
    found = set()
    for i in {0, len(words) - 1}:
        if words[i] in sides and len(words) > 1:
            rest = "".join([*words[:i], *words[i + 1 :]])
            found.add(bases.get(rest, {}).get(sides[words[i]]))
    # A side that is written without a gap: PAROTIDL, PAROTISRE, LPAROTID.
    if len(words) == 1:
        for side, laterality in sides.items():
            for rest in (words[0].removesuffix(side), words[0].removeprefix(side)):
                if rest != words[0] and len(rest) >= 4:
                    found.add(bases.get(rest, {}).get(laterality))
    found.discard(None)
    return found.pop() if len(found) == 1 else None


def _is_no_organ(spelling: str, words: Sequence[str]) -> bool:
    plain = _plain(spelling)
    return (
        any(word.startswith(_naming().targets) for word in words)
        or any(word in _naming().planning for word in words)
        or MARGIN.search(plain) is not None
        or HIDDEN.search(spelling) is not None
        or bool(re.search(r"[+&/]|(?<=[a-z])-(?=ptv|ctv|gtv)", plain))
    )


def _guess(words: Sequence[str], vocabulary: Vocabulary) -> str:
    """Find an organ whose name resembles this one, cut off or misspelt; empty where none or several do."""
    bases = vocabulary.bases
    side = next((_naming().sides[w] for w in words if w in _naming().sides), None)
    if side is None and words[-1] in _naming().doubtful:
        side, words = _naming().doubtful[words[-1]], words[:-1]
    joined = "".join(w for w in words if w not in _naming().sides)
    if len(joined) < SHORTEST_GUESS:
        return ""
    cut_off = [base for base in bases if base.startswith(joined)]
    longer = [base for base in bases if len(base) >= SHORTEST_GUESS and joined.startswith(base)]
    near = cut_off or longer or difflib.get_close_matches(joined, list(vocabulary.bases), n=3, cutoff=ALIKE)
    wanted = {bases[base].get(side or Laterality.MIDLINE) for base in near} - {None}
    return str(wanted.pop()) if len(wanted) == 1 else ""
