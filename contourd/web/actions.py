"""What a person does on the page: sign in and out, and the operations on jobs and series."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hmac import compare_digest

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from contourd.commands import command
from contourd.dicom.reading.files import read_dicom
from contourd.errors import InvalidTransition, PatientNamed
from contourd.model.model_names import names_of_text
from contourd.observe.overview import read_job
from contourd.operations.exporting import note_export, prepare_export, zipped
from contourd.operations.operations import Operations
from contourd.transfer.copies import bring_if_possible
from contourd.web.access import SESSION_S, SignedIn, SignInRefused
from contourd.web.pages import job_page
from contourd.web.site import COOKIE, Site, form_of, page, person_of, site_of

Form = Mapping[str, str]
SHOWN = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "SeriesDescription")


async def sign_in(request: Request) -> Response:
    """Show the form, or take it."""
    site = site_of(request)
    if request.method == "GET":
        return page(request, "sign_in.html")
    refuse_other_sites(request)
    form = await form_of(request)
    client = request.client.host if request.client else ""
    try:
        number = site.access.sign_in(client, form.get("name", ""), form.get("token", ""))
    except SignInRefused as refused:
        await run_in_threadpool(site.operations("web").note, "sign in refused", "", f"from {client}")
        answer: Response = page(request, "sign_in.html", 429 if refused.wait_s else 403, problem=str(refused))
        if refused.wait_s:
            answer.headers["Retry-After"] = str(refused.wait_s)
        return answer
    person = site.access.signed_in(number)
    if person is not None:
        await run_in_threadpool(site.operations(person.actor).note, "sign in", "", f"from {client}")
    answer = RedirectResponse("/", 303)
    answer.set_cookie(
        COOKIE, number, int(SESSION_S), httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )
    return answer


async def sign_out(request: Request) -> Response:
    """End the session."""
    site = site_of(request)
    if person_of(request) is not None:
        await checked(request)
        site.access.sign_out(request.cookies.get(COOKIE))
    answer = RedirectResponse("/", 303)
    answer.delete_cookie(COOKIE)
    return answer


def refuse_other_sites(request: Request) -> None:
    """Refuse a form that another site's page posts."""
    fetched, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if fetched is not None:  # a browser's own word, which a proxy's other host name does not change
        foreign = fetched not in ("same-origin", "none")
    else:
        foreign = origin is not None and origin.partition("://")[2] != request.headers.get("host")
    if foreign:
        raise HTTPException(403, "the form came from another site")


async def checked(request: Request) -> tuple[SignedIn, Form]:
    """Return who posts what.

    Raises
    ------
    HTTPException
        403: nobody has signed in, or the form is not from this page.
    """
    refuse_other_sites(request)
    person = person_of(request)
    if person is None:
        raise HTTPException(403, "sign in first")
    form = await form_of(request)
    if not compare_digest(form.get("csrf", "").encode(), person.csrf.encode()):
        raise HTTPException(403, "the form is out of date; load the page again")
    return person, form


def _resend(site: Site, by: Operations, job: int, form: Form) -> str:
    if form.get("confirmed") != "yes":
        raise InvalidTransition("tick that it is to be sent: a structure set that was sent cannot be called back")
    profiles = {d.name: d.identities for d in site.settings.destination}
    by.resend(job, form.get("destination", ""), profiles)
    return f"goes to {form['destination']}"


def _recontour(site: Site, by: Operations, job: int, form: Form) -> str:
    models = {name for route in site.settings.route for name in (*route.models, route.asked)}
    if form.get("model", "") not in models:
        other = command("recontour", job, "--model", "MODEL")
        raise InvalidTransition(f"the page contours with the routes' models only; `{other}` takes any")
    return f"job {by.recontour(job, *names_of_text(form['model']))} was made of it"


def _answering(
    call: Callable[[Operations, int, Form], None], text: str
) -> Callable[[Site, Operations, int, Form], str]:
    def act(site: Site, by: Operations, job: int, form: Form) -> str:  # noqa: ARG001
        call(by, job, form)
        return text

    return act


ACTIONS: Mapping[str, Callable[[Site, Operations, int, Form], str]] = {
    "retry": _answering(lambda by, job, form: by.retry(job, form.get("reason", "")), "will be tried again"),
    "hold": _answering(lambda by, job, form: by.hold(job, form.get("reason", "")), "is held"),
    "confirm": _answering(lambda by, job, form: by.confirm(job), "is confirmed, and goes to its destinations"),
    "cancel": _answering(lambda by, job, form: by.cancel(job, form.get("reason", "")), "is cancelled"),
    "resend": _resend,
    "recontour": _recontour,
}


async def act_on_job(request: Request) -> Response:
    """Do one of ACTIONS, and show the job again with what came of it."""
    action, job = request.path_params["action"], request.path_params["job"]
    if action not in ACTIONS:
        raise HTTPException(404, "there is no such action")
    person, form = await checked(request)
    site = site_of(request)
    by = site.operations(person.actor)
    try:
        message = f"Job {job} {await run_in_threadpool(ACTIONS[action], site, by, job, form)}."
    except (InvalidTransition, PatientNamed) as error:
        message = f"Not done: {error}."
    site.messages[person.csrf] = message
    return RedirectResponse(f"/jobs/{job}", 303)


def _release(by: Operations, series: int, gapped_s: float, reason: str) -> str:
    return f"Done: {by.release_series(series, gapped_s, reason)}."


def _replace(by: Operations, series: int, gapped_s: float, reason: str) -> str:
    return f"Done: {by.replace_images(series, gapped_s, reason)}."


SERIES_ACTIONS: Mapping[str, Callable[[Operations, int, float, str], str]] = {
    "release": _release,
    "replace": _replace,
}


async def give_export(request: Request) -> Response:
    """Give a job's structure sets, and its CT while it is here, as a zip file; the audit trail keeps who took it."""
    person, _ = await checked(request)
    return await run_in_threadpool(_exported, request, person)


def _exported(request: Request, person: SignedIn) -> Response:
    site, job = site_of(request), request.path_params["job"]
    root = site.settings.spool.root
    try:
        export = prepare_export(site.database, root, site.copies, job)
    except InvalidTransition as error:
        site.messages[person.csrf] = f"Not done: {error}."
        return RedirectResponse(f"/jobs/{job}", 303)
    note_export(site.operations(person.actor), export, "by the page")
    name = {"Content-Disposition": f'attachment; filename="job-{job}.zip"'}
    return StreamingResponse(zipped(root, export), media_type="application/zip", headers=name)


async def act_on_series(request: Request) -> Response:
    """Have a held series examined again, as it is or with the newer images."""
    action, series = request.path_params["action"], request.path_params["series"]
    if action not in SERIES_ACTIONS:
        raise HTTPException(404, "there is no such action")
    person, form = await checked(request)
    site = site_of(request)
    by, reason = site.operations(person.actor), form.get("reason", "")
    try:
        did = SERIES_ACTIONS[action]
        text = await run_in_threadpool(did, by, series, site.settings.series.gapped_s, reason)
    except (InvalidTransition, PatientNamed) as error:
        text = f"Not done: {error}."
    site.messages[person.csrf] = text
    return RedirectResponse(f"/series/{series}", 303)


async def show_patient(request: Request) -> Response:
    """Show whose images these are, once; the audit trail keeps who asked."""
    person, _ = await checked(request)
    return await run_in_threadpool(_shown_patient, request, person)


def _shown_patient(request: Request, person: SignedIn) -> Response:
    site, job = site_of(request), request.path_params["job"]
    detail = read_job(site.database, job)
    if detail is None or not detail.paths:
        raise HTTPException(404, f"there is no job {job}")
    if detail.job.patient_replaced:
        raise HTTPException(409, f"the images of job {job} were replaced: whose they were is not known any more")
    site.operations(person.actor).note("show patient", f"job {job}")
    bring_if_possible(site.copies, detail.paths[:1])
    try:
        header = read_dicom(site.settings.spool.root / detail.paths[0], specific_tags=SHOWN)
    except OSError as error:
        raise HTTPException(409, f"the images cannot be read: {error.strerror}") from error
    patient = {keyword: str(header.get(keyword, "") or "") for keyword in SHOWN}
    return job_page(request, patient)
