"""Why a job, a delivery or an image does not go on: entries of the catalogue (``contourd.reasons.catalogue``)."""

from __future__ import annotations

from contourd.reasons import sentences
from contourd.reasons.codes import HoldClass, HoldReason, NextStep, ReasonEntry, entries

ENTRIES: dict[HoldReason, ReasonEntry] = {}
ENTRIES |= entries(
    HoldClass.OUTSIDE_LIMITS,
    "the model was not made for such a series: age, position, kernel, slice or pixel spacing",
    "Whoever answers for it retries it with a reason, which the structure set will hold.",
    {HoldReason.OUTSIDE_LIMITS: sentences.outside_limits},
    NextStep.OVERRIDE,
)
ENTRIES |= entries(
    HoldClass.NOT_HEAD_AND_NECK,
    "the organs that were found do not look like a head and neck, nothing of the size of a head is in the CT, or an "
    "object lies against the head, or the head far to one side",
    "Look at what was scanned. If it is a head and neck all the same, retry it with a reason.",
    {
        HoldReason.NO_PATIENT: "no patient found in the CT: nothing of the size of a head; check what was scanned",
        HoldReason.HEAD_BESIDE_BOX: "{part:.0%} of the head lie beside the {width_mm:.0f} mm around its middle that "
        "{model} looks at; look for an arm or an object against the head, or a head far to one side, or release it "
        "with `--override REASON`",
        HoldReason.NO_HEAD_AND_NECK: "the series does not look like a head and neck: of the organs of {model}, "
        "those with their usual size and place are: {organs}; check what was scanned, or release it with "
        "`--override REASON`",
    },
    NextStep.OVERRIDE,
)
ENTRIES |= entries(
    HoldClass.IMPLAUSIBLE,
    "no organ passed the plausibility checks",
    "Look at the CT and at the reasons; see [plausibility] in the settings.",
    {
        HoldReason.NO_ORGAN: "no organ was found in the series; check that it shows the head and neck",
        HoldReason.ALL_WITHHELD: sentences.all_withheld,
    },
)
ENTRIES |= entries(
    HoldClass.READ_BACK,
    "the written structure set is not what was contoured, or planning systems would not take it; it was not sent. "
    "Single organs that do not read back are withheld by name, and the others are sent",
    "Nothing was sent. Keep the series, and report it.",
    {
        HoldReason.ALL_REJECTED: sentences.all_withheld,
        HoldReason.ORGANS_DIFFER: sentences.organs_differ,
        HoldReason.CONTOUR_TOO_LONG: "{roi}: a contour of {points} points ({bytes} bytes) is too long at z = {z}",
        HoldReason.CONTOURS_FROM_NOWHERE: sentences.contours_from_nowhere,
        HoldReason.STRUCTURE_SET_UNREADABLE: "{said}",
        HoldReason.ROI_UNUSABLE: "{roi}: {flaw}",
        HoldReason.VALUE_TOO_LONG: "{keyword}: {length} characters, {vr} takes {longest}",
        HoldReason.DECIMALS_TOO_LONG: "{keyword}: {length} bytes, a 16-bit length takes {longest}",
        HoldReason.OTHER_FRAME_OF_REFERENCE: "the frame of reference is not the CT's",
        HoldReason.OTHER_STUDY: "the study is not the CT's",
        HoldReason.OTHER_IMAGES: "the referenced images are not the CT's",
        HoldReason.ROI_NUMBERS_DIFFER: "the three ROI sequences do not name the same ROIs",
        HoldReason.CONTOUR_OF_OTHER_IMAGE: "{roi}: a contour refers to an image that is not of the series",
        HoldReason.CONTOUR_OFF_ITS_SLICE: "{roi}: a contour at z = {z_mm:.3f} is not on its slice {slice_mm:.3f}",
        HoldReason.FRAME_OFF_ITS_SLICE: "segment {segment}: a frame lies {off_mm:.3f} mm from its slice, or names "
        "another image",
        HoldReason.SEGMENTATION_UNREADABLE: "the segmentation cannot be read as it was written ({said})",
    },
)
ENTRIES |= entries(
    HoldClass.READ_BACK,
    'a destination has `products` with "seg", and highdicom, which writes segmentations, is not installed; nothing was '
    "sent",
    'Install contourd[seg], or take "seg" out of the destination\'s `products`, and restart contourd. Then retry it.',
    {
        HoldReason.SEGMENTATION_NOT_INSTALLED: "highdicom is not installed; install contourd[seg]",
        HoldReason.ORDER_NEEDS_SEGMENTATION: "the job needs a segmentation, and highdicom is not installed here",
    },
)
ENTRIES |= entries(
    HoldClass.READ_BACK,
    "the names that the destination's settings give to the ROIs are none that planning systems take",
    "Nothing was sent. Change the destination's names in the settings, restart contourd, and retry it.",
    {
        HoldReason.ROI_NAME_UNFIT: "ROI name {roi!r} is not fit for planning systems ({longest} characters, "
        "A-Z a-z 0-9 _)",
        HoldReason.ROI_NAME_TWICE: "two ROIs are called {roi!r}, apart from case; change the destination's names",
    },
)
ENTRIES |= entries(
    HoldClass.READ_BACK,
    "the second reader (`check.rt_utils`) does not read the structure set as it should; it was not sent",
    "Nothing was sent. Keep the series, and report it.",
    {
        HoldReason.SECOND_READER_OTHER_ROIS: "rt-utils does not find the same ROIs: {rois}",
        HoldReason.SECOND_READER_FINDS_NOTHING: "rt-utils finds nothing of {rois}",
        HoldReason.SECOND_READER_SLOW: "rt-utils did not read the structure set in {seconds:g} s",
        HoldReason.SECOND_READER_FAILS: "rt-utils cannot open the structure set ({said})",
    },
)
ENTRIES |= entries(
    HoldClass.READ_BACK,
    "the second reader (`check.rt_utils`) is not installed; nothing was sent",
    "Install contourd[check], or set check.rt_utils = false, and restart contourd. Then retry it.",
    {
        HoldReason.SECOND_READER_NOT_INSTALLED: "rt-utils is not installed; install contourd[check], or switch its "
        "check off",
    },
)
ENTRIES |= entries(
    HoldClass.DEVICE,
    "the device that the settings name cannot be used, has been out of use for an hour, or does not compute as it must",
    "Nothing is wrong with the series. Look at the device, at its driver, and at worker.device in the settings. Then "
    "retry it.",
    {
        HoldReason.DEVICE_NEVER_FREE: "the device could not be used for {minutes:.0f} minutes: {why}; nothing is wrong "
        "with the series: look at the device, then retry the job",
        HoldReason.WAITS_FOR_DEVICE: "waits for the device: {why}",
        HoldReason.DEVICE_UNKNOWN: "worker.device {name!r} is no device: use auto, cpu, cuda or cuda:N",
        HoldReason.DEVICE_ABSENT: "worker.device {name!r} is not there ({found} CUDA devices found); use auto or cpu",
        HoldReason.DEVICE_FAILED: "{device} failed: {said}",
        HoldReason.PRECISION_NEEDS_CUDA: "{key} fp16 needs a CUDA device; set it to {instead}",
        HoldReason.OPENVINO_IS_FOR_CPU: "OpenVINO and bf16 are for the CPU, and here {runtime} is to run on {device}: "
        "set worker.runtime and worker.precision to auto",
        HoldReason.OPENVINO_NOT_LOADED: "OpenVINO cannot be loaded ({said}); install contourd[cpu], or set "
        "worker.runtime to torch",
        HoldReason.OPENVINO_REFUSES: "OpenVINO {version} does not take the network: {said}",
        HoldReason.PROCESSOR_WITHOUT_BF16: "this processor has no bf16 ({processor}); set worker.precision to auto or "
        "fp32",
        HoldReason.MASKS_DIFFER: "{runtime} does not give the masks of {plain}: mean Dice {dice:.4f} on the reference "
        "patient, at least {least} is needed; set worker.runtime to torch and worker.precision to fp32",
    },
)
ENTRIES |= entries(
    HoldClass.DEVICE,
    "the volume needs more memory than the device has, or than others leave it",
    "Nothing is wrong with the series. Use a device with more memory (worker.device), end what else uses it, or send "
    "thicker slices or a smaller field. Then retry it.",
    {
        HoldReason.DEVICE_TOO_SMALL: "the volume needs about {needed_gib:.1f} GiB on {device}, which has "
        "{total_gib:.1f} GiB: use a device with more memory or a model with larger voxels",
        HoldReason.DEVICE_MEMORY_TAKEN: "the volume needs about {needed_gib:.1f} GiB on {device}, {free_gib:.1f} of "
        "its {total_gib:.1f} GiB are free",
        HoldReason.DEVICE_OUT_OF_MEMORY: "{device} ran out of memory: {said}",
    },
)
ENTRIES |= entries(
    HoldClass.OUT_OF_MEMORY,
    "other programs have taken the machine's memory, of which the worker may have any amount (`worker.memory_gb` = 0)",
    "End what else uses the machine's memory, or set worker.memory_gb. Then retry it.",
    {HoldReason.MACHINE_OUT_OF_MEMORY: "this machine has no memory left: {said}"},
)
ENTRIES |= entries(
    HoldClass.OUT_OF_MEMORY,
    "the volume needs more memory than `worker.memory_gb` allows",
    "Raise worker.memory_gb and restart contourd, or send thicker slices. Then retry it.",
    {
        HoldReason.WORKER_OUT_OF_MEMORY: "out of memory: {said}; give the worker more (worker.memory_gb), or send "
        "thicker slices or a smaller field",
        HoldReason.OVER_WORKER_MEMORY: "the series needs about {needed_gb:.1f} GB with the {held_gb:.1f} GB that the "
        "worker has already; worker.memory_gb allows {limit_gb:.1f}",
    },
)
ENTRIES |= entries(
    HoldClass.MODEL,
    "the model that the route names, or that the job was contoured with, is missing, damaged or not what was activated",
    "As the reason says: take the last activation back, or activate the bundle again. Then retry it.",
    {
        HoldReason.MODEL_UNKNOWN: "no model {model!r}: {said} ({file}); give a bundle folder or one of: {known}",
        HoldReason.MODEL_TAKEN_OUT: sentences.model_taken_out,
        HoldReason.MODEL_NOT_THERE: sentences.model_not_there,
        HoldReason.MODEL_NO_BUNDLE: "{folder} is no bundle: {said} ({file})",
        HoldReason.MODEL_FILE_INVALID: "{path} is not a model of this version: {said}",
        HoldReason.MODEL_KIND_UNKNOWN: "{path}: {kind!r} is no kind of network that this version of contourd knows "
        "({known}); take a bundle of one of them, or the version of contourd that the bundle is for",
        HoldReason.MODEL_INCOMPLETE: "{folder}: {said}",
        HoldReason.MODEL_FILE_IS_LINK: "{path} is a link out of the bundle; put the file itself there",
        HoldReason.MODEL_FILE_ABSENT: "{path} is no file",
        HoldReason.MODEL_FILE_TOO_LARGE: "{path} has {bytes} bytes, more than the {most} of any model",
        HoldReason.MODEL_DAMAGED: "{path} is damaged: its sha256 is {sha256}, not {expected}",
        HoldReason.MODEL_UNPAIRED: sentences.unpaired,
        HoldReason.WEIGHTS_UNFIT: "{path}: the weights do not fit model.json: {said}",
        HoldReason.WEIGHTS_NOT_FINITE: "{path} holds weights that are no numbers (NaN or infinite); take the "
        "bundle anew",
        HoldReason.NNUNET_NOT_INSTALLED: "the model is an nnU-Net, and nnunetv2 cannot be loaded ({said}); install "
        "contourd[nnunet]",
        HoldReason.RECORD_INVALID: "{said}",
        HoldReason.NETWORK_NOT_BUILT: "nnunetv2 cannot build the network of the model's plans: {said}",
        HoldReason.NNUNET_ANSWERS_NO_NUMBERS: "the network of {model} answers with numbers that half precision cannot "
        "hold; activate another model",
        HoldReason.MODEL_NOT_AS_ACTIVATED: "{folder} is not the model that was activated: its sha256 is {sha256}",
        HoldReason.MODEL_OF_OTHER_NAME: "{model} is not here: {folder} holds {found}",
        HoldReason.MODEL_OF_JOB_GONE: sentences.model_of_job_gone,
        HoldReason.ACTIVATED_MODEL_UNUSABLE: sentences.activated_model_unusable,
    },
)
ENTRIES |= entries(
    HoldClass.MODEL,
    "a model is not put into use; no job is held for it",
    "As the reason says.",
    {
        HoldReason.MODEL_BREAKS: "{folder}: the model breaks on a small volume ({said})",
        HoldReason.MODEL_ANSWERS_NO_NUMBERS: "{folder}: the network answers with what is no number on a small volume",
        HoldReason.MODEL_FINDS_NO_HEAD: "{model} finds no head and neck in the reference patient: {why}",
        HoldReason.MODEL_MISPLACES: "{said}",
        HoldReason.MODEL_KIND_FOREIGN: "{path} is of the kind {kind}, whose network contourd does not build itself: "
        "it contours, and is trained, replaced and measured elsewhere",
        HoldReason.MODEL_NO_BEGINNING: "{folder} cannot be the beginning: its network has another {differing}",
        HoldReason.NOTHING_CHANGED: "{why}; nothing was changed",
    },
)
ENTRIES |= entries(
    HoldClass.WORKER_DIED,
    "the worker crashed, was killed or hung on the job, as often as `worker.max_attempts` allows; the reason says how",
    "Look at the log. Retry it when the cause is mended.",
    {
        HoldReason.JOB_BROKE_WORKER: sentences.job_broke_worker,
        HoldReason.WORKER_ENDED: "{how}",
        HoldReason.WORKER_HUNG: "the worker hung, or took longer than worker.time_limit_s ({seconds:g} s)",
        HoldReason.PROCESS_GONE: "the {role} process of host {host} is gone: killed, or its host is down or cut off",
        HoldReason.FAULT: "{said}; the log says where",
    },
)
ENTRIES |= entries(
    HoldClass.NODE,
    "the worker is of another version than the node that ordered the job; the job waits for a worker of that one",
    "Bring all hosts to one version and restart contourd. The job goes on by itself.",
    {
        HoldReason.ORDER_OF_OTHER_VERSION: "the job was ordered of contourd {wanted}, and this worker is {own}",
    },
)
ENTRIES |= entries(
    HoldClass.MODEL,
    "no worker can contour the job as it was ordered: its model, or its catalogue of organs, is at hand nowhere; on "
    "several hosts each worker says why",
    "Give the hosts what the reason names: the model, or the same release of contourd on all. Then retry it: it is "
    "ordered anew.",
    {
        HoldReason.ORDER_OF_OTHER_STRUCTURES: "etc/structures.toml is another one where the job was ordered",
        HoldReason.ORDER_OF_OTHER_MODEL: "the model of the job is not here, or not whole: {model}",
        HoldReason.ORDER_OF_NOBODY: sentences.order_of_nobody,
    },
)
ENTRIES |= entries(
    HoldClass.READ_BACK,
    "the job is to be read by the second reader (`check.rt_utils`), which loads nowhere; nothing was contoured",
    "Install contourd[check] where jobs are contoured, or set check.rt_utils = false, and restart contourd. Then retry "
    "it.",
    {HoldReason.ORDER_NEEDS_SECOND_READER: "the job is to be read by rt-utils too, which does not load here"},
)
ENTRIES |= entries(
    HoldClass.NODE,
    "the settings let the node refuse it: by its sender, or by its number of images",
    "Ask again with the sender's AE title (`--calling-ae`), or change the setting that the reason names.",
    {
        HoldReason.SENDER_NOT_ALLOWED: "{sender} is not in node.allowed_callers ({allowed}); give --calling-ae, or "
        "add it",
        HoldReason.MORE_IMAGES_THAN_ALLOWED: "{images} images are more than series.max_instances allows ({most})",
    },
)
ENTRIES |= entries(
    HoldClass.NODE,
    "the node itself could not take an image, or could not go on with a job; the reason says what was amiss",
    "Mend what the reason names (the disk, the database). A job goes on by itself; an image is to be sent again.",
    {
        HoldReason.WAITS_FOR_SPOOL: "waits: {why}",
        HoldReason.SPOOL_FULL: "{said}",
        HoldReason.SPOOL_FAILED: "{said}",
        HoldReason.FILE_NOT_WRITTEN: "a file cannot be written: {said}",
        HoldReason.DATABASE_AWAY: "{said}",
        HoldReason.REQUEST_MALFORMED: "{said}",
        HoldReason.INSTANCE_MISMATCH: "{said}",
        HoldReason.IMAGE_CUT_OFF: "it was cut off: {said}",
        HoldReason.INTERNAL_ERROR: "internal error; see the log of contourd",
    },
)
ENTRIES |= entries(
    HoldClass.SERIES_UNUSABLE,
    "what no other code says",
    "The reason says what to send instead. A release alone cannot help where the images stay as they are.",
    {HoldReason.OTHER: "{said}"},
)
ENTRIES |= entries(
    HoldClass.NEWER,
    "newer images of the series came, or took the place of earlier ones; the job of the earlier ones has ended",
    "Take the newer job, or look at the series.",
    {
        HoldReason.NEWER_REVISION: "{because}; a newer revision takes its place",
        HoldReason.IMAGES_DIFFER_NOW: "its images came again with different content; look at its series",
        HoldReason.IMAGES_REPLACED: "its images were replaced by newer ones",
    },
)
ENTRIES |= entries(
    HoldClass.DELIVERY,
    "the destination refused the structure set, or could not be had in its time",
    "Mend what the reason names at the destination, then retry the job: the same structure set is sent.",
    {
        HoldReason.DELIVERY_REFUSED: "{destination}: {why}",
        HoldReason.DESTINATION_TOOK: "{said}",
        HoldReason.DESTINATION_BUSY: "{said}",
        HoldReason.DESTINATION_UNREACHABLE: "{said}",
        HoldReason.DESTINATION_IMPROPER: "{said}",
        HoldReason.DESTINATION_REFUSED: "{said}",
        HoldReason.DESTINATION_DOWN: "{destination} is down",
        HoldReason.SENDING_BROKE_OFF: "{because}",
        HoldReason.DELIVERY_OF_ENDED_JOB: sentences.delivery_of_ended_job,
        HoldReason.GIVEN_UP: "given up: {why}",
        HoldReason.GIVEN_UP_AFTER: "given up after {tries} tries: {why}",
    },
)
ENTRIES |= entries(
    HoldClass.DELIVERY,
    "the destination took the structure set and has not promised to keep it, or does not say that it will",
    "Look whether the destination has it, offers Storage Commitment, and reaches contourd's port; then retry the job.",
    {
        HoldReason.COMMITMENT_TO_ASK: "sent; storage commitment is to be asked for",
        HoldReason.COMMITMENT_AWAITED: "sent; the answer to the request for storage commitment is awaited",
        HoldReason.COMMITMENT_NOT_TAKEN: "{why}; allow Storage Commitment there, or set destination.commitment = false",
        HoldReason.COMMITMENT_NOT_WANTED: "taken; its storage commitment is not asked for any more",
        HoldReason.COMMITMENT_FAILED: "{said}",
        HoldReason.NEVER_COMMITTED: "sent, never committed: {why}",
        HoldReason.STRUCTURE_SET_GONE: "the structure set {output} cannot be read any more ({said})",
    },
)
