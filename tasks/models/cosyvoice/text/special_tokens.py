"""Special tokens that CosyVoice models add to their text vocabularies, in the order of their ids."""


def _words(text: str) -> list[str]:
    return text.split()


PROMPT_MARKS = ("<|im_start|>", "<|im_end|>", "<|endofprompt|>")
SOUNDS = (
    "[breath]", "<strong>", "</strong>", "[noise]", "[laughter]", "[cough]", "[clucking]", "[accent]",
    "[quick_breath]", "<laughter>", "</laughter>", "[hissing]", "[sigh]", "[vocalized-noise]", "[lipsmack]", "[mn]",
)  # fmt: skip

# English phonemes of the CMU dictionary; vowels without and with stress.
_VOWELS = _words("AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW")
_CONSONANTS = _words("B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH")
# Initials and finals of Mandarin pinyin, finals with tone.
_PINYIN = _words(
    "a ai an ang ao b c ch d e ei en eng f g h i ian in ing iu ià iàn iàng iào iá ián iáng iáo iè ié iòng ióng iù iú "
    "iā iān iāng iāo iē iě iōng iū iǎ iǎn iǎng iǎo iǒng iǔ j k l m n o ong ou p q r s sh t u uang ue un uo uà uài "
    "uàn uàng uá uái uán uáng uè ué uì uí uò uó uā uāi uān uāng uē uě uī uō uǎ uǎi uǎn uǎng uǐ uǒ vè w x y z zh "
    "à ài àn àng ào á ái án áng áo è èi èn èng èr é éi én éng ér ì ìn ìng í ín íng ò òng òu ó óng óu ù ùn ú ún "
    "ā āi ān āng āo ē ēi ēn ēng ě ěi ěn ěng ěr ī īn īng ō ōng ōu ū ūn ǎ ǎi ǎn ǎng ǎo ǐ ǐn ǐng ǒ ǒng ǒu ǔ ǔn ǘ ǚ ǜ"
)


def _phonemes() -> tuple[str, ...]:
    stressed = [f"{vowel}{stress}" for vowel in _VOWELS for stress in ("", "0", "1", "2")]
    return tuple(f"[{name}]" for name in (*sorted([*stressed, *_CONSONANTS]), *_PINYIN))


COSYVOICE2_TOKENS = (*PROMPT_MARKS, *SOUNDS)
COSYVOICE3_TOKENS = (*COSYVOICE2_TOKENS, "<|endofsystem|>", *_phonemes())

# Whisper's languages in the order of their ids, then those added by CosyVoice 1.
LANGUAGES = _words(
    "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr bg lt la mi ml "
    "cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn yo so af oc ka be tg sd gu am "
    "yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su yue minnan wuyu dialect zh/en en/zh"
)
_EVENTS = _words("ASR AED SER Speech /Speech BGM /BGM Laughter /Laughter Applause /Applause HAPPY SAD ANGRY NEUTRAL")
_VOICES = [f"TTS/{name}" for name in (*_words("B O Q A CO CL H"), *(f"SP{number:02}" for number in range(1, 14)))]
_TASKS = _words("translate transcribe startoflm startofprev nospeech notimestamps")
_TIMES = [f"{number * 0.02:.2f}" for number in range(1501)]  # seconds in a 30 s window


def whisper_tokens(languages: int) -> list[str]:
    """Special tokens of Whisper for its first ``languages`` languages."""
    return _marked("endoftext", "startoftranscript", *LANGUAGES[:languages], *_TASKS, *_TIMES)


def cosyvoice1_tokens(languages: int) -> list[str]:
    """Special tokens of CosyVoice 1: those of Whisper, and sound events, moods, reserved tokens and voices."""
    reserved = [f"SPECIAL_TOKEN_{number}" for number in range(1, 31)]
    marks = ("endoftext", "startoftranscript", *LANGUAGES[:languages])
    return _marked(*marks, *_EVENTS, *_TASKS, *reserved, *_VOICES, *_TIMES)


def _marked(*names: str) -> list[str]:
    return [f"<|{name}|>" for name in names]
