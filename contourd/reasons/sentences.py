"""Sentences of reasons that no template can say: lists, how many, and commands as they can be typed.

Each takes a reason's detail, in which further reasons stand as their sentences.
"""

from __future__ import annotations

from collections.abc import Mapping

from contourd.commands import command
from contourd.reasons.codes import Detail, Json

MOST_MISSING = 20


def _number(value: Json) -> float:
    assert isinstance(value, int | float)
    return value


def _count(value: Json) -> int:
    return int(_number(value))


def _items(value: Json) -> list[Json]:
    assert isinstance(value, list)
    return value


def _named(value: Json) -> Mapping[str, Json]:
    assert isinstance(value, Mapping)
    return value


def _listed(value: Json) -> str:
    return ", ".join(map(str, _items(value)))


def _places(value: Json) -> str:
    return ", ".join(f"{_number(z):.2f}" for z in _items(value))


def images_refused(detail: Detail) -> str:
    """Return how many images were refused, and why."""
    number, causes = _count(detail["images"]), [_named(cause) for cause in _items(detail["causes"])]
    images = "an image of the series was" if number == 1 else f"{number} images of the series were"
    lines = [f"{_count(cause['status']):04X}: {cause['why']}" for cause in causes]
    if len(causes) > 1:
        lines = [f"{_count(cause['images'])} with {text}" for cause, text in zip(causes, lines, strict=False)]
    more = f"; and {detail['others']} other reasons" if detail["others"] else ""
    unknown = _count(detail["uncertain"])
    maybe = f"; {unknown} could not be read, and may be of another series" if unknown else ""
    return (
        f"{images} refused and did not come since ({'; '.join(lines)}{more}{maybe}); mend the cause and send the "
        f"whole series again, or release it with a reason if it is whole without{_found(detail)}"
    )


def _found(detail: Detail) -> str:
    return f" ({detail['found']})" if detail.get("found") else ""


def missing_since_purge(detail: Detail) -> str:
    """Return how many images did not come again that retention removed."""
    removed = (
        f"only {detail['here']} of the {detail['removed']} images came again that retention removed "
        f"on {detail['on']}; send the whole series"
    )
    return f"{removed}{_found(detail)}" if detail.get("found") else f"{removed}, or release it if that is all"


def slices_missing(detail: Detail) -> str:
    """Return where slices are missing."""
    missing = _items(detail["z_mm"])
    shown = _places(missing[:MOST_MISSING])
    more = f" and {len(missing) - MOST_MISSING} more" if len(missing) > MOST_MISSING else ""
    return f"missing slices at z = {shown}{more} mm; send the whole series again"


def _images_were(detail: Detail) -> str:
    number = _count(detail["images"])
    return "an image was" if number == 1 else f"{number} images were"


def sent_twice(detail: Detail) -> str:
    """Return how many images came again, and how a person decides."""
    series = _count(detail["series"])
    return (
        f"{_images_were(detail)} sent twice with different content; look at the sender, then take the newer "
        f"(`{command('replace', series, '--reason', 'WHY')}`) or keep the earlier "
        f"(`{command('release', series, '--reason', 'WHY')}`)"
    )


def sent_twice_other_patient(detail: Detail) -> str:
    """Return how many images came again as another patient's, and how a person takes them."""
    differs = _items(detail["differs"])
    return (
        f"{_images_were(detail)} sent twice with different content: {_listed(differs)} "
        f"{'differs' if len(differs) == 1 else 'differ'}; if that is a correction, have the whole series sent again "
        f"and take it: `{command('replace', _count(detail['series']), '--reason', 'WHY')}`"
    )


def images_damaged(detail: Detail) -> str:
    """Return how many images the disk lost or changed, and where they lie."""
    shown = _places(detail["z_mm"])
    where = f"z = {shown}{' and more' if detail['more'] else ''} mm" if shown else "their positions cannot be told"
    return (
        f"{detail['damaged']} of {detail['images']} received images {detail['what']} ({where}); "
        "have the disk examined, and send the series again"
    )


def same_uid_twice(detail: Detail) -> str:
    """Return how many images bear the UID of another one."""
    shown = _places(detail["z_mm"])
    at = f" (z = {shown}{' and more' if detail['more'] else ''} mm)" if shown else ""
    return (
        f"an image is there twice with different content: {detail['differing']} of {detail['images']} images bear the "
        f"SOP Instance UID of another one{at}; give each its own at the source, and send the "
        "series again under a new Series Instance UID"
    )


def outside_limits(detail: Detail) -> str:
    """Return which limits of the model the series is outside of."""
    return (
        f"the series is outside the limits of {detail['model']}: {'; '.join(map(str, _items(detail['beyond'])))}; "
        "a person who answers for it releases it with `--override REASON`"
    )


def all_withheld(detail: Detail) -> str:
    """Return why each organ is withheld."""
    text = "; ".join(f"{name}: {reason}" for name, reason in _named(detail["organs"]).items())
    return f"every organ that was found is withheld ({text}); look at the series"


def organs_differ(detail: Detail) -> str:
    """Return how each organ differs."""
    return "; ".join(f"{name} {reason}" for name, reason in _named(detail["organs"]).items())


def contours_from_nowhere(detail: Detail) -> str:
    """Name the contours that nobody drew."""
    parts = [organs_differ(detail)] if detail["organs"] else []
    return "; ".join([*parts, f"contours of {_listed(detail['names'])} come from nowhere"])


def unpaired(detail: Detail) -> str:
    """Name the organs of which a mirrored model has no other side."""
    alone = _items(detail["organs"])
    return (
        f"{detail['path']}: the model is mirrored, and {_listed(alone)} {'is' if len(alone) == 1 else 'are'} in no "
        'pair of it; if it was trained with the pairs exchanged, name them there ("pairs": [["..._L", "..._R"]]), else '
        "train it again"
    )


def model_taken_out(detail: Detail) -> str:
    """Return since when a model is out of use."""
    return (
        f"no model {detail['model']!r}: it was taken out of use at {detail['at']} UTC by {detail['actor']}; "
        f"give a name of `{command('models list')}`, or activate one under that name"
    )


def model_not_there(detail: Detail) -> str:
    """Return where a model was looked for."""
    return (
        f"no model {detail['model']!r}: there is no {detail['file']} in {detail['folder']}; "
        f"give a name of `{command('models list')}`, or a bundle's folder"
    )


def model_of_job_gone(detail: Detail) -> str:
    """Name the model that a job was contoured with."""
    return (
        f"the job was contoured with {detail['model']}, which is not here any more; put it back, "
        f"or make a job of its own with another by `{command('recontour', 'JOB', '--model', 'MODEL')}`"
    )


def activated_model_unusable(detail: Detail) -> str:
    """Return what is wrong with an activated model, and how to get back."""
    back = f"take another model by `{command('recontour', 'JOB', '--model', 'MODEL')}`"
    if detail["roll_back"]:
        back = f"go back by `{command('models rollback', str(detail['roll_back']))}`"
    again = command("models activate", "FOLDER", "--reason", "WHY")
    return f"{detail['why']}; {back}, or copy the bundle again by `{again}`"


def order_of_nobody(detail: Detail) -> str:
    """Say of each host why its workers cannot do a job."""
    hosts = detail["hosts"]
    assert isinstance(hosts, Mapping)
    said = "; ".join(f"on {host} {why}" for host, why in hosts.items())
    return f"no worker can contour the job as it was ordered: {said}"


def job_broke_worker(detail: Detail) -> str:
    """Return how often a job broke its worker."""
    tries = _count(detail["tries"])
    times = "once" if tries == 1 else f"{tries} times"
    return f"the job broke its worker {times}, the last time so: {detail['why']}; look at the log, then release it"


def review_fits_several(detail: Detail) -> str:
    """Name the jobs that a structure set may be of."""
    return f"it may be of any of the jobs {_listed(detail['jobs'])}, and names none of them"


def delivery_of_ended_job(detail: Detail) -> str:
    """Return why the job of a delivery ended, and how its last try did."""
    job = f"{detail['job']}; " if detail["job"] else ""
    return f"{job}{detail['why']}"
