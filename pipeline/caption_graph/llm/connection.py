"""Connection to an endpoint: what the environment says about proxies and certificates, and failures to connect.

The HTTP library reads the same variables, but for every address at once and with errors of its own; here only those
that concern the endpoint are read, and an error names the variable and its cure. Nothing shows a proxy's password.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import re
import socket
import ssl
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from pipeline.errors import ServiceError, first_line

_CERTIFICATES = {
    "SSL_CERT_FILE": "a file of certificates (PEM), often /etc/ssl/certs/ca-certificates.crt",
    "SSL_CERT_DIR": "a folder of certificates, often /etc/ssl/certs",
}
_OTHER_CERTIFICATES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
"""What other programs read in place of the two above; the HTTP library does not."""
_KEY_LOG = "SSLKEYLOGFILE"
_HEADERS = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID")
_CUSTOM_HEADERS = "OPENAI_CUSTOM_HEADERS"
_PRINTABLE = re.compile(r"[\x20-\x7e]*")
_CUSTOM_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\x20-\x7e\t]*")


@dataclass(frozen=True)
class Proxy:
    """A proxy that requests go through.

    Attributes:
        url: Its address, perhaps with a password. Not part of the representation.
        variable: The environment variable, or what else of the system, that names it.
    """

    url: str = field(repr=False)
    variable: str

    def __str__(self) -> str:
        """Return the address without user and password, and where it comes from."""
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        name = f"[{host}]" if ":" in host else host
        return f"{parts.scheme}://{name}{f':{parts.port}' if parts.port else ''} of {self.variable}"


def find_proxy(address: str) -> Proxy | None:
    """Return the proxy for an endpoint's address; None for an endpoint on this machine, or one that NO_PROXY names.

    A proxy cannot reach this machine's own `localhost`, so it is never asked for it.

    Raises:
        ServiceError: The proxy's address cannot be used, or is that of a SOCKS proxy without the package for it.
    """
    url = urlsplit(address)
    host = url.hostname or ""
    if is_local(host) or _is_excluded(host):
        return None
    proxies = urllib.request.getproxies()
    scheme = url.scheme if proxies.get(url.scheme) else "all"
    value = proxies.get(scheme)
    if not value:
        return None
    names = (f"{scheme}_proxy", f"{scheme}_proxy".upper())
    variable = next((name for name in names if os.environ.get(name) == value), "the system's settings")
    return _checked(Proxy(value if "://" in value else f"http://{value}", variable), url)


def _checked(proxy: Proxy, target: SplitResult) -> Proxy:
    exclude = f"add {target.hostname} to NO_PROXY"
    try:
        parts = urlsplit(proxy.url)
        valid = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid or parts.scheme not in ("http", "https", "socks5", "socks5h"):
        kinds = "http://, https:// or socks5://"
        raise ServiceError(
            f"the proxy's address cannot be used; it must begin with {kinds} and name a host",
            where=proxy.variable,
            fix=f"correct {proxy.variable}, as in http://proxy.example.org:3128; or, to go without a proxy, unset it "
            f"or {exclude}",
        )
    if parts.scheme.startswith("socks") and importlib.util.find_spec("socksio") is None:
        raise ServiceError(
            "the proxy is a SOCKS proxy, and the package for those, socksio, is not installed",
            where=str(proxy),
            fix=f"install it (`uv pip install socksio` or `pip install socksio`), name an http:// proxy in "
            f"{target.scheme.upper()}_PROXY, or, to go without a proxy, unset {proxy.variable} or {exclude}",
        )
    return proxy


def is_local(host: str) -> bool:
    """Tell whether a host's name is one of this machine's own: localhost, 127.0.0.0/8, ::1, 0.0.0.0."""
    if host.lower().rstrip(".") == "localhost" or host.lower().endswith(".localhost"):
        return True
    address = _ip(host)
    return address is not None and (address.is_loopback or address.is_unspecified)


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip().strip("[]"))
    except ValueError:
        return None


def _is_excluded(host: str) -> bool:
    """Tell whether NO_PROXY names a host: itself, its domain, its address, or a network as 10.0.0.0/8."""
    if urllib.request.proxy_bypass(host):
        return True
    address = _ip(host)
    listed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    for entry in listed.split(",") if address is not None else ():
        try:
            if address in ipaddress.ip_network(re.sub(r"[\[\]\s]", "", entry), strict=False):
                return True
        except ValueError:
            continue
    return False


def tls_context(address: str) -> ssl.SSLContext | bool:
    """Return the certificates that SSL_CERT_FILE or SSL_CERT_DIR names; True, the HTTP library's own, without either.

    An endpoint at http:// needs none, so wrong variables do not disturb it; a redirection to https:// is then refused.

    Raises:
        ServiceError: They cannot be read.
    """
    variable = next((name for name in _CERTIFICATES if os.environ.get(name)), None)
    if variable is None:
        return True
    path = os.environ[variable]
    plain = urlsplit(address).scheme == "http"
    try:
        if variable == "SSL_CERT_FILE":
            return ssl.create_default_context(cafile=path)
        # Without the folder the library raises no error, and later trusts no certificate.
        next(Path(path).iterdir(), None)
        return ssl.create_default_context(capath=path)
    except (OSError, ValueError) as error:
        if plain:
            return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else first_line(error)
        if isinstance(error, OSError) and error.filename == os.environ.get(_KEY_LOG) is not None:
            raise ServiceError(
                f"the file that {_KEY_LOG} names cannot be written: {reason}",
                where=f"{_KEY_LOG}={error.filename}",
                fix=f"unset {_KEY_LOG}",
            ) from error
        raise ServiceError(
            f"the certificates that {variable} names cannot be read: {reason}",
            where=f"{variable}={path}",
            fix=f"let {variable} name {_CERTIFICATES[variable]}, or unset it: the system's own are then used",
        ) from error


def check_headers() -> None:
    """Check the environment variables that openai sends as headers.

    Raises:
        ServiceError: One holds line breaks or characters outside ASCII; its value is not shown.
    """
    for variable in _HEADERS:
        if not _PRINTABLE.fullmatch(os.environ.get(variable, "")):
            raise ServiceError(
                "a header of the request would hold line breaks or characters outside ASCII",
                where=f"environment variable {variable}",
                fix=f"correct {variable}, or unset it where the endpoint asks for none",
            )
    lines = os.environ.get(_CUSTOM_HEADERS, "").splitlines()
    if not all(_CUSTOM_HEADER.fullmatch(line) for line in lines if line.strip()):
        raise ServiceError(
            "a line of further headers is not of the form `Name: value` in ASCII",
            where=f"environment variable {_CUSTOM_HEADERS}",
            fix=f"correct {_CUSTOM_HEADERS}, or unset it",
        )


def connection_advice(error: BaseException, address: str, proxy: Proxy | None) -> tuple[str, str] | None:
    """Return what is wrong and what to do about a connection that never came about; None for one that broke later.

    Args:
        error: What openai raised, with the HTTP library's exceptions as its causes.
        address: The endpoint's.
        proxy: The proxy that the request went through.
    """
    chain = list(_causes(error))
    # By name, because openai's releases use different HTTP libraries, each with its own classes.
    names = {type(cause).__name__ for cause in chain}
    url = urlsplit(address)
    correct = "correct `graph.build.llm.base_url`"
    through = "" if proxy is None else f" (through the proxy {proxy})"
    reason = next((str(cause) for cause in reversed(chain) if str(cause)), type(error).__name__)
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in chain):
        other = next((name for name in _OTHER_CERTIFICATES if os.environ.get(name)), None)
        hint = "" if other is None else f" (here {other} is set, which is not read)"
        used = next((f"; now it is {os.environ[name]} of {name}" for name in _CERTIFICATES if os.environ.get(name)), "")
        return (
            f"the endpoint's certificate is not trusted{through}: {reason}",
            "let SSL_CERT_FILE name a file with the certificate of the authority that signed it, such as that of your "
            f"organisation's proxy{hint}{used}; or {correct}",
        )
    if any(isinstance(cause, ssl.SSLError) for cause in chain):
        return (
            f"no encrypted connection to the endpoint can be made{through}: {reason}",
            f"{correct}: a server that does not encrypt has an address with http://",
        )
    if "ProxyError" in names:
        name = "the proxy" if proxy is None else f"the proxy {proxy}"
        return (
            f"{name} does not let the request through: {reason}",
            f"correct the proxy's address, user and password, or, to go without it, add {url.hostname} to NO_PROXY",
        )
    if names & {"LocalProtocolError", "UnsupportedProtocol", "InvalidURL"}:
        return f"the request cannot be sent: {reason}", f"{correct}, or what of the environment begins with OPENAI_"
    if "ConnectError" not in names:
        return None
    if proxy is not None:
        return (
            f"the endpoint cannot be reached through the proxy {proxy}: {reason}",
            f"correct {proxy.variable}, or, to go without a proxy, unset it or add {url.hostname} to NO_PROXY",
        )
    if any(isinstance(cause, socket.gaierror) for cause in chain):
        return (
            f"the language model's endpoint cannot be reached: no host {url.hostname} is known here ({reason})",
            f"{correct}, or check the network; where a proxy is needed, set {url.scheme.upper()}_PROXY",
        )
    advice = "start the server there, or " if is_local(url.hostname or "") else "check that it runs and listens there, "
    return (
        f"the language model's endpoint cannot be reached: {reason}",
        f"{advice}{correct}; answers already stored are kept",
    )


def _causes(error: BaseException | None) -> list[BaseException]:
    """Return an exception and what it was raised from or during."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain
