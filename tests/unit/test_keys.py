import json
import os
import pathlib
import pickle
import stat
from collections.abc import Callable

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from collectors.keys import AES_SIV, HMAC_SHA256, Key, KeyRing, KeyRingError, MissingKey

SECRETS = {AES_SIV: bytes(range(64)), HMAC_SHA256: bytes(range(32))}
EXPORTED = (
    "ssr-key-1:4gadczht:aes-siv:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0-Pw"
)


def key(algorithm: str = AES_SIV) -> Key:
    return Key(algorithm, pydantic.SecretBytes(SECRETS[algorithm]))


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / "some data" / "keys"


@pytest.mark.parametrize("algorithm", [AES_SIV, HMAC_SHA256])
def test_a_new_key_is_found_again_and_only_its_owner_can_read_it(folder: pathlib.Path, algorithm: str) -> None:
    made = KeyRing(folder).new(algorithm)
    ring = KeyRing(folder)
    assert ring.key_ids == [made.key_id]
    assert ring.get(made.key_id) == made
    assert made.key_id in ring
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    [file] = folder.iterdir()
    assert file.name == f"{made.key_id}.key"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert set(json.loads(file.read_text())) == {"key_id", "algorithm", "secret", "created_at"}


def test_keys_differ_and_so_do_their_ids(folder: pathlib.Path) -> None:
    ring = KeyRing(folder)
    made = [ring.new() for _ in range(5)]
    assert len({one.key_id for one in made}) == len({one.fingerprint for one in made}) == 5
    assert ring.key_ids == sorted(one.key_id for one in made)


def test_the_id_and_the_fingerprint_of_a_key_never_change() -> None:
    # Pinned: another value would make strangers of everybody who is in the database.
    assert key().key_id == "4gadczht"
    assert key().fingerprint.startswith("e1803164f3bae244")
    assert key(HMAC_SHA256).key_id == "cz5jexrh"


def test_an_umask_opens_nothing(folder: pathlib.Path) -> None:
    before = os.umask(0)
    try:
        KeyRing(folder).new()
    finally:
        os.umask(before)
    assert KeyRing(folder).key_ids


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_a_key_that_others_could_read_or_write_is_refused(folder: pathlib.Path, mode: int) -> None:
    made = KeyRing(folder).new()
    file = folder / f"{made.key_id}.key"
    file.chmod(mode)
    with pytest.raises(KeyRingError, match=r"open to others \(mode 06\d\d\): run `chmod 600 ") as refusal:
        KeyRing(folder)
    assert "\n" not in str(refusal.value)


def test_a_folder_that_others_could_enter_is_refused(folder: pathlib.Path) -> None:
    KeyRing(folder).new()
    folder.chmod(0o750)
    with pytest.raises(KeyRingError, match="chmod 700 '"):
        KeyRing(folder)
    folder.chmod(0o700)
    assert KeyRing(folder).key_ids


def test_no_key_is_written_into_an_open_folder(tmp_path: pathlib.Path) -> None:
    folder = tmp_path / "keys"
    ring = KeyRing(folder)
    folder.mkdir(mode=0o755)
    with pytest.raises(KeyRingError, match="open to others"):
        ring.new()
    assert not list(folder.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_of_another_user_is_refused(folder: pathlib.Path) -> None:
    made = KeyRing(folder).new()
    os.chown(folder / f"{made.key_id}.key", 12345, 12345)
    with pytest.raises(KeyRingError, match="belongs to another user"):
        KeyRing(folder)


def test_a_link_or_a_pipe_is_no_key_file(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    made = KeyRing(folder).new()
    elsewhere = tmp_path / "elsewhere"
    file = folder / f"{made.key_id}.key"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    with pytest.raises(KeyRingError, match="cannot be read"):
        KeyRing(folder)
    file.unlink()
    os.mkfifo(file, 0o600)
    with pytest.raises(KeyRingError, match="should be a file"):
        KeyRing(folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda _text: "",
        lambda text: text[:-40],
        lambda _text: "[1, 2]",
        lambda text: text.replace("aes-siv", "rot13"),
        lambda text: text.replace('"secret": "', '"secret": "A'),
        lambda text: json.dumps(json.loads(text) | {"secret": "AAAA" * 22}),
        lambda text: json.dumps(json.loads(text) | {"key_id": "aaaaaaaa"}),
        lambda _text: json.dumps({"key_id": "aaaaaaaa"}),
    ],
)
def test_a_damaged_key_is_refused_in_one_line_that_holds_nothing_of_it(
    folder: pathlib.Path, damage: Callable[[str], str]
) -> None:
    ring = KeyRing(folder)
    made = ring.new()
    file = folder / f"{made.key_id}.key"
    secret = json.loads(file.read_text())["secret"]
    file.write_text(damage(file.read_text()))
    with pytest.raises(KeyRingError, match=str(file)) as refusal:
        ring.reload()
    assert "\n" not in str(refusal.value)
    assert secret[:8] not in str(refusal.value)
    assert ring.get(made.key_id) == made, "what was loaded before stays"


def test_a_key_that_is_not_here_comes_with_the_way_to_bring_it(folder: pathlib.Path) -> None:
    with pytest.raises(MissingKey, match=r"`soulseek-research key export 4gadczht`.*`soulseek-research key import`"):
        KeyRing(folder).get("4gadczht")


@pytest.mark.parametrize("algorithm", [AES_SIV, HMAC_SHA256])
def test_an_exported_key_is_imported_elsewhere(tmp_path: pathlib.Path, algorithm: str) -> None:
    there, here = KeyRing(tmp_path / "there"), KeyRing(tmp_path / "here")
    made = there.new(algorithm)
    text = there.export_text(made.key_id)
    assert "\n" not in text
    for pasted in (text, f"  {text[:30]}\n {text[30:]}\r\n", text):
        assert here.import_text(pasted) == made
    assert KeyRing(tmp_path / "here").get(made.key_id) == made


def test_the_exported_line_is_pinned(folder: pathlib.Path) -> None:
    assert KeyRing(folder).import_text(EXPORTED) == key()


@given(st.integers(0, len(EXPORTED) - 1), st.characters(min_codepoint=33, max_codepoint=0x2FF))
def test_a_damaged_line_never_becomes_another_key(
    tmp_path_factory: pytest.TempPathFactory, position: int, character: str
) -> None:
    ring = KeyRing(tmp_path_factory.getbasetemp() / "damaged")
    for text in (EXPORTED[:position] + character + EXPORTED[position + 1 :], EXPORTED[:position]):
        said = ""
        try:
            assert ring.import_text(text) == key()
        except KeyRingError as refusal:
            said = str(refusal)
        assert "\n" not in said
        assert EXPORTED[40:60] not in said


@pytest.mark.parametrize(
    ("algorithm", "secret"), [(AES_SIV, bytes(64)), (HMAC_SHA256, b"password" * 4), (AES_SIV, b"x")]
)
def test_a_guessable_or_short_key_is_refused(algorithm: str, secret: bytes) -> None:
    with pytest.raises(KeyRingError):
        Key(algorithm, pydantic.SecretBytes(secret))


def test_a_key_shows_nothing_of_its_secret() -> None:
    one = key()
    shown = [
        repr(one),
        str(one),
        f"{[one]}",
        repr(one.secret),
        pydantic.TypeAdapter(Key).dump_json(one).decode(),
        repr(pydantic.TypeAdapter(Key).dump_python(one)),
    ]
    for text in shown:
        assert "\\x01" not in text
        assert "\\u0001" not in text
        assert EXPORTED[-20:] not in text
    with pytest.raises(TypeError):
        pickle.dumps(one)


def test_an_unknown_algorithm_is_refused(folder: pathlib.Path) -> None:
    with pytest.raises(KeyRingError, match="aes-siv, hmac-sha256"):
        KeyRing(folder).new("sha256")
    assert not folder.exists()


def test_a_first_key_that_lost_the_race_is_discarded(folder: pathlib.Path) -> None:
    ring = KeyRing(folder)
    made = ring.new()
    ring.discard(made.key_id)
    ring.discard("../../etc/passwd")
    assert KeyRing(folder).key_ids == []


def test_a_disk_that_refuses_leaves_one_line_and_no_half_key(folder: pathlib.Path) -> None:
    folder.parent.mkdir(parents=True)
    ring = KeyRing(folder)
    folder.write_text("in the way")
    with pytest.raises(KeyRingError) as refusal:
        ring.new()
    assert "\n" not in str(refusal.value)
    assert ring.key_ids == []
