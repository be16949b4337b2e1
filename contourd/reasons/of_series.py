"""Why a series is held: entries of the catalogue of reasons (``contourd.reasons.catalogue``)."""

from __future__ import annotations

from contourd.reasons import sentences
from contourd.reasons.codes import HoldClass, HoldReason, NextStep, ReasonEntry, entries

_AGAIN = "A release alone cannot help: the images stay as they are."
_TWICE = (
    "one SOP Instance UID, two images; both files are kept (see [A patient was corrected](#a-patient-was-corrected))"
)
_LOOK_AT_SENDER = (
    "Look at the sender: two images have one UID. If the newer ones are a correction, have all of the series sent "
    "again and take it (replace). Do not treat on either before you know."
)

ENTRIES: dict[HoldReason, ReasonEntry] = {}
ENTRIES |= entries(
    HoldClass.REFUSED,
    "the node answered these images with a failure (the reason has status, cause and number), and they did not come "
    "since; that the sender ended in good order does not change it",
    "Mend what the reason names (the disk, the database, the images), and send the series again: it goes on by itself "
    "when those very images came. Only if it is whole without them, release it with a reason.",
    {HoldReason.IMAGES_REFUSED: sentences.images_refused},
    NextStep.GIVE_REASON,
)
ENTRIES |= entries(
    HoldClass.IMAGES_GONE,
    "retention had removed the images of the series, and not all of them came again",
    "Send the whole series again; or release it, if that is all.",
    {HoldReason.IMAGES_MISSING_SINCE_PURGE: sentences.missing_since_purge},
)
ENTRIES |= entries(
    HoldClass.IMAGES_GONE,
    "the disk lost or changed the files of these images after they were received",
    "Send the whole series again: what is damaged is replaced, and it is contoured.",
    {HoldReason.IMAGES_DAMAGED: sentences.images_damaged},
)
ENTRIES |= entries(
    HoldClass.IMAGES_GONE,
    "another host received these images, and has not brought them to the object store: it, or the store, is away",
    "Start that host again: the series goes on by itself when its images are in the store. If the host is lost, send "
    "the whole series again.",
    {
        HoldReason.IMAGES_ELSEWHERE: "{elsewhere} of {images} images are on the host that received them alone, "
        "which did not store them yet; start it again, or send the whole series again",
    },
)
ENTRIES |= entries(
    HoldClass.IMAGES_GONE,
    "it was held or had failed for so long that retention removed its images",
    "Send the series again.",
    {
        HoldReason.REMOVED_WHILE_HELD: "{why}; retention removed the images on {on}, send the series again",
    },
    NextStep.SENDER,
)
ENTRIES |= entries(
    HoldClass.INTERRUPTED,
    "the association broke off, or contourd was killed or stopped in the middle of it; what came has no gap",
    "Look whether this is all that was scanned. If it is, release it; else send the whole series again, in one "
    "association or several that end in good order, and it goes on by itself.",
    {
        HoldReason.TRANSFER_ABORTED: "the sender aborted in mid-series; {images} contiguous slices are here; "
        "send it again, or release it if that is all",
        HoldReason.NODE_ENDED: "contourd was ended in mid-series; {images} contiguous slices are here; "
        "send it again, or release it if that is all",
    },
)
ENTRIES |= entries(
    HoldClass.UNKNOWN_SENDER,
    "its images were taken in from the spool, an older version had received them, and a route asks for `calling_ae`",
    "Send the series again from its sender: what is here is kept once, and it goes on by itself.",
    {
        HoldReason.SENDER_UNKNOWN: "the sender of the series is not known (its images were taken in from the spool), "
        "and a route asks for it; send the series again from its sender"
    },
    NextStep.SENDER,
)
ENTRIES |= entries(
    HoldClass.NO_ROUTE,
    "no `[[route]]` fits the series",
    "Add or widen a [[route]] in the settings, and restart contourd. Release it afterwards: it is examined again.",
    {
        HoldReason.NO_ROUTE: "no route fits (from {calling_ae}, body part {body_part}); "
        "add a [[route]] to the configuration, restart, and release the series"
    },
)
ENTRIES |= entries(
    HoldClass.MISSING_SLICES,
    "the series has gaps at these positions, or so few slices that they show no head and neck",
    "Send the whole series again from the scanner or the PACS. What came is kept, and it goes on by itself; a release "
    "alone cannot help, the gap would be held again.",
    {
        HoldReason.SLICES_MISSING: sentences.slices_missing,
        HoldReason.TOO_FEW_SLICES: "{slices} slices are fewer than the {fewest} that a head and neck needs; "
        "send the whole series",
    },
)
ENTRIES |= entries(
    HoldClass.SENT_TWICE,
    _TWICE,
    _LOOK_AT_SENDER,
    {
        HoldReason.SENT_TWICE: sentences.sent_twice,
        HoldReason.SENT_TWICE_OTHER_PATIENT: sentences.sent_twice_other_patient,
    },
    NextStep.REPLACE,
)
ENTRIES |= entries(
    HoldClass.SENT_TWICE,
    _TWICE,
    _LOOK_AT_SENDER,
    {
        HoldReason.SENT_TWICE_THEN_AS_BEFORE: "an image was sent twice with different content, and then again as it "
        "was at first; look at the sender, then release the series with a reason",
        HoldReason.SAME_UID_TWICE: sentences.same_uid_twice,
    },
    NextStep.GIVE_REASON,
)
ENTRIES |= entries(
    HoldClass.SERIES_UNUSABLE,
    "the same UID came with images at different places; all files are kept, and neither `replace` nor `release` drops "
    "a slice that lies where no other does",
    "Have the source give each slice a UID of its own, and send all of them as a new series.",
    {
        HoldReason.SAME_UID_ON_SLICES: "one SOP Instance UID stands on several slices ({uids} UIDs do); have the "
        "source give each slice one of its own, and send all of them as a new series"
    },
    NextStep.SENDER,
)
ENTRIES |= entries(
    HoldClass.CONFIRMATION,
    "the route has `confirm = true`: nothing is sent before a person has seen the pictures",
    "Look at the pictures, then confirm.",
    {
        HoldReason.WAITS_FOR_CONFIRMATION: "waits for confirmation: a person is to look at the pictures before it "
        "is sent"
    },
    NextStep.CONFIRM,
)
ENTRIES |= entries(
    HoldClass.BY_A_PERSON,
    "a person stopped it; or had stopped a job of the series before the database was put back",
    "Ask that person; a retry of the job, or a release of the series, lets it go on.",
    {
        HoldReason.HELD_BY_PERSON: "held by {actor}: {words}",
        HoldReason.CANCELLED_BY_PERSON: "cancelled by {actor}: {words}",
        HoldReason.DATABASE_PUT_BACK: "{why}; the database was put back since: look, then let it go on",
    },
)
ENTRIES |= entries(
    HoldClass.CONSTANCY,
    "the series is a constancy check's, and no patient's",
    "Nothing: it goes nowhere, and the next check sends a series of its own.",
    {
        HoldReason.CHECK_UNKNOWN: "the series bears the Patient ID of a constancy check that contourd does not know; "
        "it is sent nowhere",
        HoldReason.CHECK_OVER: "the constancy check that sent the series is over; it is sent nowhere",
        HoldReason.CHECK_OTHER_IMAGES: "the images are not those that the constancy check sent; the series is sent "
        "nowhere",
    },
)
ENTRIES |= entries(
    HoldClass.NOT_A_CT,
    "a scout was sent, or no CT",
    "Nothing, if it was sent by mistake; else send the planning CT.",
    {
        HoldReason.OTHER_MODALITY: "modality {modality} ({sop_class}) is not contoured; send the planning CT",
        HoldReason.LOCALIZER: "the series is a localizer (scout), not an axial CT; send the planning CT",
    },
)
ENTRIES |= entries(
    HoldClass.SERIES_UNUSABLE,
    "no original slices, one image each",
    f"Send the original slices. {_AGAIN}",
    {
        HoldReason.NO_IMAGES: "the series has no images",
        HoldReason.SCREEN: "the series is a picture of a screen or a report, not an axial CT; send the planning CT",
        HoldReason.DERIVED: "the series is derived ({image_type}); send the original slices",
        HoldReason.MULTI_FRAME: "multi-frame images are not contoured; send one image per slice",
        HoldReason.MULTI_FRAME_CLASS: "{sop_class} (multi-frame) is not contoured; "
        "let the scanner or the PACS send CT Image Storage, one image per slice",
    },
)
ENTRIES |= entries(
    HoldClass.NOT_DECODED,
    "compressed images, and no decoder for them; or the compressed image is damaged",
    "Send it uncompressed. If that is not decoded either, it is damaged at its source: reconstruct or export it anew. "
    "Where the reason says so, install the decoders: pip install 'contourd[codecs]'.",
    {
        HoldReason.SYNTAX_UNKNOWN: "transfer syntax {syntax} cannot be decoded here; send the images uncompressed",
        HoldReason.SYNTAX_WITHOUT_DECODER: "transfer syntax {syntax} cannot be decoded here; send the images "
        "uncompressed, or install the decoders: pip install 'contourd[codecs]'",
        HoldReason.NOT_DECODED: "slice z = {z_mm:.2f} mm cannot be decoded ({said}); send it uncompressed, or "
        "reconstruct it anew",
    },
)
ENTRIES |= entries(
    HoldClass.SERIES_UNUSABLE,
    "the pixels are no Hounsfield units, or not as they were measured",
    f"Send the original reconstruction. {_AGAIN}",
    {
        HoldReason.LOSSY: "the images were compressed with losses; send the original reconstruction",
        HoldReason.PIXEL_FORMAT: "pixels are {photometric}, {samples} x {bits} bits, not MONOCHROME2, 1 x 16; "
        "send the original reconstruction",
        HoldReason.HIGH_BIT: "pixels have {bits_stored} bits stored up to bit {high_bit}; "
        "the high bit must be one less than the bits stored: send the original reconstruction",
        HoldReason.PIXELS_BEYOND_BITS: "slice z = {z_mm:.2f} mm has pixel values beyond its {bits_stored} bits stored; "
        "send the original reconstruction",
        HoldReason.PIXEL_MATRIX: "slice z = {z_mm:.2f} mm has {shape} pixels; send the original reconstruction",
        HoldReason.MODALITY_LUT: "pixel values pass through a Modality LUT, not a rescale slope; send Hounsfield units",
        HoldReason.RESCALE_TYPE: "pixel values are {rescale_type}, not Hounsfield units; send Hounsfield units",
        HoldReason.RESCALE_MISSING: "RescaleSlope or RescaleIntercept is missing or zero, so that there are no "
        "Hounsfield units; send the original reconstruction",
        HoldReason.RESCALE_IMPOSSIBLE: "RescaleSlope {slope:g} and RescaleIntercept {intercept:g} give no Hounsfield "
        "units; send the original reconstruction",
    },
)
ENTRIES |= entries(
    HoldClass.SERIES_UNUSABLE,
    "Patient ID is empty, or holds what no ID may hold",
    f"Enter or correct the ID at the source, and send it again. {_AGAIN}",
    {
        HoldReason.PATIENT_ID_MISSING: "the patient has no ID (PatientID is empty); a structure set could go to the "
        "wrong patient: enter the ID and send it again",
        HoldReason.PATIENT_ID_ILLEGAL: "PatientID holds characters that are none, or is longer than 64; correct it at "
        "the source and send it again",
    },
)
ENTRIES |= entries(
    HoldClass.SERIES_UNUSABLE,
    "what identifies the patient or the scan is too long, has several values or holds control characters; a structure "
    "set with it would be refused, and one without it could go to the wrong patient",
    f"Correct it at the source (scanner, RIS or PACS), and send the series again. {_AGAIN}",
    {
        HoldReason.IDENTITY_ILLEGAL: "{keyword} {flaw}, and what identifies the patient is not changed here; "
        "correct it at the source and send the series again",
        HoldReason.FRAME_OF_REFERENCE_ILLEGAL: "FrameOfReferenceUID is no UID; correct it at the source and send the "
        "series again",
    },
)
ENTRIES |= entries(
    HoldClass.SERIES_UNUSABLE,
    "a header as no scanner writes it",
    f"Correct it at the source, and send it again. {_AGAIN}",
    {
        HoldReason.UID_OF_SERIES: "the SOP Instance UID of a slice is that of its series or study, which must differ; "
        "correct it at the source and send it again",
        HoldReason.UID_ILLEGAL: "{what} has a {keyword} that is no UID; correct it at the source and send it again",
        HoldReason.FOREIGN_ELEMENTS: "{what} has elements of a command or of file meta information; send the original "
        "image",
        HoldReason.LARGE_SEQUENCE: "{what} has a sequence of {mib} MiB; send the original image",
    },
)
ENTRIES |= entries(
    HoldClass.SERIES_UNUSABLE,
    "the geometry is missing, or is that of no scanner",
    f"Send the original CT. {_AGAIN}",
    {
        HoldReason.FRAME_OF_REFERENCE_MISSING: "FrameOfReferenceUID is missing; a structure set could not be placed on "
        "the CT: send the original CT",
        HoldReason.GEOMETRY_MISSING: "a slice lacks its position, orientation, pixel spacing or matrix; send the "
        "original CT",
        HoldReason.ORIENTATION_IMPOSSIBLE: "ImageOrientationPatient is no pair of unit vectors; send the original CT",
        HoldReason.SPACING_NOT_POSITIVE: "the pixel spacing is not positive; send the original CT",
        HoldReason.SPACING_IMPOSSIBLE: "the pixel spacing of {mm:g} mm is that of no scanner; send the original CT",
        HoldReason.POSITION_IMPOSSIBLE: "a slice lies {mm:g} mm from the origin, where no scanner reaches; "
        "send the original CT",
        HoldReason.MATRIX_TOO_LARGE: "the matrix of {rows} x {columns} is larger than {largest} x {largest}; "
        "send a reconstruction with fewer pixels",
    },
)
ENTRIES |= entries(
    HoldClass.SERIES_UNUSABLE,
    "the slices do not lie straight across the patient: tilted gantry, oblique, turned or sagittal slices",
    f"Send an axial reconstruction that is not turned or tilted. {_AGAIN}",
    {
        HoldReason.TILTED: "the slices are not axial, but inclined by {degrees:.1f} degrees (tilted gantry, oblique, "
        "coronal or sagittal); send axial slices",
        HoldReason.TURNED: "the rows are turned by {degrees:.0f} degrees against the patient; send a reconstruction "
        "that is not turned",
        HoldReason.SHIFTED: "the slices are shifted sideways against each other (tilted gantry); send axial slices",
    },
)
ENTRIES |= entries(
    HoldClass.SERIES_UNUSABLE,
    "two acquisitions, slices too far apart, or more slices than any head and neck has",
    f"Send one reconstruction, with thinner or thicker slices as the reason says. {_AGAIN}",
    {
        HoldReason.SLICES_CROWDED: "the slices at z = {z_mm[0]:.2f} and {z_mm[1]:.2f} mm lie closer together than "
        "those around them (two acquisitions); send one reconstruction",
        HoldReason.SLICES_TOO_FAR_APART: "the slices at z = {z_mm[0]:.2f} and {z_mm[1]:.2f} mm are {apart_mm:.2f} mm "
        "apart, more than {widest_mm:g} mm; send thinner slices",
        HoldReason.TOO_MANY_SLICES: "{slices} slices are more than {most}; send thicker slices",
        HoldReason.SERIES_FULL: "the series has {most} images already; series.max_instances allows no more",
    },
)
ENTRIES |= entries(
    HoldClass.SERIES_UNUSABLE,
    "several phases, acquisitions, reconstructions, scans or patients came under one series UID",
    f"Send one of them as a series of its own. {_AGAIN}",
    {
        HoldReason.PHASES: "the series holds {phases} phases of a 4D CT; send one phase, or the average, as a series "
        "of its own",
        HoldReason.MIXED: "the series mixes {number} {what}; send one reconstruction",
        HoldReason.IMAGES_AT_ONE_PLACE: "two different images lie at z = {z_mm:.2f} mm, and {repeated} of {positions} "
        "positions hold several images (phases of a 4D CT, or several acquisitions); send one of them as a series of "
        "its own",
        HoldReason.SERIES_TWICE: "the series is there twice: at {doubled} of {positions} positions lie images with the "
        "same pixels and different SOP Instance UIDs, and nothing tells which belong together; "
        "send one of the sets as a series of its own",
    },
)
ENTRIES |= entries(
    HoldClass.SERIES_UNUSABLE,
    "an image is damaged or incomplete; where it came over the network the sender got that answer",
    "The same bytes would be refused again: look at the sender's own copy, and export or reconstruct it anew, "
    "uncompressed.",
    {
        HoldReason.NO_DICOM_IMAGE: "{what} cannot be read as a DICOM image ({said}); export it anew from where it "
        "came, or take it out of the folder",
        HoldReason.DATASET_UNREADABLE: "dataset cannot be read ({said}); export it anew at its source, in Explicit VR "
        "Little Endian",
        HoldReason.HEADER_LACKS: "{what} lacks {keywords}; its source must fill that in: export it anew",
        HoldReason.CUT_OFF: "{what} is cut off: {here} bytes of {expected}; send the whole image, or export it anew",
        HoldReason.PIXELS_CUT_OFF: "slice z = {z_mm:.2f} mm is cut off: its pixels have {here} bytes of {expected}; "
        "look at the sender's own copy, and export or reconstruct it anew",
        HoldReason.NO_PIXELS: "{what} has no pixels; send the image, not its header alone",
        HoldReason.NOT_INFLATED: "{what} cannot be inflated; send it uncompressed",
        HoldReason.INFLATES_TOO_LARGE: "{what} inflates to more than {mib} MiB; send it uncompressed",
        HoldReason.INFLATED_CUT_OFF: "{what} is cut off: its deflated bytes have no end; send it uncompressed",
        HoldReason.IMAGE_GONE: "{what} is not there any more, or cannot be read",
    },
)
ENTRIES |= entries(
    HoldClass.SERIES_UNUSABLE,
    "the pictures of a series cannot be shown, or a job cannot be done again; no series is held for it",
    "As the reason says.",
    {
        HoldReason.SPOOL_UNREADABLE: "a file of the spool cannot be read: {said}",
        HoldReason.TOO_LARGE_TO_SHOW: "the series takes {mb:.0f} MB of memory, more than web.cache_mb ({limit_mb:.0f}) "
        "allows",
        HoldReason.NOTHING_TO_SHOW: "no image of the series can be read",
        HoldReason.NO_SLICES_TO_SHOW: "the series holds no two CT slices that lie in the patient",
        HoldReason.SLICES_TOO_FAR_TO_SHOW: "the slices lie too far from each other to be shown together",
        HoldReason.FILES_PURGED: "retention removed the files on {on}",
        HoldReason.IMAGES_PURGED: "retention removed the images{when}; sent again they make a job of their own",
        HoldReason.SERIES_CHANGED: "the series has changed: {before} images were contoured, {now} are here (revision "
        "{revision}, the job is of revision {revision_of_job})",
    },
)
