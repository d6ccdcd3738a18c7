"""Pseudonyms: what stands in the database in place of a username.

`<key id>.<base64url>`: the same name under the same key always has the same one, and people are never silently counted
across keys. With AES-SIV (RFC 5297) the key holder can answer "what do you hold about me"; with the keyed hash nobody
can go back. The name is the exact string that was decoded, so two people are never one; names that differ in case or
accents are two.
"""

import base64
import dataclasses
import hashlib
import hmac
import math
from collections.abc import Callable, Iterable
from typing import Final, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

from collectors import keys
from collectors.errors import CollectorError

MAX_NAME_BYTES: Final = 255
"""Longer names (no server grants them) are encrypted as their SHA-256: still one pseudonym a name, and a small row."""
CACHED_NAMES: Final = 60_000
"""Twice a day's searchers on one branch; about 12 MB when full."""
_MAX_CACHED_CHARACTERS: Final = 64

_PURPOSE: Final = b"soulseek-research username v1"
_LONG_PURPOSE: Final = b"soulseek-research long username v1"
_BLOCK_BYTES: Final = 16
# 128 bits: among a hundred million people the chance that any two share one is 1 in 10^22, and whoever would look for
# two that do has no key to try with. The other half of the hash would cost each row 21 bytes.
_HASH_BYTES: Final = 16


class PseudonymError(CollectorError):
    """A pseudonym that cannot be reversed: one line for people."""


@dataclasses.dataclass(frozen=True, slots=True)
class Epoch:
    """From when a key counts, as the database knows it.

    Attributes:
        valid_from_ms: Milliseconds since 1970; None for the first, which counts from the beginning.
    """

    key_id: str
    fingerprint: str
    algorithm: str
    valid_from_ms: int | None = None

    @property
    def begins_ms(self) -> float:
        """When it begins, as a number that compares."""
        return -math.inf if self.valid_from_ms is None else self.valid_from_ms


class Pseudonymiser:
    """Turns usernames into pseudonyms under the key of the epoch in which they were heard.

    Keeps the names it met last in memory, with their pseudonyms; they are in no repr, and it cannot be pickled.
    """

    def __init__(self, ring: keys.KeyRing, epochs: Iterable[Epoch], cached_names: int = CACHED_NAMES) -> None:
        """Takes the epochs that the database knows.

        Raises:
            keys.KeyRingError: When a key here is not the one that the database means by its id.
        """
        self._ring = ring
        self._generation_limit = max(1, cached_names // 2)
        self._epochs: list[Epoch] = []
        self._leave()
        self._accept(epochs)

    def __reduce__(self) -> NoReturn:
        raise TypeError("names of people are never pickled")

    def __call__(self, username: str, timestamp_ms: int) -> str:
        """Returns the pseudonym of a name heard at a time.

        Raises:
            keys.MissingKey: When the key of that time's epoch is not here.
        """
        if not self._begins_ms <= timestamp_ms < self._ends_ms:
            self._enter(timestamp_ms)
        try:
            return self._recent[username]
        except KeyError:
            return self._look_up(username)

    def refresh(self, epochs: Iterable[Epoch]) -> None:
        """Takes what the database knows now, and keys that were imported meanwhile.

        Raises:
            keys.KeyRingError: As on construction; what was known before stays in force.
        """
        self._ring.reload()
        self._accept(epochs)

    def require_key(self, timestamp_ms: int) -> Epoch:
        """Returns the epoch in force at a time, sure that pseudonyms can be made in it.

        Raises:
            keys.MissingKey: When its key is not here.
            keys.KeyRingError: When no epoch is registered for that time.
        """
        epoch, _ends_ms = self._in_force(timestamp_ms)
        self("", timestamp_ms)
        return epoch

    def next_missing(self, timestamp_ms: int) -> Epoch | None:
        """Returns the first epoch, of the one in force and those to come, whose key is not here."""
        begun = max((epoch.begins_ms for epoch in self._epochs if epoch.begins_ms <= timestamp_ms), default=-math.inf)
        awaited = (epoch for epoch in self._epochs if epoch.begins_ms >= begun)
        return next((epoch for epoch in awaited if epoch.key_id not in self._ring), None)

    def reveal(self, pseudonym: str) -> str:
        """Returns the name that a pseudonym stands for.

        Raises:
            keys.MissingKey: When its key is not here.
            PseudonymError: When it cannot be reversed, or is none.
        """
        key_id, dot, text = pseudonym.partition(".")
        if not dot:
            raise PseudonymError("A pseudonym is a key id, a dot and more.")
        key = self._ring.get(key_id)
        if key.algorithm != keys.AES_SIV:
            raise PseudonymError(f"Pseudonyms under the key {key_id} are keyed hashes, which nobody can reverse.")
        if padded := _decrypt(key, text, _PURPOSE):
            return padded.rstrip(b"\0")[:-1].decode("utf-8", "surrogatepass")
        if digest := _decrypt(key, text, _LONG_PURPOSE):
            raise PseudonymError(
                f"It stands for a name of more than {MAX_NAME_BYTES} bytes, of which only the SHA-256 was encrypted:"
                f" {digest.hex()}."
            )
        raise PseudonymError(f"This is not a pseudonym made with the key {key_id}, or it is damaged.")

    def _accept(self, epochs: Iterable[Epoch]) -> None:
        known = sorted(epochs, key=lambda epoch: epoch.begins_ms)
        for epoch in known:
            if epoch.key_id in self._ring and self._ring.get(epoch.key_id).fingerprint != epoch.fingerprint:
                raise keys.KeyRingError(
                    f"The pseudonym key {epoch.key_id} here is not the one that the database knows by that id."
                )
        if known != self._epochs:
            self._epochs = known
            self._leave()

    def _leave(self) -> None:
        self._begins_ms = self._ends_ms = math.inf
        self._recent: dict[str, str] = {}
        self._older: dict[str, str] = {}

    def _enter(self, timestamp_ms: int) -> None:
        self._leave()
        epoch, ends_ms = self._in_force(timestamp_ms)
        self._make = _maker(self._ring.get(epoch.key_id))
        self._begins_ms, self._ends_ms = epoch.begins_ms, ends_ms

    def _in_force(self, timestamp_ms: int) -> tuple[Epoch, float]:
        """The epoch in force at a time, and when it ends."""
        ends_ms = math.inf
        for epoch in reversed(self._epochs):
            if epoch.begins_ms <= timestamp_ms:
                return epoch, ends_ms
            ends_ms = epoch.begins_ms
        raise keys.KeyRingError("No pseudonym key is registered in the database for this time.")

    def _look_up(self, username: str) -> str:
        pseudonym = self._older.get(username) or self._make(username)
        if len(username) <= _MAX_CACHED_CHARACTERS:
            if len(self._recent) >= self._generation_limit:
                # The older half is let go at once: nothing is ordered at each hit, as a list of the last used would be.
                self._older, self._recent = self._recent, {}
            self._recent[username] = pseudonym
        return pseudonym


def _maker(key: keys.Key) -> Callable[[str], str]:
    secret, key_id, prefix = key.secret.get_secret_value(), key.key_id.encode(), f"{key.key_id}."

    def encode(data: bytes) -> str:
        return prefix + base64.urlsafe_b64encode(data).decode().rstrip("=")

    if key.algorithm == keys.HMAC_SHA256:
        # None of the parts before the name holds a zero byte, so no two names make the same message.
        before = b"%b\0%b\0" % (_PURPOSE, key_id)
        return lambda name: encode(hmac.digest(secret, before + _bytes(name), hashlib.sha256)[:_HASH_BYTES])

    cipher, purpose, long_purpose = AESSIV(secret), [_PURPOSE, key_id], [_LONG_PURPOSE, key_id]

    def encrypt(name: str) -> str:
        data = _bytes(name)
        if len(data) > MAX_NAME_BYTES:
            return encode(cipher.encrypt(hashlib.sha256(data).digest(), long_purpose))
        return encode(cipher.encrypt(_pad(data), purpose))

    return encrypt


def _decrypt(key: keys.Key, text: str, purpose: bytes) -> bytes | None:
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return AESSIV(key.secret.get_secret_value()).decrypt(data, [purpose, key.key_id.encode()])
    except (InvalidTag, ValueError):
        return None


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _pad(data: bytes) -> bytes:
    """ISO/IEC 7816-4: one bit and zeros up to whole blocks, so that the pseudonym does not tell the name's length."""
    return data + b"\x80" + bytes(-(len(data) + 1) % _BLOCK_BYTES)
