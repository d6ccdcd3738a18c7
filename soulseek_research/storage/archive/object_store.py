"""Archives in an object store: S3 and what speaks it, Google's, Azure's. Credentials come from the environment."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, BinaryIO, cast
from urllib.parse import urlsplit

import obstore
from obstore import exceptions
from obstore import store as stores

from soulseek_research.storage.archive import layout
from soulseek_research.storage.archive.destination import Destination, Writer
from soulseek_research.storage.archive.errors import ArchiveBusyError, ArchiveError
from soulseek_research.storage.archive.read_ahead import ReadAhead

if TYPE_CHECKING:
    from obstore import WritableFile  # which exists for type checkers only

SCHEMES = ("s3", "gs", "az")
PROBE = ".soulseek-research-probe"

# Of an upload, so many pieces at once; S3 takes ten thousand of them: files of up to 80 GB in 32 MB of memory.
PIECE_BYTES = 8 * 2**20
PIECES_AT_ONCE = 3
BUFFER_BYTES = 2**20
REQUEST_SECONDS = 300  # a piece has to be through by then: a quarter of a megabit a second is enough
CONNECT_SECONDS = 10
RETRIES = 8  # with pauses that double, half a minute in all; whoever called us may try again from the start
RETRY_SECONDS = 120

_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_FAILURES = (exceptions.BaseError, OSError, ValueError)
_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>([A-Za-z0-9]{1,60})</Code>")
_TRY_AGAIN = {408, 425, 429}


class ObjectStore(Destination):
    """A bucket, or what lies under a prefix of one.

    An upload that is killed leaves no object but invisible pieces, for which money is asked: let the bucket have a
    lifecycle rule that removes uploads which were never completed.

    Args:
        place: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX.

    Raises:
        ArchiveError: It cannot be used as it is written, or as the environment sets it up.
    """

    def __init__(self, place: str) -> None:
        self.url = _checked(place)
        endpoints = [os.environ[name] for name in _ENDPOINTS if os.environ.get(name)]
        if not all(re.match(r"https?://[^/]", endpoint) for endpoint in endpoints):
            raise ArchiveError(f"{self.url} cannot be used: AWS_ENDPOINT_URL is malformed: write https://HOST:PORT")
        options: stores.ClientConfig = {
            "timeout": timedelta(seconds=REQUEST_SECONDS),
            "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
            # Only who writes http:// into the environment gets it.
            "allow_http": any(endpoint.startswith("http://") for endpoint in endpoints),
        }
        retries: stores.RetryConfig = {
            "max_retries": RETRIES,
            "retry_timeout": timedelta(seconds=RETRY_SECONDS),
        }
        try:
            self._store = stores.from_url(self.url, client_options=options, retry_config=retries)
        except _FAILURES:
            raise ArchiveError(
                f"{self.url} cannot be used: the URL is malformed, or the environment lacks what it needs "
                "(AWS_… for s3, GOOGLE_… for gs, AZURE_… for az)"
            ) from None

    @contextlib.contextmanager
    def create(self, name: str) -> Iterator[Writer]:
        """See Destination; but what an attempt that was killed left behind is the bucket's to remove."""
        path = _path(name)
        with self._told(name):
            upload = obstore.open_writer(
                self._store, path, buffer_size=PIECE_BYTES, max_concurrency=PIECES_AT_ONCE, attributes=_attributes(name)
            )
        try:
            yield _Written(upload, self, name)
            with self._told(name):
                upload.close()
        except BaseException:
            with contextlib.suppress(*_FAILURES):
                upload.__exit__(*sys.exc_info())  # told of an error, it gives the upload up
            raise

    def open(self, name: str) -> BinaryIO:
        """See Destination."""
        path = _path(name)
        with self._told(name):
            found = obstore.head(self._store, path)
        # An object that is replaced meanwhile is not mixed with what was read of the old one.
        unchanged = {"if_match": found["e_tag"]} if found["e_tag"] else {}

        def fetch(start: int, end: int) -> memoryview:
            with self._told(name):
                answer = obstore.get(self._store, path, options=cast("Any", {"range": (start, end), **unchanged}))
                data = memoryview(answer.bytes())
            if len(data) != end - start:
                raise ArchiveBusyError(f"{self.url}/{name}: the store sent {len(data)} of {end - start} bytes")
            return data

        # An io.BufferedReader does all that a BinaryIO does.
        return cast("BinaryIO", io.BufferedReader(ReadAhead(fetch, found["size"]), BUFFER_BYTES))

    def size(self, name: str) -> int | None:
        """See Destination."""
        path = _path(name)
        with self._told(name):
            try:
                return obstore.head(self._store, path)["size"]
            except FileNotFoundError:
                return None

    def delete(self, name: str) -> None:
        """See Destination."""
        self._delete(name, _path(name))

    def names(self) -> Iterator[str]:
        """See Destination."""
        with self._told():
            found = [entry["path"] for entries in obstore.list(self._store, chunk_size=1000) for entry in entries]
        yield from sorted(name for name in found if not any(step.startswith(".") for step in name.split("/")))

    def check(self) -> None:
        """See Destination."""
        with self._told():
            obstore.put(self._store, PROBE, b"", use_multipart=False)
        # In a bucket from which nothing may be deleted it stays.
        with contextlib.suppress(ArchiveError):
            self._delete(PROBE, PROBE)

    @contextlib.contextmanager
    def _told(self, name: str = "") -> Iterator[None]:
        """What goes wrong is told in a line for people."""
        try:
            yield
        except _FAILURES as error:
            # The store's own words may repeat the key's id and what was signed.
            raise _explained(error, f"{self.url}/{name}" if name else self.url) from None

    def _delete(self, name: str, path: str) -> None:
        with self._told(name):
            try:
                obstore.delete(self._store, path)
            except FileNotFoundError as error:
                if _code(error) == "NoSuchBucket":
                    raise


class _Written:
    """An object that is being uploaded."""

    def __init__(self, upload: "WritableFile", place: ObjectStore, name: str) -> None:
        self._upload = upload
        self._place = place
        self._name = name

    def write(self, data: bytes | bytearray | memoryview, /) -> int:
        with self._place._told(self._name):  # noqa: SLF001 - a part of the same thing
            return self._upload.write(data)


def _checked(place: str) -> str:
    """The URL as the catalogue knows it."""
    try:
        url = urlsplit(place)
    except ValueError:
        url = urlsplit("")
    prefix = url.path.strip("/")
    if "@" in place or "?" in place or "#" in place:
        raise ArchiveError(
            "the object store's URL holds a login or parameters, and it is written down in the catalogue: give them by "
            "the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, AWS_REGION ...)"
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", url.netloc):
        raise ArchiveError("the object store's URL is malformed: write s3://BUCKET/PREFIX")
    if prefix:
        layout.steps(prefix)
    return f"{url.scheme}://{url.netloc}" + (f"/{prefix}" if prefix else "")


def _path(name: str) -> str:
    return "/".join(layout.steps(name))


def _attributes(name: str) -> dict[str, str]:
    """What a browser is told of it."""
    return {"Content-Type": "application/json" if name.endswith(".json") else "application/octet-stream"}


def _explained(error: BaseException, path: str) -> ArchiveError:
    status, code = _status(error), _code(error)
    if code == "NoSuchBucket":
        return ArchiveError(f"{path}: there is no such bucket: make it, or correct the URL")
    if isinstance(error, FileNotFoundError):
        return ArchiveError(f"{path}: it is not there")
    if isinstance(error, exceptions.PreconditionError):
        return ArchiveBusyError(f"{path}: it was replaced while it was read")
    # It has asked the machine itself, as in Amazon's cloud it may.
    if "/latest/api/token" in str(error) or "/latest/meta-data" in str(error):
        return ArchiveError(f"{path}: no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    said = " ".join(word for word in (f"HTTP {status}" if status else "", code or "") if word)
    if isinstance(error, exceptions.UnauthenticatedError | exceptions.PermissionDeniedError) or status in (401, 403):
        return ArchiveError(
            f"{path}: the store refuses access ({said}): check the key in the environment and its rights"
        )
    if status is not None and status < 500 and status not in _TRY_AGAIN:
        return ArchiveError(f"{path}: the store refuses this ({said})")
    if isinstance(error, exceptions.GenericError | OSError):
        what = f"answers with an error ({said})" if said else "cannot be reached: is its address right?"
        return ArchiveBusyError(f"{path}: the store {what}")
    return ArchiveError(f"{path}: the store cannot be used for this ({type(error).__name__})")


def _status(error: BaseException) -> int | None:
    found = _STATUS.search(str(error))
    return int(found[1]) if found else None


def _code(error: BaseException) -> str | None:
    found = _CODE.search(str(error))
    return found[1] if found else None
