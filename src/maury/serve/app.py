"""The routes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib import resources
from typing import Any

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

import maury
from maury.constants import DRAWS as USUAL_DRAWS
from maury.serve.bundle import bundle
from maury.serve.guard import REPORT_POLICY, STILL_POLICY, Guard
from maury.serve.jobs import Jobs, Run
from maury.serve.readers import Readers
from maury.serve.results import DRAWS, FIT, NUMBERS, REPORT, wanted_json
from maury.serve.settings import Refused, ServerSettings
from maury.serve.uploads import Upload, Uploads
from maury.serve.wanted import Choice, read_wanted

_LOG = logging.getLogger("maury.serve")
_STATIC = {
    "app.js": "text/javascript",
    "plot.js": "text/javascript",
    "style.css": "text/css",
    "panels.css": "text/css",
    "icon.svg": "image/svg+xml",
}
# Bytes of a request that is no upload, and digits of a spectrum's place in its file.
_LARGEST_FORM, _DIGITS = 2**16, 6
_SWEEP_SECONDS = 2.0


def create_app(
    settings: ServerSettings, models: Mapping[str, Choice], readers: Readers, uploads: Uploads, jobs: Jobs
) -> Starlette:
    """Return the application; ``readers`` and ``jobs`` are started and stopped with it.

    Parameters
    ----------
    settings
        Limits and times.
    models
        Those that the page offers.
    readers, uploads, jobs
        Who looks into files, what is kept of them, and what is done with them.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        # The others when the model is there: until then the processors have enough to do.
        readers.start(1)
        jobs.start()
        sweeper = asyncio.create_task(_sweep(readers, uploads, jobs, min(_SWEEP_SECONDS, settings.keep / 2)))
        yield
        sweeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sweeper
        readers.stop()
        await asyncio.to_thread(jobs.stop)

    return Starlette(
        routes=_Routes(settings, models, readers, uploads, jobs).routes(),
        middleware=[Middleware(Guard, host=settings.host, cookie=f"maury_{settings.port}")],
        exception_handlers={
            Refused: _refused,
            HTTPException: _no_route,
            ClientDisconnect: _gone,
            Exception: _internal,
        },
        lifespan=lifespan,
    )


def _told(message: str, status: int, fields: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": message, "fields": dict(fields or {})}, status)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _told(str(error), error.status, error.fields)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = {404: "there is nothing here", 405: f"{request.method} is not possible here"}
    answer = _told(told.get(error.status_code, error.detail), error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _gone(request: Request, error: Exception) -> Response:
    # Nobody reads it.
    return Response(status_code=400)


async def _internal(request: Request, error: Exception) -> Response:
    # The server's log gets the traceback.
    return _told("something went wrong inside maury; the server's log has the details", 500)


class _Routes:
    """What is answered to which address."""

    def __init__(
        self,
        settings: ServerSettings,
        models: Mapping[str, Choice],
        readers: Readers,
        uploads: Uploads,
        jobs: Jobs,
    ) -> None:
        self._settings, self._models, self._readers = settings, models, readers
        self._uploads, self._jobs = uploads, jobs
        # Sessions whose results are being packed.
        self._packing: set[str] = set()

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            Route("/", self.page),
            Route("/static/{name}", self.static),
            Route("/api/config", self.config),
            Route("/api/files", self.files),
            Route("/api/files", self.upload, methods=["POST"]),
            Route("/api/files/{key}", self.file),
            Route("/api/files/{key}", self.remove, methods=["DELETE"]),
            Route("/api/files/{key}/spectra/{index}", self.spectrum),
            Route("/api/runs", self.run, methods=["POST"]),
            Route("/api/runs/{key}", self.state),
            Route("/api/runs/{key}/cancel", self.cancel, methods=["POST"]),
            Route("/api/runs/{key}/report", self.report),
            Route("/api/runs/{key}/fit", self.fit),
            Route("/api/runs/{key}/draws", self.draws),
            Route("/api/runs/{key}/numbers", self.numbers),
            Route("/api/cancel", self.cancel_all, methods=["POST"]),
            Route("/api/results.zip", self.results),
            Route("/api/leave", self.leave, methods=["POST"]),
        ]

    async def page(self, request: Request) -> Response:
        """Return the page itself."""
        return _static("index.html", "text/html")

    async def static(self, request: Request) -> Response:
        """Return what the page is made of."""
        name = request.path_params["name"]
        if name not in _STATIC:
            raise Refused("there is nothing here", 404)
        return _static(name, _STATIC[name])

    async def config(self, request: Request) -> Response:
        """Return models, limits and times."""
        return JSONResponse(
            {
                "version": maury.__version__,
                "models": [choice.to_json() for choice in self._models.values()],
                "max_upload": self._settings.max_upload,
                "keep": self._settings.keep,
                "draws": USUAL_DRAWS,
            }
        )

    async def upload(self, request: Request) -> Response:
        """Take a file."""
        announced = request.headers.get("content-length", "")
        kept = await self._uploads.receive(
            _owner(request),
            request.query_params.get("name", ""),
            int(announced) if announced.isdecimal() and len(announced) < 20 else None,
            request.stream(),
        )
        return JSONResponse(_file_json(kept, self._jobs, self._settings), 201)

    async def files(self, request: Request) -> Response:
        """Return the session's files with their runs."""
        owner = _owner(request)
        self._jobs.watch(owner)
        files = [_file_json(kept, self._jobs, self._settings) for kept in self._uploads.of(owner)]
        return JSONResponse({"ready": self._jobs.ready.is_set(), "files": files})

    async def file(self, request: Request) -> Response:
        """Return one file with its runs."""
        self._jobs.watch(_owner(request))
        return JSONResponse(_file_json(self._file(request), self._jobs, self._settings))

    async def remove(self, request: Request) -> Response:
        """Delete a file and its results."""
        kept = self._file(request)
        self._jobs.forget(kept.id)
        self._uploads.remove(kept)
        return Response(status_code=204)

    async def spectrum(self, request: Request) -> Response:
        """Return one spectrum of a file, to be drawn."""
        kept, index = self._file(request), request.path_params["index"]
        if not (index.isascii() and index.isdecimal() and len(index) <= _DIGITS):
            raise Refused(f"{kept.name}: has no such spectrum", 404)
        text = await self._readers.plot(kept.owner, kept.file, int(index))
        return Response(text, media_type="application/json")

    async def run(self, request: Request) -> Response:
        """Put a run into the queue."""
        owner = _owner(request)
        wanted = read_wanted(await _form(request, self._settings.patience))
        kept = self._uploads.get(owner, wanted.upload)
        self._jobs.check_room(owner)
        wrong: Mapping[str, str] = {}
        if wanted.regions or wanted.index >= len(kept.spectra):
            wrong = await self._readers.wrong_regions(owner, kept.file, wanted.index, wanted.regions)
        elif not kept.spectra[wanted.index].used:
            wrong = {"regions": "no usable pixel is left"}
        priors = wanted.prepare(self._models, wrong)
        # It may have been deleted meanwhile.
        kept = self._uploads.get(owner, wanted.upload)
        self._uploads.touch(kept.id)
        return JSONResponse(_run_json(self._jobs.add(owner, kept, wanted, priors), self._jobs), 201)

    async def state(self, request: Request) -> Response:
        """Return how far a run is."""
        self._jobs.watch(_owner(request))
        return JSONResponse(_run_json(self._run(request), self._jobs))

    async def cancel(self, request: Request) -> Response:
        """End a run."""
        return JSONResponse(
            _run_json(self._jobs.cancel(_owner(request), request.path_params["key"]), self._jobs)
        )

    async def cancel_all(self, request: Request) -> Response:
        """End all runs of the session."""
        self._jobs.cancel_all(_owner(request))
        return Response(status_code=204)

    async def results(self, request: Request) -> Response:
        """Return all results of the session as one file."""
        owner = _owner(request)
        runs = self._jobs.done(owner)
        if not runs:
            raise Refused("there are no results yet", 404)
        if owner in self._packing:
            raise Refused("your results are being packed already; wait until they come", 429)
        path = runs[0].upload.folder / f"{secrets.token_urlsafe(18)}.zip"
        self._packing.add(owner)
        try:
            await asyncio.to_thread(bundle, runs, path)
        except OSError:
            path.unlink(missing_ok=True)
            raise Refused(
                "the results cannot be packed: a file has been deleted meanwhile, or the disk is full", 409
            ) from None
        finally:
            self._packing.discard(owner)
        gone = BackgroundTask(path.unlink, missing_ok=True)
        return FileResponse(path, media_type="application/zip", filename="maury-results.zip", background=gone)

    async def report(self, request: Request) -> Response:
        """Return a run's report; ``?still=true``, without its scripts, to stand in the page."""
        download, still = (
            request.query_params.get(name, "") in ("1", "true") for name in ("download", "still")
        )
        policy = {"Content-Security-Policy": STILL_POLICY if still else REPORT_POLICY}
        return _result(self._run(request), REPORT, "text/html", download, policy)

    async def fit(self, request: Request) -> Response:
        """Return the model spectrum of a run."""
        return _result(self._run(request), FIT, "application/json", False)

    async def draws(self, request: Request) -> Response:
        """Return a run's draws."""
        return _result(self._run(request), DRAWS, "application/x-netcdf", True)

    async def numbers(self, request: Request) -> Response:
        """Return a run's numbers."""
        return _result(self._run(request), NUMBERS, "application/json", True)

    async def leave(self, request: Request) -> Response:
        """Note that a page is being closed."""
        self._jobs.leave(_owner(request))
        return Response(status_code=204)

    def _file(self, request: Request) -> Upload:
        return self._uploads.get(_owner(request), request.path_params["key"])

    def _run(self, request: Request) -> Run:
        return self._jobs.get(_owner(request), request.path_params["key"])


async def _sweep(readers: Readers, uploads: Uploads, jobs: Jobs, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            jobs.sweep()
            if jobs.ready.is_set():
                readers.start()
            for kept in uploads.expired():
                jobs.forget(kept.id)
                uploads.remove(kept)
        except Exception:
            _LOG.exception("what is done from time to time could not be done")


def _owner(request: Request) -> str:
    owner: str = request.state.owner
    return owner


async def _form(request: Request, seconds: float) -> bytes:
    body = b""
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > _LARGEST_FORM:
                    raise Refused("the request is too long", 413)
    except TimeoutError:
        raise Refused("the request came too slowly; send it again", 408) from None
    return body


def _static(name: str, kind: str) -> Response:
    # What windows of a spectrum look like is the reports'.
    folder = ("report", "templates") if name == "panels.css" else ("serve", "static")
    content = resources.files("maury").joinpath(*folder, name).read_bytes()
    return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})


def _result(
    run: Run, name: str, kind: str, download: bool, headers: Mapping[str, str] | None = None
) -> Response:
    path = run.folder / name
    if run.state != "done" or not path.is_file():
        raise Refused("this run has no result", 404)
    shown = f"{run.upload.file.stem}-run{run.number}{path.suffix}" if download else None
    return FileResponse(path, media_type=kind, filename=shown, headers=dict(headers or {}))


def _file_json(kept: Upload, jobs: Jobs, settings: ServerSettings) -> dict[str, Any]:
    return {
        "id": kept.id,
        "name": kept.name,
        "size": kept.size,
        "spectra": [asdict(listed) for listed in kept.spectra],
        "trouble": kept.trouble,
        "deleted_at": kept.used + settings.keep,
        "runs": [_run_json(run, jobs) for run in jobs.of(kept.owner, kept.id)],
    }


def _run_json(run: Run, jobs: Jobs) -> dict[str, Any]:
    return {
        "id": run.id,
        "file": run.upload.id,
        "index": run.wanted.index,
        "number": run.number,
        "state": run.state,
        "stage": run.stage,
        "stages": [{"name": name, "second": second} for name, second in run.stages],
        "ahead": jobs.ahead(run) if run.state == "queued" else 0,
        "seconds": run.seconds,
        "error": run.error,
        "wanted": wanted_json(run.wanted, run.priors),
        "result": run.result,
    }
