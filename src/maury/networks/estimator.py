"""The estimator: a spectrum to a density over the labels, all of it inside the prior."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from maury.errors import ModelError
from maury.labels import LabelSet
from maury.likelihood.problem import Problem
from maury.networks.config import Featurizer, NetworkConfig, Setting
from maury.networks.context import Context
from maury.networks.score import ScoreFeaturizer
from maury.priors import log_standard_normal
from maury.weights import MOST_PIXELS, halved, read_model, reading, whole, write_model

# Of the card and the names of the weights; files of another number are refused.
FORMAT = 2
HALF = "the featurizer's large matrices are stored in half precision"


# Flows draw from torch's global random state, of which all threads of a process share one.
_random_state = threading.Lock()


@contextmanager
def _seeded(generator: torch.Generator | None) -> Iterator[None]:
    """Seed the global random state for a while, and leave it as it was; one thread at a time."""
    with _random_state, torch.random.fork_rng(devices=[]):
        if generator is not None:
            torch.manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
        yield


class Estimator(nn.Module):
    """Featurizer and flow.

    Densities and draws are over ``u = labels.to_normal(theta)``, in which the prior is N(0, 1): shape ``(n, n_labels)``, float64.

    Parameters
    ----------
    labels
        What is inferred, without nuisances, with the priors it is trained for.
    config
        Sizes of the networks.
    setting
        What the featurizer is built for.
    card
        How it was made and how good it is.
    featurizer
        A featurizer made by hand, in place of the configuration's.
    """

    def __init__(
        self,
        labels: LabelSet,
        config: NetworkConfig,
        setting: Setting,
        card: Mapping[str, Any] | None = None,
        featurizer: Featurizer | None = None,
    ) -> None:
        super().__init__()
        self.labels, self.config, self.n_pixels, self.card = (
            labels,
            config,
            setting.n_pixels,
            dict(card or {}),
        )
        self.featurizer = cast(nn.Module, featurizer or config.featurizer.build(setting))
        self.flow = config.flow.build(len(labels), cast(int, self.featurizer.n_features))

    def context(self, flux: Tensor, ivar: Tensor, seen: Tensor | None = None) -> Context:
        """Flow context of spectra ``(n, n_pixels)``; pixels of inverse variance 0 are masked.

        ``seen`` are the profiles that they were seen through (`maury.spectra.seen`), which some featurizers ask for; without them the
        instrument's own is taken.
        """
        known = (flux, ivar, seen) if isinstance(self.featurizer, ScoreFeaturizer) else (flux, ivar)
        context: Context = self.featurizer(*known)
        return context

    @property
    def sees_through(self) -> bool:
        """Whether it takes account of the profile that a spectrum was seen through."""
        return isinstance(self.featurizer, ScoreFeaturizer)

    def flow_log_prob(self, u: Tensor, context: Context) -> Tensor:
        """Log density of the flow alone, shape ``(n,)``."""
        z, log_det = context.to_flow(u)
        return self.flow.log_prob(z.float(), context.features) + log_det

    def loss(self, u: Tensor, context: Context) -> Tensor:
        """Return what training minimises, shape ``(n,)``: the negative log density, or what else the flow learns by."""
        z, log_det = context.to_flow(u)
        loss = self.flow.loss(z.float(), context.features) - log_det
        return loss if context.guess is None else loss + context.guess.loss(u)

    def log_prob(self, u: Tensor, context: Context) -> Tensor:
        """Log density over ``u``, shape ``(n,)``, float64: the flow with a small share of its reference density.

        That share, N(0, 1) in the flow's coordinates, covers the whole prior, so that no truth is ever infinitely unlikely.
        """
        z, log_det = context.to_flow(u)
        share = self.config.defensive
        flow = self.flow.log_prob(z.float(), context.features).double() + math.log1p(-share)
        return torch.logaddexp(flow, log_standard_normal(z).sum(-1) + math.log(share)) + log_det

    def sample(self, n: int, context: Context, generator: torch.Generator | None = None) -> Tensor:
        """Draw ``(n, n_labels)`` points ``u`` for one spectrum, whose context has one row."""
        return self.sample_each([n], context, [generator])[0]

    @torch.no_grad()
    def sample_each(
        self,
        numbers: Sequence[int],
        context: Context,
        generators: Sequence[torch.Generator | None],
        even: bool = False,
    ) -> list[Tensor]:
        """Draw ``(n_i, n_labels)`` points ``u`` for each spectrum of a context, all in one pass.

        Each spectrum has a generator of its own: its draws do not depend on the others. ``even`` as of `ConditionalFlow.base`.
        """
        most, d = max(numbers), len(self.labels)
        base = context.features.new_zeros(len(context), most, self.flow.n_base)
        normal = torch.zeros(len(context), most, d, dtype=torch.float64)
        reference = torch.zeros(len(context), most, 1, dtype=torch.bool)
        for i, (n, generator) in enumerate(zip(numbers, generators, strict=True)):
            with _seeded(generator):
                base[i, :n] = self.flow.base(n, even)
                reference[i, :n, 0] = torch.rand(n) < self.config.defensive
                normal[i, :n] = torch.randn(n, d, dtype=torch.float64)
        z = torch.where(reference, normal, self.flow.push(base, context.features).double())
        rows = torch.arange(len(context)).repeat_interleave(most)
        u = context.take(rows).from_flow(z.flatten(0, 1)).unflatten(0, (len(context), most))
        return [x[:n] for x, n in zip(u, numbers, strict=True)]

    def save(self, path: Path, *, half: bool = False) -> None:
        """Write weights (safetensors) and card (JSON); with ``half`` the featurizer's large matrices in half precision."""
        tensors, card = self.state_dict(), self.full_card()
        # An estimator that was read may say it of the file it came from.
        card.pop("precision", None)
        write_model(path, *((halved(tensors), card | {"precision": HALF}) if half else (tensors, card)))

    def full_card(self) -> dict[str, Any]:
        """Return the card with what `load` needs."""
        return self.card | {
            "format": FORMAT,
            "labels": self.labels.to_list(),
            "network": self.config.model_dump(mode="json"),
            "n_pixels": self.n_pixels,
        }

    @classmethod
    def load(
        cls,
        path: Path,
        problem: Problem | None,
        featurizer: Featurizer | None = None,
        *,
        trust_code: bool = False,
        module: type[nn.Module] | None = None,
    ) -> Estimator:
        """Read what `save` wrote.

        Parameters
        ----------
        path
            The weights; the card lies beside them.
        problem
            What it was trained for; None for data that are no spectra.
        featurizer
            Needed where the estimator was made with a featurizer made by hand.
        trust_code
            Whether a module that the card names may be imported, which runs its code. Without it nothing that a card says is run.
        module
            The class of that module, in place of what would be imported.

        Raises
        ------
        ModelError
            If file and card do not fit together, are of another version, or the labels are not the problem's.
        """
        tensors, card = read_model(path)
        if card.get("format") != FORMAT:
            raise ModelError(
                f"{path}: is of format {card.get('format', 1)}, this version of maury reads {FORMAT}; train it anew"
            )
        with reading(path):
            labels = LabelSet.from_list(card["labels"])
            if problem is not None and labels.names != problem.stellar.names:
                raise ModelError(f"{path}: infers {labels.names}, the model {problem.stellar.names}")
            config = NetworkConfig.model_validate(card["network"])
            held = sum(tensor.numel() for tensor in tensors.values())
            if featurizer is None and config.fewest_weights > held:
                raise ModelError(
                    f"{path}: its card tells of {config.fewest_weights} weights or more; {held} are there"
                )
            known = None if problem is None else problem.spectrograph.grid.n_pixels
            n_pixels = whole(card["n_pixels"], "n_pixels", 1, MOST_PIXELS)
            if known is not None and n_pixels != known:
                raise ModelError(f"{path}: its card tells of {n_pixels} pixels; its instrument has {known}")
            setting = Setting(problem, n_pixels, tensors, trust_code=trust_code, module=module)
            estimator = cls(labels, config, setting, card, featurizer)
            estimator.load_state_dict(tensors)
        return estimator.eval().requires_grad_(False)
