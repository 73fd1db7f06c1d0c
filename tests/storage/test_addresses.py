"""The three forms of an address: to fetch the file, to tell which file is meant, and to publish."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasteret_assets.schema import IDENTITY_TYPE
from rasteret_assets.storage.addresses.address import (
    identity_hashes,
    identity_href,
    identity_hrefs,
    may_be_signed,
    unsigned,
    unsigned_hrefs,
)

#: Complete signatures as the clouds write them, with values that a renewal changes in place of ``N``.
SIGNATURES = {
    "SigV4": "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2FN&X-Amz-Date=N&X-Amz-Expires=9"
    "&X-Amz-SignedHeaders=host;range&X-Amz-Security-Token=N&X-Amz-Signature=N",
    "SigV2": "AWSAccessKeyId=N&Signature=N&Expires=N",
    "Google V4": "X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=N&X-Goog-Date=N&X-Goog-Expires=N"
    "&X-Goog-SignedHeaders=host&X-Goog-Signature=N",
    "Google V2": "GoogleAccessId=N&Expires=N&Signature=N",
    "Azure service": "sv=2023-11-03&st=N&se=N&sr=c&sp=rl&sig=N%3D",
    "Azure account": "sv=2022-11-02&ss=b&srt=co&sp=rl&se=N&st=N&spr=https&sip=N&sig=N",
    "Azure delegation": "skoid=N&sktid=N&skt=N&ske=N&sks=b&skv=2023-11-03&sv=2023-11-03&se=N&sr=d&sdd=2&sp=r&sig=N",
    "Azure stored policy": "sv=2023-11-03&si=readers&sr=c&sig=N",
    "CloudFront canned": "Expires=N&Signature=N&Key-Pair-Id=N",
    "CloudFront custom": "Policy=N&Signature=N&Key-Pair-Id=N&Hash-Algorithm=SHA256",
    "Alibaba": "x-oss-signature-version=OSS4&x-oss-credential=N&x-oss-date=N&x-oss-expires=N&x-oss-signature=N",
}
#: Parameters without which a signature above is not complete.
NEEDED = {"x-amz-date", "x-goog-expires", "signature", "awsaccesskeyid", "googleaccessid", "key-pair-id", "sv", "sig"}


@pytest.mark.parametrize("signature", SIGNATURES.values(), ids=SIGNATURES)
def test_a_signature_is_not_part_of_the_identity(signature: str) -> None:
    first, renewed = signature.replace("N", "1"), signature.replace("N", "2")
    for form in (identity_href, unsigned):
        assert form(f"https://h/a.tif?{first}") == form(f"https://h/a.tif?{renewed}") == "https://h/a.tif"
        assert form(f"https://h/a.tif?scene=7&{first}&band=2") == "https://h/a.tif?scene=7&band=2"
        assert form(f"https://h/a.tif?{first.upper()}#part") == "https://h/a.tif#part"


@pytest.mark.parametrize("signature", SIGNATURES.values(), ids=SIGNATURES)
def test_a_part_of_a_signature_tells_files_apart_and_is_not_published(signature: str) -> None:
    parameters = signature.split("&")
    for parameter in parameters:
        rest = "&".join(other for other in parameters if other is not parameter)
        if parameter.partition("=")[0].lower() in NEEDED:
            assert identity_href(f"https://h/a.tif?{rest}") == f"https://h/a.tif?{rest}"
        if not parameter.lower().startswith("sig"):  # what is left of these grants nothing
            assert unsigned(f"https://h/a.tif?{rest}") == "https://h/a.tif"


@pytest.mark.parametrize(
    "query",
    ["st=1", "expires=1&policy=2", "sv=1&se=2&sr=3", "sp=r;st=4", "versionId=7&layer=ndvi", "sig=&sv=1", "key=a/b", ""],
)
def test_names_that_some_signature_uses_are_else_part_of_the_address(query: str) -> None:
    for address in (f"https://h/get.tif?{query}", f"https://h/{query}.tif", f"https://h/a.tif#{query}"):
        assert identity_href(address) == unsigned(address) == address


@pytest.mark.parametrize(
    ("credential", "published"),
    [
        ("?token=S&st=1", "?st=1"),
        ("?st=1&access_token=S", "?st=1"),
        ("?st=1&amp;api_key=S&amp;b=2", "?st=1&amp;b=2"),
        ("?st=1;apikey=S", "?st=1"),
        ("?%74oken=S", ""),
        ("?jwt=S&auth=S", ""),
        ("?key=AIzaSyS", ""),
        ("?st=1&sig=S", ""),
        ("?subscription-key=S&token=S", ""),
        ("#access_token=S", "#"),
        ("#1.tif?token=S&b=2", "#1.tif?b=2"),
        (";jsessionid=S;v=1?b=2", ";v=1?b=2"),
    ],
)
def test_a_lone_credential_belongs_to_the_identity_but_is_never_published(credential: str, published: str) -> None:
    assert unsigned(f"https://h/a.tif{credential}") == f"https://h/a.tif{published}"
    assert identity_href(f"https://h/a.tif{credential}") == f"https://h/a.tif{credential}"


def test_user_information_is_in_neither_form() -> None:
    for form in (identity_href, unsigned):
        assert form("https://me:SECRET@h/a.tif?st=1") == "https://h/a.tif?st=1"
        assert form("abfss://container@account/a.tif") == "abfss://container@account/a.tif"


@pytest.mark.parametrize("href", ["/data/what?sig=1.tif", "file:///data/a.tif", "s3://b/k.tif", "C:\\a"])
def test_paths_stay_as_written(href: str) -> None:
    assert unsigned(href) == identity_href(href) == href


_NAMES = [
    "sig",
    "sv",
    "se",
    "sr",
    "st",
    "Signature",
    "Expires",
    "Policy",
    "AWSAccessKeyId",
    "Key-Pair-Id",
    "token",
    "n",
]
_PARAMETERS = st.lists(st.sampled_from(_NAMES).flatmap(lambda name: st.sampled_from([f"{name}=1", f"{name}=2", name])))
_ADDRESSES = st.one_of(
    st.text("ahtp:/[]@?#%&=.;\\\x00é ", max_size=12),
    st.builds("me@h/a?{}".format, _PARAMETERS.map("&".join)),
    st.builds("h/a?{}#b?{}".format, _PARAMETERS.map("&".join), _PARAMETERS.map(";".join)),
).map("https://{}".format)


@given(_ADDRESSES)
def test_each_form_is_a_form_of_the_one_before(href: str) -> None:
    assert identity_href(identity_href(href)) == identity_href(href)
    assert unsigned(unsigned(href)) == unsigned(href)
    assert unsigned(identity_href(href)) == unsigned(href)


@given(st.lists(st.one_of(st.none(), _ADDRESSES)), st.sampled_from([pa.string(), pa.large_string()]), st.integers(0, 2))
def test_columns_are_read_as_their_rows_are(hrefs: list[str | None], kind: pa.DataType, first: int) -> None:
    column = pa.array(hrefs, kind).slice(first)
    for of_column, of_row in ((identity_hrefs, identity_href), (unsigned_hrefs, unsigned)):
        expected = [None if href is None else of_row(href) for href in hrefs[first:]]
        assert of_column(column).to_pylist() == expected
        assert may_be_signed(column) or expected == hrefs[first:]
    hashes = identity_hashes(column)
    assert hashes.type == IDENTITY_TYPE
    hashes.validate(full=True)
    texts = [None if href is None else identity_href(href) for href in hrefs[first:]]
    assert len(set(hashes.to_pylist())) == len(set(texts))
    assert [value is None for value in hashes.to_pylist()] == [text is None for text in texts]
    assert hashes.equals(identity_hashes(pa.array(texts, kind)))


def test_a_stored_identity_is_the_same_in_every_version() -> None:
    (stored,) = identity_hashes(pa.array(["https://h/a.tif?st=1"])).to_pylist()
    assert stored.hex() == "bb7fb2a5dc383ebdf7e97393ed989df8"
