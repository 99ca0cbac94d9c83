"""Where the time of an inference goes, stage by stage, before and after a change.

Run: ``python benchmarks/stages.py --output docs/results/stages.json [--before OTHER/src] [FILE...]``

Each file, the demonstration's spectrum and some simulated ones are inferred with the default model on one thread, in one process a source
tree: ``--before`` names the ``src`` of another version, measured in the same run. Seconds are the processor's. A stage's seconds are what
its functions take, by the profiler, scaled so that all stages sum to the seconds of a run without it.
"""

import argparse
import cProfile
import json
import os
import pstats
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

SHARED = Path(os.environ.get("MAURY_SHARED", Path(__file__).parents[2] / "shared")) / "data" / "real"
FILES = ("apVisit-r13-9518-57729-104.fits", "apogee_dr13/apVisit-2M13564148+4342587-1.fits")
# Functions of each stage: the time below them counts once, for the stage that comes first here.
STAGES = {
    "line spread": ("sampler",),
    "flow": ("samples", "log_probs", "encoded"),
    "correlated residuals": ("fit_residuals",),
    "nuisances": ("linearised",),
    "look at all of the prior": ("_look_around",),
    "surrogate": ("surrogate", "rejected"),
    "slopes": ("newtons",),
    "likelihoods": ("log_likelihoods",),
    "fit and flags": ("posterior_of",),
}


def stages(profile: cProfile.Profile, seconds: float) -> dict[str, float]:
    """Seconds of each stage; what is left is told as such."""
    found = pstats.Stats(profile).stats
    total = max(cumulative for *_, cumulative, _ in found.values())
    out = {}
    for stage, names in STAGES.items():
        share = sum(
            cumulative
            for (file, _, name), (_, _, _, cumulative, _) in found.items()
            if name in names and "maury" in file
        )
        out[stage] = round(seconds * share / total, 2)
    out["other"] = round(seconds - sum(out.values()), 2)
    return out


def measure(files: list[str], simulated: int) -> list[dict]:
    """Infer each file, and some simulated spectra; the first is inferred once beforehand, so that imports count apart."""
    began = time.process_time()
    import torch

    torch.set_num_threads(1)
    import maury
    from maury.checks.calibration import REAL_MASKS, simulated_spectra
    from maury.training.demo import write_demo
    from maury.training.simulations import Observing

    model = maury.load_model("marcs-apogee")
    imports = time.process_time() - began
    spectra = [(Path(file).name, maury.read_spectrum(file)) for file in files]
    with TemporaryDirectory() as folder:
        write_demo(Path(folder) / "demo.fits", model)
        spectra.append(("demo", maury.read_spectrum(Path(folder) / "demo.fits")))
    began = time.process_time()
    maury.infer(spectra[0][1], model)
    first = time.process_time() - began
    results = [
        {"spectrum": "start", "import_and_model_s": round(imports, 2), "first_inference_s": round(first, 2)}
    ]
    observing = Observing(masked=REAL_MASKS, nuisances="default")
    drawn = simulated_spectra(model, simulated, "native", 7, observing)
    spectra += [(f"simulated {i}", one) for i, (one, *_) in enumerate(drawn)]
    for name, spectrum in spectra:
        began = time.process_time()
        found = maury.infer(spectrum, model)
        seconds = time.process_time() - began
        entry = {
            "spectrum": name, "seconds": round(seconds, 2), "evaluations": found.evaluations,
            "draws": len(found.draws), "ess": round(found.ess, 1), "efficiency": round(found.efficiency, 3),
            "khat": round(float(found.khat), 2), "log_evidence": round(found.log_evidence, 2), "method": found.method,
        }  # fmt: skip
        if not name.startswith("simulated"):
            profile = cProfile.Profile()
            profile.enable()
            maury.infer(spectrum, model)
            profile.disable()
            entry["stages"] = stages(profile, seconds)
        results.append(entry)
        print(json.dumps(entry), file=sys.stderr, flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--before", type=Path, help="src of another version")
    parser.add_argument("--simulated", type=int, default=0)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    files = given.files or [str(SHARED / name) for name in FILES]
    if given.measure:
        print(json.dumps(measure(files, given.simulated)))
        return
    told = {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1)}
    trees = {"before": given.before, "after": Path(__file__).parents[1] / "src"}
    for name, tree in trees.items():
        if tree is None:
            continue
        command = [sys.executable, __file__, "--measure", "--simulated", str(given.simulated), *files]
        environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
        run = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True)
        told[name] = json.loads(run.stdout)
    text = json.dumps(told, indent=1) + "\n"
    if given.output:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
