"""The language model of CosyVoice 2."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from tasks.models.cosyvoice.llm.common import Sampler
from tasks.models.cosyvoice.llm.qwen2_backbone import Qwen2Encoder
from tasks.models.cosyvoice.llm.qwen_lm import QwenSpeechLM, SpecialTokens


class Qwen2LM(QwenSpeechLM):
    """[start][text][task][speech tokens]; start and task have their own embedding; there are no instructions.

    Arguments as in QwenSpeechLM; ``llm_input_size`` is the width of the input rows, ``llm_output_size`` that of the
    hidden states.
    """

    def __init__(
        self,
        *,
        llm_input_size: int,
        llm_output_size: int,
        speech_token_size: int,
        llm: Qwen2Encoder,
        sampling: Sampler,
        length_normalized_loss: bool = True,
        lsm_weight: float = 0.0,
        mix_ratio: Sequence[int] = (5, 15),
    ) -> None:
        tokens = speech_token_size + 3
        super().__init__(
            speech_token_size=speech_token_size,
            special=SpecialTokens(
                eos=speech_token_size, fill=speech_token_size + 2, stops=range(speech_token_size, tokens)
            ),
            llm=llm,
            sampling=sampling,
            length_normalized_loss=length_normalized_loss,
            lsm_weight=lsm_weight,
            mix_ratio=mix_ratio,
        )
        self.llm_embedding = nn.Embedding(2, llm_input_size)
        self.llm_decoder = nn.Linear(llm_output_size, tokens)
        self.speech_embedding = nn.Embedding(tokens, llm_input_size)

    def special_rows(self) -> tuple[Tensor, Tensor]:
        """See VllmExportable."""
        return self.llm_embedding.weight[:1], self.llm_embedding.weight[1:]

    def instructions(self, batch: Mapping[str, Tensor]) -> list[Tensor]:
        """Empty for every sample."""
        return [self.speech_embedding.weight[:0]] * len(batch["text_token"])

    def split_prompt(self, prompt_text: Tensor) -> tuple[Tensor, Tensor]:
        """The whole prompt takes part in the turns."""
        return prompt_text[:, :0], prompt_text
