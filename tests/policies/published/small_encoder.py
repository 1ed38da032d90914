"""A text encoder of the real class with random weights and a tokenizer of few words."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

WORDS = ["robot", "lift", "the", "pot", "press", "a", "red", "bell", "with", "both", "arms", "do", ":", "now"]


def write_encoder(folder: Path, seed: int = 0, width: int = 32) -> Path:
    """Write `text_encoder` and `tokenizer`, with features of `width` numbers. Unknown words are all the same token."""
    vocabulary = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(folder / "tokenizer")
    torch.manual_seed(seed)
    config = UMT5Config(vocab_size=len(vocabulary), d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    UMT5EncoderModel(config).to(torch.bfloat16).save_pretrained(folder / "text_encoder")
    return folder
