"""The kinds of networks that a bundle can hold; ``kind`` in model.json chooses one."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, SerializeAsAny, ValidationInfo
from pydantic.functional_validators import PlainValidator
from pydantic_core import PydanticCustomError

from contourd.model.anatomynet import AnatomyNet
from contourd.model.network import Network, NetworkConfig

# Of bundles that name none.
FIRST_KIND = "anatomynet"
# Kind -> what builds the network from the bundle's model configuration.
NETWORKS: dict[str, type[Network]] = {FIRST_KIND: AnatomyNet}
UNKNOWN_KIND = "unknown_kind"


def build_network(kind: str, config: NetworkConfig) -> Network:
    """Build a network of a known kind with weights by chance, in training mode."""
    return NETWORKS[kind](config)


def _known(kind: str) -> str:
    if kind not in NETWORKS:
        message = "{kind} is no kind of network that this version knows: {known}"
        raise PydanticCustomError(UNKNOWN_KIND, message, {"kind": kind[:64], "known": ", ".join(NETWORKS)})
    return kind


def _of_its_kind(given: object, validated: ValidationInfo) -> object:
    """Read the configuration as its kind does; where the kind is unknown, that alone is told."""
    kind = validated.data.get("kind")
    return given if kind is None else NETWORKS[kind].configuration.model_validate(given)


# Of a model's fields: ``kind`` stands before the configuration.
Kind = Annotated[str, AfterValidator(_known)]
ConfigOfKind = Annotated[SerializeAsAny[NetworkConfig], PlainValidator(_of_its_kind)]
