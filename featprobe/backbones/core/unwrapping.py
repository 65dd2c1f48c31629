"""Finding the network in a checkpoint, whatever its method of training wrapped around it.

A file is laid out as sheets (mappings of names to tensors, however deep they are nested), and every prefix of a
sheet's names is a candidate. The candidate whose names and shapes agree best with the wanted architecture is taken;
the tables of `styles` decide between copies that agree equally well, and alone where no architecture is wanted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch

from featprobe.backbones.core.styles import (
    BY_WORD,
    DIALECTS,
    SECOND,
    WRAPPERS,
    Dialect,
    Part,
    is_training_state,
    leftover,
    preference,
    reason,
    split_name,
)

Shapes = Mapping[str, tuple[int, ...]]

# A copy whose agreement is within this share of the best one's is taken for as good.
_AS_GOOD: Final = 0.95
# Below this share of the wanted names no candidate is the wanted network, and the tables alone decide.
_AGREES: Final = 0.2
_DEPTH: Final = 8


@dataclass(frozen=True, slots=True)
class Choice:
    """The network of a checkpoint: `tensors` under their new names, `originals` new name -> name in the file.

    `notes` say in words what was done; `left_out`: name in the file -> why it is not needed ("" unknown), for
    everything else. A name of another entry than the network's is written ENTRY/NAME.
    """

    tensors: dict[str, torch.Tensor]
    originals: dict[str, str]
    notes: tuple[str, ...]
    left_out: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Sheet:
    entries: tuple[str, ...]
    tensors: dict[str, torch.Tensor]

    @property
    def named(self) -> bool:
        """Whether it is more than a list, such as the moving averages that some trainers keep in order."""
        return not all(name.isdigit() for name in self.tensors)


@dataclass(frozen=True, slots=True)
class _Candidate:
    sheet: _Sheet
    prefix: str
    names: dict[str, str]  # new name -> name in the sheet
    dialect: str = ""

    @property
    def words(self) -> list[str]:
        return [*self.sheet.entries, *self.prefix.split(".")[:-1]]

    @property
    def parts(self) -> list[Part]:
        return [BY_WORD[word] for word in self.words if word in BY_WORD]


def choose(content: Any, wanted: Shapes | None = None) -> Choice | None:
    """The network in `content` (nested dictionaries of tensors) that agrees best with `wanted`, None where none is.

    Without `wanted`, or where nothing agrees with it, the declared words alone say where the network begins.
    """
    sheets = list(_sheets(content, (), set()))
    networks = [sheet for sheet in sheets if sheet.named and not is_training_state(sheet.entries)]
    if not networks:
        return None
    candidate = (_agreeing(networks, wanted) if wanted else None) or _declared(networks)
    return _taken(candidate, sheets, wanted or {})


def _sheets(content: Any, entries: tuple[str, ...], seen: set[int]) -> Iterator[_Sheet]:
    # A file may hold a dictionary that contains itself.
    if len(entries) > _DEPTH or id(content) in seen:
        return
    if isinstance(content, (list, tuple)):
        items = [(str(place), value) for place, value in enumerate(content)]
    elif isinstance(content, dict):
        # `dict.items`, not `content.items`: a file may give an OrderedDict attributes of its own.
        items = [(str(name), value) for name, value in dict.items(content)]
    else:
        return
    seen.add(id(content))
    tensors = {name: value.detach() for name, value in items if isinstance(value, torch.Tensor)}
    if tensors:
        yield _Sheet(entries, tensors)
    for name, value in items:
        yield from _sheets(value, (*entries, name), seen)


def _agreeing(sheets: Sequence[_Sheet], wanted: Shapes) -> _Candidate | None:
    scored = [
        (score, candidate)
        for sheet in sheets
        for candidate in _candidates(sheet)
        if (score := _agreement(candidate, wanted))
    ]
    best = max((score for score, _ in scored), default=0.0)
    if best < _AGREES * len(wanted) / 2:
        return None
    _, chosen = min(
        ((score, candidate) for score, candidate in scored if score >= _AS_GOOD * best),
        key=lambda pair: (preference(pair[1].words), -pair[0], len(pair[1].words)),
    )
    return chosen


def _agreement(candidate: _Candidate, wanted: Shapes) -> float:
    """Tensors of the wanted name count half, of the wanted name and shape whole."""
    tensors, score = candidate.sheet.tensors, 0.0
    for new, old in candidate.names.items():
        if new in wanted:
            score += 1.0 if tuple(tensors[old].shape) == tuple(wanted[new]) else 0.5
    return score


def _candidates(sheet: _Sheet) -> Iterator[_Candidate]:
    inside: dict[str, dict[str, str]] = {"": {name: name for name in sheet.tensors}}
    for name in sheet.tensors:
        end = name.find(".")
        while end >= 0:
            inside.setdefault(name[: end + 1], {})[name[end + 1 :]] = name
            end = name.find(".", end + 1)
    for prefix, names in inside.items():
        for dialect in DIALECTS:
            renamed = _renamed(names, dialect)
            if renamed is not None:
                yield _Candidate(sheet, prefix, renamed, dialect.what)


def _renamed(names: Mapping[str, str], dialect: Dialect) -> dict[str, str] | None:
    if not dialect.rules:
        return dict(names)
    if not any(re.search(dialect.tell, name) for name in names):
        return None
    renamed = {_substituted(name, dialect.rules): old for name, old in names.items()}
    return renamed if len(renamed) == len(names) else None


def _substituted(name: str, rules: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        changed, count = re.subn(pattern, replacement, name)
        if count:
            return changed
    return name


def _declared(sheets: Sequence[_Sheet]) -> _Candidate:
    sheet = min(sheets, key=lambda sheet: (preference(sheet.entries), -len(sheet.tensors)))
    prefix = ""
    while True:
        names = [name.removeprefix(prefix) for name in sheet.tensors if name.startswith(prefix)]
        word = _outermost(names)
        if not word:
            return _Candidate(sheet, prefix, {name: prefix + name for name in names})
        prefix += f"{word}."


def _outermost(names: Sequence[str]) -> str:
    """The declared first word behind which the network stands, "" where it stands in the open."""
    behind = [
        word
        for word in {name.split(".", maxsplit=1)[0] for name in names if "." in name}
        if (word in BY_WORD and BY_WORD[word].sure)
        or ((word in WRAPPERS or word in BY_WORD) and _alone(word, names))
    ]
    return min(behind, key=lambda word: (preference([word]), word), default="")


def _alone(word: str, names: Iterable[str]) -> bool:
    return all(name.startswith(f"{word}.") or reason(name) for name in names)


def _taken(candidate: _Candidate, sheets: Sequence[_Sheet], wanted: Shapes) -> Choice:
    sheet, chosen = candidate.sheet, candidate.words
    names = {
        new: old
        for new, old in candidate.names.items()
        if new in wanted or leftover([new.split(".", maxsplit=1)[0]], inside=True) is None
    }
    # A classifier that stands beside the network it was trained on is wanted where the backbone has it.
    names |= {name: name for name in sheet.tensors if name in wanted and name not in names}
    used = set(names.values())
    left_out = {name: reason(name, chosen=chosen) for name in sorted(sheet.tensors) if name not in used}
    for other in sheets:
        paths = [] if other is sheet else ["/".join([*other.entries, name]) for name in sorted(other.tensors)]
        left_out |= {path: reason(path) or _copy_of(path, names) for path in paths}
    return Choice(
        tensors={new: sheet.tensors[old] for new, old in names.items()},
        originals=names,
        notes=_notes(candidate, left_out),
        left_out=left_out,
    )


def _copy_of(path: str, names: Mapping[str, str]) -> str:
    """That `path` of another entry is a second copy of a tensor that was taken, else ""."""
    ends = (path[place + 1 :] for place, sign in enumerate(path) if sign in "./")
    return "another copy" if any(end in names for end in ends) else ""


def _notes(candidate: _Candidate, left_out: Mapping[str, str]) -> tuple[str, ...]:
    entries, prefix = candidate.sheet.entries, candidate.prefix
    said: list[str] = []
    if entries:
        said.append(f"the weights were taken from its entry {'/'.join(entries)!r}")
    if prefix:
        said.append(_prefix_note(prefix))
    if candidate.dialect:
        said.append(f"{candidate.dialect} were turned into timm's names")
    second = [part.what for part in candidate.parts if part.copy == SECOND]
    if second:
        said.append(f"there is no better copy in it than {second[0]}")
    if left_out:
        said.append(f"{len(left_out)} tensors outside it were left out ({counted(left_out.values())})")
    style = _style(candidate, left_out)
    return (f"{style} checkpoint: {', '.join(said)}" if style else ", ".join(said),) if said else ()


def _prefix_note(prefix: str) -> str:
    words = prefix.split(".")[:-1]
    parts = [BY_WORD[word] for word in words if word in BY_WORD]
    if parts:
        return f"{parts[0].what}'s prefix {prefix!r} was taken off"
    if not set(words) <= WRAPPERS or len(words) == 1:
        return f"the prefix {prefix!r} was taken off"
    return f"the prefixes {' and '.join(repr(f'{word}.') for word in words)} were taken off"


def counted(reasons: Iterable[str]) -> str:
    """Reasons with their numbers, such as "122 key encoder, 4 head, 1 of unknown use"."""
    counts = Counter(why or "of unknown use" for why in reasons)
    return ", ".join(f"{count} {why}" for why, count in counts.most_common())


def _style(candidate: _Candidate, left_out: Iterable[str]) -> str:
    """The method's name, from the words that lead to the network or else from those that were left out."""
    if "classy_state_dict" in candidate.sheet.entries:
        return "VISSL"
    declared = [part.style for part in candidate.parts if part.style]
    if declared:
        return declared[0]
    rows = (leftover(split_name(name)) for name in left_out)
    return next((row.style for row in rows if row and row.style), "")
