"""The network and what is around it: bundle, inference, the patient's body, plausibility. Neither DICOM nor queue."""

__all__ = [
    "agreement",
    "body",
    "bundle",
    "commissioning",
    "library",
    "limits",
    "model_identity",
    "network",
    "networks",
    "openvino_runtime",
    "plausibility",
    "predictor",
    "remarks",
    "runtime",
    "runtime_description",
    "sides",
    "site_structures",
    "structures",
    "torch_runtime",
    "transforms",
]
