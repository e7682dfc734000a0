"""Starting the app: arguments → store, runner, page → a server that only its own page can talk to."""

from __future__ import annotations

import argparse
import ipaddress
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from softprompt_core.environment import prepare_environment
from softprompt_core.errors import UserError

HOST, PORT = "127.0.0.1", 7860
MAX_UPLOAD = "200mb"


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code of the app: 0 after Ctrl-C, 2 when it could not start for a reason the user can mend."""
    options = parser().parse_args(argv)
    try:
        serve(options)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The arguments of `python app.py` and `softprompt app`."""
    made = argparse.ArgumentParser(prog=prog, description="Opens the soft-prompt workbench in a browser.")
    made.add_argument("--host", default=HOST, help=f"address to listen on (default {HOST}: this machine)")
    made.add_argument("--port", type=int, default=PORT, help=f"port to listen on (default {PORT})")
    made.add_argument(
        "--runs-dir", type=Path, default=Path(os.environ.get("SOFTPROMPT_HOME", "runs")),
        help="where runs are kept (default $SOFTPROMPT_HOME or runs/)",
    )
    made.add_argument(
        "--device", default="auto", help="where runs train unless they say otherwise: auto, cpu, cuda, cuda:N or mps"
    )
    made.add_argument("--auth", type=Path, metavar="FILE", help="lines user:password; asks for a login")
    return made


def serve(options: argparse.Namespace) -> None:
    """Serves the page until Ctrl-C or SIGTERM, then stops what runs and saves it.

    Raises UserError for a host that would be open to others without a login, or a port that is taken.
    """
    users = read_users(options.auth) if options.auth else None
    check_address(options.host, options.port, has_login=users is not None)
    prepare_environment()
    import_before_threads()

    from softprompt_core.jobs.thread import ThreadRunner
    from softprompt_core.store import Store
    from softprompt_core.ui.context import Context
    from softprompt_core.ui.page import build_page, style_sheets, theme

    store = Store(options.runs_dir)
    store.mark_interrupted()
    runner = ThreadRunner(store)
    page = build_page(Context(store=store, runner=runner, device=options.device))
    over = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: over.set())
    shown = f"[{options.host}]" if ":" in options.host else options.host
    try:
        page.launch(
            server_name=shown, server_port=options.port, auth=users, theme=theme(),
            css_paths=style_sheets(), max_file_size=MAX_UPLOAD, share=False, run_history=False, quiet=True,
            prevent_thread_lock=True, show_error=False, ssr_mode=False, mcp_server=False, footer_links=[],
            enable_monitoring=False, app_kwargs={"middleware": guards(options.host)},
        )
    except OSError:
        raise UserError(_taken(options.host, options.port)) from None
    print(f"Soft-prompt workbench on http://{shown}:{options.port}", flush=True)
    over.wait()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, signal.SIG_DFL)      # a second Ctrl-C ends it at once
    print("Stopping; the prompts of running runs are kept.", flush=True)
    runner.close()
    page.close(verbose=False)


def import_before_threads() -> None:
    """Imports transformers in this thread: it puts another module in its place at the end of its import, so a
    second thread that asks for it meanwhile fails with ImportError. It takes 0.4 s; torch is not imported.
    """
    import transformers  # noqa: F401


def check_address(host: str, port: int, *, has_login: bool) -> None:
    """Raises UserError for an address open to others without a login, or one that cannot be listened on."""
    if not is_loopback(host) and not has_login:
        raise UserError(
            f"--host {host} lets others reach the app, so it needs a login. Add --auth FILE with lines "
            f"user:password, or keep {HOST}."
        )
    if not 1 <= port <= 65_535:
        raise UserError(f"--port: {port} was given; allowed is 1 to 65535.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError):
            raise UserError(_taken(host, port)) from None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_users(path: Path) -> list[tuple[str, str]]:
    """(user, password) of every line of a login file; the password may hold colons.

    Raises UserError when it cannot be read or holds no such line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise UserError(f"The login file {str(path)!r} cannot be read. Give lines user:password.") from None
    pairs = [line.split(":", 1) for line in lines if line.strip() and not line.startswith("#")]
    if not pairs or any(len(pair) != 2 or not all(part.strip() for part in pair) for pair in pairs):
        raise UserError(f"The login file {str(path)!r} needs lines user:password, at least one and no other.")
    return [(user.strip(), password) for user, password in pairs]


def guards(host: str) -> list[Any]:
    """What keeps foreign web pages from using the app through a visitor's browser.

    Gradio checks neither the Host header (DNS rebinding) nor the Origin of uploads. Behind a login any name
    may lead here, for the login's cookie belongs to that name.
    """
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    found = [Middleware(SameOrigin)]
    if is_loopback(host):
        names = ["127.0.0.1", "localhost", "[::1]", host.strip("[]")]
        found.insert(0, Middleware(TrustedHostMiddleware, allowed_hosts=names, www_redirect=False))
    return found


class SameOrigin:
    """Refuses requests that a page of another origin has sent; programs send no Origin and pass."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Passes a request on, or answers 403."""
        if scope["type"] in ("http", "websocket"):
            headers = {key.lower(): value.decode("latin-1") for key, value in scope.get("headers", ())}
            origin, host = headers.get(b"origin"), headers.get(b"host", "")
            if origin is not None and origin.partition("://")[2].lower() != host.lower():
                from starlette.responses import PlainTextResponse

                await PlainTextResponse("Requests from other pages are refused.", 403)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _taken(host: str, port: int) -> str:
    return (
        f"Port {port} on {host} cannot be used; another program (perhaps this one) has it. "
        f"Choose another with --port {port + 1 if port < 65_535 else PORT}."
    )
