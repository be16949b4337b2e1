"""What each model of a job did: drew its organs, or why it drew none. Kept with the job, and told by it everywhere."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any

from contourd.model.model_identity import ModelIdentity
from contourd.model.runtime_description import RuntimeDescription
from contourd.reasons.catalogue import Reason


@dataclass(frozen=True, slots=True)
class ModelUse:
    """One model of a job.

    Attributes
    ----------
    asked
        As the route calls it.
    identity
        None where it could not be found.
    runtime
        What ran its network, None where it did not run.
    organs
        Those that are its to draw: what it lists and no earlier model does; of one that failed, what is missing for it.
    failed
        Why it drew nothing, None where it drew.
    """

    asked: str
    identity: ModelIdentity | None = None
    runtime: RuntimeDescription | None = None
    organs: tuple[str, ...] = ()
    failed: Reason | None = None

    @property
    def drew(self) -> bool:
        """Whether it ran to its end."""
        return self.failed is None

    @property
    def name(self) -> str:
        """Its name and version; of one that could not be found what the route calls it."""
        return f"{self.identity.name} {self.identity.version}" if self.identity is not None else self.asked

    def text(self) -> str:
        """Return which it is, in words, and why it drew nothing."""
        which = self.identity.text() if self.identity is not None else self.asked
        return which if self.failed is None else f"{which} drew nothing ({self.failed})"

    def missing_text(self) -> str:
        """Return what is missing for its failure, and why.

        By the reason's code alone: its sentence may name a folder of the site, and this goes out with what is drawn.
        """
        organs = ", ".join(self.organs) if self.organs else "its organs"
        why = self.failed.code.value.replace("_", " ") if self.failed is not None else ""
        which = self.name if self.identity is not None else PurePath(self.asked).name
        return f"incomplete: {organs} missing, for {which} did not draw ({why})"

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "asked": self.asked,
            "identity": asdict(self.identity) if self.identity is not None else None,
            "runtime": asdict(self.runtime) if self.runtime is not None else None,
            "organs": list(self.organs),
            "failed": self.failed.plain() if self.failed is not None else None,
        }

    @classmethod
    def of_plain(cls, said: dict[str, Any]) -> ModelUse:
        """Read what ``plain`` returned."""
        identity, runtime, failed = said["identity"], said["runtime"], said["failed"]
        return cls(
            said["asked"],
            ModelIdentity(**identity) if identity is not None else None,
            RuntimeDescription(**runtime) if runtime is not None else None,
            tuple(said["organs"]),
            Reason.read(failed["code"], json.dumps(failed["detail"])) if failed is not None else None,
        )


def uses_to_json(uses: Sequence[ModelUse]) -> str:
    """Return them as the queue keeps them."""
    return json.dumps([use.plain() for use in uses])


def uses_from_json(text: str) -> tuple[ModelUse, ...]:
    """Read what ``uses_to_json`` wrote."""
    return tuple(map(ModelUse.of_plain, json.loads(text)))


def hash_of_uses(uses: Sequence[ModelUse]) -> str:
    """Return what stands for the models in UIDs: of a single one its hash, of several one over all, in their order.

    What one of them failed for is part of it: with another reason, or without one, the structure set is another.
    """
    if len(uses) == 1 and uses[0].identity is not None:
        return uses[0].identity.sha256
    said = []
    for use in uses:
        identity = [use.identity.name, use.identity.version, use.identity.sha256] if use.identity is not None else []
        failed = [use.asked, use.failed.plain(), list(use.organs)] if use.failed is not None else []
        said.append([identity, failed])
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
