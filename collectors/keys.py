"""The keys that make pseudonyms: one file each, readable by nobody else, on the machines that listen.

One key serves all regions, or the same person would be two. The database knows each key's fingerprint, never the key.
"""

import base64
import contextlib
import dataclasses
import datetime as dt
import hashlib
import hmac
import json
import os
import pathlib
import secrets
import shlex
import stat
from typing import Final, NoReturn

from pydantic import SecretBytes

from collectors.errors import CollectorError

AES_SIV: Final = "aes-siv"
"""Reversible by whoever holds the key (AES-256-SIV, RFC 5297)."""
HMAC_SHA256: Final = "hmac-sha256"
"""Irreversible; still only the key holder can tell which pseudonym a name has."""
SECRET_BYTES: Final = {AES_SIV: 64, HMAC_SHA256: 32}

_EXPORT_PREFIX: Final = "ssr-key-1"
# A random secret has about 30 different byte values in 32 and 57 in 64; this few are a mistake or a phrase.
_MIN_DIFFERENT_BYTES: Final = 16
_MAX_FILE_BYTES: Final = 4096


class KeyRingError(CollectorError):
    """A key that cannot be used: one line for people, without anything of the key."""


class MissingKey(KeyRingError):  # noqa: N818 - the name says it
    """A key that is needed and not here."""

    def __init__(self, key_id: str) -> None:
        super().__init__(
            f"The pseudonym key {key_id} is not on this machine. Where it is, run"
            f" `soulseek-research key export {key_id}`; here, run `soulseek-research key import` and paste the line."
        )
        self.key_id = key_id


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    """A pseudonym key. Its secret shows in no repr, log or dump, and it is not pickled.

    Attributes:
        algorithm: `aes-siv` or `hmac-sha256`.
        secret: 64 random bytes for `aes-siv`, 32 for `hmac-sha256`.
        fingerprint: 64 hex digits that name the key and tell nothing about it, nor about any pseudonym.
        key_id: The 8 characters that stand before each pseudonym.
    """

    algorithm: str
    secret: SecretBytes
    fingerprint: str = dataclasses.field(init=False)
    key_id: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        secret = self.secret.get_secret_value()
        if self.algorithm not in SECRET_BYTES:
            raise KeyRingError(f"The key's algorithm must be one of: {', '.join(SECRET_BYTES)}.")
        if len(secret) != SECRET_BYTES[self.algorithm]:
            raise KeyRingError("The key is damaged or cut short.")
        if len(set(secret)) < _MIN_DIFFERENT_BYTES:
            raise KeyRingError(
                "The key is not random: anybody could guess it. Make one with `soulseek-research key new`."
            )
        # Its own message under HMAC: whoever reads it in the database can test no guess of a name against a pseudonym.
        purpose = b"soulseek-research key fingerprint v1 " + self.algorithm.encode()
        digest = hmac.digest(secret, purpose, hashlib.sha256)
        object.__setattr__(self, "fingerprint", digest.hex())
        object.__setattr__(self, "key_id", base64.b32encode(digest[:5]).decode().lower())

    def __reduce__(self) -> NoReturn:
        raise TypeError("keys are not pickled")


class KeyRing:
    """The keys in one folder."""

    def __init__(self, directory: pathlib.Path) -> None:
        """Loads the keys of the folder, which need not exist yet.

        Raises:
            KeyRingError: When the folder or a key file is not what it should be, or not only ours to read.
        """
        self.directory = directory
        self._keys: dict[str, Key] = {}
        self.reload()

    def __contains__(self, key_id: str) -> bool:
        return key_id in self._keys

    @property
    def key_ids(self) -> list[str]:
        """The ids of all keys held, sorted."""
        return sorted(self._keys)

    def reload(self) -> None:
        """Reads the folder again, for keys that were brought meanwhile.

        Raises:
            KeyRingError: As on construction; what was loaded before stays.
        """
        self._keys = {key.key_id: key for key in _load_folder(self.directory)}

    def get(self, key_id: str) -> Key:
        """Returns a key.

        Raises:
            MissingKey: When it is not here.
        """
        key = self._keys.get(key_id)
        if key is None:
            raise MissingKey(key_id)
        return key

    def new(self, algorithm: str = AES_SIV) -> Key:
        """Generates a key and keeps it; it is safe on the disk when this returns.

        Raises:
            KeyRingError: When the algorithm is unknown or the file cannot be written.
        """
        return self._keep(Key(algorithm, SecretBytes(secrets.token_bytes(SECRET_BYTES.get(algorithm, 0)))))

    def discard(self, key_id: str) -> None:
        """Removes a key that was never used: one made by a first start that another was quicker than."""
        if self._keys.pop(key_id, None) is not None:
            _path(self.directory, key_id).unlink(missing_ok=True)

    def export_text(self, key_id: str) -> str:
        """Returns the key as one line to paste elsewhere. Whoever has it can reverse every pseudonym made with it.

        Raises:
            MissingKey: When it is not here.
        """
        key = self.get(key_id)
        return ":".join((_EXPORT_PREFIX, key.key_id, key.algorithm, _encode(key)))

    def import_text(self, text: str) -> Key:
        """Keeps a key that was exported elsewhere; spaces and line ends that pasting added do no harm.

        Raises:
            KeyRingError: When the text is not a whole, undamaged key.
        """
        prefix, *fields = "".join(text.split()).split(":")
        if prefix != _EXPORT_PREFIX or len(fields) != 3:
            raise KeyRingError(f"This is not an exported key: one line that begins with {_EXPORT_PREFIX}: is expected.")
        key_id, algorithm, secret = fields
        key = _decode(algorithm, secret)
        # The id follows from the secret, so it is the checksum too: one damage in a trillion would go unnoticed.
        if key.key_id != key_id:
            raise KeyRingError("The exported key is damaged: copy the whole line again.")
        return self._keep(key)

    def _keep(self, key: Key) -> Key:
        if key.key_id not in self._keys:
            _write(self.directory, key)
            self._keys[key.key_id] = key
        return key


def _path(directory: pathlib.Path, key_id: str) -> pathlib.Path:
    return directory / f"{key_id}.key"


def _encode(key: Key) -> str:
    return base64.urlsafe_b64encode(key.secret.get_secret_value()).decode().rstrip("=")


def _decode(algorithm: str, secret: str) -> Key:
    try:
        raw = base64.b64decode(secret + "=" * (-len(secret) % 4), altchars=b"-_", validate=True)
    except ValueError:
        raw = b""
    return Key(algorithm, SecretBytes(raw))


def _load_folder(directory: pathlib.Path) -> list[Key]:
    try:
        status = directory.stat()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise KeyRingError(f"The pseudonym keys in {directory} cannot be read: {error.strerror}.") from None
    _require_private(status, directory, 0o700)
    return [_read(path) for path in sorted(directory.glob("*.key"))]


def _require_private(status: os.stat_result, path: pathlib.Path, mode: int) -> None:
    kind, is_right_kind = ("file", stat.S_ISREG) if mode == 0o600 else ("folder", stat.S_ISDIR)
    if not is_right_kind(status.st_mode):
        raise KeyRingError(f"{path} should be a {kind}.")
    if status.st_uid != os.geteuid():
        raise KeyRingError(f"{path} belongs to another user (uid {status.st_uid}), who could read or change the key.")
    if status.st_mode & 0o077:
        raise KeyRingError(
            f"{path} is open to others (mode {stat.S_IMODE(status.st_mode):04o}):"
            f" run `chmod {mode:o} {shlex.quote(str(path))}`, and think whether somebody has read the key."
        )


def _read(path: pathlib.Path) -> Key:
    try:
        # O_NONBLOCK, so that a pipe of that name is refused rather than waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            _require_private(os.fstat(descriptor), path, 0o600)
            content = file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise KeyRingError(f"The pseudonym key {path} cannot be read: {error.strerror}.") from None
    fields: dict[str, object] = {}
    with contextlib.suppress(ValueError):
        parsed = json.loads(content)
        fields = parsed if isinstance(parsed, dict) else {}
    # Outside of any handler: a parser's exception would carry the file's content along.
    algorithm, secret = fields.get("algorithm"), fields.get("secret")
    if not isinstance(algorithm, str) or not isinstance(secret, str):
        raise KeyRingError(f"{path} is not a pseudonym key, or it is damaged: bring the key again with `key import`.")
    try:
        key = _decode(algorithm, secret)
    except KeyRingError as error:
        raise KeyRingError(f"{path} cannot be used: {error}") from None
    if not key.key_id == fields.get("key_id") == path.stem:
        raise KeyRingError(f"{path} is damaged or has been renamed: its key does not have that id.")
    return key


def _write(directory: pathlib.Path, key: Key) -> None:
    """Writes the key's file whole or not at all; it has reached the disk when this returns."""
    content = {
        "key_id": key.key_id,
        "algorithm": key.algorithm,
        "secret": _encode(key),
        "created_at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
    }
    temporary = directory / f".{key.key_id}.{secrets.token_hex(8)}"
    try:
        if not directory.exists():
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync_folder(directory.parent)
        _require_private(directory.stat(), directory, 0o700)
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(content, file)
                file.flush()
                os.fsync(descriptor)
            temporary.rename(_path(directory, key.key_id))
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(directory)
    except OSError as error:
        raise KeyRingError(f"The pseudonym key cannot be written to {directory}: {error.strerror}.") from None


def _sync_folder(folder: pathlib.Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
