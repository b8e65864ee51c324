"""training: prune while the network trains, and recover afterwards.

Every method attaches to an optimizer and needs no other change of the loop::

    penalty = GroupLasso(model, 1e-4, example_inputs=x).attach(optimizer)

Hooks of the optimizer do the work: before a step they add to gradients or mask them, after it they
prune. So gradient accumulation, mixed precision, `torch.compile` and `DistributedDataParallel`
work as without them.
"""

from graphprune.training.callbacks import for_lightning, for_trainer
from graphprune.training.distil import distillation
from graphprune.training.gates import Gates
from graphprune.training.gradual import Gradual
from graphprune.training.penalties import L1, GroupLasso, ScaleL1
from graphprune.training.recover import recover
from graphprune.training.schedule import Schedule
from graphprune.training.sparse import SparseTraining

__all__ = [
    "L1",
    "Gates",
    "Gradual",
    "GroupLasso",
    "ScaleL1",
    "Schedule",
    "SparseTraining",
    "distillation",
    "for_lightning",
    "for_trainer",
    "recover",
]
