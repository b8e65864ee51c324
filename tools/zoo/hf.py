"""Hugging Face transformers: tiny models of random weights, built from their config classes."""

from __future__ import annotations

from typing import Any

_BERT = {
    "vocab_size": 99,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "max_position_embeddings": 64,
}
_LLAMA = {**_BERT, "hidden_size": 64, "num_key_value_heads": 2, "pad_token_id": 0}
_BART = {
    "vocab_size": 99,
    "d_model": 48,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 80,
    "decoder_ffn_dim": 80,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
}
_T5 = {
    "vocab_size": 99,
    "d_model": 48,
    "d_kv": 12,
    "d_ff": 80,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
_VIT = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "image_size": 32,
    "patch_size": 8,
}
_SPEECH = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "conv_dim": (32, 32, 32),
    "conv_stride": (5, 2, 2),
    "conv_kernel": (10, 3, 3),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "vocab_size": 32,
}
_GPT2 = {"vocab_size": 99, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 64}
_MOE = {**_LLAMA, "num_experts_per_tok": 2}
_TOWERS = {
    "text_config": {**_BERT, "projection_dim": 32},
    "vision_config": {**_VIT, "projection_dim": 32},
    "projection_dim": 32,
}
_BACKBONE = {
    "model_type": "resnet",
    "embedding_size": 16,
    "hidden_sizes": [16, 32, 48, 64],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
    "out_features": ["stage2", "stage3", "stage4"],
}

# name → (class, options of its config)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    # encoders
    "bert": ("BertForSequenceClassification", _BERT),
    "bert_mlm": ("BertForMaskedLM", _BERT),
    "roberta": ("RobertaForSequenceClassification", {**_BERT, "pad_token_id": 1}),
    "xlm_roberta": ("XLMRobertaForTokenClassification", {**_BERT, "pad_token_id": 1}),
    "camembert": ("CamembertForMaskedLM", {**_BERT, "pad_token_id": 1}),
    "deberta": ("DebertaForSequenceClassification", _BERT),
    "deberta_v2": (
        "DebertaV2ForSequenceClassification",
        {
            **_BERT,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 8,
        },
    ),
    "electra": ("ElectraForSequenceClassification", {**_BERT, "embedding_size": 32}),
    "modernbert": (
        "ModernBertForSequenceClassification",
        {
            **_BERT,
            "pad_token_id": 0,
            "cls_token_id": 1,
            "sep_token_id": 2,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "distilbert": (
        "DistilBertForSequenceClassification",
        {
            "vocab_size": 99,
            "dim": 48,
            "n_layers": 2,
            "n_heads": 4,
            "hidden_dim": 80,
            "max_position_embeddings": 64,
        },
    ),
    "albert": ("AlbertForSequenceClassification", {**_BERT, "embedding_size": 32}),
    "mpnet": ("MPNetForSequenceClassification", _BERT),
    "mobilebert": (
        "MobileBertForSequenceClassification",
        {**_BERT, "hidden_size": 64, "intra_bottleneck_size": 32, "embedding_size": 32},
    ),
    "squeezebert": ("SqueezeBertForSequenceClassification", {**_BERT, "embedding_size": 48}),
    "fnet": ("FNetForSequenceClassification", {**_BERT, "tpu_short_seq_length": 16}),
    "longformer": ("LongformerForSequenceClassification", {**_BERT, "attention_window": 8}),
    "roformer": ("RoFormerForSequenceClassification", {**_BERT, "embedding_size": 48}),
    "convbert": ("ConvBertForSequenceClassification", {**_BERT, "embedding_size": 32}),
    "funnel": (
        "FunnelForSequenceClassification",
        {
            "vocab_size": 99,
            "block_sizes": [1, 1],
            "d_model": 48,
            "n_head": 4,
            "d_head": 12,
            "d_inner": 80,
            "num_decoder_layers": 1,
        },
    ),
    "xlnet": (
        "XLNetForSequenceClassification",
        {"vocab_size": 99, "d_model": 48, "n_layer": 2, "n_head": 4, "d_inner": 80},
    ),
    # decoders
    "gpt2": ("GPT2LMHeadModel", _GPT2),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        {
            "vocab_size": 99,
            "hidden_size": 48,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "max_position_embeddings": 64,
        },
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", {**_BERT, "rotary_pct": 0.5}),
    "gptj": ("GPTJForCausalLM", {**_GPT2, "rotary_dim": 4}),
    "opt": (
        "OPTForCausalLM",
        {
            "vocab_size": 99,
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "ffn_dim": 80,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 48,
            "pad_token_id": 0,
        },
    ),
    "llama": ("LlamaForCausalLM", _LLAMA),
    "llama_tied": ("LlamaForCausalLM", {**_LLAMA, "tie_word_embeddings": True}),
    "mistral": ("MistralForCausalLM", {**_LLAMA, "sliding_window": 8}),
    "qwen2": ("Qwen2ForCausalLM", _LLAMA),
    "qwen3": ("Qwen3ForCausalLM", {**_LLAMA, "head_dim": 16}),
    "phi": ("PhiForCausalLM", _LLAMA),
    "phi3": ("Phi3ForCausalLM", _LLAMA),
    "gemma": ("GemmaForCausalLM", {**_LLAMA, "head_dim": 16}),
    "gemma2": ("Gemma2ForCausalLM", {**_LLAMA, "head_dim": 16, "sliding_window": 8}),
    "gemma3": ("Gemma3ForCausalLM", {**_LLAMA, "head_dim": 16, "sliding_window": 8}),
    "falcon": (
        "FalconForCausalLM",
        {
            "vocab_size": 99,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "alibi": False,
        },
    ),
    "bloom": ("BloomForCausalLM", {"vocab_size": 99, "hidden_size": 64, "n_layer": 2, "n_head": 4}),
    "mpt": (
        "MptForCausalLM",
        {"vocab_size": 99, "d_model": 64, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
    ),
    "stablelm": ("StableLmForCausalLM", _LLAMA),
    "olmo": ("OlmoForCausalLM", _LLAMA),
    "olmo2": ("Olmo2ForCausalLM", _LLAMA),
    "cohere": ("CohereForCausalLM", _LLAMA),
    "starcoder2": ("Starcoder2ForCausalLM", _LLAMA),
    "granite": ("GraniteForCausalLM", _LLAMA),
    "smollm3": ("SmolLM3ForCausalLM", _LLAMA),
    "glm": ("GlmForCausalLM", {**_LLAMA, "head_dim": 16}),
    "mixtral": ("MixtralForCausalLM", {**_MOE, "num_local_experts": 4}),
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        {
            **_MOE,
            "num_experts": 4,
            "moe_intermediate_size": 40,
            "shared_expert_intermediate_size": 80,
        },
    ),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        {**_MOE, "num_experts": 4, "moe_intermediate_size": 40, "head_dim": 16},
    ),
    "olmoe": ("OlmoeForCausalLM", {**_MOE, "num_experts": 4}),
    "mamba": (
        "MambaForCausalLM",
        {
            "vocab_size": 99,
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "state_size": 8,
            "time_step_rank": 6,
        },
    ),
    "mamba2": (
        "Mamba2ForCausalLM",
        {
            "vocab_size": 99,
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "state_size": 8,
            "head_dim": 12,
            "num_heads": 8,
            "n_groups": 2,
            "chunk_size": 8,
        },
    ),
    # encoder-decoders
    "t5": ("T5ForConditionalGeneration", _T5),
    "t5_gated": ("T5ForConditionalGeneration", {**_T5, "feed_forward_proj": "gated-gelu"}),
    "mt5": ("MT5ForConditionalGeneration", _T5),
    "bart": ("BartForConditionalGeneration", _BART),
    "mbart": ("MBartForConditionalGeneration", _BART),
    "marian": ("MarianMTModel", _BART),
    "pegasus": ("PegasusForConditionalGeneration", _BART),
    "m2m_100": ("M2M100ForConditionalGeneration", _BART),
    # vision
    "vit": ("ViTForImageClassification", _VIT),
    "deit": ("DeiTForImageClassification", _VIT),
    "beit": ("BeitForImageClassification", _VIT),
    "dinov2": ("Dinov2ForImageClassification", _VIT),
    "yolos": (
        "YolosForObjectDetection",
        {**_VIT, "image_size": [32, 32], "num_detection_tokens": 5},
    ),
    "swin": (
        "SwinForImageClassification",
        {
            "image_size": 32,
            "patch_size": 2,
            "embed_dim": 16,
            "depths": [1, 2],
            "num_heads": [2, 4],
            "window_size": 4,
        },
    ),
    "swinv2": (
        "Swinv2ForImageClassification",
        {
            "image_size": 32,
            "patch_size": 2,
            "embed_dim": 16,
            "depths": [1, 2],
            "num_heads": [2, 4],
            "window_size": 4,
        },
    ),
    "convnext": (
        "ConvNextForImageClassification",
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "image_size": 64},
    ),
    "convnextv2": (
        "ConvNextV2ForImageClassification",
        {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "image_size": 64},
    ),
    "resnet": (
        "ResNetForImageClassification",
        {k: v for k, v in _BACKBONE.items() if k != "model_type"},
    ),
    "regnet": (
        "RegNetForImageClassification",
        {
            "embedding_size": 16,
            "hidden_sizes": [16, 32, 48, 64],
            "depths": [1, 1, 1, 1],
            "groups_width": 8,
        },
    ),
    "mobilevit": (
        "MobileViTForImageClassification",
        {
            "image_size": 64,
            "hidden_sizes": [32, 48, 64],
            "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 64],
        },
    ),
    "segformer": (
        "SegformerForSemanticSegmentation",
        {
            "image_size": 64,
            "hidden_sizes": [16, 32, 48, 64],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 2, 4],
            "decoder_hidden_size": 32,
        },
    ),
    "poolformer": (
        "PoolFormerForImageClassification",
        {"image_size": 64, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]},
    ),
    "pvt": (
        "PvtForImageClassification",
        {
            "image_size": 64,
            "hidden_sizes": [16, 32, 48, 64],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 2, 4],
        },
    ),
    "levit": (
        "LevitForImageClassification",
        {
            "image_size": 64,
            "hidden_sizes": [32, 48, 64],
            "num_attention_heads": [2, 3, 4],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
        },
    ),
    "efficientnet": (
        "EfficientNetForImageClassification",
        {"image_size": 64, "width_coefficient": 0.5, "hidden_dim": 640},
    ),
    "mobilenet_v2": (
        "MobileNetV2ForImageClassification",
        {"image_size": 64, "depth_multiplier": 0.5},
    ),
    "detr": (
        "DetrForObjectDetection",
        {
            "backbone_config": _BACKBONE,
            "d_model": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "num_queries": 6,
        },
    ),
    "sam_encoder": (
        "SamVisionModel",
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 32,
            "patch_size": 4,
            "window_size": 4,
            "global_attn_indexes": [1],
            "output_channels": 16,
            "mlp_dim": 64,
        },
    ),
    "maskformer": (
        "Mask2FormerForUniversalSegmentation",
        {
            "backbone_config": {
                "model_type": "swin",
                "image_size": 64,
                "patch_size": 4,
                "embed_dim": 16,
                "depths": [1, 1, 1, 1],
                "num_heads": [2, 2, 2, 2],
                "window_size": 4,
                "out_features": ["stage1", "stage2", "stage3", "stage4"],
            },
            "feature_size": 32,
            "mask_feature_size": 32,
            "hidden_dim": 32,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "num_attention_heads": 4,
            "dim_feedforward": 48,
            "encoder_feedforward_dim": 48,
            "num_queries": 6,
        },
    ),
    "dpt": (
        "DPTForDepthEstimation",
        {
            **_VIT,
            "num_hidden_layers": 4,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [16, 16, 32, 32],
            "fusion_hidden_size": 16,
        },
    ),
    # audio
    "wav2vec2": ("Wav2Vec2ForCTC", _SPEECH),
    "wav2vec2_conformer": ("Wav2Vec2ConformerForCTC", _SPEECH),
    "hubert": ("HubertForSequenceClassification", _SPEECH),
    "wavlm": ("WavLMForCTC", _SPEECH),
    "whisper": (
        "WhisperForConditionalGeneration",
        {
            **{k: v for k, v in _BART.items() if k != "max_position_embeddings"},
            "max_source_positions": 50,
            "max_target_positions": 32,
            "num_mel_bins": 16,
        },
    ),
    "ast": (
        "ASTForAudioClassification",
        {
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 80,
            "max_length": 64,
            "num_mel_bins": 32,
        },
    ),
    # multimodal
    "clip": ("CLIPModel", _TOWERS),
    "siglip": (
        "SiglipModel",
        {"text_config": {**_BERT, "projection_size": 48}, "vision_config": _VIT},
    ),
    "blip": (
        "BlipForConditionalGeneration",
        {
            **_TOWERS,
            "text_config": {
                **_BERT,
                "encoder_hidden_size": 48,
                "projection_dim": 32,
                "bos_token_id": 1,
                "pad_token_id": 0,
                "eos_token_id": 2,
                "sep_token_id": 2,
            },
        },
    ),
    "vilt": (
        "ViltForQuestionAnswering",
        {**_BERT, "image_size": 32, "patch_size": 8, "max_image_length": -1},
    ),
    "clap": (
        "CLIPSegForImageSegmentation",
        {
            **_TOWERS,
            "extract_layers": [0, 1],
            "reduce_dim": 16,
            "decoder_num_attention_heads": 4,
            "decoder_intermediate_size": 32,
        },
    ),
    "llava": (
        "LlavaForConditionalGeneration",
        {
            "text_config": {**_LLAMA, "model_type": "llama"},
            "vision_config": {**_VIT, "model_type": "clip_vision_model"},
            "image_token_index": 98,
            "image_seq_length": 16,
            "vision_feature_layer": -1,
        },
    ),
}


def names() -> list[str]:
    """All models, `hf:bert` and so on."""
    return [f"hf:{name}" for name in MODELS]


def build(name: str) -> Any:
    """A tiny model of random weights, in eval mode."""
    import torch
    import transformers

    kind, options = MODELS[name]
    cls = getattr(transformers, kind)
    torch.manual_seed(0)
    return cls(cls.config_class(**options)).eval()
