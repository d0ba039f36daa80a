"""An S3 store that runs here, behind a line that tests can break."""

import io
import threading

SLOW = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
UNKNOWN = (
    b"<Error><Code>NotImplemented</Code><Message>A header is not implemented.</Message></Error>"
)
TOLD = b"<Error><Code>InvalidRequest</Code><Message>%s</Message></Error>"
XML = [("Content-Type", "application/xml")]


class Server:
    """The S3 of moto behind a line that can be broken; it notes every request.

    Attributes:
        breaks: Says for each request, given its number, method, path and headers, what becomes of it: None,
            "slow" (refused for now), "cut" (the line breaks before it is done), "lost" (after), "half"
            (in the middle of the answer), "unknown" (refused for ever), "told" (the same, and the
            answer repeats who asked).
    """

    def __init__(self):
        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.port}"
        self.clear()
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def clear(self):
        self.requests, self.breaks = [], lambda number, method, path, _: None

    def __call__(self, environ, start):
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        self.requests.append((method, path, environ["QUERY_STRING"]))
        how = self.breaks(len(self.requests) - 1, method, path, environ)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if how in ("slow", "unknown", "told"):
            status, answer = {
                "slow": ("503 Slow Down", SLOW), "unknown": ("501 Not Implemented", UNKNOWN),
                "told": ("400 Bad Request", TOLD % environ["HTTP_AUTHORIZATION"].encode()),
            }[how]  # fmt: skip
            start(status, XML)
            return [b"" if method == "HEAD" else answer]
        if how != "cut":
            found = self._app({**environ, "wsgi.input": io.BytesIO(body)}, start)
            if how is None:
                return found
            whole = b"".join(found)
            if how == "half":
                return [whole[: len(whole) // 2]]
        environ["werkzeug.socket"].shutdown(2)
        start("500 Broken", [])
        return [b""]

    def stop(self):
        self._server.shutdown()
        self._server.server_close()
