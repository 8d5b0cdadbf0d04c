"""The settings of access control, of TLS and of the issuer of tokens; a part of `Settings`."""

from __future__ import annotations

import re
import ssl
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode

_PROXY_URL = re.compile(r"https?://([^\s/?#@]+@)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?")
_ISSUER_URL = re.compile(r"https?://[^\s?#@\\\"']+")
_NAME = re.compile(r"[A-Za-z0-9._~:/@+|=-]+")
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")


class SecuritySettings(BaseSettings):
    """Access control, TLS, and OpenID Connect."""

    auth: Literal["auto", "keys", "none"] = Field(
        "auto",
        description="`auto` needs no key on a loopback address until the first key is made; `keys` always needs one; "
        "`none` never does.",
    )
    admin_key: str = Field(
        "", description="A key of an admin besides those in the database: any text of at least 32 characters."
    )
    super_users: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Comma-separated principals that no access control list restricts, such as `oidc:alice`."
    )
    max_keys: int = Field(1_000, ge=1, le=100_000, description="Maximum number of API keys.")
    max_acls: int = Field(10_000, ge=1, le=100_000, description="Maximum number of access control list entries.")
    tls_cert: str = Field(
        "", description="PEM file with the certificate of the server and its chain: the server then speaks HTTPS."
    )
    tls_key: str = Field(
        "",
        description="PEM file with the private key of the certificate, if `MILLRACE_TLS_CERT` does not contain it.",
    )
    oidc_issuer: str = Field(
        "", description="URL of the OpenID Connect issuer whose tokens are accepted, exactly as its tokens have it."
    )
    oidc_audience: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        validate_default=True,
        description="Comma-separated audiences; a token must be for one of them. Required with an issuer.",
    )
    oidc_principal_claim: str = Field(
        "sub", description="Claim of a token that names its principal, which is `oidc:` and the value."
    )
    oidc_algorithms: Annotated[tuple[str, ...], NoDecode] = Field(
        ("RS256", "ES256", "EdDSA"), description="Comma-separated algorithms with which tokens may be signed."
    )
    oidc_jwks_url: str = Field(
        "", description="URL of the keys of the issuer; by default its `/.well-known/openid-configuration` names it."
    )
    oidc_allowed_networks: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Comma-separated networks, such as `10.0.0.0/8`, whose private addresses the issuer may have, also "
        "without TLS.",
    )
    oidc_ca_file: str = Field("", description="File of CA certificates for the issuer, instead of the system's.")
    oidc_proxy_url: str = Field("", description="Egress proxy for requests to the issuer, such as `http://proxy:3128`.")

    @field_validator("admin_key")
    @classmethod
    def _check_admin_key(cls, key: str) -> str:
        """Check the length; the message does not repeat the key."""
        if key and (len(key) < 32 or not key.isascii() or not key.isprintable() or " " in key):
            raise ValueError(
                "must be at least 32 printable ASCII characters without spaces, as of: openssl rand -hex 32"
            )
        return key

    @field_validator("super_users")
    @classmethod
    def _check_super_users(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if not all(map(_NAME.fullmatch, names)):
            raise ValueError("must be principals such as alice or oidc:alice, separated by commas")
        return names

    @field_validator("auth", mode="before")
    @classmethod
    def _to_lower_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("tls_cert", "tls_key")
    @classmethod
    def _check_pem_file(cls, path: str) -> str:
        """Refuse a missing file. `serve` reads it; other commands may run as a user who cannot."""
        if path and not Path(path).is_file():
            raise ValueError("must be a file in PEM format; there is none at this path")
        return path

    @field_validator("oidc_issuer", "oidc_jwks_url")
    @classmethod
    def _check_issuer_url(cls, url: str) -> str:
        if url and not _ISSUER_URL.fullmatch(url):
            raise ValueError("must be a URL such as https://login.example.com/realms/shop, without a query")
        return url

    @field_validator("oidc_audience")
    @classmethod
    def _check_audience(cls, audience: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        issuer = info.data.get("oidc_issuer", "")
        if issuer and not audience:
            raise ValueError(
                "must be set with MILLRACE_OIDC_ISSUER: without it, tokens for other services would be accepted"
            )
        if not all(map(_NAME.fullmatch, audience)):
            raise ValueError("must be names or URLs such as millrace or https://log.example.com, separated by commas")
        return audience

    @field_validator("oidc_principal_claim")
    @classmethod
    def _check_claim(cls, claim: str) -> str:
        if not _NAME.fullmatch(claim):
            raise ValueError("must be the name of a claim such as sub or client_id")
        return claim

    @field_validator("oidc_algorithms")
    @classmethod
    def _check_algorithms(cls, algorithms: tuple[str, ...]) -> tuple[str, ...]:
        if not algorithms or not set(algorithms) <= set(_ALGORITHMS):
            raise ValueError(f"must be some of {', '.join(_ALGORITHMS)}, separated by commas")
        return algorithms

    @field_validator("oidc_allowed_networks", "webhook_allowed_networks", check_fields=False)
    @classmethod
    def _check_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            try:
                ip_network(network)
            except ValueError:
                raise ValueError(
                    "must be networks such as 10.0.0.0/8 or addresses such as 10.0.0.1, separated by commas"
                ) from None
        return networks

    @field_validator("oidc_ca_file", "webhook_ca_file", check_fields=False)
    @classmethod
    def _check_ca_file(cls, path: str) -> str:
        try:
            if path:
                ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except OSError:
            raise ValueError("must be a file of CA certificates in PEM format that the server can read") from None
        return path

    @field_validator("oidc_proxy_url", "webhook_proxy_url", check_fields=False)
    @classmethod
    def _check_proxy_url(cls, url: str) -> str:
        if url and not _PROXY_URL.fullmatch(url):
            raise ValueError("must be a URL such as http://proxy:3128 or https://user:password@proxy:3128")
        return url

    @field_validator("super_users", "oidc_audience", "oidc_algorithms", "oidc_allowed_networks", mode="before")
    @classmethod
    def _split_parts(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value
