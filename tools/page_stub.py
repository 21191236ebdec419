"""A stand-in for the server behind the page, for tools/test_page.py: the page's files as the server
sends them, a model whose answers the test writes, and conversations in memory that can be made to
fail. It says what was asked of it."""
import json
import re
import secrets
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "src" / "server" / "page"
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8",
         ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}


def page_headers():
    """The headers that src/server/page.c gives every file."""
    source = (ROOT / "src" / "server" / "page.c").read_text(encoding="utf-8")
    table = re.search(r"} headers\[\] = \{\n(.*?)\n\};", source, re.S)[1]
    found = re.findall(r'\{"([\w-]+)",\s*((?:"[^"]*"\s*)+)\}', table)
    return {name: "".join(re.findall(r'"([^"]*)"', value)) for name, value in found}


class State:
    """What the test sets and reads."""

    def __init__(self):
        self.requests = []  # bodies of /v1/chat/completions
        self.keys = []  # their Authorization headers
        self.reply = None  # function from the request's body to pieces of text
        self.delay = 0.0  # seconds between pieces
        self.fail = None  # (status, message): instead of an answer
        self.break_after = None  # pieces after which the connection is cut
        self.error_after = None  # pieces after which the stream tells of an error
        self.gone = 0  # clients that left in the middle of an answer
        self.models = [{"id": "bitloom-2b", "object": "model", "created": 1700000000,
                        "owned_by": "bitloom",
                        "meta": {"name": "Bitloom 2B", "weights": "bl_t2",
                                 "parameters": 2412820480, "file_bytes": 1187801280,
                                 "trained_context": 4096}}]
        self.api_key = None
        self.loading = False
        self.stored = True
        self.store_fails = None  # message
        self.conversations = {}
        self.clock = 0

    def now(self):
        self.clock = max(self.clock + 1, int(time.time() * 1000))
        return self.clock


def refuse(status, message, code=None):
    return status, {"error": {"message": message, "type": "invalid_request_error", "param": None,
                              "code": code}}


def brief(conversation):
    out = {k: v for k, v in conversation.items() if k != "messages"}
    return {**out, "message_count": len(conversation["messages"])}


def list_conversations(state, query):
    words = query.get("query", "").lower()
    rows = sorted(state.conversations.values(), key=lambda c: -c["updated_at"])
    found = []
    for row in rows:
        hit = next((m["content"] for m in row["messages"] if words in m["content"].lower()), None)
        if words in row["title"].lower() or hit is not None:
            found.append({**brief(row), **({"excerpt": hit[:80]} if words and hit else {})})
    start = 0
    if "after" in query:
        start = 1 + next(i for i, row in enumerate(found) if row["id"] == query["after"])
    limit = int(query.get("limit", 50))
    return 200, {"object": "list", "stored": state.stored, "data": found[start:start + limit],
                 "has_more": len(found) > start + limit}


def conversations(state, method, path, query, body):
    """The routes below /api/conversations: (status, JSON)."""
    parts = path.split("/")[3:]
    if not state.stored:
        if method == "GET" and not parts:
            return 200, {"object": "list", "stored": False, "data": [], "has_more": False}
        return refuse(404, "conversations are not kept", "store_off")
    if state.store_fails:
        return refuse(503, state.store_fails, "store_unavailable")
    if not parts:
        if method == "GET":
            return list_conversations(state, query)
        now = state.now()
        made = {"id": secrets.token_hex(16), "object": "conversation", "created_at": now,
                "updated_at": now, "revision": 0, "title": body.get("title", ""),
                "model": body.get("model", ""), "settings": body.get("settings", {}),
                "messages": body.get("messages", [])}
        state.conversations[made["id"]] = made
        return 201, brief(made)
    one = state.conversations.get(parts[0])
    if one is None:
        return refuse(404, f'no conversation "{parts[0]}"', "not_found")
    if method == "GET":
        return 200, {**brief(one), "messages": one["messages"]}
    if method == "DELETE":
        del state.conversations[parts[0]]
        return 200, {"id": parts[0], "object": "conversation.deleted", "deleted": True}
    if method == "PUT":
        if body.get("revision", one["revision"]) != one["revision"]:
            return refuse(409, "revision: the conversation has changed", "conflict")
        if body["from"] > len(one["messages"]):
            return refuse(400, "from: too far")
        one["messages"][body["from"]:] = body["messages"]
    else:
        one.update({k: body[k] for k in ("title", "model", "settings") if k in body})
    one["revision"] += 1
    one["updated_at"] = state.now()
    return 200, brief(one)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    headers_of_page = page_headers()

    def log_message(self, *arguments):
        pass

    @property
    def state(self):
        return self.server.state

    def send_body(self, status, content_type, body, headers=()):
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_json(self, status, value):
        self.send_body(status, "application/json", json.dumps(value).encode())

    def do_GET(self):
        path = self.path.split("?")[0]
        if path == "/" or path.startswith("/page/"):
            file = PAGE / ("index.html" if path == "/" else path[len("/page/"):])
            if file.parent != PAGE or not file.is_file():
                self.send_json(*refuse(404, "no such file"))
                return
            self.send_body(200, TYPES[file.suffix], file.read_bytes(), self.headers_of_page)
            return
        self.answer()

    def do_POST(self):
        self.answer()

    do_PUT = do_PATCH = do_DELETE = do_POST

    def answer(self):
        state = self.state
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length)) if length else {}
        path, _, rest = self.path.partition("?")
        query = dict(urllib.parse.parse_qsl(rest))
        if state.api_key and self.headers.get("Authorization") != f"Bearer {state.api_key}":
            self.send_json(*refuse(401, "an API key is needed", "invalid_api_key"))
        elif state.loading:
            self.send_json(*refuse(503, "the model is being loaded", "loading"))
        elif path == "/v1/models":
            self.send_json(200, {"object": "list", "data": state.models})
        elif path == "/v1/chat/completions":
            state.requests.append(body)
            state.keys.append(self.headers.get("Authorization"))
            self.complete(body)
        elif path.startswith("/api/conversations"):
            self.send_json(*conversations(state, self.command, path, query, body))
        else:
            self.send_json(*refuse(404, f"there is no {path} here", "not_found"))

    def event(self, value):
        data = value if isinstance(value, str) else json.dumps(value)
        piece = f"data: {data}\r\n\r\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        self.wfile.flush()

    def complete(self, body):
        state = self.state
        if state.fail:
            self.send_json(*refuse(*state.fail))
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        pieces = list(state.reply(body))
        try:
            self.stream(pieces)
        except (BrokenPipeError, ConnectionResetError):
            state.gone += 1
            self.close_connection = True

    def stream(self, pieces):
        state = self.state
        for i, piece in enumerate(pieces):
            if i == state.break_after:
                self.close_connection = True
                return
            if i == state.error_after:
                self.event({"error": {"message": "the model has failed", "type": "server_error"}})
                break
            self.event({"choices": [{"index": 0, "delta": {"content": piece},
                                     "finish_reason": None}]})
            time.sleep(state.delay)
        else:
            self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            self.event({"choices": [], "usage": {"prompt_tokens": 9, "total_tokens": 9 + len(pieces),
                                                 "completion_tokens": len(pieces)},
                        "timings": {"predicted_per_second": 23.14}, "energy": {"joules": 12.4}})
        self.event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")


class Server(ThreadingHTTPServer):
    daemon_threads = True
    State = State

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.state = State()
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def close(self):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        pass  # a client that left
