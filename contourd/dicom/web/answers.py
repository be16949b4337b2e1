"""What an origin server says of one instance in a Store Instances Response (PS3.18 10.5.3 and annex I), JSON or XML."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from contourd.dicom.network.outcomes import Outcome, OutcomeKind

REFERENCED, FAILED = "00081199", "00081198"
SOP_CLASS, SOP_INSTANCE, WARNING_REASON, FAILURE_REASON = "00081150", "00081155", "00081196", "00081197"
DUPLICATE, PROCESSING_FAILURE, OUT_OF_RESOURCES = 0x0111, 0x0110, 0xA7
# What is read of an answer, and how deep: a server that says more, or more deeply, says nothing that is needed.
MOST_BYTES, DEEPEST = 1 << 20, 20
Values = Mapping[str, Sequence[object]]


class AnswerUnreadable(Exception):
    """What came is no Store Instances Response."""


@dataclass(frozen=True, slots=True)
class StoredReport:
    """What an answer says of each instance: those that it has, with a warning or 0, and those that failed, and why.

    The keys are (SOP class UID, SOP instance UID).
    """

    stored: Mapping[tuple[str, str], int]
    failed: Mapping[tuple[str, str], int]


def read_answer(content: bytes) -> StoredReport:
    """Read an answer by what it holds, whatever it is declared as; raises AnswerUnreadable."""
    text = content.strip()
    try:
        dataset = _from_xml(text) if text[:1] == b"<" else _from_json(text)
        return StoredReport(
            {_names(item): _number(item, WARNING_REASON, 0) for item in _items(dataset, REFERENCED)},
            {_names(item): _number(item, FAILURE_REASON, PROCESSING_FAILURE) for item in _items(dataset, FAILED)},
        )
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError, ElementTree.ParseError) as error:
        raise AnswerUnreadable(type(error).__name__) from error


def outcome_of(report: StoredReport, instance: tuple[str, str], where: str, status: int) -> Outcome:
    """Classify what an answer says of one instance: it is there only where it is named as stored.

    Parameters
    ----------
    where
        The destination, in words.
    status
        Of HTTP.
    """
    if instance in report.failed:
        reason = report.failed[instance]
        if reason == DUPLICATE:  # an earlier answer was lost
            return Outcome(OutcomeKind.ACCEPTED, f"{where} has it already: failure reason 0x{reason:04X}")
        again = reason == PROCESSING_FAILURE or reason >> 8 == OUT_OF_RESOURCES
        kind = OutcomeKind.RETRY if again else OutcomeKind.REFUSED
        verb = "cannot take it now" if again else "refused it"
        return Outcome(kind, f"{where} {verb}: failure reason 0x{reason:04X}")
    if instance not in report.stored:
        named = len(report.stored) + len(report.failed)
        said = "names another instance than was sent" if named else "names no instance"
        return Outcome(OutcomeKind.IMPROPER, f"{where} answered {status}, and its answer {said}")
    warning = report.stored[instance]
    told = f"{where} took it with a warning: reason 0x{warning:04X}" if warning else ""
    return Outcome(OutcomeKind.ACCEPTED, told)


def _names(item: Values) -> tuple[str, str]:
    (sop_class,), (sop_instance,) = item[SOP_CLASS], item[SOP_INSTANCE]
    return str(sop_class).strip("\0 "), str(sop_instance).strip("\0 ")


def _number(item: Values, tag: str, absent: int) -> int:
    values = item.get(tag) or [absent]
    return int(str(values[0]))


def _items(dataset: Values, tag: str) -> Iterator[Values]:
    for item in dataset.get(tag, ()):
        if not isinstance(item, Mapping):
            raise TypeError("an item of a sequence is none")
        yield item


def _from_json(text: bytes) -> Values:
    """Read the DICOM JSON model (PS3.18 annex F); some servers put the one dataset into a list."""
    content = json.loads(text)
    if isinstance(content, list):
        (content,) = content
    return _json_dataset(content, 0)


def _json_dataset(content: object, depth: int) -> Values:
    if not isinstance(content, Mapping) or depth > DEEPEST:
        raise TypeError("no dataset")
    found: dict[str, Sequence[object]] = {}
    for tag, element in content.items():
        values = element.get("Value") or []
        sequence = element.get("vr") == "SQ"
        found[str(tag).upper()] = [_json_dataset(one, depth + 1) for one in values] if sequence else list(values)
    return found


def _from_xml(text: bytes) -> Values:
    """Read the Native DICOM Model (PS3.19 A.1); nothing of it needs a document type."""
    if b"<!" in text:
        raise ValueError("a document type")
    root = ElementTree.fromstring(text)
    if _local(root) != "NativeDicomModel":
        raise ValueError("no Native DICOM Model")
    return _xml_dataset(root, 0)


def _xml_dataset(node: ElementTree.Element, depth: int) -> Values:
    if depth > DEEPEST:
        raise ValueError("too deep")
    found: dict[str, Sequence[object]] = {}
    for attribute in node:
        if _local(attribute) != "DicomAttribute":
            continue
        if attribute.get("vr") == "SQ":
            values: list[object] = [_xml_dataset(item, depth + 1) for item in attribute if _local(item) == "Item"]
        else:
            values = [value.text or "" for value in attribute if _local(value) == "Value"]
        found[attribute.attrib["tag"].upper()] = values
    return found


def _local(node: ElementTree.Element) -> str:
    return node.tag.rpartition("}")[2]
