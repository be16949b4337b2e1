"""The codes of reasons: why a series, a job, a delivery or an image does not go on, or did not.

A code is what parts of the program, metrics, alerts and other programs read; ``contourd.reasons.catalogue`` says what
each means and renders its sentence for people. A code that was written into a database keeps its value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | list[Json] | Mapping[str, Json] | None"
Detail = Mapping[str, Json]
Sentence = str | Callable[[Detail], str]


class HoldClass(StrEnum):
    """Classes of reasons: few and fixed, so that they can be counted; labels of metrics and words of alerts."""

    REFUSED = "refused"
    SENT_TWICE = "sent_twice"
    MISSING_SLICES = "missing_slices"
    INTERRUPTED = "interrupted"
    CONFIRMATION = "confirmation"
    BY_A_PERSON = "by_a_person"
    UNKNOWN_SENDER = "unknown_sender"
    NO_ROUTE = "no_route"
    OUTSIDE_LIMITS = "outside_limits"
    NOT_HEAD_AND_NECK = "not_head_and_neck"
    IMPLAUSIBLE = "implausible"
    READ_BACK = "read_back"
    DEVICE = "device"
    OUT_OF_MEMORY = "out_of_memory"
    IMAGES_GONE = "images_gone"
    WORKER_DIED = "worker_died"
    MODEL = "model"
    NOT_DECODED = "not_decoded"
    NOT_A_CT = "not_a_ct"
    CONSTANCY = "constancy"
    SERIES_UNUSABLE = "series_unusable"
    NODE = "node"  # of images that were refused, and of jobs that wait: the node itself could not
    DELIVERY = "delivery"  # of deliveries, and of jobs that failed with one
    NEWER = "newer"  # of jobs that newer images ended
    REVIEW = "review"  # of structure sets that came back


# Of these a series or a job is held.
HOLDING = tuple(
    c for c in HoldClass if c not in (HoldClass.NODE, HoldClass.DELIVERY, HoldClass.NEWER, HoldClass.REVIEW)
)


class HoldReason(StrEnum):
    """Every reason that contourd can give."""

    # Images that did not come, or came twice
    IMAGES_REFUSED = "images_refused"
    IMAGES_MISSING_SINCE_PURGE = "images_missing_since_purge"
    TRANSFER_ABORTED = "transfer_aborted"
    NODE_ENDED = "node_ended"
    SENDER_UNKNOWN = "sender_unknown"
    NO_ROUTE = "no_route"
    SLICES_MISSING = "slices_missing"
    TOO_FEW_SLICES = "too_few_slices"
    NO_IMAGES = "no_images"
    SENT_TWICE = "sent_twice"
    SENT_TWICE_OTHER_PATIENT = "sent_twice_other_patient"
    SENT_TWICE_THEN_AS_BEFORE = "sent_twice_then_as_before"
    SAME_UID_TWICE = "same_uid_twice"
    SAME_UID_ON_SLICES = "same_uid_on_slices"
    # A person
    WAITS_FOR_CONFIRMATION = "waits_for_confirmation"
    HELD_BY_PERSON = "held_by_person"
    CANCELLED_BY_PERSON = "cancelled_by_person"
    DATABASE_PUT_BACK = "database_put_back"
    # A constancy check's own
    CHECK_UNKNOWN = "check_unknown"
    CHECK_OVER = "check_over"
    CHECK_OTHER_IMAGES = "check_other_images"
    # No original CT of axial slices
    MULTI_FRAME_CLASS = "multi_frame_class"
    MULTI_FRAME = "multi_frame"
    OTHER_MODALITY = "other_modality"
    LOCALIZER = "localizer"
    SCREEN = "screen"
    DERIVED = "derived"
    # Pixels
    LOSSY = "lossy"
    SYNTAX_UNKNOWN = "syntax_unknown"
    SYNTAX_WITHOUT_DECODER = "syntax_without_decoder"
    NOT_DECODED = "not_decoded"
    PIXEL_FORMAT = "pixel_format"
    HIGH_BIT = "high_bit"
    PIXELS_BEYOND_BITS = "pixels_beyond_bits"
    PIXEL_MATRIX = "pixel_matrix"
    MODALITY_LUT = "modality_lut"
    RESCALE_TYPE = "rescale_type"
    RESCALE_MISSING = "rescale_missing"
    RESCALE_IMPOSSIBLE = "rescale_impossible"
    # Headers
    PATIENT_ID_MISSING = "patient_id_missing"
    PATIENT_ID_ILLEGAL = "patient_id_illegal"
    IDENTITY_ILLEGAL = "identity_illegal"
    FRAME_OF_REFERENCE_MISSING = "frame_of_reference_missing"
    FRAME_OF_REFERENCE_ILLEGAL = "frame_of_reference_illegal"
    UID_OF_SERIES = "uid_of_series"
    UID_ILLEGAL = "uid_illegal"
    HEADER_LACKS = "header_lacks"
    FOREIGN_ELEMENTS = "foreign_elements"
    LARGE_SEQUENCE = "large_sequence"
    # Geometry
    GEOMETRY_MISSING = "geometry_missing"
    ORIENTATION_IMPOSSIBLE = "orientation_impossible"
    SPACING_NOT_POSITIVE = "spacing_not_positive"
    SPACING_IMPOSSIBLE = "spacing_impossible"
    POSITION_IMPOSSIBLE = "position_impossible"
    MATRIX_TOO_LARGE = "matrix_too_large"
    TILTED = "tilted"
    TURNED = "turned"
    SHIFTED = "shifted"
    SLICES_CROWDED = "slices_crowded"
    SLICES_TOO_FAR_APART = "slices_too_far_apart"
    TOO_MANY_SLICES = "too_many_slices"
    SERIES_FULL = "series_full"
    # What `contourd route` foresees that the node would refuse
    SENDER_NOT_ALLOWED = "sender_not_allowed"
    MORE_IMAGES_THAN_ALLOWED = "more_images_than_allowed"
    # Mixtures
    PHASES = "phases"
    MIXED = "mixed"
    IMAGES_AT_ONE_PLACE = "images_at_one_place"
    SERIES_TWICE = "series_twice"
    # Images that are damaged or gone
    NO_DICOM_IMAGE = "no_dicom_image"
    DATASET_UNREADABLE = "dataset_unreadable"
    CUT_OFF = "cut_off"
    PIXELS_CUT_OFF = "pixels_cut_off"
    NO_PIXELS = "no_pixels"
    NOT_INFLATED = "not_inflated"
    INFLATES_TOO_LARGE = "inflates_too_large"
    INFLATED_CUT_OFF = "inflated_cut_off"
    IMAGE_GONE = "image_gone"
    IMAGES_DAMAGED = "images_damaged"
    IMAGES_ELSEWHERE = "images_elsewhere"
    REMOVED_WHILE_HELD = "removed_while_held"
    # A picture of a series, or a replay of a job, that cannot be had
    SPOOL_UNREADABLE = "spool_unreadable"
    TOO_LARGE_TO_SHOW = "too_large_to_show"
    NOTHING_TO_SHOW = "nothing_to_show"
    NO_SLICES_TO_SHOW = "no_slices_to_show"
    SLICES_TOO_FAR_TO_SHOW = "slices_too_far_to_show"
    FILES_PURGED = "files_purged"
    IMAGES_PURGED = "images_purged"
    SERIES_CHANGED = "series_changed"
    # What is contoured
    OUTSIDE_LIMITS = "outside_limits"
    NO_PATIENT = "no_patient"
    HEAD_BESIDE_BOX = "head_beside_box"
    NO_HEAD_AND_NECK = "no_head_and_neck"
    NO_ORGAN = "no_organ"
    ALL_WITHHELD = "all_withheld"
    # What does not read back
    ALL_REJECTED = "all_rejected"
    ORGANS_DIFFER = "organs_differ"
    CONTOUR_TOO_LONG = "contour_too_long"
    CONTOURS_FROM_NOWHERE = "contours_from_nowhere"
    STRUCTURE_SET_UNREADABLE = "structure_set_unreadable"
    ROI_UNUSABLE = "roi_unusable"
    ROI_NAME_UNFIT = "roi_name_unfit"
    ROI_NAME_TWICE = "roi_name_twice"
    VALUE_TOO_LONG = "value_too_long"
    DECIMALS_TOO_LONG = "decimals_too_long"
    OTHER_FRAME_OF_REFERENCE = "other_frame_of_reference"
    OTHER_STUDY = "other_study"
    OTHER_IMAGES = "other_images"
    ROI_NUMBERS_DIFFER = "roi_numbers_differ"
    CONTOUR_OF_OTHER_IMAGE = "contour_of_other_image"
    CONTOUR_OFF_ITS_SLICE = "contour_off_its_slice"
    FRAME_OFF_ITS_SLICE = "frame_off_its_slice"
    SEGMENTATION_UNREADABLE = "segmentation_unreadable"
    SEGMENTATION_NOT_INSTALLED = "segmentation_not_installed"
    SECOND_READER_OTHER_ROIS = "second_reader_other_rois"
    SECOND_READER_FINDS_NOTHING = "second_reader_finds_nothing"
    SECOND_READER_SLOW = "second_reader_slow"
    SECOND_READER_NOT_INSTALLED = "second_reader_not_installed"
    SECOND_READER_FAILS = "second_reader_fails"
    # The device, and memory
    DEVICE_UNKNOWN = "device_unknown"
    DEVICE_ABSENT = "device_absent"
    DEVICE_FAILED = "device_failed"
    DEVICE_TOO_SMALL = "device_too_small"
    DEVICE_MEMORY_TAKEN = "device_memory_taken"
    DEVICE_OUT_OF_MEMORY = "device_out_of_memory"
    MACHINE_OUT_OF_MEMORY = "machine_out_of_memory"
    WORKER_OUT_OF_MEMORY = "worker_out_of_memory"
    OVER_WORKER_MEMORY = "over_worker_memory"
    WAITS_FOR_DEVICE = "waits_for_device"
    DEVICE_NEVER_FREE = "device_never_free"
    PRECISION_NEEDS_CUDA = "precision_needs_cuda"
    OPENVINO_IS_FOR_CPU = "openvino_is_for_cpu"
    OPENVINO_NOT_LOADED = "openvino_not_loaded"
    OPENVINO_REFUSES = "openvino_refuses"
    PROCESSOR_WITHOUT_BF16 = "processor_without_bf16"
    MASKS_DIFFER = "masks_differ"
    # The model
    MODEL_UNKNOWN = "model_unknown"
    MODEL_TAKEN_OUT = "model_taken_out"
    MODEL_NOT_THERE = "model_not_there"
    MODEL_NO_BUNDLE = "model_no_bundle"
    MODEL_FILE_INVALID = "model_file_invalid"
    MODEL_KIND_UNKNOWN = "model_kind_unknown"
    MODEL_KIND_FOREIGN = "model_kind_foreign"
    NNUNET_NOT_INSTALLED = "nnunet_not_installed"
    NNUNET_ANSWERS_NO_NUMBERS = "nnunet_answers_no_numbers"
    RECORD_INVALID = "record_invalid"
    NETWORK_NOT_BUILT = "network_not_built"
    MODEL_FILE_IS_LINK = "model_file_is_link"
    MODEL_FILE_ABSENT = "model_file_absent"
    MODEL_FILE_TOO_LARGE = "model_file_too_large"
    MODEL_DAMAGED = "model_damaged"
    MODEL_UNPAIRED = "model_unpaired"
    MODEL_INCOMPLETE = "model_incomplete"
    WEIGHTS_UNFIT = "weights_unfit"
    WEIGHTS_NOT_FINITE = "weights_not_finite"
    MODEL_NOT_AS_ACTIVATED = "model_not_as_activated"
    MODEL_OF_OTHER_NAME = "model_of_other_name"
    MODEL_OF_JOB_GONE = "model_of_job_gone"
    ACTIVATED_MODEL_UNUSABLE = "activated_model_unusable"
    MODEL_BREAKS = "model_breaks"
    MODEL_ANSWERS_NO_NUMBERS = "model_answers_no_numbers"
    MODEL_FINDS_NO_HEAD = "model_finds_no_head"
    MODEL_MISPLACES = "model_misplaces"
    MODEL_NO_BEGINNING = "model_no_beginning"
    NOTHING_CHANGED = "nothing_changed"
    # The node itself
    WORKER_ENDED = "worker_ended"
    WORKER_HUNG = "worker_hung"
    PROCESS_GONE = "process_gone"
    # Of orders that a worker cannot do
    ORDER_OF_OTHER_VERSION = "order_of_other_version"
    ORDER_OF_OTHER_STRUCTURES = "order_of_other_structures"
    ORDER_NEEDS_SEGMENTATION = "order_needs_segmentation"
    ORDER_NEEDS_SECOND_READER = "order_needs_second_reader"
    ORDER_OF_OTHER_MODEL = "order_of_other_model"
    ORDER_OF_NOBODY = "order_of_nobody"
    JOB_BROKE_WORKER = "job_broke_worker"
    FAULT = "fault"
    WAITS_FOR_SPOOL = "waits_for_spool"
    SPOOL_FULL = "spool_full"
    SPOOL_FAILED = "spool_failed"
    DATABASE_AWAY = "database_away"
    REQUEST_MALFORMED = "request_malformed"
    INSTANCE_MISMATCH = "instance_mismatch"
    IMAGE_CUT_OFF = "image_cut_off"
    FILE_NOT_WRITTEN = "file_not_written"
    INTERNAL_ERROR = "internal_error"
    OTHER = "other"
    # Newer images
    NEWER_REVISION = "newer_revision"
    IMAGES_DIFFER_NOW = "images_differ_now"
    IMAGES_REPLACED = "images_replaced"
    # Deliveries
    DELIVERY_REFUSED = "delivery_refused"
    DESTINATION_TOOK = "destination_took"
    DESTINATION_BUSY = "destination_busy"
    DESTINATION_UNREACHABLE = "destination_unreachable"
    DESTINATION_IMPROPER = "destination_improper"
    DESTINATION_REFUSED = "destination_refused"
    DESTINATION_DOWN = "destination_down"
    SENDING_BROKE_OFF = "sending_broke_off"
    DELIVERY_OF_ENDED_JOB = "delivery_of_ended_job"
    GIVEN_UP = "given_up"
    GIVEN_UP_AFTER = "given_up_after"
    COMMITMENT_TO_ASK = "commitment_to_ask"
    COMMITMENT_AWAITED = "commitment_awaited"
    COMMITMENT_NOT_TAKEN = "commitment_not_taken"
    COMMITMENT_NOT_WANTED = "commitment_not_wanted"
    COMMITMENT_FAILED = "commitment_failed"
    STRUCTURE_SET_GONE = "structure_set_gone"
    NEVER_COMMITTED = "never_committed"
    # Structure sets that came back
    REVIEW_OF_NO_SERIES = "review_of_no_series"
    REVIEW_BEFORE_ITS_JOB = "review_before_its_job"
    REVIEW_DRAFT_GONE = "review_draft_gone"
    REVIEW_OTHER_PATIENT = "review_other_patient"
    REVIEW_OTHER_STUDY = "review_other_study"
    REVIEW_OTHER_FRAME = "review_other_frame"
    REVIEW_FITS_SEVERAL = "review_fits_several"
    REVIEW_UNREADABLE = "review_unreadable"
    REVIEW_TOO_LARGE = "review_too_large"
    REVIEW_NOT_FINISHED = "review_not_finished"
    REVIEW_WITHOUT_GRID = "review_without_grid"
    REVIEW_WITHOUT_ORGANS = "review_without_organs"


class NextStep(Enum):
    """What lets a held series or job go on."""

    AGAIN = "release, or retry"
    GIVE_REASON = "release with a reason, or retry"
    OVERRIDE = "retry with a reason"  # a person answers for it
    CONFIRM = "confirm"
    REPLACE = "replace"
    SENDER = "its sender alone"


@dataclass(frozen=True, slots=True)
class ReasonEntry:
    """What the catalogue says of one code.

    Attributes
    ----------
    sentence
        A template (``str.format``) or a function of the detail.
    means
        What happened.
    remedy
        What a person does about it.
    way
        What lets it go on.
    """

    held_as: HoldClass
    sentence: Sentence
    means: str
    remedy: str
    way: NextStep


def entries(
    held_as: HoldClass, means: str, remedy: str, codes: Mapping[HoldReason, Sentence], way: NextStep = NextStep.AGAIN
) -> dict[HoldReason, ReasonEntry]:
    """Make the entries of codes that have one meaning and one remedy."""
    return {code: ReasonEntry(held_as, sentence, means, remedy, way) for code, sentence in codes.items()}
