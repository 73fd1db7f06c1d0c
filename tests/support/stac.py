"""A small STAC API on loopback, and static catalogs: enough of the standard to page, filter, count and misbehave."""

from __future__ import annotations

import copy
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import pystac

from tests.support.loopback import LoopbackServer, serving

COLLECTION = "scenes"
_CONFORMS = "https://api.stacspec.org/v1.0.0/"
_CORE = ("core", "collections", "ogcapi-features", "item-search")


def make_item(number: int, moment: datetime | None = None, **properties: Any) -> dict[str, Any]:
    """A STAC item of 2024, one every five hours, with a band in each of two assets."""
    at = moment or datetime(2024, 1, 1, 3, tzinfo=UTC) + timedelta(hours=5 * number)
    west, south = number % 100 * 0.01, number // 100 % 100 * 0.01
    ring = [[west, south], [west + 1, south], [west + 1, south + 1], [west, south + 1], [west, south]]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": ["https://stac-extensions.github.io/eo/v1.1.0/schema.json"],
        "id": f"scene-{number:05d}",
        "collection": COLLECTION,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": [west, south, west + 1, south + 1],
        "properties": {
            "datetime": text_of(at),
            "updated": "2024-12-01T00:00:00Z",
            "eo:cloud_cover": number % 100,
            **properties,
        },
        "links": [{"rel": "collection", "href": "./collection.json", "type": "application/json"}],
        "assets": {
            band: {
                "href": f"https://data.example/{number}/{band}.tif",
                "type": "image/tiff; application=geotiff; profile=cloud-optimized",
                "roles": ["data"],
            }
            for band in ("B02", "B03")
        },
    }


def text_of(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


class StacServer:
    """A STAC API whose items a test changes as it likes.

    ``fault`` is called with (number of this request, method, path) and returns None or one of ``"503"``, ``"429"``,
    ``"400"``, ``"reset"``, ``"short"``, ``"html"``, ``"broken"`` (half a document of JSON), ``"repeat"`` (the next page
    is this one again), ``"lose"`` (the last item of the page is left out), ``"twice"`` (the last item comes twice).
    """

    def __init__(self) -> None:
        self.items: dict[tuple[str, str], dict[str, Any]] = {}
        self.can = {"query", "filter", "sort"}
        #: What it says that it can, and ignores when it is asked.
        self.ignores: set[str] = set()
        self.counts = True
        self.methods = ("POST", "GET")
        self.merges = False
        self.version = "v1.0.0"
        #: What it says of the properties that it filters by.
        self.queryables: dict[str, Any] | None = None
        #: Whether ``updated`` is a text to it, so that it fails where it is asked to compare it with a time.
        self.updated_is_text = False
        self.extent: list[str | None] = ["2024-01-01T00:00:00Z", None]
        self.fault: Callable[[int, str, str], str | None] = lambda number, method, path: None
        self.retry_after = "0"
        self.requests: list[tuple[str, str, dict[str, Any]]] = []
        #: Addresses that paths lead to.
        self.redirects: dict[str, str] = {}
        self.said_no: Counter[str] = Counter()
        self.before: Callable[[], None] = lambda: None
        self._lock = threading.RLock()
        self._httpd = LoopbackServer(("127.0.0.1", 0), _handler(self))

    @property
    def url(self) -> str:
        host, port = self._httpd.server_address[:2]
        return f"http://{host}:{port}"

    @property
    def searches(self) -> list[dict[str, Any]]:
        """What was searched for, page by page."""
        return [asked for _, path, asked in self.requests if path == "/search"]

    def put(self, *items: dict[str, Any]) -> None:
        with self._lock:
            for item in items:
                self.items[str(item.get("collection")), str(item.get("id"))] = item

    def delete(self, item_id: str, collection: str = COLLECTION) -> None:
        with self._lock:
            del self.items[collection, item_id]

    def change(self, item_id: str, updated: str | None = "2024-12-02T00:00:00Z", **properties: Any) -> None:
        """Change properties of an item, as of a moment."""
        with self._lock:
            item = copy.deepcopy(self.items[COLLECTION, item_id])
            item["properties"].update(properties, **({} if updated is None else {"updated": updated}))
            self.items[COLLECTION, item_id] = item

    # --- answers -----------------------------------------------------------------------------------------------------

    def answer(self, path: str, asked: Mapping[str, Any], method: str) -> Any:
        """A document; None where there is none. A subclass may give its bytes."""
        if path == "/":
            return self._root()
        if path.endswith("/queryables"):
            return self.queryables
        if path.startswith("/collections/"):
            name = unquote(path.rpartition("/")[2])
            return self._collection(name) if any(name == collection for collection, _ in self.items) else None
        if path == "/collections":
            names = sorted({collection for collection, _ in self.items})
            return {"collections": [self._collection(name) for name in names], "links": []}
        return self._page(asked, method) if path == "/search" else None

    def _root(self) -> dict[str, Any]:
        links = [{"rel": "search", "href": f"{self.url}/search", "method": method} for method in self.methods]
        return {
            "type": "Catalog", "id": "test", "stac_version": "1.0.0", "description": "of the tests",
            "conformsTo": [f"{_CONFORMS}{name}" for name in _CORE]
            + [f"https://api.stacspec.org/{self.version}/item-search#{can}" for can in sorted(self.can)],
            "links": [{"rel": "data", "href": f"{self.url}/collections"}, {"rel": "self", "href": self.url}, *links],
        }  # fmt: skip

    def _collection(self, name: str) -> dict[str, Any]:
        return {
            "type": "Collection", "id": name, "stac_version": "1.0.0", "description": "of the tests",
            "license": "other", "links": [],
            "extent": {"spatial": {"bbox": [[-180, -90, 180, 90]]}, "temporal": {"interval": [self.extent]}},
        }  # fmt: skip

    def _page(self, asked: Mapping[str, Any], method: str) -> Any:
        with self._lock:
            found = [item for item in self.items.values() if _matches(item, asked, self.can - self.ignores)]
        found.sort(key=lambda item: (str(item["properties"].get("datetime")), str(item.get("id"))))
        if asked.get("sortby") and "sort" in self.can - self.ignores:
            found.sort(key=lambda item: item["properties"].get("updated") or "", reverse=True)
        first, limit = int(asked.get("token") or 0), int(asked.get("limit") or 10)
        page = {"type": "FeatureCollection", "features": found[first : first + limit], "links": []}
        if self.counts:
            page["numberMatched"] = len(found)
        if first + limit < len(found):
            page["links"] = [self._next({**asked, "token": first + limit}, method)]
        return page

    def _next(self, asked: Mapping[str, Any], method: str) -> dict[str, Any]:
        if method == "GET":
            return {"rel": "next", "href": f"{self.url}/search?{urlencode(asked)}"}
        body = {"token": asked["token"]} if self.merges else dict(asked)
        return {"rel": "next", "href": f"{self.url}/search", "method": "POST", "body": body, "merge": self.merges}


def _matches(item: Mapping[str, Any], asked: Mapping[str, Any], can: set[str]) -> bool:
    properties = item["properties"]
    if asked.get("collections") and item["collection"] not in _listed(asked["collections"]):
        return False
    if asked.get("ids") and item["id"] not in _listed(asked["ids"]):
        return False
    if asked.get("bbox") and not _meet(item["bbox"], [float(one) for one in _listed(asked["bbox"])]):
        return False
    if asked.get("datetime") and not _in_time(properties, asked["datetime"]):
        return False
    query = _parsed(asked.get("query")) if "query" in can else {}
    tests = {"lt": lambda a, b: a < b, "gt": lambda a, b: a > b, "gte": lambda a, b: a >= b, "eq": lambda a, b: a == b}
    for name, conditions in (query or {}).items():
        if properties.get(name) is None or not all(tests[op](properties[name], to) for op, to in conditions.items()):
            return False
    return "filter" not in can or _filtered(properties, _parsed(asked.get("filter")))


def _filtered(properties: Mapping[str, Any], condition: Any) -> bool:
    if not condition:
        return True
    if condition["op"] == "and":
        return all(_filtered(properties, part) for part in condition["args"])
    one, other = condition["args"]
    value, to = properties.get(one["property"]), other["timestamp"] if isinstance(other, dict) else other
    return (
        value is not None and {">=": value >= to, ">": value > to, "<": value < to, "=": value == to}[condition["op"]]
    )


def _parsed(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _listed(value: Any) -> list[Any]:
    return value.split(",") if isinstance(value, str) else list(value)


def _meet(one: Any, other: Any) -> bool:
    return one[0] <= other[2] and other[0] <= one[2] and one[1] <= other[3] and other[1] <= one[3]


def _in_time(properties: Mapping[str, Any], asked: str) -> bool:
    first, _, last = asked.partition("/")
    at = properties.get("datetime")
    start, end = properties.get("start_datetime") or at, properties.get("end_datetime") or at
    if start is None or end is None:
        return False
    after = first in ("", "..") or datetime.fromisoformat(end) >= datetime.fromisoformat(first)
    return after and (last in ("", "..") or datetime.fromisoformat(start) <= datetime.fromisoformat(last))


@contextmanager
def serve_stac(kind: type[StacServer] = StacServer) -> Iterator[Any]:
    """A STAC API as long as the block runs."""
    server = kind()
    with serving(server._httpd):
        yield server


def _handler(server: StacServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self) -> None:
            asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
            self._answer("GET", asked)

        def do_POST(self) -> None:
            self._answer("POST", json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, method: str, asked: dict[str, Any]) -> None:
            path = urlsplit(self.path).path
            with server._lock:
                server.requests.append((method, path, asked))
                number = len(server.requests)
                server.before()
                fault = server.fault(number, method, path)
                server.said_no[fault or ""] += 1
            if path in server.redirects:
                self._send(302, b"", {"Location": server.redirects[path]})
                return
            if fault is not None and fault.isdigit():
                headers = {"Retry-After": server.retry_after} if fault == "429" else {}
                self._send(int(fault), b'{"description": "the API is not well"}', headers)
                return
            if server.updated_is_text and "timestamp" in json.dumps(asked):
                self._send(500, b"Internal Server Error")
                return
            document = server.answer(path, asked, method)
            if document is None:
                self._send(404, b"{}")
                return
            if isinstance(document, bytes):
                self._send(200, document)
                return
            self._send_faulty(_spoiled(document, fault, asked, server, method), fault)

        def _send_faulty(self, document: dict[str, Any], fault: str | None) -> None:
            body = json.dumps(document).encode()
            if fault == "reset":
                self.close_connection = True
                self.connection.close()
            elif fault == "html":
                self._send(200, b"<html>maintenance</html>")
            elif fault == "broken":
                self._send(200, body[: len(body) // 2])
            else:
                self._send(200, body, cut=fault == "short")

        def _send(
            self, status: int, body: bytes, headers: Mapping[str, str] | None = None, *, cut: bool = False
        ) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut else body)
            if cut:
                self.close_connection = True

        def log_message(self, *args: Any) -> None:
            del args

    return Handler


def _spoiled(
    document: dict[str, Any], fault: str | None, asked: Mapping[str, Any], server: StacServer, method: str
) -> dict[str, Any]:  # fmt: skip
    features = document.get("features")
    if fault == "repeat":
        return {**document, "links": [server._next({**asked, "token": asked.get("token", 0)}, method)]}
    if fault == "lose" and features:
        return {**document, "features": features[:-1]}
    if fault == "twice" and features:
        return {**document, "features": [*features, features[-1]]}
    return document


def write_catalog(folder: Path, items: list[dict[str, Any]]) -> Path:
    """Write a static catalog with relative links as pystac does; return the path of its root."""
    catalog = pystac.Catalog("root", "of the tests")
    extent = pystac.Extent(
        pystac.SpatialExtent([[-180, -90, 180, 90]]), pystac.TemporalExtent([[datetime(2024, 1, 1, tzinfo=UTC), None]])
    )
    collection = pystac.Collection(COLLECTION, "of the tests", extent)
    catalog.add_child(collection)
    for item in items:
        collection.add_item(pystac.Item.from_dict(copy.deepcopy({**item, "links": []})))
    catalog.normalize_and_save(str(folder), pystac.CatalogType.SELF_CONTAINED)
    return folder / "catalog.json"
