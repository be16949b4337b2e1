"""A site's own organs: a file of the form of etc/structures.toml, which adds to what ships and changes none."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from contourd.errors import SettingsError
from contourd.model.structures import Laterality, Structure, catalogue, side_of, without_side

LARGEST_BYTES = 2**20
# As the names of ROIs.
NAME = re.compile(r"[A-Za-z0-9_+~^-]{1,64}")
Level = Annotated[int, Field(ge=0, le=255)]


class _Entry(BaseModel):
    """One organ; of an organ that ships, further aliases alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    colour: tuple[Level, Level, Level] | None = None
    pair: str | None = None
    aliases: tuple[str, ...] = ()


_ENTRIES = TypeAdapter(dict[str, _Entry])


def extended_catalogue(path: Path | None) -> Mapping[str, Structure]:
    """Return the catalogue that ships, with what a site's file adds.

    Parameters
    ----------
    path
        None: nothing is added.

    Raises
    ------
    SettingsError
        The file cannot be read, or contradicts itself or the catalogue: every problem.
    """
    if path is None:
        return catalogue()
    entries = _read(path)
    problems = [*_unfit(entries), *_other_aliases(entries)]
    if problems:
        raise SettingsError(str(path), problems)
    known = dict(catalogue())
    for name, entry in entries.items():
        if name in known:
            own = known[name]
            known[name] = Structure(name, (*own.aliases, *entry.aliases), own.colour, own.interpreted_type, own.pair)
        else:
            assert entry.colour is not None
            known[name] = Structure(name, entry.aliases, entry.colour, pair=entry.pair)
    return MappingProxyType(known)


def site_colours(path: Path | None) -> dict[str, tuple[int, int, int]]:
    """Return the colours, RGB 0 to 255, of the organs that a site's file adds; raises SettingsError."""
    return {name: one.colour for name, one in extended_catalogue(path).items() if name not in catalogue()}


def _read(path: Path) -> dict[str, _Entry]:
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise SettingsError(str(path), [f"has more than {LARGEST_BYTES} bytes"])
        return _ENTRIES.validate_python(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingsError(str(path), [f"cannot be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(str(path), [f"not valid TOML: {error}"]) from error
    except ValidationError as error:
        raise SettingsError(
            str(path), [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        ) from error


def _unfit(entries: Mapping[str, _Entry]) -> Iterator[str]:
    """Find what is wrong with single entries and their pairs."""
    shipped = {name.casefold(): name for name in catalogue()}
    for name, entry in entries.items():
        own = catalogue().get(name)
        if own is not None:
            if entry.colour not in (None, own.colour) or entry.pair not in (None, own.pair):
                yield f"{name}: contourd knows it with another colour or pair; only aliases can be added to it"
            continue
        if not NAME.fullmatch(name):
            yield f"{name!r} is no name of an ROI (1 to 64 of A-Z a-z 0-9 _ + ~ ^ -)"
        if name.casefold() in shipped:
            yield f"{name}: contourd knows it as {shipped[name.casefold()]}"
        if entry.colour is None:
            yield f"{name}: needs a colour, as [255, 160, 0]"
        if entry.pair is not None:
            yield from _other_pair(name, entry.pair, entries)


def _other_pair(name: str, pair: str, entries: Mapping[str, _Entry]) -> Iterator[str]:
    other = entries.get(pair)
    sides = {side_of(name), side_of(pair)}
    if other is None or other.pair != name:
        yield f'{name}: its pair {pair} must stand in the file, with pair = "{name}"'
    elif sides != {Laterality.LEFT, Laterality.RIGHT} or without_side(name) != without_side(pair):
        yield f"{name}: {pair} is not the same organ on the other side, by its name"


def _other_aliases(entries: Mapping[str, _Entry]) -> Iterator[str]:
    """Find spellings that stand for two organs."""
    taken: dict[str, str] = {}
    for name, structure in catalogue().items():
        for spelling in (name, *structure.aliases):
            taken.setdefault(_folded(spelling), name)
    for name in entries:
        taken.setdefault(_folded(name), name)
    for name, entry in entries.items():
        for alias in entry.aliases:
            other = taken.setdefault(_folded(alias), name)
            # Aliases are without a side: those of a left organ are those of the right one.
            if other != name and without_side(other) != without_side(name):
                yield f"{name}: {alias!r} stands for {other} already"


def _folded(spelling: str) -> str:
    """Return letters and digits alone, small and without accents: as names are compared."""
    plain = unicodedata.normalize("NFKD", spelling.replace("ß", "ss")).casefold()
    return "".join(c for c in plain if c.isalnum() and not unicodedata.combining(c))
