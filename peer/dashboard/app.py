"""The flask application: the page's files, `/api/state`, `/api/targets`. GET only; nothing writes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flask import Flask, Response, jsonify, send_from_directory

from peer.dashboard.board import Board

STATIC = Path(__file__).parent / "static"


def create_app(
    board: Board, targets: Callable[[], list[dict[str, Any]]], on_look: Callable[[], None]
) -> Flask:
    """Return the application.

    Args:
        board: has the state.
        targets: returns the peers' addresses for Prometheus.
        on_look: told when somebody asks for the state.
    """
    app = Flask(__name__, static_folder=None)

    @app.get("/")
    def page() -> Response:
        return send_from_directory(STATIC, "index.html")

    @app.get("/static/<path:name>")
    def static_file(name: str) -> Response:
        return send_from_directory(STATIC, name)

    @app.get("/favicon.ico")
    def icon() -> Response:
        return send_from_directory(STATIC, "icon.svg")

    @app.get("/healthz")
    def health() -> Response:
        return Response("OK\n", mimetype="text/plain")

    @app.get("/api/state")
    def state() -> Response:
        on_look()
        return Response(board.body(), mimetype="application/json")

    @app.get("/api/targets")
    def discovery() -> Response:
        return jsonify(targets())

    return app
