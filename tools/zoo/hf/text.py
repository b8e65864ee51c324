"""Models of text: encoders, decoders and both."""

from __future__ import annotations

from zoo.hf.options import BART, BERT, GPT2, LLAMA, MOE, T5, Options

# name → (class, options of its config)
MODELS: dict[str, tuple[str, Options]] = {
    # encoders
    "bert": ("BertForSequenceClassification", BERT),
    "bert_mlm": ("BertForMaskedLM", BERT),
    "roberta": ("RobertaForSequenceClassification", {**BERT, "pad_token_id": 1}),
    "xlm_roberta": ("XLMRobertaForTokenClassification", {**BERT, "pad_token_id": 1}),
    "camembert": ("CamembertForMaskedLM", {**BERT, "pad_token_id": 1}),
    "deberta": ("DebertaForSequenceClassification", BERT),
    "deberta_v2": (
        "DebertaV2ForSequenceClassification",
        {
            **BERT,
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 8,
        },
    ),
    "electra": ("ElectraForSequenceClassification", {**BERT, "embedding_size": 32}),
    "modernbert": (
        "ModernBertForSequenceClassification",
        {
            **BERT,
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
    "albert": ("AlbertForSequenceClassification", {**BERT, "embedding_size": 32}),
    "mpnet": ("MPNetForSequenceClassification", BERT),
    "mobilebert": (
        "MobileBertForSequenceClassification",
        {**BERT, "hidden_size": 64, "intra_bottleneck_size": 32, "embedding_size": 32},
    ),
    "squeezebert": ("SqueezeBertForSequenceClassification", {**BERT, "embedding_size": 48}),
    "fnet": ("FNetForSequenceClassification", {**BERT, "tpu_short_seq_length": 16}),
    "longformer": ("LongformerForSequenceClassification", {**BERT, "attention_window": 8}),
    "roformer": ("RoFormerForSequenceClassification", {**BERT, "embedding_size": 48}),
    "convbert": ("ConvBertForSequenceClassification", {**BERT, "embedding_size": 32}),
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
    "gpt2": ("GPT2LMHeadModel", GPT2),
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
    "gpt_neox": ("GPTNeoXForCausalLM", {**BERT, "rotary_pct": 0.5}),
    "gptj": ("GPTJForCausalLM", {**GPT2, "rotary_dim": 4}),
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
    "llama": ("LlamaForCausalLM", LLAMA),
    "llama_tied": ("LlamaForCausalLM", {**LLAMA, "tie_word_embeddings": True}),
    "mistral": ("MistralForCausalLM", {**LLAMA, "sliding_window": 8}),
    "qwen2": ("Qwen2ForCausalLM", LLAMA),
    "qwen3": ("Qwen3ForCausalLM", {**LLAMA, "head_dim": 16}),
    "phi": ("PhiForCausalLM", LLAMA),
    "phi3": ("Phi3ForCausalLM", LLAMA),
    "gemma": ("GemmaForCausalLM", {**LLAMA, "head_dim": 16}),
    "gemma2": ("Gemma2ForCausalLM", {**LLAMA, "head_dim": 16, "sliding_window": 8}),
    "gemma3": ("Gemma3ForCausalLM", {**LLAMA, "head_dim": 16, "sliding_window": 8}),
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
    "stablelm": ("StableLmForCausalLM", LLAMA),
    "olmo": ("OlmoForCausalLM", LLAMA),
    "olmo2": ("Olmo2ForCausalLM", LLAMA),
    "cohere": ("CohereForCausalLM", LLAMA),
    "starcoder2": ("Starcoder2ForCausalLM", LLAMA),
    "granite": ("GraniteForCausalLM", LLAMA),
    "smollm3": ("SmolLM3ForCausalLM", LLAMA),
    "glm": ("GlmForCausalLM", {**LLAMA, "head_dim": 16}),
    "mixtral": ("MixtralForCausalLM", {**MOE, "num_local_experts": 4}),
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        {
            **MOE,
            "num_experts": 4,
            "moe_intermediate_size": 40,
            "shared_expert_intermediate_size": 80,
        },
    ),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        {**MOE, "num_experts": 4, "moe_intermediate_size": 40, "head_dim": 16},
    ),
    "olmoe": ("OlmoeForCausalLM", {**MOE, "num_experts": 4}),
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
    "t5": ("T5ForConditionalGeneration", T5),
    "t5_gated": ("T5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu"}),
    "mt5": ("MT5ForConditionalGeneration", T5),
    "bart": ("BartForConditionalGeneration", BART),
    "mbart": ("MBartForConditionalGeneration", BART),
    "marian": ("MarianMTModel", BART),
    "pegasus": ("PegasusForConditionalGeneration", BART),
    "m2m_100": ("M2M100ForConditionalGeneration", BART),
}
