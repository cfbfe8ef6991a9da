from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data.digests import _INVISIBLE, DigestSet, digest, document_key, loose_key, query_key


@pytest.mark.parametrize("other", ["WHAT is  it?", " what is it?\n", "what\u00a0is\u3000it?"])
def test_queries_that_differ_in_case_and_white_space_are_the_same(other):
    assert query_key(other) == query_key("What is it?")


def test_queries_that_differ_in_unicode_composition_are_the_same():
    assert query_key("Caf\u00e9") == query_key("cafe\u0301")


def test_documents_that_differ_in_case_are_not_the_same():
    assert document_key("US") != document_key("us")


@pytest.mark.parametrize(
    "other",
    ["ＡＢＣ？ ", "a\u200bbc\u2060?", "\ufeffAbc?", "a\u00adb\ufe0fc\u3000?".replace("\u3000", ""), "ａｂｃ?"],
)
def test_texts_that_differ_in_width_case_and_invisible_characters_are_loosely_the_same(other):
    assert loose_key(other) == loose_key("abc?") == "abc?"
    assert document_key(other) != document_key("abc?")


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]) | st.sampled_from("，ＡﬁŚ\u0301…\u3000\u200d ")))
def test_the_fast_ways_to_a_loose_key_lead_to_the_same(text):
    folded = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).casefold()
    assert loose_key(text) == " ".join(unicodedata.normalize("NFKC", folded).split())


def test_a_digest_tells_where_one_text_ends_and_the_next_begins():
    assert digest(["ab", "c"]) != digest(["a", "bc"])
    assert digest(["a"]) != digest(["a", ""])


def test_a_digest_has_16_bytes():
    assert len(digest(["a"])) == 16


@given(st.lists(st.binary(min_size=16, max_size=16) | st.sampled_from([bytes(16), b"\1" + bytes(15)])))
def test_a_digest_set_behaves_as_a_set(keys):
    found = DigestSet()
    seen: set[bytes] = set()
    for key in keys:
        assert (key in found) == (key in seen)
        assert found.add(key) == (key not in seen)
        seen.add(key)
    assert len(found) == len(seen)


def test_a_digest_set_keeps_its_members_while_it_grows():
    keys = [digest([str(number)]) for number in range(10_000)]
    found = DigestSet()
    assert all(found.add(key) for key in keys)
    assert all(key in found for key in keys)
    assert not any(found.add(key) for key in keys)
