"""Which ONNX operators TensorRT's parser reads, and for which number formats: a table of published facts.

Source: docs/operators.md of onnx/onnx-tensorrt at 96e7811 (TensorRT 10.1, opsets 9 to 20), the oldest table of the
10.x line. Later releases read more, so what is missing here may still be read; INT8, FP8 and INT4 go through
QuantizeLinear and DequantizeLinear only.
"""

SOURCE = "TensorRT 10.1"
OPSETS = range(9, 21)

_BY_FORMATS = {
    "FP32 FP16 BF16": (
        "Acos Acosh Asin Asinh Atan Atanh AveragePool BatchNormalization Ceil Celu Clip Conv ConvTranspose "
        "Cos Cosh CumSum Dropout Einsum Elu Erf Exp Floor GRU Gemm GlobalAveragePool GlobalLpPool "
        "GlobalMaxPool GroupNormalization HardSigmoid HardSwish Hardmax ImageScaler InstanceNormalization "
        "IsInf LRN LSTM LayerNormalization LeakyRelu Log LogSoftmax LpNormalization LpPool MatMul MaxPool "
        "MeanVarianceNormalization PRelu ParametricSoftplus Pow QuantizeLinear RNN RandomNormal "
        "RandomNormalLike RandomUniform RandomUniformLike Reciprocal Resize Round ScaledTanh Scan Selu "
        "Sigmoid Sin Sinh Softmax Softplus Softsign Sqrt Tan Tanh ThresholdedRelu Upsample"
    ),
    "FP32 FP16 BF16 INT32 INT64": (
        "Abs Add ArgMax ArgMin DepthToSpace Div Equal Greater GreaterOrEqual IsNaN Less LessOrEqual Max Min "
        "Mod Mul Neg Pad Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin "
        "ReduceProd ReduceSum ReduceSumSquare Relu Scatter ScatterElements ScatterND Shrink Sign SpaceToDepth "
        "Sub Sum TopK"
    ),
    "FP32 FP16 BF16 INT32 INT64 BOOL": (
        "Concat Constant ConstantOfShape Expand EyeLike Flatten Gather GatherElements GatherND Identity If "
        "Loop OneHot Reshape ReverseSequence Shape Size Slice Split Squeeze Tile Transpose Trilu Unsqueeze "
        "Where"
    ),
    "FP32 FP16": ("DeformConv GridSample Mish NonMaxSuppression NonZero RoiAlign"),
    "BOOL": ("And Not Or Xor"),
    "FP32 FP16 BF16 INT32 INT64 UINT8 BOOL": ("Cast CastLike"),
    "INT8 FP8 INT4": ("DequantizeLinear"),
    "FP32 FP16 BF16 INT8 INT32 INT64": ("Gelu"),
    "FP32 FP16 BF16 FP8 INT32 INT64": ("Mean"),
}

_NOT_READ = (
    "AffineGrid Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow "
    "CenterCropPad Col2Im Compress ConcatFromSequence ConvInteger DFT Det DynamicQuantizeLinear "
    "HammingWindow HannWindow ImageDecoder MatMulInteger MaxRoiPool MaxUnpool MelWeightMatrix Multinomial "
    "NegativeLogLikelihoodLoss Optional OptionalGetElement OptionalHasElement QLinearConv QLinearMatMul "
    "RegexFullMatch STFT SequenceAt SequenceConstruct SequenceEmpty SequenceErase SequenceInsert "
    "SequenceLength SequenceMap SoftmaxCrossEntropyLoss SplitToSequence StringConcat StringNormalizer "
    "StringSplit TfIdfVectorizer Unique"
)

FORMATS: dict[str, frozenset[str]] = {
    operator: frozenset(formats.split()) for formats, operators in _BY_FORMATS.items() for operator in operators.split()
}
"""Operator -> the formats it is read for."""

NOT_READ: frozenset[str] = frozenset(_NOT_READ.split())
"""Operators the table lists as not read."""
