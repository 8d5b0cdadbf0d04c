"""Refusals of a request as HTTP: its body, its headers, its path."""

from __future__ import annotations

from app.errors.broker_error import BrokerError


class BadRequest(BrokerError):
    code = "BAD_REQUEST"
    title = "Bad request"
    cause = "The request could not be read: broken JSON, invalid UTF-8, a bad header or an unreadable parameter."
    cure = "Send valid UTF-8 JSON (no NaN, no lone surrogates, no excessive nesting); see the detail for the place."


class InvalidRequest(BrokerError):
    code = "INVALID_REQUEST"
    title = "Invalid request"
    cause = "The request was read, but a field or parameter is missing, unknown, of the wrong type or out of bounds."
    cure = "Correct the fields named in `errors`; `/docs` shows each operation with an example that works."


class NotFound(BrokerError):
    code = "NOT_FOUND"
    title = "Not found"
    cause = "There is nothing at this path."
    cure = "See /docs for the operations."


class UriTooLong(BrokerError):
    code = "URI_TOO_LONG"
    title = "URI too long"
    cause = "The path and query of the request are longer than the server reads."
    cure = "Send what is long in the body, or use fewer parameters."


class HeaderFieldsTooLarge(BrokerError):
    code = "REQUEST_HEADER_FIELDS_TOO_LARGE"
    title = "Request header fields too large"
    cause = "The request has too many headers, or headers that are together too large."
    cure = "Send fewer or shorter headers; record headers belong in the body."


class MethodNotAllowed(BrokerError):
    code = "METHOD_NOT_ALLOWED"
    title = "Method not allowed"
    cause = "The path exists, but not with this method."
    cure = "Use one of the methods in the Allow header."


class BodyTooLarge(BrokerError):
    code = "REQUEST_TOO_LARGE"
    title = "Request body too large"
    cause = "The body, compressed or decompressed, is beyond the bound."
    cure = "Send the records in several requests."


class UnsupportedMediaType(BrokerError):
    code = "UNSUPPORTED_MEDIA_TYPE"
    title = "Unsupported media type"
    cause = "The Content-Type or Content-Encoding is not one that this operation reads; `curl -d` sends a form type."
    cure = "Use curl --json '…', or add -H 'Content-Type: application/json' with a curl before 7.82."


class CrossOriginRefused(BrokerError):
    code = "CROSS_ORIGIN_REFUSED"
    title = "Cross-origin request refused"
    cause = "A web page of another origin tried to write."
    cure = "Add the origin to MILLRACE_CORS_ORIGINS if it is yours."


class WrongHost(BrokerError):
    code = "MISDIRECTED_REQUEST"
    title = "Wrong host"
    cause = "The Host header names a host that this server does not answer for."
    cure = "Use localhost or 127.0.0.1, or add the host to MILLRACE_ALLOWED_HOSTS."
