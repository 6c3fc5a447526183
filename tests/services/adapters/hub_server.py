"""The endpoints of the Hugging Face hub that fetching a repository asks for, over files in memory."""

import hashlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import Response, StreamingResponse

Files = Mapping[str, bytes]


class Hub:
    """Repositories, each with its commits in order; `main` is the last one."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, Files]] = {}
        self.asked: list[str] = []
        self.cuts = False  # whether it hangs up in the middle of a file
        self.app = FastAPI()
        self.app.get("/api/models/{owner}/{name}")(self._info)
        self.app.get("/api/models/{owner}/{name}/revision/{revision}")(self._info)
        self.app.get("/api/models/{owner}/{name}/tree/{revision}")(self._tree)
        self.app.api_route("/{owner}/{name}/resolve/{revision}/{file}", methods=["GET", "HEAD"])(self._file)

    def push(self, repository: str, files: Files) -> str:
        """Make a commit; its hash."""
        known = self.commits.setdefault(repository, {})
        commit = hashlib.sha1(f"{repository} {len(known)}".encode()).hexdigest()
        known[commit] = files
        return commit

    @property
    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for."""
        return [what.removeprefix("GET ") for what in self.asked if what.startswith("GET ")]

    def _files(self, owner: str, name: str, revision: str) -> tuple[str, Files]:
        known = self.commits.get(f"{owner}/{name}")
        if known is None:
            raise HTTPException(404, headers={"X-Error-Code": "RepoNotFound"})
        commit = list(known)[-1] if revision == "main" else revision
        if commit not in known:
            raise HTTPException(404, headers={"X-Error-Code": "RevisionNotFound"})
        return commit, known[commit]

    async def _info(self, owner: str, name: str, revision: str = "main") -> dict[str, Any]:
        commit, files = self._files(owner, name, revision)
        self.asked.append(f"info {revision}")
        siblings = [{"rfilename": file} for file in files]
        return {"id": f"{owner}/{name}", "sha": commit, "siblings": siblings, "private": False, "tags": []}

    async def _tree(self, owner: str, name: str, revision: str) -> list[dict[str, Any]]:
        _, files = self._files(owner, name, revision)
        self.asked.append(f"tree {revision}")
        return [
            {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
            for file, data in files.items()
        ]

    async def _file(self, request: Request, owner: str, name: str, revision: str, file: str) -> Response:
        commit, files = self._files(owner, name, revision)
        if file not in files:
            raise HTTPException(404, headers={"X-Error-Code": "EntryNotFound"})
        self.asked.append(f"{request.method} {file}")
        data = files[file]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        if request.method == "HEAD":
            return Response(headers={**headers, "Content-Length": str(len(data))})
        if self.cuts and file.endswith(".safetensors"):
            return StreamingResponse(_half(data), headers={**headers, "Content-Length": str(len(data))})
        return Response(data, headers=headers, media_type="application/octet-stream")


async def _half(data: bytes) -> AsyncIterator[bytes]:
    yield data[: len(data) // 2]
    raise ConnectionError
