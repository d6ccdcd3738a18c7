import base64
import copy
import pickle

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from hypothesis import example, given
from hypothesis import strategies as st

from collectors.keys import AES_SIV, HMAC_SHA256, Key, KeyRing, KeyRingError, MissingKey
from collectors.pseudonym import MAX_NAME_BYTES, Epoch, PseudonymError, Pseudonymiser

any_name = st.text(st.characters(exclude_categories=()))


def epoch(key: Key, valid_from_ms: int | None = None) -> Epoch:
    return Epoch(key.key_id, key.fingerprint, key.algorithm, valid_from_ms)


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    return KeyRing(tmp_path_factory.mktemp("house") / "keys")


@pytest.fixture(scope="module", params=[AES_SIV, HMAC_SHA256])
def key(ring: KeyRing, request: pytest.FixtureRequest) -> Key:
    return ring.new(request.param)


@pytest.fixture(scope="module")
def siv_key(ring: KeyRing) -> Key:
    return ring.new(AES_SIV)


def test_the_cipher_is_that_of_rfc_5297() -> None:
    # Appendix A.2: nonce-based authenticated encryption, the nonce being the last of the associated data.
    cipher = AESSIV(bytes.fromhex("7f7e7d7c7b7a79787776757473727170404142434445464748494a4b4c4d4e4f"))
    associated = [
        bytes.fromhex("00112233445566778899aabbccddeeffdeaddadadeaddadaffeeddccbbaa99887766554433221100"),
        bytes.fromhex("102030405060708090a0"),
        bytes.fromhex("09f911029d74e35bd84156c5635688c0"),
    ]
    plain = b"this is some plaintext to encrypt using SIV-AES"
    expected = (
        "7bdb6e3b432667eb06f4d14bff2fbd0fcb900f2fddbe40432660"
        "1965c889bf17dba77ceb094fa663b7a3f748ba8af829ea64ad544a272e9c485b62a3fd5c0d"
    )
    assert cipher.encrypt(plain, associated).hex() == expected


@pytest.mark.parametrize(
    ("exported", "expected"),
    [
        (
            "ssr-key-1:4gadczht:aes-siv:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0-Pw",
            "4gadczht.Q-rzw0Dn8yZZVQw3ACoC3hSQPT_QD2ZRO0ZNp6tapPA",
        ),
        (
            "ssr-key-1:cz5jexrh:hmac-sha256:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8",
            "cz5jexrh.fsMa_LgGKMBILfRXyPE8Pw",
        ),
    ],
)
def test_pseudonyms_never_change(ring: KeyRing, exported: str, expected: str) -> None:
    # Computed by hand from CMAC and CTR, and from HMAC: other values would make strangers of everybody we know.
    assert Pseudonymiser(ring, [epoch(ring.import_text(exported))])("loopfreak", 0) == expected


@given(st.lists(any_name, min_size=2, max_size=5, unique=True))
@example(["a", "a\0", "a\x80", "a\x80\0", ""])
@example(["x" * 255, "x" * 256, "x" * 70_000, "x" * 70_001])
@example(["anna", "Anna", "anna ", "anna\u200b"])
def test_a_name_always_has_the_same_pseudonym_and_two_names_never(ring: KeyRing, key: Key, names: list[str]) -> None:
    pseudonym = Pseudonymiser(ring, [epoch(key)])
    made = [pseudonym(name, 0) for name in names]
    assert len(set(made)) == len(names)
    assert [pseudonym(name, 2**45) for name in names] == made
    assert [Pseudonymiser(ring, [epoch(key)])(name, 0) for name in names] == made


@given(any_name)
def test_a_pseudonym_is_its_key_id_and_base64url(ring: KeyRing, key: Key, name: str) -> None:
    key_id, text = Pseudonymiser(ring, [epoch(key)])(name, 0).split(".")
    assert key_id == key.key_id
    assert len(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))) % 16 == 0
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@given(any_name.filter(lambda name: len(name.encode("utf-8", "surrogatepass")) <= MAX_NAME_BYTES))
@example("a" + "\0" * 20)
@example("x" * 255)
def test_the_key_holder_can_reverse_it(ring: KeyRing, siv_key: Key, name: str) -> None:
    pseudonym = Pseudonymiser(ring, [epoch(siv_key)])
    assert pseudonym.reveal(pseudonym(name, 0)) == name


def test_its_length_tells_little_of_the_names(ring: KeyRing, key: Key) -> None:
    pseudonym = Pseudonymiser(ring, [epoch(key)])
    assert len({len(pseudonym("x" * length, 0)) for length in range(16)}) == 1
    assert len(pseudonym("x" * 70_000, 0)) < 400


def test_of_a_name_that_no_server_grants_only_the_hash_comes_back(ring: KeyRing, siv_key: Key) -> None:
    pseudonym = Pseudonymiser(ring, [epoch(siv_key)])
    with pytest.raises(PseudonymError, match=r"only the SHA-256 was encrypted: [0-9a-f]{64}"):
        pseudonym.reveal(pseudonym("x" * 256, 0))


def test_what_cannot_be_reversed_says_so(ring: KeyRing, siv_key: Key) -> None:
    hashing = ring.new(HMAC_SHA256)
    pseudonym = Pseudonymiser(ring, [epoch(siv_key)])
    hashed = Pseudonymiser(ring, [epoch(hashing)])("anna", 0)
    other_key = f"{ring.new().key_id}.{pseudonym('anna', 0).split('.')[1]}"
    for text in (hashed, other_key, f"{siv_key.key_id}.", f"{siv_key.key_id}.AAAA", f"{siv_key.key_id}.ä", "anna", ""):
        with pytest.raises(PseudonymError):
            pseudonym.reveal(text)
    with pytest.raises(MissingKey):
        pseudonym.reveal("aaaaaaaa." + "A" * 43)


def test_the_epoch_is_that_of_the_searchs_time(ring: KeyRing) -> None:
    first, second, third = ring.new(), ring.new(HMAC_SHA256), ring.new()
    pseudonym = Pseudonymiser(ring, [epoch(third, 9000), epoch(first), epoch(second, 5000)])
    for timestamp_ms, key in [(0, first), (4999, first), (5000, second), (8999, second), (9000, third), (100, first)]:
        assert pseudonym("anna", timestamp_ms).startswith(f"{key.key_id}.")
    assert pseudonym.require_key(7000) == epoch(second, 5000)


def test_an_epoch_announced_meanwhile_comes_into_force(ring: KeyRing) -> None:
    first, second = ring.new(), ring.new()
    pseudonym = Pseudonymiser(ring, [epoch(first)])
    before = pseudonym("anna", 6000)
    pseudonym.refresh([epoch(first), epoch(second, 5000)])
    assert pseudonym("anna", 4000) == before
    assert pseudonym("anna", 6000).startswith(second.key_id)


def test_a_key_brought_while_running_is_found(ring: KeyRing, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = KeyRing(tmp_path_factory.mktemp("elsewhere") / "keys")
    first, coming = ring.new(), elsewhere.new()
    epochs = [epoch(first), epoch(coming, 5000)]
    pseudonym = Pseudonymiser(ring, epochs)
    assert pseudonym.next_missing(1000) == epoch(coming, 5000)
    assert pseudonym("anna", 4999)
    for _ in range(2):
        with pytest.raises(MissingKey, match=f"key export {coming.key_id}"):
            pseudonym("anna", 5000)
    assert pseudonym("anna", 4999), "a time that has its key is not harmed"
    with pytest.raises(MissingKey):
        pseudonym.require_key(5000)
    KeyRing(ring.directory).import_text(elsewhere.export_text(coming.key_id))
    pseudonym.refresh(epochs)
    assert pseudonym.next_missing(1000) is None
    assert pseudonym("anna", 5000).startswith(coming.key_id)


def test_keys_of_the_past_are_not_needed(ring: KeyRing) -> None:
    here = ring.new()
    pseudonym = Pseudonymiser(ring, [Epoch("aaaaaaaa", "00", AES_SIV), epoch(here, 5000)])
    assert pseudonym.next_missing(4999) == Epoch("aaaaaaaa", "00", AES_SIV)
    assert pseudonym.next_missing(5000) is None
    assert pseudonym.require_key(5000).key_id == here.key_id


def test_a_key_that_the_database_knows_otherwise_is_refused(ring: KeyRing, siv_key: Key) -> None:
    with pytest.raises(KeyRingError, match="not the one that the database knows"):
        Pseudonymiser(ring, [Epoch(siv_key.key_id, "ff" * 32, AES_SIV)])


def test_without_a_registered_key_there_is_no_pseudonym(ring: KeyRing, siv_key: Key) -> None:
    for pseudonym in (Pseudonymiser(ring, []), Pseudonymiser(ring, [epoch(siv_key, 5000)])):
        with pytest.raises(KeyRingError, match="No pseudonym key is registered"):
            pseudonym("anna", 4999)


@given(st.lists(st.integers(0, 12), max_size=100), st.integers(0, 6))
def test_the_cache_changes_nothing_and_is_bounded(ring: KeyRing, siv_key: Key, names: list[int], size: int) -> None:
    cached, fresh = Pseudonymiser(ring, [epoch(siv_key)], size), Pseudonymiser(ring, [epoch(siv_key)])
    for number in names:
        assert cached(f"somebody{number}", 0) == fresh(f"somebody{number}", 0)
        assert cached("x" * 65, 0) == fresh("x" * 65, 0)
        held = cached._recent.keys() | cached._older.keys()
        assert len(held) <= max(2, size)
        assert max(map(len, held)) <= 64


def test_names_cannot_leave_by_repr_or_pickle(ring: KeyRing, siv_key: Key) -> None:
    pseudonym = Pseudonymiser(ring, [epoch(siv_key)])
    pseudonym("loopfreak", 0)
    assert "loopfreak" not in f"{pseudonym!r} {pseudonym}"
    for leave in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            leave(pseudonym)
