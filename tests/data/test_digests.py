from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data.digests import (
    _INVISIBLE,
    DigestMap,
    DigestSet,
    are_distinct,
    digest,
    document_key,
    loose_key,
    query_key,
)


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


@given(
    st.lists(
        st.text(st.sampled_from("aAＡeé\u0301 \u3000\u200b。中\u00ad\n")) | st.text("ab ", min_size=28, max_size=36)
    ),
    st.text("ab中 ", min_size=25, max_size=34),
)
def test_texts_are_told_apart_as_their_loose_keys_are(texts, start):
    for found in (texts, [start + text for text in texts], [start, f" {start}", f"{start}\u0301", *texts]):
        assert are_distinct(found) == (len(set(map(loose_key, found))) == len(found))


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


@pytest.fixture(params=[0, 3, 1 << 16])
def few(request, monkeypatch):
    monkeypatch.setattr("orchestrator.data.digests._FEW", request.param)


@pytest.mark.usefixtures("few")
def test_a_digest_map_is_the_same_in_a_dict_and_in_a_table():
    found = DigestMap()
    keys = [bytes(16), *(digest([str(number)]) for number in range(3000))]
    assert [found.put(key, number) for number, key in enumerate(keys)] == list(range(3001))
    found.change(keys[7], 1 << 63)
    assert [found.put(key, 5) for key in keys[6:9]] == [6, 1 << 63, 8]
    assert (len(found), found.get(b"x" * 16), keys[0] in found) == (3001, None, True)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("exact", [True, False])
def test_a_digest_set_is_the_same_in_a_dict_and_in_a_table(exact):
    found = DigestSet(exact=exact)
    keys = [digest([str(number)]) for number in range(3000)]
    assert all(map(found.add, keys))
    assert not any(map(found.add, keys))
    assert (len(found), keys[5] in found, b"x" * 16 in found) == (3000, True, False)
