"""Example inputs are found from the model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.utils import _pytree as pytree

import graphprune
from graphprune.frontends.opening import open_model
from graphprune.frontends.torch.described import describe, restore
from graphprune.frontends.torch.inputs import find_inputs


def shapes(model: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(x.shape) for x in pytree.tree_leaves(find_inputs(model))]


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ([nn.Conv2d(3, 4, 3)], (2, 3, 32, 32)),
        ([nn.Conv2d(3, 4, 3, 4), nn.MaxPool2d(4)], (2, 3, 128, 128)),
        ([nn.Conv2d(3, 64, 3), nn.Conv2d(64, 2048, 3)], (2, 3, 224, 224)),
        ([nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(676, 2)], (2, 1, 28, 28)),
        ([nn.Conv1d(2, 4, 3), nn.Flatten(), nn.Linear(4 * 59, 2)], (2, 2, 61)),
        ([nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 2)], (2, 1, 8, 8)),
        ([nn.Conv1d(2, 4, 3)], (2, 2, 128)),
        ([nn.Conv3d(2, 4, 3)], (2, 2, 16, 16, 16)),
        ([nn.Linear(7, 4)], (2, 7)),
        ([nn.Flatten(), nn.Linear(784, 4)], (2, 784)),
        ([nn.LSTM(6, 4)], (2, 16, 6)),
        ([nn.Embedding(50, 4)], (2, 16)),
    ],
    ids=str,
)
def test_from_the_first_layer(layers: list[nn.Module], shape: tuple[int, ...]) -> None:
    assert shapes(nn.Sequential(*layers)) == [shape]


def test_tokens_lie_in_the_vocabulary() -> None:
    ((ids,), _) = find_inputs(nn.Sequential(nn.Embedding(5, 4)))
    assert int(ids.max()) < 5


def test_an_image_size_attribute_is_believed_first() -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image_size = 40
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x)

    assert shapes(Sized()) == [(2, 3, 40, 40)]


def test_timm_tells_its_input_size() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, pretrained_cfg_overlay={
        "input_size": (3, 64, 64)})  # fmt: skip
    assert shapes(model) == [(2, 3, 64, 64)]


def test_type_and_device_are_the_models() -> None:
    ((x,), _) = find_inputs(nn.Sequential(nn.Linear(4, 2)).double())
    assert x.dtype == torch.float64


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["bert", "vit", "t5", "switch", "series"])
def test_hugging_face_models_tell_theirs(kind: str) -> None:
    import transformers as hf

    small: dict[str, Any] = {
        "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
        "intermediate_size": 64,
    }  # fmt: skip
    if kind == "bert":
        model: nn.Module = hf.BertModel(hf.BertConfig(vocab_size=60, **small))
    elif kind == "series":
        options = {"d_model": 32, "ffn_dim": 64, "num_attention_heads": 4, "num_hidden_layers": 1}
        model = hf.PatchTSTModel(
            hf.PatchTSTConfig(num_input_channels=3, context_length=16, patch_length=4, **options)
        )
    elif kind == "vit":
        model = hf.ViTModel(hf.ViTConfig(image_size=32, patch_size=8, **small))
    else:
        sizes = {"vocab_size": 60, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4}
        name = {"t5": "T5", "switch": "SwitchTransformers"}[kind]
        config = getattr(hf, f"{name}Config")(num_layers=1, num_experts=2, **sizes)
        model = getattr(hf, f"{name}Model")(config)
    args, kwargs = find_inputs(model)
    assert args == ()
    with torch.no_grad():
        model.eval()(**kwargs)
    wanted = {"bert": {"input_ids"}, "series": {"past_values"}, "vit": {"pixel_values"},
              "t5": {"input_ids", "decoder_input_ids"},
              "switch": {"input_ids", "decoder_input_ids", "attention_mask"}}  # fmt: skip
    assert kwargs.pop("use_cache", False) is False
    assert set(kwargs) == wanted[kind]


def test_inputs_as_plain_data() -> None:
    inputs = ((torch.randn(2, 3), [torch.arange(5)]), {"mask": None, "scale": 2.0})
    args, kwargs = restore(describe(inputs))
    assert args[0].shape == (2, 3)
    assert args[1][0].dtype == torch.int64
    assert int(args[1][0].max()) < 5
    assert kwargs == {"mask": None, "scale": 2.0}


class _Seeing(nn.Module):
    """A language model that wants as many tokens for images as there are patches of them."""

    main_input_name = "input_ids"

    def __init__(self) -> None:
        super().__init__()
        sizes = {"vocab_size": 40, "image_size": 8, "image_token_id": 39, "image_seq_length": 4}
        self.config = SimpleNamespace(**sizes)
        self.words, self.patches = nn.Embedding(40, 16), nn.Conv2d(3, 16, 4, stride=4)
        self.head = nn.Linear(16, 40)

    def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
        x = self.words(input_ids)
        patches = self.patches(pixel_values).flatten(2).mT
        mask = (input_ids == self.config.image_token_id)[..., None]
        torch._check_value(bool(mask.sum() * 16 == patches.numel()), lambda: "they do not match")
        return self.head(x.masked_scatter(mask, patches))


def test_inputs_whose_values_a_model_checks_are_tried_for_real() -> None:
    _, kwargs = find_inputs(_Seeing())
    assert kwargs["input_ids"].shape == (2, 20) and (kwargs["input_ids"] == 39).sum() == 8
    assert kwargs["pixel_values"].shape == (2, 3, 8, 8)


class _Auxiliary(nn.Module):
    """Only training mode reaches its second head, which pools by eight."""

    def __init__(self) -> None:
        super().__init__()
        self.image_size = 8
        self.conv, self.head, self.aux = nn.Conv2d(3, 8, 3), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> Any:
        y = self.conv(x)
        if self.training:
            return self.head(y.mean((2, 3))), self.aux(nn.functional.avg_pool2d(y, 8).mean((2, 3)))
        return self.head(y.mean((2, 3)))


def test_what_a_model_says_is_captured_without_a_trial() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(2), nn.AdaptiveAvgPool1d(1))
    runs: list[int] = []
    model.register_forward_hook(lambda *_: runs.append(1))
    graphprune.analyze(model)
    assert len(runs) == 1


def test_inputs_too_small_for_what_only_training_reaches_are_passed_over() -> None:
    program = open_model(_Auxiliary()).program
    assert program.inputs[0][0].shape == (2, 3, 32, 32)


class _Checking(_Seeing):
    """Checks the number of its tokens in a way that a capture puts off."""

    def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
        patches = self.patches(pixel_values).flatten(2).mT
        found = (input_ids == self.config.image_token_id).sum()
        torch._check_tensor_all(found == patches.shape[0] * patches.shape[1])
        return self.head(self.words(input_ids).mean(1) + patches.mean(1))


def test_inputs_whose_values_a_model_checks_are_not_captured_without_a_trial() -> None:
    _, kwargs = open_model(_Checking()).program.inputs
    assert (kwargs["input_ids"] == 39).sum() == 8


class _Patches(nn.Module):
    """Patches of a picture, with a position for each."""

    def __init__(self, places: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 6, stride=6)
        self.positions = nn.Parameter(torch.zeros(1, places, 8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.patches(x).flatten(2).mT + self.positions


def test_a_table_of_positions_fixes_the_size() -> None:
    assert shapes(_Patches(9)) == [(2, 3, 18, 18)]


class _Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(9, 8), nn.Parameter(torch.zeros(1, 11, 8))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.words(ids) + self.positions


def test_a_table_of_positions_fixes_the_length() -> None:
    assert shapes(_Words()) == [(2, 11)]


class _Two(nn.Module):
    """An encoder and a decoder of one table of words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.inner, self.head = nn.Embedding(9, 16), nn.Linear(16, 12), nn.Linear(12, 3)

    def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        read = self.inner(self.words(source)).relu().mean(1, keepdim=True)
        return self.head(self.inner(self.words(target)).relu() * read)


def test_one_tensor_given_twice_is_two_inputs() -> None:
    tokens = torch.randint(9, (2, 5))
    deps = graphprune.analyze(_Two(), {"source": tokens, "target": tokens})
    read = {value for op in deps.source.ops for value in op.inputs}
    assert read.issuperset(deps.source.inputs)


def _nested(*rows: int) -> torch.Tensor:
    return torch.nested.nested_tensor([torch.randn(n, 4) for n in rows], layout=torch.jagged)


@pytest.mark.parametrize(
    ("given", "kind"), [(torch.eye(4).to_sparse(), "sparse_coo"), (_nested(2, 3), "nested")]
)
def test_what_is_not_dense_is_refused_by_name(given: torch.Tensor, kind: str) -> None:
    net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    with pytest.raises(graphprune.LiftError, match=f"'argument 1' is a {kind} tensor"):
        graphprune.shrink(net, 0.5, example_inputs=given)
    if kind != "nested":
        net.register_buffer("adjacency", given)
        with pytest.raises(graphprune.LiftError, match=f"adjacency is a {kind} tensor"):
            graphprune.shrink(net, 0.5, example_inputs=torch.randn(2, 4))


def test_a_model_that_names_its_inputs_is_asked_for_them_by_name() -> None:
    class Named(nn.Linear):
        config, main_input_name = SimpleNamespace(), "input_ids"

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            raise ValueError("never enough")

    with pytest.raises(graphprune.LiftError, match=r'example_inputs=\{"input_ids": \.\.\.'):
        find_inputs(Named(2, 2))
