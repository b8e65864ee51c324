"""Which releases of PyTorch modules are recorded with."""

import pytest
import torch
from torch.torch_version import TorchVersion

recorded_here = pytest.mark.skipif(
    TorchVersion(torch.__version__) < "2.14", reason="modules are exported there"
)
