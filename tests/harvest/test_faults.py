"""APIs that fail: a window is harvested completely or keeps its earlier items, and the error says what failed."""

from __future__ import annotations

import socket
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

from rasteret_assets.errors import HarvestError
from rasteret_assets.harvesting import reader
from rasteret_assets.harvesting.window_ledger import read_ledger
from rasteret_assets.storage.workspace import Workspace
from tests.harvest.conftest import NOW
from tests.harvest.test_harvest import covers, expected, mtimes
from tests.support.stac import make_item

PASSING = ["503", "429", "500", "reset", "short", "html", "broken", "repeat", "lose", "twice"]


def on_search(fault, when):
    """Return a function that answers with ``fault`` those searches for whose number ``when`` is true."""
    seen = Counter()

    def faulty(number, method, path):
        seen[path] += 1
        return fault if path == "/search" and when(seen[path]) else None

    return faulty


def _is_of_january(asked) -> bool:
    return asked.get("datetime", "").startswith("2024-01-01")


@pytest.mark.parametrize("fault", PASSING)
def test_searches_are_repeated_after_passing_faults(stac, spec_of, harvest, fault) -> None:
    stac.fault = on_search(fault, lambda number: number in {1, 4, 6, 9})
    spec = spec_of()
    harvest(spec)
    assert stac.said_no[fault] == 4
    assert covers(spec) == expected(stac)


@pytest.mark.parametrize("fault", [fault for fault in PASSING if fault != "twice"])
def test_a_window_that_cannot_be_read_keeps_its_earlier_items(stac, spec_of, harvest, fault) -> None:
    stac.can = set()
    spec = spec_of(limit=200)
    harvest(spec)
    before, known = mtimes(spec), covers(spec)
    stac.change("scene-00001", **{"eo:cloud_cover": 77.5})
    stac.change("scene-00300", **{"eo:cloud_cover": 77.5})
    stac.fault = lambda number, method, path: fault if _is_of_january(stac.requests[-1][2]) else None
    with pytest.raises(HarvestError, match="scenes: 1 of 12 windows could not be harvested") as caught:
        harvest(spec, NOW + timedelta(days=1), force=True)
    assert list(caught.value.windows) == ["2024-01"]
    after = mtimes(spec)
    assert after["2024-01.parquet"] == before["2024-01.parquet"]
    assert covers(spec) == {**known, "scene-00300": 77.5}
    assert read_ledger(Workspace.of(spec)).windows["2024-01"].failed
    # The next harvest asks for the failed window again, but not for other old windows.
    stac.fault = lambda number, method, path: None
    assert sorted(harvest(spec, NOW + timedelta(days=2)).asked) == ["2024-01", "2024-11", "2024-12"]
    assert covers(spec) == expected(stac)


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("503", "the host answers 503: .*not well"),
        ("broken", "not a JSON document"),
        ("html", "not a JSON document"),
        ("repeat", "paging leads back to a page that was read before"),
        ("lose", "149 items match, but 148 came.*trust_count: false"),
    ],
)
def test_the_error_names_the_window_and_what_was_wrong(stac, spec_of, harvest, fault, sentence) -> None:
    spec = spec_of(datetime="2024-01", limit=200)
    stac.fault = on_search(fault, lambda number: True)
    with pytest.raises(HarvestError, match=f"2024-01: .*{sentence}"):
        harvest(spec)
    assert not Path(spec.path).exists()


def test_a_pause_is_as_long_as_retry_after_says_up_to_a_limit(stac, spec_of, harvest, monkeypatch) -> None:
    waited = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", waited.append)
    stac.retry_after = "7"
    stac.fault = on_search("429", lambda number: number == 2)
    harvest(spec_of())
    assert waited == [7.0]
    # A longer Retry-After is cut to the limit.
    stac.retry_after = "1000000"
    stac.fault = on_search("429", lambda number: number == 1)
    harvest(spec_of(), force=True)
    assert waited == [7.0, reader._LONGEST_PAUSE_S]


def test_a_refused_search_ends_the_harvest_without_retries(stac, spec_of, harvest) -> None:
    stac.fault = on_search("400", lambda number: True)
    with pytest.raises(HarvestError, match="search: the host answers 400"):
        harvest(spec_of())
    assert len(stac.searches) <= 4


def test_an_expired_page_token_does_not_end_the_harvest(stac, spec_of, harvest) -> None:
    ran_out = iter([True])
    stac.fault = lambda *_: "400" if "token" in stac.requests[-1][2] and next(ran_out, False) else None
    spec = spec_of()
    harvest(spec)
    assert covers(spec) == expected(stac)


def test_items_added_while_pages_are_read_are_harvested(stac, spec_of, harvest) -> None:
    spec = spec_of(datetime="2024-01", limit=20)
    numbers = iter(range(1000, 1003))

    def grow() -> None:
        # New items at the front move others from page to page.
        if len(stac.searches) in {2, 4, 11} and (number := next(numbers, None)):
            stac.put(make_item(number, datetime=f"2024-01-01T00:00:{number - 1000:02}Z"))

    stac.before = grow
    harvest(spec)
    assert covers(spec) == {
        item["id"]: item["properties"]["eo:cloud_cover"]
        for item in stac.items.values()
        if item["properties"]["datetime"] < "2024-02"
    }


def test_an_item_that_every_answer_repeats_is_stored_once(stac, spec_of, harvest, caplog) -> None:
    stac.counts = False
    stac.fault = on_search("twice", lambda number: True)
    spec = spec_of(datetime="2024-01")
    harvest(spec)
    assert len(covers(spec)) == 149
    assert "items came twice, each time that it was asked for" in caplog.text


def test_trust_count_false_ignores_wrong_counts(stac, spec_of, harvest) -> None:
    stac.fault = on_search("lose", lambda number: True)
    spec = spec_of(datetime="2024-01", limit=1000, trust_count=False)
    harvest(spec)
    assert len(covers(spec)) == 148


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("{url}/nothing", "the document does not exist|answers 404"),
        ("{url}/collections/scenes", "not the first page of a STAC API|stac_catalog names"),
        ("http://169.254.169.254/latest", "hands out its credentials; allow it with link_local: allow"),
    ],
)
def test_an_address_that_is_not_a_stac_api_is_refused(stac, spec_of, harvest, address, sentence) -> None:
    with pytest.raises(HarvestError, match=sentence):
        harvest(spec_of(stac_api=address.format(url=stac.url)))


def test_the_error_of_a_host_that_does_not_answer_is_short(spec_of, harvest) -> None:
    with pytest.raises(HarvestError, match=r"v1: the host does not answer \(\[Errno \d+\] Connection refused\); asked"):
        harvest(spec_of(stac_api="http://127.0.0.1:9/v1"))


def test_next_links_to_link_local_addresses_are_refused(stac, spec_of, harvest) -> None:
    answer = stac.answer

    def led_away(path, asked, method):
        page = answer(path, asked, method)
        if path == "/search":
            page["links"] = [{"rel": "next", "href": "http://169.254.169.254/latest/meta-data"}]
        return page

    stac.answer = led_away
    with pytest.raises(HarvestError, match="own network"):
        harvest(spec_of(datetime="2024-01"))


def test_redirects_to_link_local_addresses_are_refused(stac, spec_of, harvest) -> None:
    stac.redirects["/"] = "http://169.254.169.254/latest/meta-data"
    with pytest.raises(HarvestError, match=r"169\.254\.169\.254/latest/meta-data: is an address of this machine's own"):
        harvest(spec_of())


@pytest.mark.parametrize("addresses", [["169.254.169.254"], ["169.254.169.254", "127.0.0.1"]], ids=len)
def test_link_local_addresses_of_a_host_name_are_not_connected_to(
    stac, spec_of, harvest, monkeypatch, addresses
) -> None:
    asked, look_up = [], socket.getaddrinfo

    def resolve(host, port, *args, **kwargs):
        if host != "catalog.example":
            asked.append(host)
            return look_up(host, port, *args, **kwargs)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr("socket.getaddrinfo", resolve)
    spec = spec_of(datetime="2024-01", stac_api=stac.url.replace("127.0.0.1", "catalog.example"))
    if len(addresses) == 1:
        with pytest.raises(HarvestError, match=r"catalog\.example: resolves to 169\.254\.169\.254.*link_local: allow"):
            harvest(spec)
    else:
        assert harvest(spec).items == 149
    assert "169.254.169.254" not in asked


@pytest.mark.parametrize("fault", ["reset", "short", "503", "400"])
def test_keys_in_the_address_are_not_logged_by_retries(stac, spec_of, harvest, fault, caplog) -> None:
    stac.fault = lambda *_: fault
    with caplog.at_level("INFO"), pytest.raises(HarvestError) as caught:
        harvest(spec_of(stac_api=f"{stac.url}/?subscription-key=hunter2hunter2"))
    assert "hunter2" not in f"{caplog.text} {caught.value!r}"


def test_keys_in_the_address_are_not_written_or_shown(stac, spec_of, harvest, caplog) -> None:
    stac.fault = on_search("broken", lambda number: True)
    spec = spec_of(datetime="2024-01", stac_api=f"{stac.url}/?subscription-key=hunter2hunter2")
    with caplog.at_level("DEBUG", logger="rasteret_assets"), pytest.raises(HarvestError) as caught:
        harvest(spec)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in caplog.text
    written = b"".join(path.read_bytes() for path in Path(spec.path).parent.rglob("*") if path.is_file())
    assert b"hunter2" not in written
    # An address with another key asks the same question, so that no window is asked for again.
    stac.fault = lambda number, method, path: None
    harvest(spec)
    again = spec_of(datetime="2024-01", stac_api=f"{stac.url}/?subscription-key=another1another2")
    assert harvest(again, NOW + timedelta(days=2)).asked == {}
