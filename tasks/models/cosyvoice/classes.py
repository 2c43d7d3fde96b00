"""Which of our classes stands for a class that a published model YAML names: the only names a YAML can reach.

Ours are written ``module:Class`` and imported when one is built, so an estimator does not import an encoder.
"""

HERE = "tasks.models.cosyvoice."

CLASSES: dict[str, str] = {
    published: HERE + ours
    for published, ours in {
        "cosyvoice.flow.flow.MaskedDiffWithXvec": "flow1:MaskedDiffWithXvec",
        "cosyvoice.flow.flow.CausalMaskedDiffWithXvec": "flow2:CausalMaskedDiffWithXvec",
        "cosyvoice.flow.flow.CausalMaskedDiffWithDiT": "flow3:CausalMaskedDiffWithDiT",
        "cosyvoice.flow.flow_matching.ConditionalCFM": "cached_flow_matching:ConditionalCFM",
        "cosyvoice.flow.flow_matching.CausalConditionalCFM": "flow_matching:CausalConditionalCFM",
        "cosyvoice.flow.decoder.ConditionalDecoder": "unet:ConditionalDecoder",
        "cosyvoice.flow.decoder.CausalConditionalDecoder": "unet:CausalConditionalDecoder",
        "cosyvoice.flow.DiT.dit.DiT": "dit:DiT",
        "cosyvoice.flow.length_regulator.InterpolateRegulator": "length_regulator:InterpolateRegulator",
        "cosyvoice.transformer.encoder.ConformerEncoder": "conformer_encoder:ConformerEncoder",
        "cosyvoice.transformer.encoder.TransformerEncoder": "transformer_encoder:TransformerEncoder",
        "cosyvoice.transformer.upsample_encoder.UpsampleConformerEncoder": "upsample_encoder:UpsampleConformerEncoder",
        "cosyvoice.transformer.upsample_encoder.PreLookaheadLayer": "lookahead:PreLookaheadLayer",
        "cosyvoice.llm.llm.TransformerLM": "llm1:TransformerLM",
        "cosyvoice.llm.llm.Qwen2LM": "llm2:Qwen2LM",
        "cosyvoice.llm.llm.CosyVoice3LM": "llm3:CosyVoice3LM",
        "cosyvoice.llm.llm.Qwen2Encoder": "qwen2_encoder:Qwen2Encoder",
        "cosyvoice.tokenizer.tokenizer.get_qwen_tokenizer": "qwen_tokenizer:QwenTokenizer",
        "cosyvoice.tokenizer.tokenizer.get_tokenizer": "whisper_tokenizer:own_tokenizer",
        "whisper.tokenizer.get_tokenizer": "whisper_tokenizer:whisper_tokenizer",
        "cosyvoice.utils.common.ras_sampling": "sampling:ras_sampling",
        "cosyvoice.utils.common.random_sampling": "sampling:random_sampling",
        "cosyvoice.hifigan.generator.HiFTGenerator": "hift:HiFTGenerator",
        "cosyvoice.hifigan.generator.CausalHiFTGenerator": "causal_hift:CausalHiFTGenerator",
        "cosyvoice.hifigan.f0_predictor.ConvRNNF0Predictor": "f0_predictor:ConvRNNF0Predictor",
        "cosyvoice.hifigan.f0_predictor.CausalConvRNNF0Predictor": "causal_f0_predictor:CausalConvRNNF0Predictor",
    }.items()
}

# The flow's class tells the generation of a folder, and so the setting that reads it.
MODEL_OF_FLOW: dict[str, str] = {
    "cosyvoice.flow.flow.MaskedDiffWithXvec": "cosyvoice",
    "cosyvoice.flow.flow.CausalMaskedDiffWithXvec": "cosyvoice2",
    "cosyvoice.flow.flow.CausalMaskedDiffWithDiT": "cosyvoice3",
}
