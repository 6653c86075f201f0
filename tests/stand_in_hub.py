"""A stand-in for the Hugging Face hub on loopback: what huggingface_hub 2.4 calls of it.

Its routes, headers and error codes are those that the package's source reads; the hub itself was
never met. Large files are redirected to another address, as the hub does with its storage.
"""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_tests"
OWNER = "someone"
STORED_SUFFIXES = (".safetensors", ".bin")  # those that the hub keeps apart from git


class Repository:
    """Commits, each with all of its files, and branches."""

    def __init__(self):
        self.commits = {}
        self.branches = {}
        self.is_gated = False

    def commit(self, files, branch="main"):
        """Add files to a branch; the commit's hash."""
        content = self.commits.get(self.branches.get(branch), {}) | files
        digest = hashlib.sha1(repr((branch, len(self.commits), sorted(content))).encode())
        self.commits[digest.hexdigest()] = content
        self.branches[branch] = digest.hexdigest()
        return digest.hexdigest()


class StandInHub:
    """The server and what it holds; `requests` are those that were made, as "GET /path"."""

    def __init__(self):
        self.repositories = {}
        self.storage = {}
        self.requests = []
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def add(self, name, folder, branch="main"):
        """Commit a folder's files; the repository is made where there is none."""
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }
        return self.repositories.setdefault(name, Repository()).commit(files, branch)

    def fetched(self):
        """Paths of the files that were fetched."""
        pattern = re.compile(r"GET /[^/]+/[^/]+/resolve/[^/]+/(.+)")
        matches = [pattern.fullmatch(request) for request in self.requests]
        stored = {f"GET {self.storage_path(data)}": name for name, data in self._stored()}
        names = {stored[request] for request in self.requests if request in stored}
        return names | {match[1] for match in matches if match}

    def _stored(self):
        for repository in self.repositories.values():
            for content in repository.commits.values():
                for name, data in content.items():
                    if name.endswith(STORED_SUFFIXES):
                        yield name, data

    @staticmethod
    def storage_path(data):
        return f"/storage/{hashlib.sha256(data).hexdigest()}"


class Refused(Exception):
    """A status and the hub's code for it."""

    def __init__(self, status, code="", message=""):
        super().__init__(code)
        self.status = status
        self.headers = {"X-Error-Code": code, "X-Error-Message": message or code}


class Handler(BaseHTTPRequestHandler):
    """One request."""

    hub: StandInHub
    routes = (
        ("GET", r"/api/whoami-v2", "whoami"),
        ("GET", r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", "model_info"),
        ("GET", r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", "tree"),
        ("HEAD|GET", r"/storage/(\w+)", "stored"),
        ("HEAD|GET", r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", "resolve"),
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("POST", r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)", "preupload"),
        ("POST", r"/api/models/([^/]+/[^/]+)/commit/([^/]+)", "commit"),
    )

    def log_message(self, *_):
        pass

    def answer(self):
        path = urlsplit(self.path).path
        self.hub.requests.append(f"{self.command} {path}")
        length = int(self.headers.get("Content-Length", 0))
        self.body = self.rfile.read(length)
        try:
            for methods, pattern, name in self.routes:
                match = re.fullmatch(pattern, path)
                if match and self.command in methods.split("|"):
                    groups = [unquote(group) if group else group for group in match.groups()]
                    return getattr(self, name)(*groups)
            raise Refused(404, "EntryNotFound")
        except Refused as refused:
            self.send(b"", refused.status, refused.headers)

    do_GET = do_HEAD = do_POST = answer

    def send(self, data, status=200, headers=None):
        if not isinstance(data, bytes):
            data = json.dumps(data).encode()
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    @property
    def has_token(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def find(self, name, revision):
        """A repository, a commit's hash and its files."""
        repository = self.hub.repositories.get(name)
        if repository is None:  # the hub does not say whether it is private
            raise Refused(404 if self.has_token else 401, "RepoNotFound", "Repository not found")
        commit = repository.branches.get(revision or "main", revision)
        if commit not in repository.commits:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repository, commit, repository.commits[commit]

    def whoami(self):
        if not self.has_token:
            raise Refused(401, message="Invalid username or password.")
        self.send({"type": "user", "name": OWNER, "orgs": [], "auth": {"type": "access_token"}})

    def model_info(self, name, revision):
        repository, commit, content = self.find(name, revision)
        siblings = [{"rfilename": path} for path in content]
        gated = "auto" if repository.is_gated else False
        self.send(
            {"id": name, "sha": commit, "siblings": siblings, "gated": gated, "private": False}
        )

    def tree(self, name, revision):
        _, _, content = self.find(name, revision)
        entries = []
        for path, data in content.items():
            oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            entry = {"type": "file", "path": path, "size": len(data), "oid": oid}
            if path.endswith(STORED_SUFFIXES):
                digest = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"oid": digest, "size": len(data), "pointerSize": 134}
            entries.append(entry)
        self.send(entries)

    def resolve(self, name, revision, path):
        repository, commit, content = self.find(name, revision)
        if repository.is_gated and not self.has_token:
            raise Refused(401, "GatedRepo", f"Access to model {name} is restricted.")
        headers = {"X-Repo-Commit": commit}
        if path not in content:
            raise Refused(404, "EntryNotFound")
        data = content[path]
        if not path.endswith(STORED_SUFFIXES):
            etag = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            return self.send(data, headers=headers | {"ETag": f'"{etag}"'})
        digest = hashlib.sha256(data).hexdigest()
        self.hub.storage[digest] = data
        port = self.hub.server.server_port
        headers |= {
            "X-Linked-Etag": f'"{digest}"',
            "X-Linked-Size": str(len(data)),
            # Another host than the hub's, to which no token goes.
            "Location": f"http://localhost:{port}{self.hub.storage_path(data)}",
        }
        return self.send(b"", 302, headers)

    def stored(self, digest):
        assert "Authorization" not in self.headers
        self.send(self.hub.storage[digest], headers={"ETag": f'"{digest}"'})

    def create(self):
        request = json.loads(self.body)
        name = f"{request.get('organization') or OWNER}/{request['name']}"
        self.check_write(name)
        if name in self.hub.repositories:
            return self.send({"url": f"{self.hub.url}/{name}"}, 409)
        self.hub.repositories[name] = Repository()
        self.hub.repositories[name].commit({".gitattributes": b"*.bin filter=lfs\n"})
        return self.send({"url": f"{self.hub.url}/{name}"})

    def check_write(self, name):
        if not self.has_token:
            raise Refused(401, message="Invalid username or password.")
        if not name.startswith(f"{OWNER}/"):
            raise Refused(403, message="You don't have the rights to create a model")

    def validate(self):
        self.send({"errors": [], "warnings": []})

    def preupload(self, name, revision):
        self.check_write(name)
        self.find(name, revision)
        files = [
            {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
            for file in json.loads(self.body)["files"]
        ]
        self.send({"files": files})

    def commit(self, name, revision):
        self.check_write(name)
        repository, _, _ = self.find(name, revision)
        lines = [json.loads(line) for line in self.body.splitlines()]
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"])
            for line in lines
            if line["key"] == "file"
        }
        commit = repository.commit(files, revision)
        url = f"{self.hub.url}/{name}/commit/{commit}"
        self.send({"success": True, "commitUrl": url, "commitOid": commit, "pullRequestUrl": None})
