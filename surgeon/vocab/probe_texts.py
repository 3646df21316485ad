"""Texts that tell tokenizers apart: what loaders rebuild differently, and what llama.cpp recognises them by."""

from __future__ import annotations

HARD_TEXTS: tuple[str, ...] = (
    "The quick brown fox jumps over the lazy dog.",
    " a leading space",
    "a trailing space ",
    "two  spaces,   three,    four",
    "\n\nlines\n\n\nand\ttabs\t\t\r\nof Windows\n",
    "   \n   \n\t",
    "I've DON'T we'll 'RE it's they'd O'Neill's",
    "1 12 123 1234 12345 3.14159 1,000,000 2026-01-31 0xFF",
    "def f(x):\n    return {\"a\": [1, 2], 'b': x ** 2}  # ok != no\n",
    "https://example.org/a_b-c?d=e&f=%20 user.name@mail.example",
    "émigré naïve Ångström e\u0301 o\u0308 n\u0303",
    "ﬁ ligature ½ ① Ⅳ ｆｕｌｌ ２０２６ ㎏",
    "🙂🚀👩‍👩‍👧‍👦🇪🇪 ✅ ❤️",
    "Καλημέρα κόσμε, Ευαγγελία",
    "नमस्ते दुनिया, क्षत्रिय",
    "வணக்கம் உலகம்",
    "日本語の文章。「東京」へ行く。",
    "مرحبا بالعالم، שלום עולם",
    "ภาษาไทยไม่มีช่องว่าง 한국어 문장",
    "a\u00a0b\u2003c\u200bd\u200de\u3000f",
    "nul\x00 bell\x07 esc\x1b del\x7f",
    "—–‘’“”…•·«»¿¡§¶†‡",
    "<s></s><unk><pad> <|endoftext|> <|im_start|> [CLS] [SEP] [MASK]",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa !!!!!!!! ........ ________",
    "Ａ\ud7a3\ufffd\ufeffB",
)

# of convert_hf_to_gguf_update.py (llama.cpp, MIT): the SHA-256 of the ids of this text names the pre-tokenizer
LLAMA_CPP_TEXT = (
    "\n \n\n \n\n\n \t \t\t \t\n  \n   \n    \n     \n🚀 (normal) 😶\u200d🌫\ufe0f "
    "(multiple emojis concatenated) ✅ 🦙🦙 3 33 333 3333 33333 333333 3333333 "
    "33333333 3.3 3..3 3...3 កាន់តែពិសេសអាច😁 ?我想在apple工作1314151天～ "
    "------======= нещо на Български ''''''```````\"\"\"\"......!!!!!!?????? "
    "I've been 'told he's there, 'RE you sure? 'M not sure I'll make it, 'D "
    "you like some tea? We'Ve a'lL"
)
