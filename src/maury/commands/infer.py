"""``maury infer`` and ``maury demo``."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from maury.commands.choices import (
    InstrumentOption,
    LabelsOption,
    MaskOption,
    PriorOption,
    priors_for,
    read_masks,
    read_priors,
)
from maury.commands.console import (
    BAD_INPUT,
    AutoModelOption,
    BudgetOption,
    ModelOption,
    NoiseModel,
    NoiseOption,
    NuisancesOption,
    SeedOption,
    TrustOption,
    check_rate,
    err,
    make_folder,
    out,
    print_error,
    print_json,
    stages,
)
from maury.commands.progress import stoppable
from maury.constants import BUDGET, DEFAULT_MODEL, DRAWS, FALSE_ALARM
from maury.errors import Failure, MauryError
from maury.files import distinct, output_name, split_rows

if TYPE_CHECKING:
    from maury.inference.options import Options
    from maury.models import Model
    from maury.posterior.joint import JointPosterior
    from maury.posterior.result import Posterior
    from maury.spectra.formats.astra import PipelineFit
    from maury.spectra.spectrum import Spectrum

SUMMARY = "summary.ecsv"


class Companion(StrEnum):
    """Whether a second star is looked for."""

    no = "no"
    auto = "auto"
    yes = "yes"


class Device(StrEnum):
    """Where the forward model runs."""

    cpu = "cpu"
    cuda = "cuda"


def infer(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="A spectrum: apVisit, apStar, mwmStar and others (docs/formats.md), or a table; FILE[0:3] for some of many.",
        ),
    ],
    model: AutoModelOption = DEFAULT_MODEL,
    labels: LabelsOption = "basic",
    draws: Annotated[int, typer.Option(help="Importance draws in each round.", min=100)] = DRAWS,
    ess: Annotated[
        int | None,
        typer.Option(help="Keep drawing until there are this many effective draws.", min=1),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the draws, the table and the pictures.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per spectrum on standard output.")
    ] = False,
    device: Annotated[Device, typer.Option(help="Where the forward model runs.")] = Device.cpu,
    seed: SeedOption = 0,
    noise: NoiseOption = NoiseModel.auto,
    nuisances: NuisancesOption = "default",
    prior: PriorOption = None,
    mask: MaskOption = None,
    companion: Annotated[
        Companion,
        typer.Option(
            help="Look for a second star: auto does so where one star is not enough, and keeps it if the evidence supports it."
        ),
    ] = Companion.no,
    false_alarm: Annotated[
        float, typer.Option(help="Share of good spectra that may be flagged as misfit or novel by chance.")
    ] = FALSE_ALARM,
    budget: BudgetOption = BUDGET,
    zero_points: Annotated[
        bool,
        typer.Option(
            "--zero-points",
            help="Subtract from the elements what the library gives standards beyond the literature.",
        ),
    ] = False,
    joint: Annotated[
        bool,
        typer.Option(
            "--joint",
            help="All spectra show the same star: fit one set of labels, and a velocity for each spectrum.",
        ),
    ] = False,
    isolated: Annotated[
        bool,
        typer.Option(
            "--isolated",
            help="For files you do not trust: read them in a separate process with limits on time and memory.",
        ),
    ] = False,
    instrument: InstrumentOption = None,
    compare: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="An astraStar file: show what that pipeline found beside the result. May be given more than once.",
        ),
    ] = None,
    trust_code: TrustOption = False,
) -> None:
    """Infer the labels of stars from their spectra; a file may hold many spectra.

    Example: maury infer apVisit-r13-9518-57729-104.fits --output results
    """
    from maury.inference.infer import AUTO, infer_files
    from maury.inference.options import Options
    from maury.models import load_model
    from maury.posterior.columns import failed_line, failed_row
    from maury.report.tables import write_summary
    from maury.spectra.formats.astra import read_pipeline_fits
    from maury.spectra.instrument import read_instrument

    check_rate(false_alarm)
    if joint and model == AUTO:
        raise MauryError("--joint needs one --model: the visits of a star share their library")
    if joint and companion != Companion.no:
        raise MauryError("--joint knows one star: leave --companion out, or infer the visits one by one")
    if joint and labels != "basic":
        raise MauryError("--joint infers the model's own labels: leave --labels out")
    if joint and compare:
        raise MauryError(
            "--joint compares with no pipeline: leave --compare out, or infer the visits one by one"
        )
    priors, masks = read_priors(prior or []), read_masks(mask or [])
    spectrograph = None if instrument is None else read_instrument(instrument)
    fits = [fit for file in compare or [] for fit in read_pipeline_fits(file)]
    loaded: str | Model = AUTO
    if model != AUTO:
        loaded = load_model(model, device.value, trust_code=trust_code)
        priors = priors_for(loaded, priors)
    options = Options(
        max(draws, 2000) if joint else draws, seed, priors, noise.value, companion.value, false_alarm, masks, budget, nuisances, ess, labels
    )  # fmt: skip
    if joint and not isinstance(loaded, str):
        _infer_joint(files, loaded, options, output, as_json, isolated)
        return
    if output:
        make_folder(output)
    rows: list[dict[str, Any]] = []
    if output and any(file.resolve() == (output / SUMMARY).resolve() for file in files):
        raise MauryError(f"{output / SUMMARY}: would be overwritten by the summary; choose another --output")
    names = _OutputNames(files)

    def kept() -> str:
        if output and rows:
            write_summary(output / SUMMARY, rows)
            return f"results of {len(rows)} spectra are in {output}; to go on, infer the other files into another folder"
        return "no spectrum was finished" if not rows else f"{len(rows)} spectra were inferred"

    with stoppable(kept), stages("reading") as tell:
        for item in infer_files(
            files,
            loaded,
            options,
            isolated=isolated,
            instrument=spectrograph,
            progress=_numbered(files, rows, tell),
        ):
            if isinstance(item, Failure):
                print_error(item.message)
                rows.append(failed_row(item))
                if as_json:
                    print_json(failed_line(item, model))
                continue
            if zero_points:
                item = item.without_zero_points()
            if fits:
                item = _compared(item, fits)
            if as_json:
                print_json(item.to_json())
            else:
                _print_posterior(item)
            rows.append(item.row())
            if output:
                try:
                    _write_posterior(item, output, names.of(item.spectrum))
                except (MauryError, OSError) as error:
                    # The table and the other stars' files are still worth having.
                    print_error(str(error))
    if output:
        write_summary(output / SUMMARY, rows)
        err.print(f"written to {output}", highlight=False, soft_wrap=True)
    if all("reason" in row for row in rows):
        raise typer.Exit(BAD_INPUT)


def _compared(posterior: Posterior, fits: list[PipelineFit]) -> Posterior:
    """Note what pipelines made of the star; where they are of other stars, say so and go on."""
    from maury.posterior.compared import compare

    try:
        return compare(posterior, fits)
    except MauryError as error:
        print_error(str(error))
        return posterior


def _numbered(
    files: list[Path], rows: list[dict[str, Any]], tell: Callable[[str], None]
) -> Callable[[str], None]:
    """Tell which spectrum is inferred, how fast it goes and how long it will take, before the stage; in a log once a minute."""
    from maury.commands.progress import LOG_EVERY, Pace

    pace, last = Pace(), time.monotonic()
    names = [str(split_rows(file)[0]) for file in files]

    def total() -> float | None:
        """Of all files, if the others hold as many spectra as those so far; of a single one nothing is known."""
        begun = len(names) - names[::-1].index(rows[-1]["file"]) if rows[-1]["file"] in names else 0
        return None if len(names) == 1 or begun == 0 else len(rows) * len(names) / begun

    def told(stage: str) -> None:
        nonlocal last
        if rows:
            pace.add(len(rows))
            pace_in_words = pace.in_words(total())
            stage = f"spectrum {len(rows) + 1} ({pace_in_words}): {stage}" if pace_in_words else stage
        tell(stage)
        if not err.is_terminal and time.monotonic() - last > LOG_EVERY:
            last = time.monotonic()
            err.print(stage, highlight=False, soft_wrap=True)

    return told


def _print_posterior(posterior: Posterior, truth: dict[str, float] | None = None) -> None:
    from maury.report.tables import compared_table, elements_table, summary_table, verdict_line
    from maury.report.verdict import verdict

    out.print(verdict_line(posterior.spectrum.id, verdict(posterior)))
    out.print(summary_table(posterior, truth))
    for table in (elements_table(posterior), compared_table(posterior)):
        if table is not None:
            out.print(table)


def _write_posterior(
    posterior: Posterior, folder: Path, name: str, truth: dict[str, float] | None = None
) -> list[Path]:
    from maury.report.plots import draw_picture

    posterior.save(folder / f"{name}.nc")
    pictures = (
        draw_picture(folder / f"{name}_corner.png", lambda: posterior.plot_corner(truth)),
        draw_picture(folder / f"{name}_fit.png", posterior.plot_fit),
    )
    return [picture for picture in pictures if picture]


class _OutputNames:
    """What the outputs of a run's spectra are called: never two alike."""

    def __init__(self, files: list[Path]) -> None:
        self._of_file: dict[Path, list[str]] = {}
        files = [split_rows(file)[0] for file in files]
        self._taken = distinct(list(map(output_name, files)))
        for file, name in zip(files, self._taken, strict=True):
            self._of_file.setdefault(file, []).append(name)
        self._seen: Counter[tuple[str, int]] = Counter()

    def of(self, spectrum: Spectrum) -> str:
        """Return the name for a spectrum, the next time that it comes."""
        place = spectrum.path, spectrum.index
        name = self._of_file[Path(spectrum.path)][self._seen[place]]
        self._seen[place] += 1
        if spectrum.index:
            (name,) = distinct([f"{name}-{spectrum.index}"], self._taken)
            self._taken.append(name)
        return name


def demo(
    output: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("demo"),
    model: ModelOption = DEFAULT_MODEL,
    seed: SeedOption = 1,
) -> None:
    """Simulate an APOGEE visit, infer it, and show the truth beside the posterior.

    Example: maury demo --output demo
    """
    from maury.inference.infer import infer as infer_spectrum
    from maury.models import load_model
    from maury.spectra.instrument import APOGEE
    from maury.training.demo import write_demo

    loaded = load_model(model)
    if loaded.instrument is not None and loaded.instrument.name != APOGEE:
        raise MauryError(
            f"{model}: is of {loaded.instrument.name}, but the demonstration is an APOGEE visit; docs/instruments.md simulates a table"
        )
    make_folder(output)
    path = output / "apVisit-demo.fits"
    truth = write_demo(path, loaded, seed)
    posterior = infer_spectrum(path, loaded, seed=seed)
    _print_posterior(posterior, truth)
    pictures = _write_posterior(posterior, output, "apVisit-demo", truth)
    out.print(f"spectrum: {path}", highlight=False, soft_wrap=True)
    for picture in pictures:
        out.print(f"picture:  {picture}", highlight=False, soft_wrap=True)


def _infer_joint(
    files: list[Path], model: Model, options: Options, output: Path | None, as_json: bool, isolated: bool
) -> None:
    """Infer all spectra of the files as visits of one star; a file that cannot be read is told and left out."""
    from maury.inference.visits import infer_visits_with
    from maury.report.tables import joint_table, verdict_line
    from maury.report.verdict import judge
    from maury.spectra.formats.isolated import read_all as read_all_isolated
    from maury.spectra.formats.registry import read_all

    if output:
        make_folder(output)
    spectra = []
    for item in (read_all_isolated if isolated else read_all)(files, model.instrument):
        if isinstance(item, Failure):
            print_error(item.message)
        else:
            spectra.append(item)
    with stoppable(lambda: "nothing is kept of a star that is not complete"), stages("reading") as tell:
        star = infer_visits_with(spectra, model, options, tell)
    if as_json:
        print_json(star.to_json())
    else:
        out.print(verdict_line(star.visits[0].spectrum.id, judge(star.flag_bad, star.flag_warn, "refined")))
        out.print(joint_table(star))
    if output:
        _write_joint(star, output)
        err.print(f"written to {output}", highlight=False, soft_wrap=True)


def _write_joint(star: JointPosterior, folder: Path) -> None:

    from maury.files import finite, write_json
    from maury.report.plots import draw_picture, visits_figure

    write_json(folder / "joint.json", finite(star.to_json()))
    star.save(folder / "joint.nc")
    draw_picture(folder / "joint_visits.png", lambda: visits_figure(star))
