"""Tiny Hugging Face models: no option set, class kept, generation goes on working."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import graphprune

transformers = pytest.importorskip("transformers")
_SIZES = {
    "vocab_size": 99, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 80, "max_position_embeddings": 64, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_GROUPED = {**_SIZES, "num_key_value_heads": 2}


def _model(name: str, options: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    return kind(kind.config_class(**options)).eval()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("LlamaForCausalLM", _GROUPED),
        ("LlamaForCausalLM", {**_GROUPED, "tie_word_embeddings": True}),
        ("MixtralForCausalLM", {**_GROUPED, "num_local_experts": 4, "num_experts_per_tok": 2}),
        (
            "GPT2LMHeadModel",
            {"vocab_size": 99, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 64,
             "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
        ),
    ],
    ids=["llama", "llama tied", "mixtral", "gpt2"],
)  # fmt: skip
def test_decoders_keep_their_class_and_generate(name: str, options: dict[str, Any]) -> None:
    model = _model(name, options)
    plan = graphprune.plan(model, 0.5, compensate=False)
    small = plan.apply()
    assert type(small) is type(model) and not plan.report.replaced
    prompt = torch.tensor([[5, 6, 7]])
    tokens = small.generate(prompt, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert tokens.shape == (1, 7)
    again = small(tokens[:, :-1], use_cache=False).logits[:, -1].argmax(-1)
    assert again == tokens[:, -1], "with and without a cache the next token is the same"


def test_tied_embeddings_stay_tied() -> None:
    model = _model("LlamaForCausalLM", {**_GROUPED, "tie_word_embeddings": True})
    small = graphprune.shrink(model, 0.5, compensate=False)
    assert small.lm_head.weight is small.model.embed_tokens.weight


def test_speech_is_found_to_be_what_goes_in() -> None:
    options = {
        **_SIZES, "conv_dim": (32, 32), "conv_stride": (5, 2), "conv_kernel": (10, 3),
        "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 2, "vocab_size": 32,
    }  # fmt: skip
    plan = graphprune.plan(_model("Wav2Vec2ForCTC", options), 0.5, compensate=False)
    assert plan.inputs[1]["input_values"].dim() == 2
    assert type(plan.apply()).__name__ == "Wav2Vec2ForCTC"


def test_a_config_learns_the_new_sizes_so_that_the_model_reloads(tmp_path: Any) -> None:
    model = _model("BertForSequenceClassification", _SIZES)
    before = model.config.to_dict()
    small = graphprune.shrink(model, 0.5, compensate=False)
    small.save_pretrained(tmp_path)
    again = type(small).from_pretrained(tmp_path).eval()
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(again(ids).logits, small(ids).logits)
    assert small.config.hidden_size < before["hidden_size"]
    assert model.config.to_dict() == before


def test_a_config_that_cannot_tell_the_widths_is_a_warning_with_a_way_out(tmp_path: Any) -> None:
    plan = graphprune.plan(
        _model("LlamaForCausalLM", _GROUPED),
        0.5,
        ratios={"*layers.1.mlp.gate_proj": 0.7},
        compensate=False,
    )
    small = plan.apply()
    assert "the config cannot tell the new widths" in plan.report.warnings[-1]
    assert small.config.hidden_size == 64
    # The way out that the warning names.
    plan.save(tmp_path / "plan.json")
    torch.save(small.state_dict(), tmp_path / "weights.pt")
    fresh = type(small)(small.config)
    again = graphprune.load_plan(tmp_path / "plan.json").apply(fresh)
    again.load_state_dict(torch.load(tmp_path / "weights.pt"))
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(again.eval()(ids).logits, small(ids).logits)


class _Match(torch.nn.Module):
    """How well images and texts match, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        vision = {**_SIZES, "image_size": 32, "patch_size": 8, "projection_dim": 32}
        towers = {"text_config": {**_SIZES, "projection_dim": 32}, "vision_config": vision}
        self.clip = _model("CLIPModel", {**towers, "projection_dim": 32})

    def forward(self, ids: torch.Tensor, pixels: torch.Tensor) -> torch.Tensor:
        return self.clip(input_ids=ids, pixel_values=pixels).logits_per_image


def test_two_towers_lose_the_same_indices_of_their_shared_embedding() -> None:
    inputs = (torch.randint(3, 99, (2, 8)), torch.randn(2, 3, 32, 32))
    plan = graphprune.plan(_Match(), 0.5, example_inputs=inputs, compensate=False)
    small = plan.apply()
    kept = plan.kept
    text, vision = kept["clip.text_projection.weight"][0], kept["clip.visual_projection.weight"][0]
    assert text is not None and vision is not None and len(text) < 32
    assert text.tolist() == vision.tolist()
    assert type(small.clip).__name__ == "CLIPModel" and small(*inputs).shape == (2, 2)


def test_a_config_entry_that_is_none_is_filled_in(tmp_path: Any) -> None:
    options = {"vocab_size": 99, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 64}
    model = _model("GPT2LMHeadModel", {**options, "bos_token_id": 1, "eos_token_id": 2})
    assert model.config.n_inner is None
    small = graphprune.shrink(model, 0.5, compensate=False)
    small.save_pretrained(tmp_path)
    again = type(small).from_pretrained(tmp_path).eval()
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(again(ids).logits, small(ids).logits)
    assert small.config.n_inner == small.transformer.h[0].mlp.c_fc.nf


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("LlamaForCausalLM", _GROUPED),
        ("Qwen2ForCausalLM", _GROUPED),  # head_dim is an entry that its config lacks
        ("GemmaForCausalLM", {**_GROUPED, "head_dim": 16}),  # a scale follows from the width
        (
            "GPTJForCausalLM",  # as many rotary entries as heads
            {"vocab_size": 99, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 64,
             "rotary_dim": 4, "bos_token_id": 1, "eos_token_id": 2},
        ),
    ],
    ids=["llama", "qwen2", "gemma", "gptj"],
)  # fmt: skip
def test_rotary_models_reload_where_heads_are_too_coarse(
    name: str, options: dict[str, Any], tmp_path: Any
) -> None:
    small = graphprune.shrink(_model(name, options), 0.5, compensate=False)
    small.save_pretrained(tmp_path)
    again = type(small).from_pretrained(tmp_path).eval()
    ids = torch.tensor([[5, 6, 7]])
    torch.testing.assert_close(again(ids).logits, small(ids).logits)
