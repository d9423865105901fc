"""The training loop: a page that can be read, instead of a framework's callbacks."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import torch
from torch.nn import functional

from ..errors import DivergedError, TrainingError
from .batches import IGNORED, DataOrder, collate
from .checkpoint import Checkpoint, rng_state, save, set_rng_state
from .config import StepReport, TrainConfig
from .encoding import Example
from .guard import FrozenBase
from .metrics import Metrics
from .out_of_memory import first_line, is_out_of_memory
from .schedule import learning_rate


class Loop:
    """Steps over examples; its whole state goes into a checkpoint and comes back from one."""

    def __init__(
        self,
        model: Any,
        config: TrainConfig,
        examples: Sequence[Example],
        held_out: Sequence[Example],
        settings: dict[str, Any],
        initial: dict[str, torch.Tensor],
    ) -> None:
        self.model, self.config = model, config
        self.device: torch.device = model.device
        self._examples, self._held_out = examples, held_out
        self._settings, self._initial = settings, initial
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._optimizer = torch.optim.AdamW(
            self.trained.values(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self._order = DataOrder(
            len(examples), config.batch_size * config.grad_accumulation, config.seed
        )
        self.total = config.max_steps or config.epochs * self._order.steps_per_epoch
        self._eval_every = config.eval_every or self._order.steps_per_epoch
        self._narrow = (
            "logits_to_keep" in inspect.signature(model.get_base_model().forward).parameters
        )
        self.metrics = Metrics(config.out)
        self.step = self.tokens = self._worse = 0
        self.seconds = 0.0
        self._best: dict[str, Any] | None = None
        self._saved_at: int | None = None

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on behind the checkpoint as if nothing had happened."""
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(checkpoint.trained[name])
        self._optimizer.load_state_dict(checkpoint.optimizer)
        set_rng_state(checkpoint.rng, self.device)
        self.step, self.tokens, self.seconds = (
            checkpoint.step,
            checkpoint.tokens,
            checkpoint.seconds,
        )
        self._best, self._worse, self._saved_at = checkpoint.best, checkpoint.worse, checkpoint.step
        self.metrics.restart(checkpoint.history)

    def run(self, on_step: Callable[[StepReport], object] | None, frozen: FrozenBase) -> str:
        """Train to the end; how it ended. The weights are then those to be kept.

        A KeyboardInterrupt out of `on_step` writes a checkpoint on its way. Raises DivergedError
        for a loss or gradient that is no number, TrainingError when a checkpoint cannot be written
        or memory is short.
        """
        try:
            return self._run(on_step, frozen)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"step {self.step + 1}: memory is short ({first_line(error)}); a smaller batch_size (with more "
                f"grad_accumulation) or max_length takes less; {self._last_saved()}"
            ) from error

    def _run(self, on_step: Callable[[StepReport], object] | None, frozen: FrozenBase) -> str:
        if self.step == 0:
            self.metrics.restart([])
            self._evaluate()
        while self.step < self.total and not self._is_stuck():
            report = self._step(frozen)
            try:
                if on_step is not None:
                    on_step(report)
            except KeyboardInterrupt:
                self._save()
                raise
            if self.config.save_every and self.step % self.config.save_every == 0:
                self._save()
        if self.config.save_every and self._saved_at != self.step:
            self._save()
        stopped = (
            "early stop" if self._is_stuck() else "max steps" if self.config.max_steps else "done"
        )
        self._take_best()
        return stopped

    def _step(self, frozen: FrozenBase) -> StepReport:
        began = time.monotonic()
        rate = learning_rate(
            self.config.learning_rate,
            self.config.schedule,
            self.config.warmup,
            self.step,
            self.total,
        )
        rows = [self._examples[i] for i in self._order.group(self.step)]
        loss = self._gradients(rows)
        norm = self._norm()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self._diverged(
                self.step + 1, rate, f"the loss is {loss:g} and the gradient's norm {norm:g}"
            )
        frozen.check_gradients()
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.step += 1
        tokens = sum(len(e.ids) for e in rows)
        seconds = time.monotonic() - began
        self.tokens += tokens
        self.seconds += seconds
        self.metrics.add(
            step=self.step,
            loss=loss,
            learning_rate=rate,
            grad_norm=norm,
            tokens_per_s=tokens / seconds,
        )
        due = self.step % self._eval_every == 0 or self.step == self.total
        eval_loss = self._evaluate() if due else None
        return StepReport(
            self.step, loss, rate, tokens / seconds, self.model, norm, self.total, eval_loss
        )

    def _gradients(self, rows: Sequence[Example]) -> float:
        """Backward of the mean over all completion tokens of the step, however many forwards they
        take."""
        count = sum(len(e.ids) - e.start for e in rows)
        self.model.train()
        loss = 0.0
        for start in range(0, len(rows), self.config.batch_size):
            part = self._loss_sum(rows[start : start + self.config.batch_size]) / count
            part.backward()
            loss += float(part.detach())
        return loss

    def _loss_sum(self, rows: Sequence[Example]) -> torch.Tensor:
        """Sum of the cross entropy over the completion tokens; logits are made from the first of
        them on only."""
        batch = collate(rows, self.device)
        labels = batch.pop("labels")
        # the logits at position i predict token i + 1
        kept = labels.shape[1] - min(e.start for e in rows) + 1 if self._narrow else labels.shape[1]
        # a list of positions, not their number: that would be a view, which the lm_head's product
        # copies the weight for
        places = torch.arange(labels.shape[1] - kept, labels.shape[1], device=self.device)
        more = {"logits_to_keep": places} if self._narrow else {}
        logits = self.model(**batch, use_cache=False, **more).logits[:, :-1].float()
        targets = labels[:, labels.shape[1] - kept + 1 :]
        return functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )

    def _norm(self) -> float:
        limit = self.config.clip_norm or math.inf
        return float(torch.nn.utils.clip_grad_norm_(self.trained.values(), limit))

    @torch.no_grad()
    def _evaluate(self) -> float | None:
        """Mean loss of the held-out completions; keeps the best weights where the run may stop
        early."""
        if not self._held_out:
            return None
        self.model.eval()
        size = self.config.batch_size
        parts = [
            float(self._loss_sum(self._held_out[i : i + size]))
            for i in range(0, len(self._held_out), size)
        ]
        loss = sum(parts) / sum(len(e.ids) - e.start for e in self._held_out)
        if not math.isfinite(loss):
            self._diverged(self.step, self._rate(), f"the evaluation loss is {loss:g}")
        self.metrics.add(step=self.step, eval_loss=loss)
        if self.config.patience and self.step:
            if self._best is None or loss < self._best["loss"]:
                self._best, self._worse = (
                    {"loss": loss, "step": self.step, "trained": self._weights()},
                    0,
                )
            else:
                self._worse += 1
        return loss

    def _is_stuck(self) -> bool:
        return bool(self.config.patience) and self._worse >= self.config.patience

    def _take_best(self) -> None:
        if self._best is not None:
            with torch.no_grad():
                for name, parameter in self.trained.items():
                    parameter.copy_(self._best["trained"][name])

    @property
    def weights_step(self) -> int:
        """The step whose weights the adapter has."""
        return self._best["step"] if self._best is not None else self.step

    def _weights(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().cpu().clone() for name, p in self.trained.items()}

    def _save(self) -> None:
        weights = self._weights()
        if not all(bool(t.isfinite().all()) for t in weights.values()):
            self._diverged(self.step, self._rate(), "a trained weight is not finite")
        checkpoint = Checkpoint(
            self.step,
            self._settings,
            weights,
            self._optimizer.state_dict(),
            rng_state(self.device),
            self.metrics.rows,
            self._initial,
            self._best,
            self._worse,
            self.tokens,
            self.seconds,
        )
        try:
            save(checkpoint, self.config.out)
        except OSError as error:
            raise TrainingError(
                f"the checkpoint of step {self.step} cannot be written: {error.strerror}; "
                f"{self._last_saved()}"
            ) from error
        self._saved_at = self.step

    def _rate(self) -> float:
        """Learning rate of the last step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def _diverged(self, step: int, rate: float, what: str) -> NoReturn:
        raise DivergedError(step, rate, what, self._last_saved())

    def _last_saved(self) -> str:
        if self._saved_at is None:
            return "there is no checkpoint"
        return f"the checkpoint of step {self._saved_at} is whole"
