"""Models of the `transformers` package with random weights and tiny configurations; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.engine.any_model import EXACT, Problem, check, twin

N, T, V, C = 2, 4, 11, 3  # samples, tokens, vocabulary, classes

IN_FLOAT32 = 1e-5
"""Tolerance of models that compute their norms or their softmax in float32 whatever the precision of the weights."""

SIZES = {
    "vocab_size": V,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 12,
    "max_position_embeddings": T,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@dataclass(frozen=True)
class Case:
    """A model class with its configuration, the data for it, and the largest relative error."""

    model: str
    config: Callable[[ModuleType], Any]
    inputs: Callable[[], tuple[Tensor, ...]]
    compute: Callable[..., Tensor]
    targets: Callable[[], Tensor]
    tolerance: float = EXACT
    eager: bool = True

    def problem(self) -> Problem:
        transformers = pytest.importorskip("transformers")
        config = self.config(transformers)
        config._attn_implementation = "eager" if self.eager else "sdpa"
        model: nn.Module = getattr(transformers, self.model)(config)
        return Problem(model, self.inputs(), self.targets(), samples=N, compute=self.compute).to(torch.float64)


def tokens(length: int = T) -> Tensor:
    return torch.randint(2, V, (N, length))


def language(model, x):
    """[N, V, T]: the class axis is the second, as torch's losses want it."""
    return model(input_ids=x, use_cache=False).logits.transpose(1, 2)


def shifted(model, x):
    """[N · (T - 1), V]: the next token, as the loss of a language model is usually written."""
    return model(input_ids=x, use_cache=False).logits[:, :-1].reshape(-1, V)


def translation(model, x, decoded):
    return model(input_ids=x, decoder_input_ids=decoded, use_cache=False).logits.transpose(1, 2)


def gpt2(transformers):
    sizes = {"vocab_size": V, "n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": T}
    quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 1}
    return transformers.GPT2Config(**sizes, **quiet)


def bert(transformers):
    return transformers.BertConfig(**SIZES, **NO_DROPOUT, num_labels=C)


def vit(transformers):
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12}
    return transformers.ViTConfig(**sizes, **NO_DROPOUT, image_size=8, patch_size=4, num_channels=1, num_labels=C)


def llama(transformers):
    return transformers.LlamaConfig(**SIZES, num_key_value_heads=1)


def t5(transformers):
    sizes = {"vocab_size": V, "d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2}
    return transformers.T5Config(**sizes, dropout_rate=0.0, relative_attention_num_buckets=8, decoder_start_token_id=0)


def mixtral(transformers):
    experts = {"num_local_experts": 3, "num_experts_per_tok": 2, "experts_implementation": "eager"}
    return transformers.MixtralConfig(**SIZES, **experts, num_key_value_heads=1, sliding_window=None)


def mamba(transformers):
    sizes = {"vocab_size": V, "hidden_size": 8, "num_hidden_layers": 2, "state_size": 3, "time_step_rank": 2}
    return transformers.MambaConfig(**sizes, expand=2, conv_kernel=2, bos_token_id=0, eos_token_id=1)


CASES = {
    "GPT-2": Case("GPT2LMHeadModel", gpt2, lambda: (tokens(),), language, tokens),
    "GPT-2, next token": Case(
        "GPT2LMHeadModel", gpt2, lambda: (tokens(),), shifted, lambda: tokens(T - 1).flatten(), eager=False
    ),
    "BERT": Case(
        "BertForSequenceClassification",
        bert,
        lambda: (tokens(),),
        lambda model, x: model(input_ids=x, attention_mask=torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])).logits,
        lambda: torch.tensor([0, 2]),
    ),
    "ViT": Case(
        "ViTForImageClassification",
        vit,
        lambda: (torch.randn(N, 1, 8, 8),),
        lambda model, x: model(pixel_values=x).logits,
        lambda: torch.tensor([0, 2]),
        IN_FLOAT32,
    ),
    "Llama": Case("LlamaForCausalLM", llama, lambda: (tokens(),), language, tokens, IN_FLOAT32),
    "Llama, attention of torch": Case(
        "LlamaForCausalLM", llama, lambda: (tokens(),), language, tokens, IN_FLOAT32, eager=False
    ),
    "T5": Case(
        "T5ForConditionalGeneration",
        t5,
        lambda: (tokens(), tokens(3)),
        translation,
        lambda: tokens(3),
        IN_FLOAT32,
    ),
    "Mixtral": Case("MixtralForCausalLM", mixtral, lambda: (tokens(),), language, tokens, IN_FLOAT32),
    "Mamba": Case("MambaForCausalLM", mamba, lambda: (tokens(),), language, tokens, IN_FLOAT32),
}


@pytest.mark.slow  # the import alone takes seconds
@pytest.mark.parametrize("name", CASES)
def test_models_of_transformers(name):
    case = CASES[name]
    check(case.problem(), tolerance=case.tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["GPT-2", "Llama"])
def test_the_loss_that_the_model_itself_returns(name):
    """The model shifts the labels, and computes the loss in float32."""
    problem = CASES[name].problem()
    labels = problem.inputs[0].clone()
    labels[0, 2] = -100

    def shifted_loss(logits, targets):
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten())

    def logits(model, x):
        return model(input_ids=x, use_cache=False).logits

    def output(model, x):
        return model(input_ids=x, labels=labels, use_cache=False)

    expected = twin(replace(problem, compute=logits, loss=shifted_loss, targets=labels))
    own = replace(problem, compute=output, loss=lambda output, targets: output.loss)
    check(own, expected, tolerance=IN_FLOAT32)
