"""Training that is interrupted ends as if it had not been, in the loops of others too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from graphprune.training import (
    Gates,
    Gradual,
    GroupLasso,
    Schedule,
    SparseTraining,
    for_lightning,
    for_trainer,
)
from tests.training.nets import INPUTS, LABELS, cnn

STEPS, SAVED = 8, 4
ALONG = Schedule(initial=0.2, final=0.6, begin=1, end=7, every=2)

METHODS: dict[str, Callable[[nn.Module], Any]] = {
    "gates": lambda net: Gates(net, 0.5, example_inputs=INPUTS[:2], warmup=4),
    "gradual": lambda net: Gradual(net, ALONG, example_inputs=INPUTS[:2]),
    "lasso": lambda net: GroupLasso(net, 0.1, target=0.4, every=2, example_inputs=INPUTS[:2]),
    "rigl": lambda net: SparseTraining(net, ALONG, "rigl", example_inputs=INPUTS[:2]),
    "set": lambda net: SparseTraining(net, ALONG, "set", example_inputs=INPUTS[:2]),
}


class Samples(Dataset[dict[str, torch.Tensor]]):
    """Images with labels, by the names that a Trainer asks for."""

    def __len__(self) -> int:
        return len(INPUTS)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": INPUTS[index], "labels": LABELS[index]}


class Classifier(nn.Module):
    """What `transformers.Trainer` takes: a model that gives its loss."""

    def __init__(self) -> None:
        super().__init__()
        self.net = cnn()

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> dict[str, Any]:
        """The loss, where there are labels, and class scores."""
        scores = self.net(x)
        held = {"logits": scores}
        if labels is not None:
            held["loss"] = nn.functional.cross_entropy(scores, labels)
        return held


def _same(one: nn.Module, other: nn.Module) -> None:
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("kind", METHODS)
def test_a_trainer_goes_on_from_its_checkpoint(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    from transformers import Trainer, TrainingArguments

    def trainer(steps: int, resume: str | None) -> Any:
        torch.manual_seed(7 if resume else 0)
        ahead = resume if kind == "gradual" else None
        method = for_trainer(lambda model: METHODS[kind](model.net), resume=ahead)
        arguments = TrainingArguments(
            str(tmp_path), max_steps=steps, save_steps=SAVED, per_device_train_batch_size=8,
            learning_rate=0.01, report_to="none", use_cpu=True, disable_tqdm=True,
            dataloader_pin_memory=False, gradient_accumulation_steps=2,
            lr_scheduler_type="constant",
        )  # fmt: skip
        return Trainer(Classifier(), arguments, train_dataset=Samples(), callbacks=[method])

    whole = trainer(STEPS, None)
    whole.train()
    resume = str(tmp_path / f"checkpoint-{SAVED}")
    again = trainer(STEPS, resume)
    again.train(resume_from_checkpoint=resume)
    assert again.state.global_step == STEPS
    _same(whole.model, again.model)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", METHODS)
def test_lightning_goes_on_from_its_checkpoint(kind: str, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = cnn()

        def training_step(self, batch: dict[str, torch.Tensor], _: int) -> torch.Tensor:
            torch.manual_seed(self.global_step)  # which is in no checkpoint of Lightning's
            return nn.functional.cross_entropy(self.net(batch["x"]), batch["labels"])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters(), 0.01)

    def fitted(steps: int, resume: Path | None) -> Any:
        torch.manual_seed(7 if resume else 0)
        trainer = lightning.Trainer(
            max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, accelerator="cpu",
            callbacks=[for_lightning(lambda model: METHODS[kind](model.net))],
        )  # fmt: skip
        # One batch: Lightning does not always go on at the batch that a checkpoint was made at.
        loader = DataLoader(Samples(), batch_size=len(INPUTS))
        trainer.fit(Module(), loader, ckpt_path=resume)
        return trainer

    path = tmp_path / "state.ckpt"
    fitted(SAVED, None).save_checkpoint(path)
    _same(fitted(STEPS, None).lightning_module, fitted(STEPS, path).lightning_module)
