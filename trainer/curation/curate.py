"""Archives -> a data set: names unified, structures matched with their CT, contours filled, the chest removed.

The four cleaning steps of Zhu et al., section 2.4, and what they leave open: an audit of the shapes, splits by patient,
and a report that a person can read and correct.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from contourd import __version__
from contourd.errors import DatasetError
from contourd.model.site_structures import extended_catalogue
from contourd.model.spellings import vocabulary_of
from trainer.atomic import replacing, write_text
from trainer.case import Annotation, read_case, write_case
from trainer.curation.archive import Item, SkippedItem, Stage
from trainer.curation.audit import EXCLUDING, AuditFinding, Rule, audit, excluded
from trainer.curation.conversion import ConversionOptions, Converted, case_file, convert, known
from trainer.curation.discovery import Source, find_items, parse_sources
from trainer.curation.pseudonyms import PseudonymisedItem, identify
from trainer.curation.report import Curation, write_curation_report
from trainer.curation.splits import SPLITS, Member, Shares, refuse_doubles, split_together
from trainer.curation.twin_splits import TwinPair, describe_twins, fixed_splits, joined_patients, outnumbered
from trainer.curation.twins import Scan, find_twins
from trainer.names import mapping, review
from trainer.progress import tracked

WORK = ".work"
TWINS = ".twins"
MANIFEST = "dataset.json"
NAMES = "names.toml"
REPORT = "report.html"


@dataclass(frozen=True, slots=True)
class Options:
    """How to curate.

    Attributes
    ----------
    keep_splits
        Take a case's split from the folders' names (train, train-pats, validation ...) where they have one.
    rules
        Audit rules that exclude.
    structures
        A site's own organs, a file of the form of etc/structures.toml.
    """

    keep_chest: bool = False
    keep_splits: bool = False
    shares: Shares = field(default_factory=Shares)
    seed: int = 0
    workers: int = 1
    rules: frozenset[Rule] = EXCLUDING
    structures: Path | None = None


class CuratedCase(BaseModel):
    """A case of the data set in dataset.json."""

    model_config = ConfigDict(frozen=True)

    identifier: str
    source: str
    split: str
    content: str
    annotations: Mapping[str, Annotation]
    excluded: Mapping[str, tuple[str, ...]] = {}
    remarks: tuple[str, ...] = ()
    removed_mm: float = 0.0


class Manifest(BaseModel):
    """dataset.json; patients are keyed hashes, and ``twins`` are cases that are the same scan."""

    model_config = ConfigDict(frozen=True)

    schema_version: int = 1
    contourd: str = __version__
    cases: tuple[CuratedCase, ...]
    patients: Mapping[str, str]
    left_out: Mapping[str, str]
    twins: tuple[TwinPair, ...] = ()


def curate(sources: Sequence[Source], output: Path, options: Options) -> Curation:
    """Make or update a data set.

    Raises
    ------
    DatasetError
        A patient stands in two sources or splits, the review file cannot be used, or nothing can be read.
    SettingsError
        The site's own organs cannot be used.
    """
    vocabulary = vocabulary_of(extended_catalogue(options.structures))
    work = output / WORK
    work.mkdir(parents=True, exist_ok=True)
    found = [one for source in sources for one in find_items(source)]
    items, refused = [f for f in found if isinstance(f, Item)], [f for f in found if isinstance(f, SkippedItem)]
    named = identify(items, output)
    spelt = review(
        Counter(name for item in items for name in dict.fromkeys(item.spellings)), output / NAMES, vocabulary
    )
    organs = mapping(spelt)
    orders = {
        one.identifier: ConversionOptions(one.item, one.identifier, organs, options.keep_chest, work) for one in named
    }
    for path in work.iterdir():
        if path.stem not in orders:
            path.unlink()
    made = {}
    for converted in tracked(_converted(list(orders.values()), options.workers), len(orders), "curate"):
        made[converted.identifier] = converted
        print(_line(converted), flush=True)
    for one in named:
        if made[one.identifier].refused:
            refused.append(SkippedItem(one.item.source, one.identifier, made[one.identifier].refused, Stage.UNUSABLE))
    usable = [one for one in named if not made[one.identifier].refused]
    members = [_member(one, made[one.identifier]) for one in usable]
    doubles = refuse_doubles(members)
    for member in members:
        if member.case in doubles:
            reason = f"has the same images as {doubles[member.case]}"
            refused.append(SkippedItem(member.source, member.case, reason, Stage.ASIDE))
    members = [m for m in members if m.case not in doubles]
    findings = audit({m.case: made[m.case].shapes for m in members}, vocabulary.known)
    emptied = {
        case for case, organs in excluded(findings, options.rules).items() if organs >= made[case].annotations.keys()
    }
    for member in members:
        if member.case in emptied:
            reason = "the audit excluded every organ of it: " + "; ".join(
                f"{f.organ}, {f.reason}" for f in findings if f.case == member.case and f.rule in options.rules
            )
            refused.append(SkippedItem(member.source, member.case, reason, Stage.EXCLUDED))
    members = [m for m in members if m.case not in emptied]
    scans = [Scan(m.case, case_file(work, m.case), f"{m.content} {made[m.case].removed_mm}") for m in members]
    found_twins = find_twins(scans, output / TWINS, options.workers)
    pairs = joined_patients(members, found_twins)
    earlier, by_folder = _earlier(output), _by_folder(usable) if options.keep_splits else {}
    left = outnumbered(members, found_twins, by_folder)
    refused += [SkippedItem(m.source, m.case, left[m.case], Stage.EXCLUDED) for m in members if m.case in left]
    members = [m for m in members if m.case not in left]
    settled = fixed_splits(earlier.patients, by_folder, pairs)
    splits = split_together(members, options.shares, options.seed, settled, pairs)
    cases = [_place(m, made[m.case], splits[m.patient], findings, options, output) for m in members]
    now, before = ({c.identifier: c.split for c in some} for some in (cases, earlier.cases))
    twins = tuple(describe_twins(found_twins, left, now, before))
    for pair in twins:
        print(f"{pair.first} and {pair.second} are the same person ({pair.similarity:.2f}): {pair.done}", flush=True)
    manifest = Manifest(
        cases=tuple(cases),
        patients=splits,
        left_out={f"{r.source}: {r.name}": r.reason for r in refused},
        twins=twins,
    )
    _remove_others(output, manifest)
    write_text(output / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    curation = Curation(
        output=output,
        cases=tuple(made[c.identifier] for c in cases),
        refused=tuple(refused),
        findings=tuple(findings),
        spellings=tuple(spelt.values()),
        splits={c.identifier: c.split for c in cases},
        rules=options.rules,
        structures=vocabulary.known,
        twins=twins,
        blind=found_twins.blind,
    )
    write_curation_report(output / REPORT, work, curation)
    if not cases:
        raise DatasetError(f"nothing in {', '.join(str(s.root) for s in sources)} can be used; " + _why(refused))
    return curation


def _why(refused: Sequence[SkippedItem]) -> str:
    """Name what came farthest before it was left out: what was left out earlier explains less."""
    if not refused:
        return "no DICOM, NRRD, CSV or .npz case was found"
    last = max(refused, key=lambda r: r.stage)
    others = len(refused) - 1
    return f"{last.name}: {last.reason}" + (f" ({others} more in {REPORT})" if others else "")


def _line(converted: Converted) -> str:
    if converted.refused:
        return f"{converted.identifier}: left out, {converted.refused}"
    present = sum(a is Annotation.PRESENT for a in converted.annotations.values())
    cut = f", {converted.removed_mm:.0f} mm of chest removed" if converted.removed_mm else ""
    text = f"; {'; '.join(converted.remarks)}" if converted.remarks else ""
    return f"{converted.identifier}: {present} organs{cut}{text}"


def _converted(orders: Sequence[ConversionOptions], workers: int) -> Iterator[Converted]:
    """Yield what earlier runs made, then what is made now, in this process or in several."""
    left = []
    for order in orders:
        before = known(order)
        if before is not None:
            yield before
        else:
            left.append(order)
    if workers <= 1:
        yield from map(convert, left)
        return
    # spawn: a forked child of a process with threads may hang.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(convert, order) for order in left]
        for future in as_completed(futures):
            yield future.result()


def _member(one: PseudonymisedItem, converted: Converted) -> Member:
    organs = frozenset(n for n, a in converted.annotations.items() if a is not Annotation.UNKNOWN)
    return Member(one.identifier, one.item.source, one.patient, converted.content, organs)


def _earlier(output: Path) -> Manifest:
    """Return what an earlier run wrote; nothing where there was none."""
    try:
        return Manifest.model_validate_json((output / MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return Manifest(cases=(), patients={}, left_out={})


def _by_folder(named: Sequence[PseudonymisedItem]) -> dict[str, str]:
    """Return patient -> split that its folders are called after.

    Raises
    ------
    DatasetError
        A patient's folders name two splits.
    """
    by_folder: dict[str, str] = {}
    for one in named:
        for name in one.item.splits:
            other = by_folder.setdefault(one.patient, name)
            if other != name:
                raise DatasetError(f"{one.identifier}: the same patient is in {other} and in {name}")
    return by_folder


def _place(
    member: Member,
    converted: Converted,
    name: str,
    findings: Sequence[AuditFinding],
    options: Options,
    output: Path,
) -> CuratedCase:
    """Put a case into its split; organs that the audit excludes become unknown in it."""
    own = [f for f in findings if f.case == member.case]
    out = sorted(excluded(own, options.rules).get(member.case, set()))
    source, folder = case_file(output / WORK, member.case), output / name
    folder.mkdir(exist_ok=True)
    target = case_file(folder, member.case)
    annotations = {organ: a for organ, a in converted.annotations.items() if organ not in out}
    if out:
        case = read_case(source)
        masks = {organ: mask for organ, mask in case.masks.items() if organ not in out}
        write_case(replace(case, masks=masks, annotations=annotations), target)
    elif not target.exists() or not source.samefile(target):
        _link(source, target)
    reasons: dict[str, tuple[str, ...]] = {}
    for finding in own:
        if finding.organ in out and finding.rule in options.rules:
            text = f"{finding.rule.value}: {finding.reason}"
            reasons[finding.organ] = (*reasons.get(finding.organ, ()), text)
    return CuratedCase(
        identifier=member.case,
        source=member.source,
        split=name,
        content=member.content,
        annotations=annotations,
        excluded=reasons,
        remarks=converted.remarks,
        removed_mm=converted.removed_mm,
    )


def _link(source: Path, target: Path) -> None:
    """Give a case a second name where the file system can, through a temporary one."""
    with replacing(target) as partial:
        partial.unlink(missing_ok=True)
        try:
            os.link(source, partial)
        except OSError:
            partial.write_bytes(source.read_bytes())


def _remove_others(output: Path, manifest: Manifest) -> None:
    """Remove cases that an earlier run put into a split and this one did not; other files are not touched."""
    kept = {(case.split, case.identifier) for case in manifest.cases}
    for case in _earlier(output).cases:
        if (case.split, case.identifier) not in kept:
            case_file(output / case.split, case.identifier).unlink(missing_ok=True)


def run_curation(sources: Sequence[str], output: Path, options: Options) -> Curation:
    """Curate as ``contourd curate`` does, and say what came of it.

    Raises
    ------
    DatasetError
        See curate.
    """
    curation = curate(parse_sources(sources), output, options)
    counts = Counter(curation.splits.values())
    print(f"{len(curation.cases)} cases: " + ", ".join(f"{counts[name]} {name}" for name in SPLITS if counts[name]))
    print(f"{len(curation.refused)} things left out, {len(curation.exclusions)} organs excluded, each with its reason")
    if curation.twins:
        print(f"{len(curation.twins)} pairs are the same person twice, whatever they are called; none is in two splits")
    if curation.blind:
        print(f"{len(curation.blind)} cases show no bones: whether they stand twice cannot be seen")
    if waiting := curation.open_names:
        print(f"{waiting} names are taken for nothing yet; say what they are in {output / NAMES} and curate again")
    print(f"report: {output / REPORT}")
    return curation
