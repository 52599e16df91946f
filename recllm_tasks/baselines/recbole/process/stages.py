"""Epochs of training, with a state on disk after each to resume from."""

import json
import os
import sys
import time

import numpy as np
import torch
from recbole.utils import init_seed

# Every epoch of a stage has its own seed, so that a resumed training equals an uninterrupted one.
SEEDS_OF_A_STAGE = 100_000


class Training:
    """Epochs of one stage, with a state on disk after each."""

    def __init__(self, folder, job, stage):
        """Args:
        folder: of the job.
        job: its settings.
        stage: 0 is pre-training, 1 is training.
        """
        self.folder, self.job, self.stage = folder, job, stage

    def run(self, model, loader, epochs, seconds_at_most, score):
        """Trains or resumes; returns the results of each epoch.

        Args:
          model: with new parameters, which the last state replaces.
          loader: of training batches.
          epochs: maximum.
          seconds_at_most: no epoch starts after them.
          score: scores the model after an epoch, higher is better; None keeps the last epoch.
        """
        optimizer = torch.optim.Adam(model.parameters(), lr=self.job.config["learning_rate"])
        curve, seconds = self._load(model, optimizer)
        while not self._ended(curve, epochs, seconds, seconds_at_most, score):
            start, epoch = time.monotonic(), len(curve)
            loss = self._epoch(model, loader, optimizer, epoch)
            found = {"epoch": epoch + 1, "loss": loss}
            if score:
                found["validation"] = score(model)
                if all(found["validation"] > one["validation"] for one in curve):
                    save(self.folder / "best.pt", model.state_dict())
            seconds += time.monotonic() - start
            found["seconds"] = seconds
            curve.append(found)
            state = {"stage": self.stage, "curve": curve, "seconds": seconds}
            states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            save(self.path, state | states)
            say(stage=self.stage, epochs=epochs, **found)
        return curve

    @property
    def path(self):
        return self.folder / f"state-{self.stage}.pt"

    def _ended(self, curve, epochs, seconds, seconds_at_most, score):
        if len(curve) >= epochs or (curve and seconds >= seconds_at_most):
            return True
        if not score or not curve:
            return False
        best = int(np.argmax([one["validation"] for one in curve]))
        return len(curve) - 1 - best >= self.job.patience

    def _load(self, model, optimizer):
        if not self.path.exists():
            return [], 0.0
        state = torch.load(self.path, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        say(stage=self.stage, resumed=len(state["curve"]))
        return state["curve"], state["seconds"]

    def _epoch(self, model, loader, optimizer, epoch):
        seed = (self.job.seed * 2 + self.stage) * SEEDS_OF_A_STAGE + epoch
        init_seed(seed, True)
        loader.generator.manual_seed(seed)
        model.train()
        total, batches = 0.0, 0
        for interaction in loader:
            if self.job.parent not in (None, os.getppid()):
                sys.exit("the process that started the training has ended")
            optimizer.zero_grad()
            losses = model.calculate_loss(interaction)
            loss = sum(losses, torch.tensor(0.0)) if isinstance(losses, tuple) else losses
            if torch.isnan(loss):
                sys.exit(f"loss in epoch {epoch + 1}: got NaN; a smaller learning rate may help")
            loss.backward()
            optimizer.step()
            total, batches = total + loss.item(), batches + 1
        return total / max(batches, 1)


def write_atomically(path, write):
    """Calls `write` with a temporary path, then renames the file."""
    temporary = path.with_suffix(".tmp")
    write(temporary)
    os.replace(temporary, path)


def save(path, content):
    write_atomically(path, lambda temporary: torch.save(content, temporary))


def say(**what):
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()
