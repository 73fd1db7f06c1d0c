"""Byte ranges over HTTP(S), by a client of our own.

A request goes from ``http_backend`` (one range of an object, redirects, conditions) over ``ranges`` (keep-alive
connections to one server) and ``connector`` (a name to a connection) to the server. Its answer comes back through
``head`` and ``body`` (bytes to status, headers and content) and ``answer`` (what it means). ``file_handler`` and
``by_address`` make files of record tables out of addresses.
"""
