"""Methods of training in the loops of transformers and Lightning."""

from __future__ import annotations

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler

from graphprune import OptionError
from graphprune.training import GroupLasso, for_lightning, for_trainer
from tests.training.nets import INPUTS, LABELS, cnn, train


def test_the_trainer_of_transformers_attaches_methods_when_it_begins() -> None:
    model = cnn()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    callback = for_trainer(lambda m: GroupLasso(m, 1e-3, example_inputs=INPUTS[:2]))
    handler = CallbackHandler([callback], model, None, optimizer, None)
    assert not callback.methods
    arguments = TrainingArguments.__new__(TrainingArguments)
    handler.on_train_begin(arguments, TrainerState(), TrainerControl())
    train(model, optimizer, 2)
    assert callback.methods[0].steps == 2


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_lightning_attaches_methods_and_keeps_their_state() -> None:
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = cnn()

        def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.05)

    callback = for_lightning(lambda m: GroupLasso(m.net, 1e-3, example_inputs=INPUTS[:2]))
    data = torch.utils.data.TensorDataset(INPUTS, LABELS)
    trainer = lightning.Trainer(
        max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", callbacks=[callback],
    )  # fmt: skip
    trainer.fit(Module(), torch.utils.data.DataLoader(data, batch_size=16))
    assert callback.methods[0].steps == 2
    again = for_lightning(lambda m: GroupLasso(m, 1e-3, example_inputs=INPUTS[:2]))
    again.load_state_dict(callback.state_dict())
    model = cnn()
    again._held.start(model, torch.optim.SGD(model.parameters(), 0.05))
    assert again.methods[0].steps == 2


def test_what_makes_no_method_is_refused() -> None:
    model = cnn()
    with pytest.raises(OptionError, match="a function of the model"):
        for_trainer(3)  # type: ignore[arg-type]
    callback = for_trainer(lambda m: m)  # type: ignore[arg-type,return-value]
    with pytest.raises(OptionError, match="no method of training"):
        callback._held.start(model, torch.optim.SGD(model.parameters(), 0.05))
