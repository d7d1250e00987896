"""Teach a smaller model to think what the exact one thinks: logit distillation, in plain torch.

The student is trained on the Kullback-Leibler divergence of the teacher's whole distribution
from its own at every position (Hinton et al., arXiv:1503.02531).

Its own module because it is the one step that trains. What it has reached is kept beside its
result: a run that was killed goes on from there, with the draws it would have made.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from serve.atomic_directory import full_disk
from serve.variants.job import HELD_BACK, Asked, JobError, run, tell
from serve.variants.jobs.samples import stream

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

WARM_UP = 0.1
BETAS = (0.9, 0.95)
CLIP = 1.0
# Stretches of each text that are looked at.
MOST_HELD_BACK = 8


def distill(asked: Asked) -> Mapping[str, object]:
    """Write the taught form of `base` into `into`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(asked["threads"])
    tell("loading")
    student = AutoModelForCausalLM.from_pretrained(asked["base"], dtype=torch.float32)
    teacher = AutoModelForCausalLM.from_pretrained(asked["teacher"], dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(asked["base"])
    texts = [name for name in ("calibration", "reference") if name in asked["texts"]]
    parted = [_parted(stream(asked, tokenizer, name), asked["tokens"]) for name in texts]
    held_back = torch.cat([kept for _, kept in parted])
    course = _Course(student, teacher, [train for train, _ in parted], held_back, asked)
    course.run()
    tell("writing")
    student.load_state_dict(course.best)
    student.to(torch.bfloat16).save_pretrained(asked["into"])
    tokenizer.save_pretrained(asked["into"])
    return {"loss": course.losses, "held_back": course.checks, "best_step": course.best_step}


def _parted(ids: list[int], length: int) -> tuple[Tensor, Tensor]:
    """Part the text: its end is kept back, in stretches of equal length."""
    stretches = min(MOST_HELD_BACK, int(len(ids) * HELD_BACK) // length)
    if not stretches:
        raise JobError(
            f"the text has {len(ids)} tokens, of which a tenth is to be at least {length}: give"
            " more text, or lower distill.tokens"
        )
    held_back = torch.tensor(ids[-stretches * length :]).reshape(stretches, length)
    return torch.tensor(ids[: -stretches * length]), held_back


def _drawn(ids: Tensor, length: int, rng: torch.Generator) -> Tensor:
    at = int(torch.randint(len(ids) - length, (1,), generator=rng))
    return ids[at : at + length]


class _Course:
    """Training, from its beginning or from where it was left.

    Attributes:
        losses: of every step, bits of them for a curve.
        checks: step and loss on what was kept back.
        best: weights at the best check.
        best_step: when that was.

    """

    def __init__(
        self, student: Any, teacher: Any, train: list[Tensor], held_back: Tensor, asked: Asked
    ) -> None:
        self._student, self._teacher = student, teacher
        self._train, self._held_back = train, held_back
        self._asked = asked
        self._file = Path(asked["state"]) / "course.pt"
        self._optimizer = torch.optim.AdamW(
            student.parameters(), lr=asked["learning_rate"], betas=BETAS, weight_decay=0.0
        )
        self._step = 0
        self.losses: list[float] = []
        self.checks: list[tuple[int, float]] = []
        self.best: dict[str, Tensor] = {}
        self.best_step = 0

    def run(self) -> None:
        """Train until the steps are over, or more of them no longer help."""
        self._resume()
        if not self.checks:
            self._check()
        while self._step < self._asked["steps"] and not self._is_tired():
            self._train_once()
            if self._step % self._asked["check_every"] == 0 or self._step == self._asked["steps"]:
                self._check()
                self._save()

    def _train_once(self) -> None:
        # Drawn by step, so that a run that goes on draws what it would have drawn.
        rng = torch.Generator().manual_seed(self._asked["calibration"]["seed"] + self._step)
        length, batch = self._asked["tokens"], self._asked["batch"]
        # As many from each text: the calibration text is short, and the more like what is served.
        rows = torch.stack(
            [_drawn(self._train[place % len(self._train)], length, rng) for place in range(batch)]
        )
        for group in self._optimizer.param_groups:
            group["lr"] = self._asked["learning_rate"] * self._pace()
        self._student.train()
        loss = self._loss(rows)
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._student.parameters(), CLIP)
        self._optimizer.step()
        self._step += 1
        self.losses.append(round(float(loss), 5))
        tell(f"step {self._step} of {self._asked['steps']}, loss {float(loss):.4f}")

    def _pace(self) -> float:
        """Warm up, then slow down along half a cosine."""
        steps: int = self._asked["steps"]
        done = self._step / steps
        if done < WARM_UP:
            return (self._step + 1) / (WARM_UP * steps + 1)
        return 0.5 * (1.0 + math.cos(math.pi * (done - WARM_UP) / (1.0 - WARM_UP)))

    def _loss(self, rows: Tensor) -> Tensor:
        # Products in bf16 where there are units for it; weights stay exact.
        narrow = self._asked["native_bf16"]
        with torch.autocast(rows.device.type, torch.bfloat16, enabled=narrow):
            with torch.no_grad():
                thought = self._teacher(rows).logits
            said = self._student(rows).logits
        wanted = functional.log_softmax(thought.float(), dim=-1)
        given = functional.log_softmax(said.float(), dim=-1)
        return functional.kl_div(
            given.flatten(0, 1), wanted.flatten(0, 1), reduction="batchmean", log_target=True
        )

    @torch.no_grad()
    def _check(self) -> None:
        """See how it does on what it does not learn from."""
        self._student.eval()
        batches = self._held_back.split(self._asked["batch"])
        loss = sum(float(self._loss(rows)) * len(rows) for rows in batches) / len(self._held_back)
        if not self.checks or loss < min(each for _, each in self.checks):
            self.best = {name: each.clone() for name, each in self._student.state_dict().items()}
            self.best_step = self._step
        self.checks.append((self._step, round(loss, 5)))
        tell(f"after {self._step} steps, loss {loss:.4f} on text that was kept back")

    def _is_tired(self) -> bool:
        patience: int = self._asked["patience"] * self._asked["check_every"]
        return self._step - self.best_step >= patience

    # ── going on ────────────────────────────────────────────────────────────

    def _save(self) -> None:
        kept = {
            "student": self._student.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "best": self.best,
            "best_step": self.best_step,
            "step": self._step,
            "losses": self.losses,
            "checks": self.checks,
        }
        self._file.parent.mkdir(parents=True, exist_ok=True)
        fresh = self._file.with_suffix(".new")
        try:
            with fresh.open("wb") as content:
                torch.save(kept, content)
                content.flush()
                os.fsync(content.fileno())
            fresh.replace(self._file)
        except (OSError, RuntimeError) as error:
            full = full_disk(self._file.parent, str(error))
            fresh.unlink(missing_ok=True)
            raise JobError(full or f"what it has learnt cannot be kept: {error}") from error

    def _resume(self) -> None:
        if not self._file.is_file():
            return
        try:
            kept = torch.load(self._file, weights_only=True)
        except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
            tell(f"beginning again: what was kept cannot be read ({error})")
            return
        self._student.load_state_dict(kept["student"])
        self._optimizer.load_state_dict(kept["optimizer"])
        self.best, self.best_step = kept["best"], kept["best_step"]
        self._step, self.losses, self.checks = kept["step"], kept["losses"], kept["checks"]
        tell(f"going on after step {self._step}")


if __name__ == "__main__":
    run(distill)
