"""Maps the class names in the original model YAML files to local classes; a YAML can name no other class.

Local classes are written ``module:Class`` and imported when built, so building an estimator imports no encoder.
"""

PACKAGE = "tasks.models.cosyvoice."

CLASSES: dict[str, str] = {
    original: PACKAGE + local
    for original, local in {
        "cosyvoice.flow.flow.MaskedDiffWithXvec": "flow.cosyvoice1:MaskedDiffWithXvec",
        "cosyvoice.flow.flow.CausalMaskedDiffWithXvec": "flow.cosyvoice2:CausalMaskedDiffWithXvec",
        "cosyvoice.flow.flow.CausalMaskedDiffWithDiT": "flow.cosyvoice3:CausalMaskedDiffWithDiT",
        "cosyvoice.flow.flow_matching.ConditionalCFM": "flow.cached_solver:ConditionalCFM",
        "cosyvoice.flow.flow_matching.CausalConditionalCFM": "flow.solver:CausalConditionalCFM",
        "cosyvoice.flow.decoder.ConditionalDecoder": "estimator.unet:ConditionalDecoder",
        "cosyvoice.flow.decoder.CausalConditionalDecoder": "estimator.unet:CausalConditionalDecoder",
        "cosyvoice.flow.DiT.dit.DiT": "estimator.dit:DiT",
        "cosyvoice.flow.length_regulator.InterpolateRegulator": "flow.length_regulator:InterpolateRegulator",
        "cosyvoice.transformer.encoder.ConformerEncoder": "encoder.conformer:ConformerEncoder",
        "cosyvoice.transformer.encoder.TransformerEncoder": "encoder.transformer:TransformerEncoder",
        "cosyvoice.transformer.upsample_encoder.UpsampleConformerEncoder": "encoder.upsample:UpsampleConformerEncoder",
        "cosyvoice.transformer.upsample_encoder.PreLookaheadLayer": "encoder.lookahead:PreLookaheadLayer",
        "cosyvoice.llm.llm.TransformerLM": "llm.cosyvoice1:TransformerLM",
        "cosyvoice.llm.llm.Qwen2LM": "llm.cosyvoice2:Qwen2LM",
        "cosyvoice.llm.llm.CosyVoice3LM": "llm.cosyvoice3:CosyVoice3LM",
        "cosyvoice.llm.llm.Qwen2Encoder": "llm.qwen2_backbone:Qwen2Encoder",
        "cosyvoice.tokenizer.tokenizer.get_qwen_tokenizer": "text.qwen_tokenizer:QwenTokenizer",
        "cosyvoice.tokenizer.tokenizer.get_tokenizer": "text.whisper_tokenizer:cosyvoice_tokenizer",
        "whisper.tokenizer.get_tokenizer": "text.whisper_tokenizer:whisper_tokenizer",
        "cosyvoice.utils.common.ras_sampling": "llm.sampling:ras_sampling",
        "cosyvoice.utils.common.random_sampling": "llm.sampling:random_sampling",
        "cosyvoice.hifigan.generator.HiFTGenerator": "vocoder.hift:HiFTGenerator",
        "cosyvoice.hifigan.generator.CausalHiFTGenerator": "vocoder.causal_hift:CausalHiFTGenerator",
        "cosyvoice.hifigan.f0_predictor.ConvRNNF0Predictor": "vocoder.f0_predictor:ConvRNNF0Predictor",
        "cosyvoice.hifigan.f0_predictor.CausalConvRNNF0Predictor": (
            "vocoder.causal_f0_predictor:CausalConvRNNF0Predictor"
        ),
    }.items()
}

# The class of the flow identifies the generation of a folder: the value of the setting ``model`` that fits it.
MODEL_OF_FLOW: dict[str, str] = {
    "cosyvoice.flow.flow.MaskedDiffWithXvec": "cosyvoice",
    "cosyvoice.flow.flow.CausalMaskedDiffWithXvec": "cosyvoice2",
    "cosyvoice.flow.flow.CausalMaskedDiffWithDiT": "cosyvoice3",
}
