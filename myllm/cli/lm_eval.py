"""An `LLM` behind the interface of lm_eval, EleutherAI's harness, which knows thousands of tasks."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import groupby
from typing import TYPE_CHECKING, Any

from myllm.files import UserError

if TYPE_CHECKING:
    from myllm.llm import LLM

NAMES = {"until": "stop", "max_gen_toks": "max_new_tokens"}
"""What lm_eval calls options of `LLM.complete`."""


def lm_eval_model(llm: "LLM", *, batch_size: int = 16) -> Any:
    """A model for lm_eval: ``lm_eval.simple_evaluate(lm_eval_model(llm), tasks=["arc_easy"])``.

    Log-likelihoods are those of `multiple_choice`, rolling ones those of `score_text`. A text that does not
    fit into the context is an error, and is never cut. Chat formats are not applied.

    Args:
        llm: The model with its tokenizer.
        batch_size: Texts in a forward pass; it changes no result.

    Raises:
        UserError: The model has no tokenizer, or lm_eval, from the extra ``evaluate``, is not installed.
    """
    from myllm.evaluation.harness import score_text
    from myllm.evaluation.multiple_choice import likelihoods, row

    if (tokenizer := llm.tokenizer) is None:
        raise UserError("This model came without a tokenizer, but tasks are texts; give it one.")
    base: Any = _library("lm_eval.api.model").LM

    class Model(base):
        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            rows = [row(tokenizer, *request.args) for request in requests]
            return likelihoods(llm.model, rows, batch_size=batch_size)

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            return [-score_text(llm, *request.args)[1].double().sum().item() for request in requests]

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            found: list[str] = []
            for given, group in groupby(requests, key=lambda request: request.args[1]):
                prompts, options = [request.args[0] for request in group], sampling(given)
                for i in range(0, len(prompts), batch_size):
                    found += llm.generate(prompts[i : i + batch_size], **options)
            return found

    return Model()


def sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a request to lm_eval, under the names of `LLM.complete`.

    As in lm_eval, at most 256 tokens are generated where nothing is said, and ``do_sample`` alone means a
    temperature of 1.

    Raises:
        UserError: An option that `LLM.complete` does not have.
    """
    from myllm.inference.sampling import ORDER

    options = {"max_new_tokens": 256} | {NAMES.get(key, key): value for key, value in given.items()}
    sampled = options.pop("do_sample", options.get("temperature", 0) > 0)
    if unknown := options.keys() - {*NAMES.values(), *ORDER}:
        raise UserError(f"A task of lm_eval sets {min(unknown)}, which has no meaning here; leave it out.")
    return options | {"temperature": options.get("temperature", 1.0) if sampled else 0.0}


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError("lm_eval is not installed; run pip install 'myllm-course[evaluate]'.") from error
