"""The explorer page: routes that serve it at `/` and its files below `/explorer/`.

Notable: the files are read once and looked up by name, so that no path of a request ever reaches the disk.
They are revalidated by ETag (`no-cache`): a new version is seen at once, an old one costs one short answer.
The content security policy allows this host only, no inline script or style, no frame around the page, and
no markup made from text (trusted types). Titles are text nodes; the policy is the second lock on that door.

The page calls `/recommend`, `/items`, and `/model`.
"""

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

PAGE_FOLDER = Path(__file__).parent / "page"
INDEX = "index.html"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def routes() -> list[Route]:
    """Return `/` and a route for each of the page's files; all answer GET and HEAD."""
    files = sorted(path for path in PAGE_FOLDER.iterdir() if path.suffix in MEDIA_TYPES)
    return [_route("/" if path.name == INDEX else f"/explorer/{path.name}", path) for path in files]


def _route(address: str, path: Path) -> Route:
    content = path.read_bytes()
    etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
    headers = {**HEADERS, "ETag": etag}
    media_type = MEDIA_TYPES[path.suffix]

    async def serve(request: Request) -> Response:
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if etag in known:
            return Response(status_code=304, headers=headers)
        return Response(content, headers=headers, media_type=media_type)

    return Route(address, serve, methods=["GET"], include_in_schema=False)
