from __future__ import annotations

import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from pipeline.caption_graph.llm.connection import check_headers, connection_advice, find_proxy, is_local, tls_context
from pipeline.caption_graph.llm.triples import LLMExtractor
from pipeline.errors import ServiceError
from tests.caption_graph.llm.captions import make_captions
from tests.caption_graph.llm.conftest import MakeSession
from tests.caption_graph.llm.server import Endpoint

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
REMOTE = "https://api.example.org/v1"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "environment",
    [
        {"ALL_PROXY": "socks5://127.0.0.1:9"},
        {"all_proxy": "socks4://x"},
        {"http_proxy": "foo:bar"},
        {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"},
        {"http_proxy": "ftp://proxy"},
        {"NO_PROXY": "::1,[::1],fe80::/10,,*.x"},
        {"SSL_CERT_FILE": "/proc/nonexistent.pem"},
        {"SSL_CERT_FILE": "/dev/null"},
        {"SSL_CERT_DIR": "/proc/nonexistent"},
        {"REQUESTS_CA_BUNDLE": "/proc/nonexistent.pem", "CURL_CA_BUNDLE": "/proc/nonexistent.pem"},
        {"OPENAI_TIMEOUT": "soon", "OPENAI_LOG": "loud", "OPENAI_MAX_RETRIES": "x"},
        {"OPENAI_ORG_ID": "org-1", "OPENAI_CUSTOM_HEADERS": "X-One: 1\nX-Two: 2"},
    ],
    ids=str,
)
def test_endpoint_on_this_machine_is_reached_whatever_the_environment_says(
    make_session: MakeSession, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert len(LLMExtractor(make_session()).extract(make_captions(3))) == 3


@pytest.mark.parametrize(
    ("environment", "what", "where"),
    [
        (
            {"ALL_PROXY": "socks5://me:s3cret@proxy:1080"},
            "socksio, is not installed",
            "socks5://proxy:1080 of ALL_PROXY",
        ),
        ({"all_proxy": "socks5h://proxy"}, "socksio, is not installed", "socks5h://proxy of all_proxy"),
        ({"https_proxy": "socks4://s3cret"}, "address cannot be used", "https_proxy"),
        ({"HTTPS_PROXY": "s3cret:bar"}, "address cannot be used", "HTTPS_PROXY"),
        ({"https_proxy": "ftp://s3cret"}, "address cannot be used", "https_proxy"),
        ({"https_proxy": "http://s3cret:99999"}, "address cannot be used", "https_proxy"),
        ({"https_proxy": "http://[s3cret"}, "address cannot be used", "https_proxy"),
        (
            {"SSL_CERT_FILE": "/proc/nonexistent.pem"},
            "SSL_CERT_FILE names cannot be read: No such file",
            "SSL_CERT_FILE=",
        ),
        ({"SSL_CERT_FILE": "/dev/null"}, "SSL_CERT_FILE names cannot be read", "SSL_CERT_FILE=/dev/null"),
        ({"SSL_CERT_DIR": "/proc/nonexistent"}, "SSL_CERT_DIR names cannot be read", "SSL_CERT_DIR=/proc/nonexistent"),
        ({"OPENAI_ORG_ID": "s3cret\nb"}, "header", "OPENAI_ORG_ID"),
        ({"OPENAI_PROJECT_ID": "s3crét"}, "header", "OPENAI_PROJECT_ID"),
        ({"OPENAI_CUSTOM_HEADERS": "s3cret"}, "`Name: value`", "OPENAI_CUSTOM_HEADERS"),
        ({"OPENAI_CUSTOM_HEADERS": "A: 1\nB : s3cret"}, "`Name: value`", "OPENAI_CUSTOM_HEADERS"),
    ],
    ids=str,
)
def test_wrong_variable_is_named_with_its_cure(
    make_session: MakeSession,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    what: str,
    where: str,
) -> None:
    # The machine's own file of certificates would come before a folder.
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ServiceError) as caught:
        LLMExtractor(make_session(base_url=REMOTE)).extract(make_captions(3))
    assert what in caught.value.what
    assert where in str(caught.value.where)
    assert next(iter(environment)).upper() in str(caught.value.fix).upper()
    assert "s3cret" not in str(caught.value)


def test_key_log_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "no" / "keys"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    with pytest.raises(ServiceError, match="SSLKEYLOGFILE names cannot be written"):
        tls_context(REMOTE)


@pytest.mark.parametrize(
    ("no_proxy", "address", "used"),
    [
        ("", "http://10.1.2.3/v1", True),
        ("10.0.0.0/8", "http://10.1.2.3/v1", False),
        ("10.0.0.0/8", "http://11.1.2.3/v1", True),
        ("10.1.2.3", "http://10.1.2.3/v1", False),
        ("fe80::/10, 10.0.0.0/33", "http://[fe80::1]/v1", False),
        ("[fd00::1]", "http://[fd00::1]/v1", False),
        ("example.org", "http://api.example.org/v1", False),
        (".example.org", "http://api.example.org/v1", False),
        ("example.com", "http://api.example.org/v1", True),
        ("*", "http://api.example.org/v1", False),
        ("", "http://localhost:11434/v1", False),
        ("", "http://LOCALHOST/v1", False),
        ("", "http://127.9.9.9/v1", False),
        ("", "http://[::1]:8000/v1", False),
        ("", "http://0.0.0.0:8000/v1", False),
    ],
)
def test_proxy_is_used_unless_excluded_or_local(
    monkeypatch: pytest.MonkeyPatch, no_proxy: str, address: str, used: bool
) -> None:
    monkeypatch.setenv("http_proxy", "proxy:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    proxy = find_proxy(address)
    assert (proxy is not None) is used
    assert proxy is None or (proxy.url, proxy.variable) == ("http://proxy:3128", "http_proxy")


def test_proxy_of_the_scheme_comes_before_that_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://other")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:s3cret@[fd00::2]:3128")
    proxy = find_proxy(REMOTE)
    assert str(proxy) == "http://[fd00::2]:3128 of HTTPS_PROXY"
    assert "s3cret" not in repr(proxy)


def test_names_of_other_machines_are_not_local() -> None:
    assert not any(map(is_local, ("localhost.example.org", "10.0.0.1", "my-host", "", "1.localhos")))


def test_headers_of_plain_text_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Title: a b c\n\nhttp-referer: https://x.org")
    check_headers()


def test_refusal_of_a_proxy_names_it(
    make_session: MakeSession, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The endpoint plays the proxy: it answers the request for another host with 404 in HTML of its own.
    monkeypatch.setenv("http_proxy", endpoint.address.removesuffix("/v1"))
    endpoint.fault = lambda items, seen: None
    with pytest.raises(ServiceError, match="refuses the request") as caught:
        LLMExtractor(make_session(base_url="http://model.invalid/v1")).extract(make_captions(1))
    assert "no such path" in caught.value.what


def test_proxy_that_is_not_there_is_named(make_session: MakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{bound.getsockname()[1]}")
        with pytest.raises(
            ServiceError, match=r"cannot be reached through the proxy http://127.0.0.1:\d+ of https_proxy"
        ) as caught:
            LLMExtractor(make_session(base_url=REMOTE)).extract(make_captions(1))
    assert "NO_PROXY" in str(caught.value.fix)


def test_server_that_does_not_encrypt(make_session: MakeSession, endpoint: Endpoint) -> None:
    address = endpoint.address.replace("http:", "https:")
    with pytest.raises(ServiceError, match="no encrypted connection") as caught:
        LLMExtractor(make_session(base_url=address)).extract(make_captions(1))
    assert "http://" in str(caught.value.fix)


def _raised(name: str, cause: BaseException) -> Exception:
    """An exception of the HTTP library, around one of the system, within one of openai's."""
    inner: Any = type(name, (Exception,), {})("from the library")
    inner.__cause__ = cause
    outer = Exception("Connection error.")
    outer.__cause__ = inner
    return outer


def test_certificate_that_is_not_trusted_names_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/corp.pem")
    monkeypatch.setenv("SSL_CERT_FILE", "/stale.pem")
    error = _raised("ConnectError", ssl.SSLCertVerificationError(1, "self-signed certificate in certificate chain"))
    what, fix = connection_advice(error, REMOTE, None) or ("", "")
    assert "not trusted" in what
    assert "self-signed" in what
    assert all(text in fix for text in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE is set, which is not read", "/stale.pem"))


def test_unknown_host_is_told_from_a_closed_port() -> None:
    what, fix = connection_advice(_raised("ConnectError", socket.gaierror(-2, "Name unknown")), REMOTE, None) or (
        "",
        "",
    )
    assert "no host api.example.org is known here" in what
    assert "HTTPS_PROXY" in fix
    what, fix = connection_advice(_raised("ConnectError", OSError("refused")), "http://localhost/v1", None) or ("", "")
    assert "start the server" in fix
    assert connection_advice(_raised("ReadError", OSError("reset")), REMOTE, None) is None


def test_host_that_is_no_name_is_an_error_of_the_project(make_session: MakeSession) -> None:
    with pytest.raises(ServiceError) as caught:
        LLMExtractor(make_session(base_url="https://bücher..example/v1")).extract(make_captions(1))
    assert "base_url" in str(caught.value.fix)
