"""Errors in the path, the headers or the body of a request."""

from __future__ import annotations

from app.errors.broker_error import BrokerError


class BadRequest(BrokerError):
    code = "BAD_REQUEST"
    title = "Bad request"
    cause = "The server cannot parse the request: invalid JSON, invalid UTF-8, or an invalid header or parameter."
    cure = "Send valid JSON in UTF-8, without NaN, lone surrogates or deep nesting. The detail names the error."


class InvalidRequest(BrokerError):
    code = "INVALID_REQUEST"
    title = "Invalid request"
    cause = "A field or parameter is missing, unknown, of the wrong type or out of bounds."
    cure = "Correct the fields in `errors`. `/docs` has a working example of each operation."


class NotFound(BrokerError):
    code = "NOT_FOUND"
    title = "Not found"
    cause = "No operation has this path."
    cure = "Look up the path in `/docs`."


class UriTooLong(BrokerError):
    code = "URI_TOO_LONG"
    title = "URI too long"
    cause = "The path and query of the request are longer than the server accepts."
    cure = "Send large values in the body, or use fewer parameters."


class HeaderFieldsTooLarge(BrokerError):
    code = "REQUEST_HEADER_FIELDS_TOO_LARGE"
    title = "Request header fields too large"
    cause = "The request has too many headers, or its headers together are too large."
    cure = "Send fewer or shorter headers. Send record headers in the body."


class RequestTimedOut(BrokerError):
    code = "REQUEST_TIMED_OUT"
    title = "Request timed out"
    cause = "408: the request did not arrive completely in time. Nothing was written."
    cure = "Send the request again."


class MethodNotAllowed(BrokerError):
    code = "METHOD_NOT_ALLOWED"
    title = "Method not allowed"
    cause = "The path has no operation with this method."
    cure = "Use one of the methods in the Allow header."


class BodyTooLarge(BrokerError):
    code = "REQUEST_TOO_LARGE"
    title = "Request body too large"
    cause = "The body is larger than the server accepts, compressed or decompressed."
    cure = "Send the records in several requests."


class UnsupportedMediaType(BrokerError):
    code = "UNSUPPORTED_MEDIA_TYPE"
    title = "Unsupported media type"
    cause = "The operation does not support the Content-Type or Content-Encoding. `curl -d` sends a form type."
    cure = "Use `curl --json '…'`, or with a curl before 7.82 add `-H 'Content-Type: application/json'`."


class CrossOriginRefused(BrokerError):
    code = "CROSS_ORIGIN_REFUSED"
    title = "Cross-origin request refused"
    cause = (
        "A web page of another origin sent a request that writes, or a page of another site any request to a server "
        "on the loopback interface. Behind a proxy that replaces the Host, the server's own pages look like this too."
    )
    cure = (
        "Add the origin to MILLRACE_CORS_ORIGINS if you trust it. Let a proxy send the browser's Host, and add that "
        "name to MILLRACE_ALLOWED_HOSTS."
    )


class WrongHost(BrokerError):
    code = "MISDIRECTED_REQUEST"
    title = "Wrong host"
    cause = (
        "The server does not accept the host in the Host header: it is no IP address, has a dot, is not below "
        "`.localhost`, `.internal`, `.local` or `.svc`, and is not in MILLRACE_ALLOWED_HOSTS. A web page could "
        "otherwise reach the log through a host name of its own."
    )
    cure = "Use an address or a local name, or add the host to MILLRACE_ALLOWED_HOSTS; `*.example.com` adds all below."


class WebhookRequestRefused(BrokerError):
    code = "WEBHOOK_REQUEST_REFUSED"
    title = "Attempt of a webhook"
    cause = "The request is an attempt of a webhook of a Millrace server: it has the header Millrace-Webhook."
    cure = "Let the webhook post to a source, POST /v1/sources/{source}/events, or to a program of your own."
