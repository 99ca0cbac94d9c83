"""The routes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from starlette.requests import ClientDisconnect

import maury
from maury.errors import SpectrumError
from maury.serve import work as results
from maury.serve.guard import REPORT_POLICY, Guard
from maury.serve.jobs import Jobs, Run
from maury.serve.settings import Refused, Settings
from maury.serve.uploads import Upload, Uploads, to_plot
from maury.serve.wanted import Choice, read_wanted

_LOG = logging.getLogger("maury.serve")
_STATIC = {
    "app.js": "text/javascript",
    "plot.js": "text/javascript",
    "style.css": "text/css",
    "icon.svg": "image/svg+xml",
}
# Bytes of a request that is no upload.
_LARGEST_FORM = 2**16
_SWEEP_SECONDS = 2.0


def create_app(settings: Settings, models: Mapping[str, Choice], uploads: Uploads, jobs: Jobs) -> FastAPI:
    """Return the application; ``jobs`` are started and stopped with it.

    Parameters
    ----------
    settings
        Limits and times.
    models
        Those that the page offers.
    uploads, jobs
        What it keeps and works off.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        jobs.start()
        sweeper = asyncio.create_task(_sweep(uploads, jobs, min(_SWEEP_SECONDS, settings.keep / 2)))
        yield
        sweeper.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sweeper
        await asyncio.to_thread(jobs.stop)

    app = FastAPI(title="maury", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, host=settings.host, cookie=f"maury_{settings.port}")

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return JSONResponse({"error": str(error), "fields": error.fields}, error.status)

    @app.exception_handler(404)
    async def missing(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": "there is nothing here", "fields": {}}, 404)

    @app.exception_handler(Exception)
    async def internal(request: Request, error: Exception) -> JSONResponse:
        # The server's log gets the traceback.
        message = "something went wrong inside maury; the server's log has the details"
        return JSONResponse({"error": message, "fields": {}}, 500)

    @app.get("/")
    async def page() -> Response:
        return _static("index.html", "text/html")

    @app.get("/static/{name}")
    async def static(name: str) -> Response:
        if name not in _STATIC:
            raise Refused("there is nothing here", 404)
        return _static(name, _STATIC[name])

    @app.get("/api/config")
    async def config() -> dict[str, Any]:
        return {
            "version": maury.__version__,
            "models": [choice.to_json() for choice in models.values()],
            "max_upload": settings.max_upload,
            "keep": settings.keep,
        }

    @app.post("/api/files", status_code=201)
    async def upload(request: Request, name: str = "") -> Response:
        announced = request.headers.get("content-length", "")
        try:
            kept = await uploads.receive(
                _owner(request), name, int(announced) if announced.isdecimal() else None, request.stream()
            )
        except ClientDisconnect:
            return Response(status_code=400)
        return JSONResponse(_file_json(kept, jobs, settings), 201)

    @app.get("/api/files")
    async def files(request: Request) -> dict[str, Any]:
        owner = _owner(request)
        jobs.watch(owner)
        return {
            "ready": jobs.ready.is_set(),
            "files": [_file_json(kept, jobs, settings) for kept in uploads.of(owner)],
        }

    @app.get("/api/files/{key}")
    async def file(request: Request, key: str) -> dict[str, Any]:
        owner = _owner(request)
        jobs.watch(owner)
        return _file_json(uploads.get(owner, key), jobs, settings)

    @app.delete("/api/files/{key}", status_code=204)
    async def remove(request: Request, key: str) -> Response:
        kept = uploads.get(_owner(request), key)
        jobs.forget(kept.id)
        uploads.remove(kept)
        return Response(status_code=204)

    @app.get("/api/files/{key}/spectra/{index}")
    def spectrum(request: Request, key: str, index: int) -> Response:
        kept = uploads.get(_owner(request), key)
        with _spectrum_errors():
            return JSONResponse(to_plot(kept.read(index)))

    @app.post("/api/runs", status_code=201)
    async def run(request: Request) -> Response:
        owner = _owner(request)
        wanted = read_wanted(await _form(request))
        kept = uploads.get(owner, wanted.upload)

        def check() -> Any:
            with _spectrum_errors():
                return wanted.prepare(models, kept.read(wanted.index))

        priors = await asyncio.to_thread(check)
        uploads.touch(kept.id)
        return JSONResponse(_run_json(jobs.add(owner, kept, wanted, priors), jobs), 201)

    @app.get("/api/runs/{key}")
    async def state(request: Request, key: str) -> dict[str, Any]:
        owner = _owner(request)
        jobs.watch(owner)
        return _run_json(jobs.get(owner, key), jobs)

    @app.post("/api/runs/{key}/cancel")
    async def cancel(request: Request, key: str) -> dict[str, Any]:
        return _run_json(jobs.cancel(_owner(request), key), jobs)

    @app.get("/api/runs/{key}/report")
    async def report(request: Request, key: str, download: bool = False) -> Response:
        done = jobs.get(_owner(request), key)
        return _result(
            done, results.REPORT, "text/html", download, {"Content-Security-Policy": REPORT_POLICY}
        )

    @app.get("/api/runs/{key}/fit")
    async def fit(request: Request, key: str) -> Response:
        return _result(jobs.get(_owner(request), key), results.FIT, "application/json", False)

    @app.get("/api/runs/{key}/draws")
    async def draws(request: Request, key: str) -> Response:
        return _result(jobs.get(_owner(request), key), results.DRAWS, "application/x-netcdf", True)

    @app.get("/api/runs/{key}/numbers")
    async def numbers(request: Request, key: str) -> Response:
        return _result(jobs.get(_owner(request), key), results.NUMBERS, "application/json", True)

    @app.post("/api/leave", status_code=204)
    async def leave(request: Request) -> Response:
        jobs.leave(_owner(request))
        return Response(status_code=204)

    return app


async def _sweep(uploads: Uploads, jobs: Jobs, seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        try:
            jobs.sweep()
            for kept in uploads.expired():
                jobs.forget(kept.id)
                uploads.remove(kept)
        except Exception:
            _LOG.exception("files whose time is over could not be deleted")


def _owner(request: Request) -> str:
    owner: str = request.state.owner
    return owner


@contextmanager
def _spectrum_errors() -> Iterator[None]:
    try:
        yield
    except SpectrumError as error:
        raise Refused(str(error), 422) from None


async def _form(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST_FORM:
            raise Refused("the request is too long", 413)
    return body


def _static(name: str, kind: str) -> Response:
    content = (resources.files("maury") / "serve" / "static" / name).read_bytes()
    return Response(content, media_type=kind, headers={"Cache-Control": "no-cache"})


def _result(
    run: Run, name: str, kind: str, download: bool, headers: Mapping[str, str] | None = None
) -> Response:
    path = run.folder / name
    if run.state != "done" or not path.is_file():
        raise Refused("this run has no result", 404)
    shown = f"{run.upload.stem}-run{run.number}{path.suffix}" if download else None
    return FileResponse(path, media_type=kind, filename=shown, headers=dict(headers or {}))


def _file_json(kept: Upload, jobs: Jobs, settings: Settings) -> dict[str, Any]:
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
        "wanted": results.wanted_json(run),
        "result": run.result,
    }
