"""Operators of ONNX and of ONNX Runtime that are locked on purpose, and why."""

from __future__ import annotations

from graphprune.rules.registry import locked

_PREFIX = "com.microsoft::"
_BLOCKED = "com.microsoft.nchwc::"


def _named(names: str, domain: str = "") -> list[str]:
    return [f"{domain}{name}" for name in names.split()]


locked(
    "how many results there are depends on the data",
    *_named("NonMaxSuppression NonZero Unique Compress"),
    *_named("Unique NGramRepeatBlock", _PREFIX),
)
locked("the graph inside reads it by name, at the length that it has", *_named("If Loop Scan"))
locked(
    "a sequence of which it is not known beforehand what it holds",
    *_named("ConcatFromSequence SequenceAt SequenceConstruct SequenceEmpty SequenceErase"),
    *_named("SequenceInsert SequenceLength SequenceMap SplitToSequence"),
)
locked("a value that may be absent", *_named("OptionalHasElement"))
# A runtime takes and gives them as such only inside a whole graph.
locked(
    "a value that may be absent",
    *_named("Optional OptionalGetElement"),
    run=lambda held, **_: held,
)
locked(
    "text, not numbers",
    *_named("StringConcat StringNormalizer StringSplit RegexFullMatch TfIdfVectorizer"),
    *_named("Tokenizer MurmurHash3", _PREFIX),
    *_named("CategoryMapper LabelEncoder", "ai.onnx.ml::"),
)
locked("a picture in a file's bytes", "ImageDecoder")
locked("made of numbers alone, which are worked out ahead", *_named("Constant Shape Size"))
locked("a table whose entries belong to positions", *_named("EyeLike MelWeightMatrix AffineGrid"))
locked("frequencies, each of them a sum over all positions", "STFT")
locked("frequencies, each of them a sum over all positions", *_named("Rfft Irfft", _PREFIX))
locked("the determinant or the inverse of a whole matrix", "Det", f"{_PREFIX}Inverse")
locked("positions counted over the whole tensor", *_named("MaxUnpool"))
locked("a cache that the caller holds, written at positions", "TensorScatter")
locked("states of fixed size from step to step", *_named("LinearAttention CausalConvWithState"))
locked(
    "states of fixed size from step to step",
    *_named("AttnLSTM CausalConvWithState ConvStateReplay GatedDeltaNet", _PREFIX),
    *_named("GatedDeltaNetStateReplay LinearAttention LinearAttentionGate Mamba2Verify", _PREFIX),
    *_named("VarlenCausalConvWithState", _PREFIX),
)
locked(
    "a loss, which only training computes",
    *_named("NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss"),
)
locked(
    "a step of training",
    *_named("Adagrad Adam Gradient Momentum", "ai.onnx.preview.training::"),
)
locked("a graph inside says what becomes of each score", "ai.onnx.preview::FlexAttention")
locked(
    "a number for each feature stands in its attributes",
    *_named("Imputer LinearClassifier LinearRegressor Scaler SVMClassifier", "ai.onnx.ml::"),
    *_named("SVMRegressor TreeEnsemble TreeEnsembleClassifier", "ai.onnx.ml::"),
    *_named("TreeEnsembleRegressor", "ai.onnx.ml::"),
)
locked(
    "features taken by number",
    *_named("ArrayFeatureExtractor FeatureVectorizer OneHotEncoder", "ai.onnx.ml::"),
)
locked("each row is divided by a number that all its features make", "ai.onnx.ml::Normalizer")
locked("each feature becomes zero or one", "ai.onnx.ml::Binarizer")
locked("a map from names to numbers", *_named("CastMap DictVectorizer ZipMap", "ai.onnx.ml::"))
locked(
    "a whole search, with graphs inside",
    *_named("BeamSearch GreedySearch Sampling WhisperBeamSearch", _PREFIX),
)
locked(
    "keys and values in a cache that the runtime lays out",
    *_named("DecoderAttention DecoderMaskedMultiHeadAttention PagedAttention", _PREFIX),
    *_named("DecoderMaskedSelfAttention DynamicSparseAttention SparseAttention", _PREFIX),
    *_named("SparseAttentionIndexer SparsePagedAttention SpeculativePrefixCommit", _PREFIX),
    *_named("PackedSparseAttentionIndexer PackedSparseAttentionIndexerMerge", _PREFIX),
)
locked(
    "sequences packed one behind the other",
    *_named("GatherPacked MatMulPacked MoEPacked PackedAttention RemovePadding", _PREFIX),
    *_named("PackedMultiHeadAttention RestorePadding", _PREFIX),
)
locked("attention within windows of a fixed width", f"{_PREFIX}LongformerAttention")
locked("experts that each token chooses", *_named("MoEGroupRouter RouterGateUpProj", _PREFIX))
locked(
    "numbers packed in blocks",
    *_named("DequantizeBFP GatherBlockQuantized GemmFloat8 MatMulFpQ4 QMoE QuantizeBFP", _PREFIX),
    *_named("MatMulBlockQuantizedFp4Weight MatMulBlockQuantizedFp8Weight", _PREFIX),
    *_named("MatMulNBitsMlp MatMulNBitsQLoRA MatMulNBitsQkv QEmbedLayerNormalization", _PREFIX),
)
locked(
    "integers laid out for one kind of processor",
    *_named("DequantizeWithOrder QOrderedAttention QOrderedGelu QOrderedMatMul", _PREFIX),
    *_named("QOrderedLayerNormalization QOrderedLongformerAttention", _PREFIX),
    *_named("QuantizeWithOrder MatMulInteger16 MulInteger ReduceSumInteger", _PREFIX),
)
locked(
    "channels in blocks, laid out for one machine: optimise at most at the extended level",
    *_named("AveragePool Conv GlobalAveragePool GlobalMaxPool MaxPool", _BLOCKED),
    *_named("ReorderInput ReorderOutput Upsample", _BLOCKED),
)
locked(
    "channels last, in weights too",
    *_named("NhwcConv NhwcFusedConv NhwcMaxPool SkipGroupNorm BiasSplitGelu", _PREFIX),
)
locked(
    "fused for one model, its parts in an order of their own",
    *_named("BiasDropout BiasSoftmax BitmaskBiasDropout BitmaskDropout ComplexMul", _PREFIX),
    *_named("BranchwiseRMSNorm ComplexMulConj EngramGate FusedMatMulActivation", _PREFIX),
    *_named("GatedAdd GatedRMSNorm GatedRelativePositionBias GemmFastGelu", _PREFIX),
    *_named("GemmaRotaryEmbedding HyperConnectionLowRankMix HyperConnectionPostMix", _PREFIX),
    *_named("HyperConnectionPreMix MRotaryEmbedding NGramHashMapping RMSNormRotary", _PREFIX),
    *_named("RelativePositionBias ScaledSiLU SwiGLU VarlenNGramHashMapping", _PREFIX),
    *_named("WordConvEmbedding", _PREFIX),
)
locked("another program's graph, compiled", *_named("EPContext Snpe SampleOp", _PREFIX))
locked(
    "positions compared, moved or cut out by numbers that are computed",
    *_named("BifurcationDetector CDist ConvTransposeWithDynamicPads CropAndResize", _PREFIX),
    *_named("DynamicTimeWarping ExpandDims GatherND GridSample MaxpoolWithMask Pad", _PREFIX),
    *_named("IsAllFinite Range SparseToDenseMatMul TorchEmbedding Trilu UnfoldTensor", _PREFIX),
)
