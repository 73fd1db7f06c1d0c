"""Secrets in addresses are found under any name, in any spelling, and wherever the address is."""

from __future__ import annotations

import base64
import json
import pickle
import random
import uuid
from urllib.parse import quote

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rasteret_assets.errors import RangeReadError, SourceError, SpecError
from rasteret_assets.records.signatures import without_signatures
from rasteret_assets.secrets import BY_DEFAULT, SecretRule, redact, redact_text, shown_names, without_secrets
from rasteret_assets.secrets.names import looks_secret
from rasteret_assets.spec import CollectionSpec
from rasteret_assets.storage.addresses.gdal import plain_address, remedy_for_address
from rasteret_assets.storage.addresses.urls import rewrite_hrefs

S = "TOPSECRET"

SCHEMES = {
    "SigV4": f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={S}&X-Amz-Date=1&X-Amz-Expires=9"
    f"&X-Amz-SignedHeaders=host;range&X-Amz-Security-Token={S}&X-Amz-Signature={S}",
    "SigV2": f"AWSAccessKeyId={S}&Signature={S}&Expires=1",
    "Google V4": f"X-Goog-Algorithm=G&X-Goog-Credential={S}&X-Goog-Date=1&X-Goog-Expires=9&X-Goog-SignedHeaders=host"
    f"&X-Goog-Signature={S}",
    "Google V2": f"GoogleAccessId={S}&Expires=1&Signature={S}",
    "Azure": f"sv=2023-11-03&st=1&se=2&sr=c&sp=rl&sig={S}",
    "CloudFront": f"Policy=1&Signature={S}&Key-Pair-Id={S}",
    "Alibaba V1": f"OSSAccessKeyId={S}&Expires=1&Signature={S}",
    "Alibaba V4": f"x-oss-signature-version=OSS4&x-oss-credential={S}&x-oss-date=1&x-oss-expires=1&x-oss-signature={S}",
    "Tencent": f"q-sign-algorithm=sha1&q-ak={S}&q-sign-time=1;2&q-key-time=1;2&q-header-list=host&q-url-param-list="
    f"&q-signature={S}",
    "Huawei": f"AccessKeyId={S}&Expires=1&Signature={S}&x-obs-security-token={S}",
    "Akamai": f"hdnts=exp=1~acl=/*~hmac={S}",
    "Akamai, other": f"__token__=exp=1~acl=/*~hmac={S}",
    "OpenStack": f"temp_url_sig={S}&temp_url_expires=1",
    "Dropbox": f"rlkey={S}&st=1",
    "GitLab": f"private_token={S}",
    "GitHub": f"token={S}",
    "Planet": f"api_key={S}",
    "Mapbox": f"access_token=pk.{S}",
}


@pytest.mark.parametrize("signature", SCHEMES.values(), ids=SCHEMES)
def test_a_signature_of_any_provider_is_taken_out_whole(signature: str) -> None:
    made = without_secrets(f"https://h/a.tif?scene=7&{signature}&band=2")
    assert made in {"https://h/a.tif?scene=7&band=2", "https://h/a.tif?scene=7&q-url-param-list=&band=2"}


SECRET_NAMES = [
    "token",
    "key",
    "auth",
    "password",
    "passwd",
    "pwd",
    "jwt",
    "secret",
    "signature",
    "sig",
    "credential",
    "session",
    "apikey",
    "subscription-key",
    "access_token",
    "accessToken",
    "X-Api-Key",
    "client_secret",
    "clientSecret",
    "sessionId",
    "JSESSIONID",
    "PHPSESSID",
    "authorization",
    "bearer",
    "mytoken",
    "userToken",
    "id.token",
    "api.key",
    "APIKEY",
    "apiKey",
    "Ocp-Apim-Subscription-Key",
    "x-functions-key",
    "accountKey",
    "privateKey",
    "ACCESS-KEY",
    "aws_secret_access_key",
    "refreshToken",
    "oauth_token",
    "hmac",
    "credentials",
    "tokens",
    "passphrase",
    "sid",
    "code_signature",
    "urlSig",
]


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_name_that_means_a_secret_does_so_in_any_spelling(name: str) -> None:
    escaped = "".join(f"%{ord(letter):02x}" for letter in name)
    spellings = {name, name.upper(), name.lower(), name.title(), quote(name), escaped, escaped.replace("%", "%25")}
    spellings |= {name.replace("-", mark).replace("_", mark) for mark in "-_."}
    for one in spellings:
        for value in (S, "a", "1234567"):
            assert without_secrets(f"https://h/a.tif?v=1&{one}={value}&w=2") == "https://h/a.tif?v=1&w=2"


@pytest.mark.parametrize(
    "parameter",
    [
        "monkey=1",
        "keyframe=2",
        "author=me",
        "tokenizer=bpe",
        "keyword=water",
        "keywords=a",
        "sigma=3",
        "sigma0=1",
        "bypass=1",
        "passport=7",
        "compass=N",
        "turkey=1",
        "design=x",
        "signal=vh",
        "possession=1",
        "keystone=4",
        "authority=EPSG",
        "key=tiles/32/T/a.tif",
        "key=a.tif",
        "pass=descending",
        "versionId=3sL4kqtJlcpXroDTDmJ.rmSpXd3d",
        f"id={uuid.UUID(int=2**127 + 12345)}",
        f"u={uuid.UUID(int=2**127 + 12345)}",
        f"hash={'0a' * 20}",
        f"md5={'1b' * 16}",
        "scene=S2A_MSIL2A_20240501T103021_N0510_R108_T32TNS_20240501T161234",
        "time=2024-05-01T00:00:00Z",
        "product=S1A_IW_GRDH_1SDV_20240501T053021_20240501T053046_053672_0684A1_C0DE",
        "bbox=9,48,9.1,48.1",
        "layer=ndvi",
        "q=Copernicus_DSM_COG_10_N48_00_E009_00_DEM",
        "file=LC08_L1TP_193026_20240501_20240511_02_T1_B4.TIF",
        "st=1",
        "expires=1",
        "policy=2",
        "se=1",
        "crs=EPSG%3A4326",
        "sort_key=date",
        "tile_key=1/2",
        "n=12345678901234567890123456",
        "band=B04",
        "format=image/tiff",
        "url=https%3A%2F%2Fh%2Fb.tif%3Fv%3D1",
        "x-id=GetObject",
        "width=512",
        "user=me",
    ],
)
def test_a_parameter_that_may_name_the_file_stays(parameter: str) -> None:
    for address in (
        f"https://h/a.tif?{parameter}",
        f"https://h/a.tif?x=1&{parameter}&y=2",
        f"/vsicurl/https://h/?{parameter}",
    ):
        assert without_secrets(address) == address


@pytest.mark.parametrize("size", [24, 32, 48, 64])
def test_a_value_that_is_long_and_random_is_a_secret_whatever_it_is_called(size: int) -> None:
    source = random.Random(size)
    encodings = [base64.b64encode, base64.urlsafe_b64encode, base64.b32encode, lambda data: data.hex().encode()]
    for encode in encodings:
        values = [encode(source.randbytes(size)).decode().rstrip("=") for _ in range(200)]
        assert sum(map(looks_secret, values)) >= 190
        assert sum(map(looks_secret, map(quote, values))) >= 190


@pytest.mark.parametrize(
    "value",
    [
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc",
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_abcdefghij0123456789",
        "glpat-abcdefgh12",
        "PLAK0123456789abcdef",
        "pk.eyJ1IjoibWUifQ",
        "exp=1~hmac=abcdef",
        "Bearer%20abcdefgh",
    ],
)
def test_a_token_of_a_known_form_is_a_secret_under_any_name_and_none(value: str) -> None:
    for name in ("x=", "id=", "file=", ""):
        assert without_secrets(f"https://h/a.tif?v=1&{name}{value}") == "https://h/a.tif?v=1"


PLACES = {
    "query": f"https://h/a.tif?v=1&sig={S}",
    "fragment": f"https://h/a.tif?v=1#access_token={S}",
    "route": f"https://h/a.tif?v=1#/view?token={S}",
    "segment": f"https://h/a.tif;token={S}?v=1",
    "folder": f"https://h/x;jsessionid={S};r=1/a.tif?v=1",
    "Akamai folder": f"https://h/hdnea=exp=1~acl=/*~hmac={S}/a.tif?v=1",
    "user": f"https://me:{S}@h/a.tif?v=1",
    "user alone": f"https://{S}@h/a.tif?v=1",
    "odd password": f"https://me:p#{S}@h/a.tif?v=1",
    "no scheme": f"//me:{S}@h/a.tif?v=1",
    "one slash": f"https:/me:{S}@h/a.tif?v=1",
    "vsicurl": f"/vsicurl/https://me:{S}@h/a.tif?v=1&sig={S}",
    "vsicurl with options": f"/vsicurl?list_dir=no&url=https%3A%2F%2Fme%3A{S}%40h%2Fa.tif%3Fv=1%26sig%3D{S}",
    "vsis3": f"/vsis3/bucket/a.tif?v=1&X-Amz-Signature={S}",
    "vsigs": f"/vsigs/bucket/a.tif?v=1&X-Goog-Signature={S}",
    "vsiaz": f"/vsiaz/container/a.tif?v=1&sig={S}",
    "archive": f"/vsizip//vsicurl/https://me:{S}@h/a.zip?v=1&sig={S}",
    "directory": f"GTIFF_DIR:1:https://me:{S}@h/a.tif?v=1&token={S}",
    "zip": f"zip+https://me:{S}@h/a.zip!/a.tif?v=1&token={S}",
    "HTML": f"https://h/a.tif?v=1&amp;sig={S}",
    "comma": f"https://h/a.tif?v=1,token={S}",
    "bar": f"https://h/a.tif?v=1|token={S}",
    "colon": f"https://h/a.tif?v=1&token:{S}",
    "JSON in a value": "https://h/a.tif?v=1&x=" + quote(json.dumps({"token": S})),
    "segment alone": f"https://h/token={S}/a.tif?v=1",
    "brackets": f"https://h/a.tif?v=1&auth[token]={S}",
    "semicolon": f"https://h/a.tif?v=1;sig={S}",
    "escaped": f"https://h/a.tif?v=1%26sig%3D{S}",
    "address within": f"https://t/cog?v=1&url=https://me:{S}@h/a.tif?sig={S}",
    "escaped address within": "https://t/cog?v=1&url=" + quote(f"https://me:{S}@h/a.tif?x=1&sig={S}", safe=""),
    "escaped twice": "https://t/cog?v=1&url=" + quote(quote(f"https://h/a.tif?sig={S}", safe=""), safe=""),
    "blanks": f"https://h/my file.tif?v=1&token={S} {S}",
    "relative": f"a.tif?v=1&token={S}",
    "path": f"/data/a.tif?v=1&token={S}",
    "file": f"file:///data/a.tif?v=1&token={S}",
    "query alone": f"v=1&se=2&sig={S}",
    "sentence": f"Get https://h/a.tif?v=1&sig={S} (or https://me:{S}@h/b.tif?v=1).",
    "HTML link": f"<a href='https://h/a.tif?v=1&amp;sig={S}'>here</a>",
    "Markdown": f"[here](https://h/a.tif?v=1&sig={S})",
    "JSON": json.dumps({"a": [f"https://h/a.tif?v=1&sig={S}"]}),
    "JSON within JSON": json.dumps({"a": json.dumps({"b": json.dumps([f"see https://h/a.tif?v=1&sig={S} now"])})}),
    "key of JSON": json.dumps({f"https://h/a.tif?v=1&sig={S}": 1}),
    "broken JSON": '{"a": "https://h/a.tif?v=1&sig=' + S + '", ',
    "escaped slashes": '{"a": "https:\\/\\/me:' + S + "@h\\/a.tif?v=1\\u0026sig=" + S + '"}',
}


@pytest.mark.parametrize("text", PLACES.values(), ids=PLACES)
def test_a_secret_is_found_wherever_an_address_stands(text: str) -> None:
    assert S in text
    made = without_secrets(text)
    assert S not in made
    assert "v=1" in made or "v%3D1" in made
    assert without_secrets(made) == made
    for column in (pa.array([text, None]), pa.array([{"a": [text]}]), pa.array([text]).dictionary_encode()):
        assert S not in str(without_signatures(pa.table({"x": column})).to_pylist())


@pytest.mark.parametrize("text", [text for name, text in PLACES.items() if name != "blanks"])
def test_no_message_shows_a_secret(text: str) -> None:
    assert S not in redact(text)
    assert S not in redact_text(f"cannot read {text}: no answer")
    for error in (SourceError(f"{text}: gone"), RangeReadError(f"{text}: gone", href=text), SpecError(text)):
        for one in (error, pickle.loads(pickle.dumps(error))):
            assert S not in f"{one!s} {one!r} {one.args} {vars(one)}"


def test_oracle_paths_and_tokens_that_are_folders() -> None:
    assert without_secrets("https://h/p/AbCdEfGhIjKlMnOpQrStUv12/n/ns/b/x/o/a.tif") == "https://h/n/ns/b/x/o/a.tif"
    assert without_secrets("https://h/eyJhbGciOiJI.eyJzdWIi.abc/a.tif") == "https://h/a.tif"
    assert without_secrets("https://h/year=2024/key=B02/a.tif") == "https://h/year=2024/key=B02/a.tif"


def test_the_user_decides_otherwise() -> None:
    rule = SecretRule.of(["customer-no", "st"], ["sig", "subscriptionKey"])
    address = "https://h/a.tif?customerNo=7&st=1&sig=a&Subscription-Key=b&token=c&w=1"
    assert without_secrets(address, rule) == "https://h/a.tif?sig=a&Subscription-Key=b&w=1"
    base = CollectionSpec.of(path="t")
    assert CollectionSpec.of(path="t", secret_query=["customer-no", "st"]).secrets.secret == rule.secret
    for option in ("secret_query", "keep_query"):
        assert CollectionSpec.of(path="t", **{option: ["a"]}).content_hash != base.content_hash
    with pytest.raises(SpecError, match="secret_query and in keep_query"):
        CollectionSpec.of(path="t", secret_query=["a-b"], keep_query=["aB"])
    with pytest.raises(SpecError, match="one name"):
        CollectionSpec.of(path="t", keep_query="a")


def test_names_in_messages_hold_no_token() -> None:
    assert shown_names("v=&Sub%2Dkey=&AbCdEf0123456789GhIjKlMnOpQr==&alone") == {"v", "Sub-key"}


_ADDRESSES = st.lists(
    st.tuples(st.sampled_from([*SECRET_NAMES, "v", "band", "st", "expires", "id"]), st.sampled_from(["1", "x.tif", S])),
    min_size=1, max_size=6,
).map(lambda pairs: "https://h/a.tif?" + "&".join(f"{name}={value}" for name, value in pairs))  # fmt: skip


@given(_ADDRESSES, st.sampled_from([BY_DEFAULT, SecretRule.of(["v"], ["token", "sig"])]))
def test_an_address_of_the_commonest_form_is_read_as_any_other(address: str, rule: SecretRule) -> None:
    """A fragment makes an address one of another form, which is parsed in full."""
    assert without_secrets(f"{address}#", rule) == f"{without_secrets(address, rule)}#"


@pytest.mark.parametrize(
    ("spelled", "plain"),
    [
        ("/vsicurl/https://h/a.tif?sig=1", "https://h/a.tif?sig=1"),
        ("/vsicurl_streaming/http://h/a.tif", "http://h/a.tif"),
        ("/vsicurl?max_retry=3&url=https%3A%2F%2Fh%2Fa.tif%3Fsig%3D1", "https://h/a.tif?sig=1"),
        ("/vsis3/b/k/a.tif", "s3://b/k/a.tif"),
        ("/vsigs/b/a.tif", "gs://b/a.tif"),
        ("GTIFF_DIR:1:/vsicurl/https://h/a.tif", "https://h/a.tif"),
        ("GTIFF_DIR:1:/data/a.tif", "/data/a.tif"),
        ("https://h/vsicurl/a.tif", "https://h/vsicurl/a.tif"),
        (None, None),
    ],
)
def test_an_address_for_gdal_is_read_as_what_it_stands_for(spelled: str | None, plain: str | None) -> None:
    assert rewrite_hrefs(pa.array([spelled, "/a"], pa.string()), {}).to_pylist() == [plain, "/a"]
    assert plain is None or remedy_for_address(plain) is None


@pytest.mark.parametrize(
    ("spelled", "word"),
    [
        ("/vsiaz/c/a.tif", "az://"),
        ("/vsizip//vsicurl/https://h/a.zip/a.tif", "unpack"),
        ("zip+https://h/a.zip!/a.tif", "unpack"),
        ("/vsicurl?pc_url_signing=yes&url=https://h/a.tif", "https://"),
        ("GTIFF_DIR:2:/a.tif", "first image"),
        ("/vsimem/a.tif", "the file itself"),
    ],
)
def test_what_gdal_alone_can_read_is_refused_by_name(spelled: str, word: str) -> None:
    assert plain_address(spelled) == spelled
    assert word in str(remedy_for_address(spelled))


def test_a_rewritten_address_for_gdal_is_rewritten_like_any_other() -> None:
    hrefs = pa.array(["/vsis3/b/a.tif", "s3://b/a.tif"])
    assert rewrite_hrefs(hrefs, {"s3://b/": "https://h/"}).to_pylist() == ["https://h/a.tif"] * 2
