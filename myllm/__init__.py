"""MyLLM: a large language model built step by step, and the package that the chapters build.

Names are loaded on first use (PEP 562), so ``import myllm`` is fast: torch is imported only when a name that
needs it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from myllm.config import ModelConfig as ModelConfig
    from myllm.course import check as check
    from myllm.evaluation.perplexity import perplexity as perplexity
    from myllm.finetuning.classify import Classify as Classify
    from myllm.finetuning.lora import apply_lora as apply_lora
    from myllm.finetuning.sft import SFT as SFT
    from myllm.inference.generate import generate as generate
    from myllm.inference.generate import stream as stream
    from myllm.inference.sampling import SamplingConfig as SamplingConfig
    from myllm.llm import LLM as LLM
    from myllm.model.attention import attend as attend
    from myllm.model.cache import KVCache as KVCache
    from myllm.model.transformer import Transformer as Transformer
    from myllm.quantization.schemes import quantize as quantize
    from myllm.tokenizers.bpe import BPE as BPE
    from myllm.tokenizers.chat import render as render
    from myllm.tokenizers.pretrained import load_tokenizer as load_tokenizer
    from myllm.training.loop import Trainer as Trainer
    from myllm.training.pretrain import Pretrain as Pretrain
    from myllm.training.settings import TrainConfig as TrainConfig

__version__ = "1.0.0"

_HOME = {
    "BPE": "myllm.tokenizers.bpe",
    "Classify": "myllm.finetuning.classify",
    "KVCache": "myllm.model.cache",
    "LLM": "myllm.llm",
    "ModelConfig": "myllm.config",
    "Pretrain": "myllm.training.pretrain",
    "SFT": "myllm.finetuning.sft",
    "SamplingConfig": "myllm.inference.sampling",
    "TrainConfig": "myllm.training.settings",
    "Trainer": "myllm.training.loop",
    "Transformer": "myllm.model.transformer",
    "apply_lora": "myllm.finetuning.lora",
    "attend": "myllm.model.attention",
    "check": "myllm.course",
    "generate": "myllm.inference.generate",
    "load_tokenizer": "myllm.tokenizers.pretrained",
    "perplexity": "myllm.evaluation.perplexity",
    "quantize": "myllm.quantization.schemes",
    "render": "myllm.tokenizers.chat",
    "stream": "myllm.inference.generate",
}

__all__ = [*_HOME, "__version__"]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'myllm' has no attribute {name!r}; it offers {', '.join(__all__)}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
