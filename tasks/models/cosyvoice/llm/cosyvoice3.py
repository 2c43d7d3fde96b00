"""The language model of CosyVoice 3: as CosyVoice 2, with instructions and one embedding for all tokens it emits."""

from collections.abc import Mapping, Sequence
from functools import cached_property

from torch import Tensor, nn

from tasks.errors import UserError
from tasks.models.cosyvoice.llm.common import Sampler, without_padding
from tasks.models.cosyvoice.llm.qwen2_backbone import Qwen2Encoder
from tasks.models.cosyvoice.llm.qwen_lm import QwenSpeechLM, SpecialTokens
from tasks.models.cosyvoice.text.qwen_tokenizer import QwenTokenizer

_SPECIAL_TOKENS = 200  # rows of the speech embedding after the speech tokens
_END_OF_PROMPT = "<|endofprompt|>"


class CosyVoice3LM(QwenSpeechLM):
    """[start][instruction][text][task][speech tokens]; start and task are rows of the speech embedding.

    Arguments as in Qwen2LM.
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
        tokens = speech_token_size + _SPECIAL_TOKENS
        super().__init__(
            speech_token_size=speech_token_size,
            special=SpecialTokens(
                eos=speech_token_size + 1, fill=speech_token_size + 3, stops=range(speech_token_size, tokens)
            ),
            llm=llm,
            sampling=sampling,
            length_normalized_loss=length_normalized_loss,
            lsm_weight=lsm_weight,
            mix_ratio=mix_ratio,
        )
        self.llm_decoder = nn.Linear(llm_output_size, tokens, bias=False)
        self.speech_embedding = nn.Embedding(tokens, llm_input_size)

    @cached_property
    def end_of_prompt(self) -> int:
        """The text token that ends an instruction; 151646 in the original vocabulary.

        Raises:
            UserError: the folder of the language model has no tokenizer.
        """
        (token,) = QwenTokenizer(token_path=self.llm.folder, version="cosyvoice3").encode(_END_OF_PROMPT)
        return token

    def special_rows(self) -> tuple[Tensor, Tensor]:
        """See VllmExportable."""
        first = self.speech_token_size
        return self.speech_embedding.weight[first : first + 1], self.speech_embedding.weight[first + 2 : first + 3]

    def instructions(self, batch: Mapping[str, Tensor]) -> list[Tensor]:
        """instruct_token [batch, n] with lengths instruct_token_len [batch], embedded as text."""
        rows = without_padding(batch["instruct_token"], batch["instruct_token_len"])
        return [self.llm.embed_text(tokens) for tokens in rows]

    def require_instruction(self, text: Tensor) -> None:
        """See QwenSpeechLM; every training text of this model contains an instruction and its end token."""
        self._end_of_instruction(text, "text")

    def split_prompt(self, prompt_text: Tensor) -> tuple[Tensor, Tensor]:
        """The instruction including its end token precedes the turns.

        Raises:
            UserError: the prompt has no instruction.
        """
        start = self._end_of_instruction(prompt_text, "prompt_text")
        return prompt_text[:, :start], prompt_text[:, start:]

    def _end_of_instruction(self, text: Tensor, where: str) -> int:
        """The position after the end token in a text [1, n]."""
        ends = (text[0] == self.end_of_prompt).nonzero()
        if len(ends) == 0:
            raise UserError(
                f"the {_END_OF_PROMPT} token is missing",
                where=where,
                value=text[0].tolist(),
                remedy=f"Begin the text with an instruction, such as 'You are a helpful assistant.{_END_OF_PROMPT}'",
            )
        return int(ends[0]) + 1
