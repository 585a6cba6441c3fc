"""Label Studio's REST interface, as far as the oracle needs it: token, retries, pages."""

import logging
from collections.abc import Iterator, Mapping
from typing import Any, cast

from activebdl.errors import UserError, words

VARIABLE = "LABEL_STUDIO_API_KEY"
_RETRIED = (429, 500, 502, 503, 504)  # what a server says that is overloaded, starting or stopping
_BACKOFF = 0.25  # seconds before the second retry, twice as many before each one after it
_PAGE = 100  # tasks of one answer


class UnreachableError(Exception):
    """The server gives no usable answer for now. What was asked of it may have been done all the same."""


class GoneError(UserError):
    """What was asked for is not there."""


class Client:
    """One server and one user of it.

    Args:
        url: Where the server is, e.g. "http://localhost:8080", with the path that it has behind a proxy.
        token: The user's: a legacy token, or a personal access token, which is a JWT that is exchanged for one that
            lives some minutes.
        timeout: Seconds that one answer may take.
        retries: How often a request is sent again that failed on the way. One that makes something is sent again only
            when it surely did not arrive.

    Raises:
        UserError: requests is not installed, or the address or the token cannot be one.
    """

    def __init__(self, url: str, token: str, *, timeout: float, retries: int) -> None:
        try:
            import requests
            from requests.adapters import HTTPAdapter
            from urllib3.util import Retry
        except ImportError:
            raise UserError("Label Studio is reached with requests: pip install 'activebdl[label-studio]'.") from None
        if not url.startswith(("http://", "https://")):
            raise UserError(f"The address of Label Studio begins with http:// or https://, unlike '{url}'.")
        if not token.isascii() or not token.isprintable() or " " in token:
            raise UserError(f"The environment variable {VARIABLE} has no API token of Label Studio: copy it as it is.")
        self.url = url.rstrip("/")
        self._token, self._timeout = token, timeout
        self._access: str | None = None  # the short-lived token, where ours is to be exchanged
        self._is_jwt = token.count(".") == 2
        self._session = requests.Session()
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it tells of each retry, we of the whole
        retry = Retry(
            total=retries, read=min(retries, 1), allowed_methods=("GET",), status_forcelist=_RETRIED,
            backoff_factor=_BACKOFF, raise_on_status=False, respect_retry_after_header=False,
        )  # fmt: skip
        self._session.mount(self.url, HTTPAdapter(max_retries=retry))

    def get(self, path: str, **parameters: Any) -> Any:
        """What the server has there.

        Raises:
            UnreachableError: It gives no usable answer, as often as it was asked.
            UserError: It refuses.
        """
        return self._answer("GET", path, parameters, None)

    def post(self, path: str, body: object, **parameters: Any) -> Any:
        """What the server answers to something that is to be made; raises as `get` does."""
        return self._answer("POST", path, parameters, body)

    def pages(self, path: str, key: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """All parts of a list that comes in pages, under that key of each; raises as `get` does."""
        seen, number = 0, 1
        while True:
            try:
                page = self.get(path, page=number, page_size=_PAGE, **parameters)  # it may give fewer than that
            except GoneError:
                if number == 1:
                    raise
                return  # somebody deleted what would have been on this page
            yield from page[key]
            seen, number = seen + len(page[key]), number + 1
            if not page[key] or seen >= page.get("total", page.get("count", 0)):
                return

    def close(self) -> None:
        """Lets go of the connections."""
        self._session.close()

    def _answer(self, method: str, path: str, parameters: Mapping[str, Any], body: object) -> Any:
        response = self._send(method, path, parameters, body)
        if response.status_code == 401 and self._access is not None:  # it has lived its minutes
            self._access = None
            response = self._send(method, path, parameters, body)
        return self._checked(response)

    def _send(self, method: str, path: str, parameters: Mapping[str, Any], body: object, *, signed: bool = True) -> Any:
        from requests import RequestException

        if signed and self._is_jwt and self._access is None:
            found = self._checked(self._send("POST", "/api/token/refresh/", {}, {"refresh": self._token}, signed=False))
            self._access = str(found["access"])

        def sign(request: Any) -> Any:  # by this, and not as a header, for ~/.netrc would replace that
            if signed:
                request.headers["Authorization"] = f"Bearer {self._access}" if self._is_jwt else f"Token {self._token}"
            return request

        try:
            return self._session.request(
                method, self.url + path, params=parameters, json=cast(Any, body), auth=sign,
                timeout=self._timeout, allow_redirects=False,
            )  # fmt: skip
        except RequestException as error:
            raise UnreachableError(words(error)) from error

    def _checked(self, response: Any) -> Any:
        status = int(response.status_code)
        try:
            body: object = response.json()
        except ValueError:
            body = None
        if status == 429 or status >= 500 or (status < 300 and body is None):
            raise UnreachableError(f"it answers with status {status}{'' if body else ' and no JSON'}")
        if status < 300:
            return body
        said = _said(body)
        if status == 401:
            raise UserError(
                f"Label Studio at {self.url} does not take the API token in {VARIABLE}{said}. "
                "Copy a token from your account's page there."
            )
        if status == 404:
            raise GoneError(f"There is no {response.url.partition('?')[0]}: is a Label Studio at {self.url}?")
        if status < 400:
            raise UserError(
                f"Label Studio at {self.url} is elsewhere: it leads to {response.headers.get('Location')}. "
                "Give that address as url."
            )
        raise UserError(f"Label Studio at {self.url} refuses a request with status {status}{said}.")


def _said(body: object) -> str:
    """What the server says is wrong, with a colon before it; nothing when it says nothing."""
    if not isinstance(body, Mapping):
        return ""
    fields = cast(Mapping[str, Any], body)
    found = fields.get("validation_errors") or fields.get("detail")
    return f": {found}".rstrip(".") if found else ""
