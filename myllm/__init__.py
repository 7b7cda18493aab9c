"""MyLLM: a large language model built in front of you, and the package the chapters build.

Names are loaded on first use (PEP 562), so ``import myllm`` costs nothing: torch is imported only when a
name that needs it is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from myllm.config import ModelConfig
    from myllm.course import check
    from myllm.evaluation.perplexity import perplexity
    from myllm.inference.generate import generate, stream
    from myllm.llm import LLM
    from myllm.model.attention import attend
    from myllm.model.transformer import Transformer
    from myllm.tokenizers.bpe import BPE
    from myllm.tokenizers.chat import render
    from myllm.tokenizers.pretrained import load_tokenizer

__version__ = "0.1.0"

_HOME = {
    "BPE": "myllm.tokenizers.bpe",
    "LLM": "myllm.llm",
    "ModelConfig": "myllm.config",
    "Transformer": "myllm.model.transformer",
    "attend": "myllm.model.attention",
    "check": "myllm.course",
    "generate": "myllm.inference.generate",
    "load_tokenizer": "myllm.tokenizers.pretrained",
    "perplexity": "myllm.evaluation.perplexity",
    "render": "myllm.tokenizers.chat",
    "stream": "myllm.inference.generate",
}

__all__ = [
    "BPE",
    "LLM",
    "ModelConfig",
    "Transformer",
    "__version__",
    "attend",
    "check",
    "generate",
    "load_tokenizer",
    "perplexity",
    "render",
    "stream",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'myllm' has no attribute {name!r}; it offers {', '.join(__all__)}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
