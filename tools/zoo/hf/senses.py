"""Models of images, of sound, and of several at once."""

from __future__ import annotations

from zoo.hf.options import (
    BACKBONE,
    BART,
    BERT,
    CONVNEXT,
    LLAMA,
    SPEECH,
    SWIN,
    TOWERS,
    VIT,
    Options,
)

# name → (class, options of its config)
MODELS: dict[str, tuple[str, Options]] = {
    # vision
    "vit": ("ViTForImageClassification", VIT),
    "deit": ("DeiTForImageClassification", VIT),
    "beit": ("BeitForImageClassification", VIT),
    "dinov2": ("Dinov2ForImageClassification", VIT),
    "yolos": (
        "YolosForObjectDetection",
        {**VIT, "image_size": [32, 32], "num_detection_tokens": 5},
    ),
    "swin": ("SwinForImageClassification", SWIN),
    "swinv2": ("Swinv2ForImageClassification", SWIN),
    "convnext": ("ConvNextForImageClassification", CONVNEXT),
    "convnextv2": ("ConvNextV2ForImageClassification", CONVNEXT),
    "resnet": (
        "ResNetForImageClassification",
        {k: v for k, v in BACKBONE.items() if k != "model_type"},
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
        CONVNEXT,
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
            "backbone_config": BACKBONE,
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
            **VIT,
            "num_hidden_layers": 4,
            "backbone_out_indices": [0, 1, 2, 3],
            "neck_hidden_sizes": [16, 16, 32, 32],
            "fusion_hidden_size": 16,
        },
    ),
    # audio
    "wav2vec2": ("Wav2Vec2ForCTC", SPEECH),
    "wav2vec2_conformer": ("Wav2Vec2ConformerForCTC", SPEECH),
    "hubert": ("HubertForSequenceClassification", SPEECH),
    "wavlm": ("WavLMForCTC", SPEECH),
    "whisper": (
        "WhisperForConditionalGeneration",
        {
            **{k: v for k, v in BART.items() if k != "max_position_embeddings"},
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
    "clip": ("CLIPModel", TOWERS),
    "siglip": (
        "SiglipModel",
        {"text_config": {**BERT, "projection_size": 48}, "vision_config": VIT},
    ),
    "blip": (
        "BlipForConditionalGeneration",
        {
            **TOWERS,
            "text_config": {
                **BERT,
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
        {**BERT, "image_size": 32, "patch_size": 8, "max_image_length": -1},
    ),
    "clipseg": (
        "CLIPSegForImageSegmentation",
        {
            **TOWERS,
            "extract_layers": [0, 1],
            "reduce_dim": 16,
            "decoder_num_attention_heads": 4,
            "decoder_intermediate_size": 32,
        },
    ),
    "llava": (
        "LlavaForConditionalGeneration",
        {
            "text_config": {**LLAMA, "model_type": "llama"},
            "vision_config": {**VIT, "model_type": "clip_vision_model"},
            "image_token_index": 98,
            "image_seq_length": 16,
            "vision_feature_layer": -1,
        },
    ),
}
