"""What a recipe chooses by name, with parameters of its own: a registry says which there are, and what each takes.

In TOML the parameters stand beside the name: ``[[loss.stage]]``, ``name = "dice_focal"``, ``gamma = 1.5``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator


class Parameters(BaseModel):
    """The parameters of one entry of a registry; a subclass is the entry."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the parameters as a recipe calls them."""
        return tuple(field.alias or name for name, field in cls.model_fields.items())


class RegistryEntry(BaseModel):
    """An entry of a registry by its name, with all its parameters; a subclass adds what each entry has.

    Attributes
    ----------
    registry
        Name -> the entry.
    kind
        What the registry has, for the messages.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    registry: ClassVar[Mapping[str, type[Parameters]]]
    kind: ClassVar[str]

    name: str

    @model_validator(mode="before")
    @classmethod
    def _with_all_parameters(cls, content: Any) -> Any:
        """Check the parameters against the entry's own, and add those that are not given."""
        if not isinstance(content, Mapping):
            return content
        own = {key: value for key, value in content.items() if key in cls.model_fields}
        given = {key: value for key, value in content.items() if key not in cls.model_fields}
        name = own.get("name", cls.model_fields["name"].default)
        entry = cls.registry.get(name) if isinstance(name, str) else None
        if entry is None:
            raise ValueError(f"{name!r} is no {cls.kind}: choose from {', '.join(cls.registry)}")
        unknown = [str(key) for key in given if key not in entry.names()]
        if unknown:
            takes = ", ".join(entry.names()) or "none of its own"
            raise ValueError(
                f"the {cls.kind} {name} has no parameter {', '.join(unknown)}: it takes {takes}, "
                f"and every {cls.kind} takes {', '.join(cls.model_fields)}"
            )
        try:
            return {**own, **entry.model_validate(given).model_dump(by_alias=True)}
        except ValidationError as error:
            text = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            raise ValueError(f"the {cls.kind} {name}: {text}") from None
