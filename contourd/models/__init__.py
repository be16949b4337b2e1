"""The models of this node: where they lie, which is in force, how one is put into use, and what runs its network."""

__all__ = [
    "activation",
    "activations",
    "listing",
    "nnunet_import",
    "orders",
    "organ_map",
    "placement",
    "records",
    "runtimes",
]
