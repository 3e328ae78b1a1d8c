"""Hashes and numbers of content: the same on every machine and in every version, since seeds hang on them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from alignloop.content import number_of, sha256_of, text_sha256
from alignloop.data.split import drawn_share


def test_a_text_has_the_number_that_its_first_bytes_make() -> None:
    for text in ("", "abc", "한국어 🙂", "half a pair \ud800"):
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        assert text_sha256(text) == digest.hex()
        for size in (1, 7, 8):
            assert number_of(text, size) == int.from_bytes(digest[:size], "big") < 256**size
    assert number_of("abc") == 0xBA7816BF8F01CFEA


def test_a_file_counts_by_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"abc")
    assert sha256_of(file) == text_sha256("abc")


def test_a_share_depends_on_the_distinct_items_and_the_seed() -> None:
    items = [f"prompt {k}" for k in range(20)]
    share = drawn_share(items, 0.25, 3)
    assert len(share) == 5
    assert drawn_share([*items[::-1], *items], 0.25, 3) == share != drawn_share(items, 0.25, 4)
    assert drawn_share(items, 0.0, 3) == set()
    assert len(drawn_share(items, 0.001, 3)) == 1
    assert len(drawn_share(items, 1.0, 3, most=19)) == 19
    assert drawn_share([(1, "b"), (2, "a")], 0.5, 0, key=lambda item: item[1]) <= {(1, "b"), (2, "a")}
