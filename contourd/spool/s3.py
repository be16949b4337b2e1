"""Objects in a store that speaks S3, by obstore (the extra ``s3``).

A put is conditional (``If-None-Match: *``): of two writers of one name one is told that it came second, and none
overwrites the other. A store that does not know that condition is found by ``contourd check``.
"""

from __future__ import annotations

import configparser
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from contourd.errors import ObjectExists, ObjectMissing, SettingsError, StoreUnavailable
from contourd.settings import StoreSettings
from contourd.spool.objects import Chunks, ListedObject
from contourd.system.logs import one_line

if TYPE_CHECKING:
    from obstore.store import S3Store as Client

INSTALL = "pip install 'contourd[s3]'"
PROFILE = "default"
# A request of so many bytes more may take a second more.
BYTES_PER_S = 4_000_000
TRIES_AFTER_FIRST = 2
LONGEST_TOLD = 200


class S3Store:
    """One bucket, below a prefix.

    Raises
    ------
    SettingsError
        obstore is not installed, or the file of the credentials cannot be used.
    """

    def __init__(self, settings: StoreSettings) -> None:
        try:
            import obstore
            import obstore.exceptions
            import obstore.store
        except ImportError as error:
            raise SettingsError("spool.store", [f"needs obstore: {INSTALL}"]) from error
        self._obstore: Any = obstore
        self._settings = settings
        self._credentials = _credentials(settings)
        self._clients: dict[int, Client] = {}
        self.text = f"the object store {settings.endpoint or 'of AWS'}, bucket {settings.bucket}"

    def put(self, name: str, chunks: Chunks) -> None:
        """Store an object; an answer that was lost is found out by what lies there then."""
        content = b"".join(chunks)
        try:
            with self._answers():
                self._obstore.put(self._client(len(content)), name, content, mode="create")
        except ObjectExists:
            if not self._holds(name, content):
                raise

    def _holds(self, name: str, content: bytes) -> bool:
        """Return whether an object is this very one: a put is repeated where its answer does not come."""
        return len(content) == self._size(name) and self.get(name) == content

    def _size(self, name: str) -> int:
        with self._answers():
            return int(self._obstore.head(self._client(0), name)["size"])

    def get(self, name: str, offset: int = 0, size_bytes: int | None = None) -> bytes:
        """Return an object's bytes, or some of them; what comes short is told, and never returned."""
        expected = self._size(name) - offset if size_bytes is None else size_bytes
        if expected == 0:
            return b""
        with self._answers():
            found = self._obstore.get_range(self._client(expected), name, start=offset, length=expected)
            content = bytes(found)
        if len(content) != expected:
            raise StoreUnavailable(f"{self.text} gave {len(content)} of {expected} bytes of {name}")
        return content

    def list(self, prefix: str) -> Iterator[ListedObject]:
        """Go through the objects below a prefix."""
        with self._answers():
            for some in self._obstore.list(self._client(0), prefix):
                for found in some:
                    yield ListedObject(found["path"], found["size"], found["last_modified"].timestamp())

    def delete(self, name: str) -> None:
        """Remove an object, if it is there."""
        try:
            with self._answers():
                self._obstore.delete(self._client(0), name)
        except ObjectMissing:
            return

    def _client(self, size_bytes: int) -> Client:
        """Return a client that waits as long as so many bytes may take, in steps of doubled patience."""
        step = max(0, (size_bytes // BYTES_PER_S).bit_length())
        if step not in self._clients:
            self._clients[step] = self._made(self._settings.timeout_s + (2**step if step else 0))
        return self._clients[step]

    def _made(self, limit_s: float) -> Client:
        settings = self._settings
        given: dict[str, Any] = {"region": settings.region, "virtual_hosted_style_request": False, **self._credentials}
        if settings.endpoint:
            given["endpoint"] = settings.endpoint
        limit = timedelta(seconds=limit_s)
        made: Client = self._obstore.store.S3Store(
            settings.bucket,
            prefix=settings.prefix or None,
            client_options={
                "timeout": limit,
                "connect_timeout": timedelta(seconds=min(limit_s, settings.timeout_s)),
                "allow_http": settings.endpoint.startswith("http://"),
            },
            retry_config={"max_retries": TRIES_AFTER_FIRST, "retry_timeout": limit},
            **given,
        )
        return made

    @contextmanager
    def _answers(self) -> Iterator[None]:
        """Tell what the store says by errors of ours; none of them quotes a credential."""
        errors = self._obstore.exceptions
        try:
            yield
        except errors.AlreadyExistsError as error:
            raise ObjectExists(f"{self.text} has an object of that name already") from error
        except (errors.NotFoundError, FileNotFoundError) as error:
            raise ObjectMissing(f"{self.text} has no such object, or there is no such bucket") from error
        except (errors.PermissionDeniedError, errors.UnauthenticatedError) as error:
            raise StoreUnavailable(
                f"{self.text} refuses these credentials, or they may not do this; "
                "check spool.store.credentials_file and the bucket's policy"
            ) from error
        except (errors.BaseError, OSError) as error:
            raise StoreUnavailable(f"{self.text} cannot be used: {_told(error)}") from error


def _told(error: Exception) -> str:
    """Return the first line of what obstore says, shortened: further ones repeat the request."""
    said = str(error).strip().split("\n", 1)[0]
    return one_line(said, LONGEST_TOLD)


def _credentials(settings: StoreSettings) -> dict[str, str]:
    """Read the access key from a file as AWS's own programs have it; without one the environment has it."""
    path = settings.credentials_file
    if path is None:
        return {}
    read = configparser.ConfigParser(interpolation=None)
    try:
        read.read_string(path.read_text(encoding="utf-8"))
        keys = {key: read[PROFILE][f"aws_{key}"] for key in ("access_key_id", "secret_access_key")}
    except OSError as error:
        raise SettingsError(str(path), [f"cannot be read: {error.strerror}"]) from error
    except (configparser.Error, KeyError, UnicodeDecodeError):
        problem = f"needs a section [{PROFILE}] with aws_access_key_id and aws_secret_access_key"
        raise SettingsError(str(path), [problem]) from None  # the error would quote the line
    if token := read[PROFILE].get("aws_session_token"):
        keys["session_token"] = token
    return keys
