"""Models of many kinds, with data and losses: each entry of `ZOO` builds a `Problem`, seeded by its caller.

The sizes are small: N samples with D features or T positions, C classes, a vocabulary of V tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jvp, vmap
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint

from tests.engine.any_model import Problem

N, T, D, C, V = 4, 5, 6, 3, 7

ZOO: dict[str, Callable[[], Problem]] = {}
"""Builders of problems by name."""

IN_FLOAT32: set[str] = set()
"""Names of the problems that are checked in float32 as well."""


def problem(*, float32: bool = False) -> Callable[[Callable[[], Problem]], Callable[[], Problem]]:
    """Add a builder to the zoo under its own name."""

    def add(build: Callable[[], Problem]) -> Callable[[], Problem]:
        name = build.__name__.replace("_", " ")
        ZOO[name] = build
        if float32:
            IN_FLOAT32.add(name)
        return build

    return add


class Model(nn.Module):
    """A module that is a function of itself and inputs; the members are parameters and modules."""

    def __init__(self, function: Callable[..., Any], **members: Tensor | nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, value in members.items():
            setattr(self, name, nn.Parameter(value) if isinstance(value, Tensor) else value)

    def forward(self, *inputs: Any) -> Any:
        return self.function(self, *inputs)


def features() -> tuple[Tensor]:
    return (torch.randn(N, D),)


def sequences() -> tuple[Tensor]:
    return (torch.randn(N, T, D),)


def pictures() -> tuple[Tensor]:
    return (torch.randn(N, 2, 8, 8),)


def tokens() -> tuple[Tensor]:
    return (torch.randint(0, V, (N, T)),)


def labels() -> Tensor:
    return torch.arange(N) % C


def lively(module: nn.Module) -> nn.Module:
    """Draw scales, shifts and running statistics, which are ones and zeros in a new norm layer."""
    for part in module.modules():
        for name, value in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            if value.is_floating_point() and value.dim() == 1:
                with torch.no_grad():
                    value.uniform_(0.5, 2.0) if name in ("weight", "running_var") else value.normal_()
    return module


# Multilayer perceptrons, and what can be done to their features


@problem(float32=True)
def functional_relu() -> Problem:
    def forward(self, x):
        return self.last(torch.relu(self.second(F.relu(self.first(x)))))

    model = Model(forward, first=nn.Linear(D, 5), second=nn.Linear(5, 5), last=nn.Linear(5, C))
    return Problem(model, features(), labels())


@problem(float32=True)
def residual_layer_norm_gelu() -> Problem:
    def forward(self, x):
        h = self.first(x)
        h = h + self.second(F.gelu(self.norm(h)))
        return self.last(h)

    parts = {"first": nn.Linear(D, 5), "norm": lively(nn.LayerNorm(5)), "second": nn.Linear(5, 5)}
    return Problem(Model(forward, **parts, last=nn.Linear(5, C)), features(), labels())


@problem()
def layer_norms_without_parameters_or_bias() -> Problem:
    def forward(self, x):
        h = F.layer_norm(self.first(x), (T, 4))
        return self.last(F.silu(self.root(self.norm(h)))).mean(1)

    parts = {"first": nn.Linear(D, 4), "norm": lively(nn.LayerNorm(4, bias=False)), "root": lively(nn.RMSNorm(4))}
    return Problem(Model(forward, **parts, last=nn.Linear(4, C)), sequences(), labels())


@problem()
def module_called_twice() -> Problem:
    def forward(self, x):
        return self.last(torch.tanh(self.same(torch.tanh(self.same(x)))))

    return Problem(Model(forward, same=nn.Linear(D, D), last=nn.Linear(D, C)), features(), labels())


@problem(float32=True)
def autoencoder_with_tied_weights() -> Problem:
    def forward(self, x):
        code = torch.tanh(x @ self.weight.T + self.code)
        return code @ self.weight + self.shift

    model = Model(forward, weight=torch.randn(3, D), code=torch.randn(3), shift=torch.randn(D))
    inputs = features()
    return Problem(model, inputs, inputs[0], F.mse_loss)


@problem()
def two_inputs() -> Problem:
    def forward(self, x, z):
        return self.last(torch.tanh(self.first(x)) * self.second(z).mean(1))

    model = Model(forward, first=nn.Linear(D, 5), second=nn.Linear(D, 5), last=nn.Linear(5, C))
    return Problem(model, features() + sequences(), labels())


@problem()
def bilinear_and_outer_product() -> Problem:
    def forward(self, x, z):
        h = torch.tanh(self.pair(x, z))
        return self.last(torch.einsum("ni,nj->nij", h, h).flatten(1))

    model = Model(forward, pair=nn.Bilinear(D, D, 3), last=nn.Linear(9, C))
    return Problem(model, features() + features(), labels())


@problem()
def tuple_and_a_loss_on_one_member() -> Problem:
    def forward(self, x):
        h = torch.tanh(self.first(x))
        return self.last(h), h, {"attention": h.detach()}

    model = Model(forward, first=nn.Linear(D, 5), last=nn.Linear(5, C))
    return Problem(model, features(), labels(), compute=lambda model, x: model(x)[0])


@problem()
def two_heads_and_a_loss_on_their_concatenation() -> Problem:
    def forward(self, x):
        h = torch.tanh(self.first(x))
        return self.mean(h), self.rest(h)

    model = Model(forward, first=nn.Linear(D, 5), mean=nn.Linear(5, 1), rest=nn.Linear(5, 2))
    return Problem(model, features(), labels(), compute=lambda model, x: torch.cat(model(x), dim=1))


@problem(float32=True)
def einsum_with_scale_and_shift() -> Problem:
    def forward(self, x):
        return torch.einsum("ntd,hdc->nc", x * self.scale + self.shift, self.weight)

    model = Model(forward, weight=0.2 * torch.randn(2, D, C), scale=torch.randn(D), shift=torch.randn(D))
    return Problem(model, sequences(), labels())


@problem()
def scales_and_shifts_that_broadcast() -> Problem:
    def forward(self, x):
        h = self.first(x) * self.gate - 0.5 * self.middle  # [N, T, 4], gate [T, 1], middle [1, 4]
        h = h / (1 + self.divisor.square()) + self.number * h.sum((1, 2), keepdim=True)
        return self.last(torch.addcmul(h, self.weight, h)[:, -1])

    parts = {"gate": torch.randn(T, 1), "middle": torch.randn(1, 4), "divisor": torch.randn(4)}
    parts |= {"number": torch.randn(()), "weight": torch.randn(1, T, 1)}
    return Problem(Model(forward, first=nn.Linear(D, 4), last=nn.Linear(4, C), **parts), sequences(), labels())


@problem()
def sines_and_a_learned_frequency() -> Problem:
    def forward(self, x):
        return self.last(torch.cat([torch.sin(self.frequency * self.first(x)), torch.cos(self.first(x))], 1))

    model = Model(forward, frequency=torch.tensor(2.0), first=nn.Linear(D, 4), last=nn.Linear(8, C))
    return Problem(model, features(), labels())


@problem()
def in_place_operations() -> Problem:
    def forward(self, x):
        h = self.first(x).relu_() * 2
        h[:, :2].mul_(self.scale)
        h[:, 2] = h[:, 3].clone() * self.shift
        h.add_(self.shift)
        return self.last(h)

    parts = {"scale": torch.randn(2), "shift": torch.randn(())}
    return Problem(Model(forward, first=nn.Linear(D, 5), last=nn.Linear(5, C), **parts), features(), labels())


@problem()
def dropout_in_training() -> Problem:
    def forward(self, x):
        return self.last(F.dropout(torch.tanh(self.first(x)), 0.4, self.training))

    return Problem(Model(forward, first=nn.Linear(D, 8), last=nn.Linear(8, C)), features(), labels())


@problem()
def chosen_experts() -> Problem:
    """Each sample goes through the expert of its largest gate; an expert may get one sample or none."""

    def forward(self, x):
        gates = torch.softmax(self.gate(x), dim=1)
        weight, chosen = gates.max(dim=1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows = (chosen == number).nonzero()[:, 0]
            out = out.index_add(0, rows, weight[rows, None] * torch.tanh(expert(x[rows])))
        return self.last(out)

    experts = nn.ModuleList(nn.Linear(D, D) for _ in range(3))
    return Problem(Model(forward, gate=nn.Linear(D, 3), experts=experts, last=nn.Linear(D, C)), features(), labels())


@problem()
def weighted_sum_of_experts() -> Problem:
    def forward(self, x):
        gates = torch.softmax(self.gate(x), dim=1)
        hidden = torch.tanh(torch.einsum("nd,edh->neh", x, self.first))
        return torch.einsum("ne,neh,ehc->nc", gates, hidden, self.second)

    parts = {"first": torch.randn(3, D, 4), "second": torch.randn(3, 4, C)}
    return Problem(Model(forward, gate=nn.Linear(D, 3), **parts), features(), labels())


# Convolutions and pooling


@problem(float32=True)
def cnn_with_batch_norm_in_evaluation() -> Problem:
    def forward(self, x):
        h = F.max_pool2d(torch.relu(self.norm(self.first(x))), 2)
        return self.last(F.adaptive_avg_pool2d(F.avg_pool2d(self.second(h), 2), 1).flatten(1))

    parts = {"first": nn.Conv2d(2, 4, 3, padding=1), "norm": lively(nn.BatchNorm2d(4))}
    model = Model(forward, **parts, second=nn.Conv2d(4, 4, 2, groups=2), last=nn.Linear(4, C))
    return Problem(model.eval(), pictures(), labels())


@problem(float32=True)
def cnn_with_batch_norm_in_training() -> Problem:
    def forward(self, x):
        return self.last(F.adaptive_avg_pool2d(torch.relu(self.norm(self.first(x))), 1).flatten(1))

    model = Model(forward, first=nn.Conv2d(2, 4, 3), norm=lively(nn.BatchNorm2d(4)), last=nn.Linear(4, C))
    return Problem(model, pictures(), labels())


@problem()
def batch_norm_without_running_statistics() -> Problem:
    norm = lively(nn.BatchNorm1d(5, track_running_stats=False))
    model = nn.Sequential(nn.Linear(D, 5), norm, nn.Tanh(), nn.Linear(5, C)).eval()
    return Problem(model, features(), labels())


@problem(float32=True)
def group_norm_prelu_transposed_convolution() -> Problem:
    def forward(self, x):
        h = F.prelu(self.norm(self.first(x)), self.slope)
        return self.last(self.up(h).mean((2, 3)))

    parts = {"first": nn.Conv2d(2, 4, 3), "norm": lively(nn.GroupNorm(2, 4)), "slope": torch.rand(4)}
    model = Model(forward, **parts, up=nn.ConvTranspose2d(4, 3, 2, stride=2), last=nn.Linear(3, C))
    return Problem(model, pictures(), labels())


@problem()
def instance_norm_and_upsampling() -> Problem:
    def forward(self, x):
        h = F.leaky_relu(self.norm(self.first(F.pad(x, (1, 1, 1, 1), mode="reflect"))))
        h = F.interpolate(h, scale_factor=2, mode="bilinear", align_corners=False)
        return self.last(F.pixel_shuffle(self.second(h), 2).amax((2, 3)))

    parts = {"first": nn.Conv2d(2, 3, 3, stride=2), "norm": lively(nn.InstanceNorm2d(3, affine=True))}
    return Problem(
        Model(forward, **parts, second=nn.Conv2d(3, 8, 3, dilation=2), last=nn.Linear(2, C)), pictures(), labels()
    )


@problem()
def convolutions_of_one_and_three_dimensions() -> Problem:
    def forward(self, x, z):
        h = torch.tanh(self.line(x)).flatten(1)
        return self.last(torch.cat([h, F.elu(self.space(z)).flatten(1)], 1))

    inputs = torch.randn(N, 2, 6), torch.randn(N, 1, 3, 3, 3)
    line = nn.Conv1d(2, 2, 3, stride=2, padding=2, padding_mode="circular")
    model = Model(forward, line=line, space=nn.Conv3d(1, 2, 3, padding="same"), last=nn.Linear(62, C))
    return Problem(model, inputs, labels())


class Block(nn.Module):
    """A block of a ResNet."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(2))
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=2, bias=False), nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norms[1](self.second(self.relu(self.norms[0](self.first(x)))))
        h += self.shortcut(x)
        return self.relu(h)


def _resnet() -> nn.Module:
    stem = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(inplace=True))
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, C))
    return lively(nn.Sequential(stem, Block(2, 3), Block(3, 4), head))


@problem()
def resnet_in_evaluation() -> Problem:
    return Problem(_resnet().eval(), pictures(), labels())


@problem()
def resnet_in_training() -> Problem:
    return Problem(_resnet(), pictures(), labels())


@problem(float32=True)
def u_net() -> Problem:
    def forward(self, x):
        top = torch.relu(self.down(x))
        low = torch.relu(self.bottom(F.max_pool2d(top, 2)))
        return self.head(torch.cat([top, self.up(low)], dim=1))

    parts = {"down": nn.Conv2d(2, 2, 3, padding=1), "bottom": nn.Conv2d(2, 3, 3, padding=1)}
    model = Model(forward, **parts, up=nn.ConvTranspose2d(3, 2, 2, stride=2), head=nn.Conv2d(4, C, 1))
    return Problem(model, (torch.randn(N, 2, 4, 4),), torch.randint(0, C, (N, 4, 4)))


@problem()
def spectral_convolution() -> Problem:
    """A layer of a Fourier neural operator: a learned filter on the lowest frequencies."""

    def forward(self, x):
        spectrum = torch.fft.rfft(self.lift(x), dim=1)[:, :3]
        filtered = torch.einsum("nkd,kde->nke", spectrum, torch.view_as_complex(self.filter))
        return self.last(torch.fft.irfft(filtered, n=T, dim=1).tanh()).mean(1)

    model = Model(forward, lift=nn.Linear(D, 3), filter=torch.randn(3, 3, 2, 2), last=nn.Linear(2, C))
    return Problem(model, sequences(), labels())


# Attention


class TransformerBlock(nn.Module):
    """A block with torch's attention function, norms after the residual sums."""

    def __init__(self, causal: bool = True) -> None:
        super().__init__()
        self.causal = causal
        self.qkv, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.wide, self.narrow = nn.Linear(D, 8), nn.Linear(8, D)
        self.norms = lively(nn.ModuleList(nn.LayerNorm(D) for _ in range(2)))

    def forward(self, x: Tensor) -> Tensor:
        samples, positions, _ = x.shape
        q, k, v = self.qkv(x).view(samples, positions, 3, 2, D // 2).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = self.norms[0](x + self.out(h.transpose(1, 2).reshape(x.shape)))
        return self.norms[1](x + self.narrow(F.gelu(self.wide(x))))


class LanguageModel(nn.Module):
    """A small transformer whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(V, D), nn.Embedding(T, D)
        self.block = TransformerBlock()

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x) + self.position(torch.arange(x.shape[1]))
        return F.linear(self.block(h), self.embedding.weight)


@problem(float32=True)
def own_transformer() -> Problem:
    def forward(self, x):
        h = self.embedding(x) + self.position
        return self.last(self.second(self.first(h)).mean(1))

    parts = {"embedding": nn.Embedding(V, D), "position": torch.randn(T, D), "first": TransformerBlock()}
    return Problem(Model(forward, **parts, second=TransformerBlock(False), last=nn.Linear(D, C)), tokens(), labels())


@problem()
def attention_written_out() -> Problem:
    def forward(self, x):
        q, k, v = (F.linear(x, weight) for weight in self.weights.unbind())
        scores = (q @ k.transpose(1, 2) / D**0.5).masked_fill(self.mask, float("-inf"))
        return self.last((torch.softmax(scores, dim=-1) @ v)[:, -1])

    model = Model(forward, weights=torch.randn(3, D, D), last=nn.Linear(D, C))
    model.register_buffer("mask", torch.ones(T, T, dtype=torch.bool).triu(1))
    return Problem(model, sequences(), labels())


def _encoder(batch_first: bool = True, layers: int = 2) -> nn.Module:
    layer = nn.TransformerEncoderLayer(D, 2, 8, dropout=0.0, batch_first=batch_first)
    return lively(nn.TransformerEncoder(layer, layers, enable_nested_tensor=False))


@problem()
def transformer_encoder_in_training() -> Problem:
    model = Model(lambda self, x: self.last(self.encoder(x)[:, 0]), encoder=_encoder(), last=nn.Linear(D, C))
    return Problem(model, sequences(), labels())


@problem()
def transformer_encoder_in_evaluation() -> Problem:
    model = Model(lambda self, x: self.last(self.encoder(x)[:, 0]), encoder=_encoder(), last=nn.Linear(D, C))
    return Problem(model.eval(), sequences(), labels())


@problem(float32=True)
def transformer_encoder_batch_second() -> Problem:
    def forward(self, x):
        return self.last(self.encoder(x.transpose(0, 1))[0])

    model = Model(forward, encoder=_encoder(batch_first=False), last=nn.Linear(D, C))
    return Problem(model, sequences(), labels())


@problem()
def transformer_encoder_batch_second_in_evaluation() -> Problem:
    def forward(self, x):
        return self.last(self.encoder(x)[0])

    model = Model(forward, encoder=_encoder(batch_first=False, layers=1), last=nn.Linear(D, C))
    return Problem(model.eval(), (torch.randn(T, N, D),), labels())


@problem()
def encoder_and_decoder() -> Problem:
    def forward(self, x, z):
        return self.last(self.both(x, z, tgt_mask=nn.Transformer.generate_square_subsequent_mask(3, dtype=z.dtype)))

    both = lively(nn.Transformer(D, 2, 1, 1, 8, dropout=0.0, batch_first=True))
    model = Model(forward, both=both, last=nn.Linear(D, 2))
    inputs = torch.randn(N, T, D), torch.randn(N, 3, D)
    return Problem(model, inputs, torch.randn(N, 3, 2), F.mse_loss)


@problem()
def multihead_attention_with_weights() -> Problem:
    def forward(self, x):
        h, weights = self.attention(x, x, x, need_weights=True)
        return self.last(h.mean(1)) + weights.square().sum((1, 2), keepdim=True)[:, 0]

    model = Model(forward, attention=nn.MultiheadAttention(D, 2, batch_first=True), last=nn.Linear(D, C))
    return Problem(model, sequences(), labels())


@problem()
def multihead_attention_with_a_padding_mask() -> Problem:
    def forward(self, x, z, mask):
        return self.last(self.attention(x, z, z[..., :2], key_padding_mask=mask, need_weights=False)[0][0])

    attention = nn.MultiheadAttention(D, 3, kdim=4, vdim=2)
    inputs = torch.randn(3, N, D), torch.randn(T, N, 4), torch.arange(T) >= torch.tensor([[5], [3], [4], [1]])
    return Problem(Model(forward, attention=attention, last=nn.Linear(D, C)), inputs, labels())


@problem(float32=True)
def tied_language_model() -> Problem:
    def compute(model, x):
        return model(x).transpose(1, 2)

    return Problem(LanguageModel(), tokens(), torch.randint(0, V, (N, T)), compute=compute)


@problem()
def tied_language_model_with_flat_targets() -> Problem:
    targets = torch.randint(0, V, (N, T - 1))
    targets[1, 2:] = targets[2, 0] = -100

    def compute(model, x):
        return model(x)[:, :-1].reshape(-1, V)

    return Problem(LanguageModel(), tokens(), targets.flatten(), compute=compute)


@problem()
def tied_language_model_with_flat_targets_and_samples_given() -> Problem:
    def compute(model, x):
        return model(x).view(-1, V)

    targets = torch.randint(0, V, (N * T,))
    return Problem(LanguageModel(), tokens(), targets, compute=compute, tell_samples=True)


@problem()
def vision_transformer() -> Problem:
    def forward(self, x):
        patches = self.patch(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(len(x), -1, -1), patches], dim=1) + self.position
        return self.last(self.block(h)[:, 0])

    parts = {"token": torch.randn(1, 1, D), "position": torch.randn(1, 5, D), "block": TransformerBlock(False)}
    return Problem(
        Model(forward, patch=nn.Conv2d(2, D, 4, stride=4), last=nn.Linear(D, C), **parts), pictures(), labels()
    )


@problem()
def embedding_bag() -> Problem:
    model = nn.Sequential(nn.EmbeddingBag(V, D, mode="mean"), nn.Linear(D, C))
    return Problem(model, tokens(), labels())


@problem()
def embedding_with_padding() -> Problem:
    def forward(self, x):
        return self.last(torch.tanh(self.embedding(x)).flatten(1))

    x = torch.randint(0, V, (N, T))
    x[:, -1] = x[2] = 1
    model = Model(forward, embedding=nn.Embedding(V, 3, padding_idx=1), last=nn.Linear(3 * T, C))
    return Problem(model, (x,), labels())


@problem()
def embedding_of_bounded_rows() -> Problem:
    """The layer shortens the rows that it looks up, in place, before they are used."""
    model = nn.Sequential(nn.Embedding(V, 3, max_norm=0.5), nn.Flatten(), nn.Linear(3 * T, C))
    return Problem(model, tokens(), labels())


@problem()
def embedding_scaled_by_frequency() -> Problem:
    """The gradient of a row is divided by the number of its uses in the batch."""
    model = nn.Sequential(nn.Embedding(V, 3, scale_grad_by_freq=True), nn.Flatten(), nn.Linear(3 * T, C))
    return Problem(model, tokens(), labels())


@problem()
def linear_layers_of_groups() -> Problem:
    """Each group of features has a matrix of its own, in one batched product."""

    def forward(self, x):
        groups = x.unflatten(1, (2, 3)).transpose(0, 1)  # [groups, N, features]
        return self.last(torch.tanh(torch.bmm(groups, self.weight)).transpose(0, 1).flatten(1))

    model = Model(forward, weight=torch.randn(2, 3, 4), last=nn.Linear(8, C))
    return Problem(model, features(), labels())


@problem(float32=True)
def probabilities_with_squared_errors() -> Problem:
    """The columns of the loss at the output add up to what a softmax takes to zero."""
    model = nn.Sequential(nn.Linear(D, 5), nn.Tanh(), nn.Linear(5, C), nn.Softmax(1))
    return Problem(model, features(), torch.rand(N, C), F.mse_loss)


@problem(float32=True)
def a_shift_of_all_logits() -> Problem:
    """The loss does not depend on the shift, so that its gradient is nothing but rounding errors."""

    def forward(self, x):
        h = torch.tanh(self.body(x))
        return self.logits(h) + self.shift(torch.tanh(self.aside(h)))

    parts = {"body": nn.Linear(D, 5), "logits": nn.Linear(5, C), "aside": nn.Linear(5, 5), "shift": nn.Linear(5, 1)}
    return Problem(Model(forward, **parts), features(), labels())


# Recurrence


@problem(float32=True)
def lstm_of_two_layers() -> Problem:
    def forward(self, x):
        return self.last(self.body(x)[0][:, -1])

    return Problem(Model(forward, body=nn.LSTM(D, 4, 2, batch_first=True), last=nn.Linear(4, C)), sequences(), labels())


@problem()
def lstm_both_ways_batch_second() -> Problem:
    def forward(self, x):
        return self.last(self.body(x.transpose(0, 1))[0][-1])

    body = nn.LSTM(D, 3, bidirectional=True, proj_size=2)
    return Problem(Model(forward, body=body, last=nn.Linear(4, C)), sequences(), labels())


@problem()
def gru() -> Problem:
    def forward(self, x):
        return self.last(self.body(x)[1][-1])

    return Problem(Model(forward, body=nn.GRU(D, 4, batch_first=True), last=nn.Linear(4, C)), sequences(), labels())


@problem()
def lstm_on_packed_sequences() -> Problem:
    def forward(self, x):
        packed = pack_padded_sequence(x, torch.tensor([5, 4, 2, 1]), batch_first=True)
        return self.last(pad_packed_sequence(self.body(packed)[0], batch_first=True)[0].sum(1))

    return Problem(Model(forward, body=nn.LSTM(D, 4, batch_first=True), last=nn.Linear(4, C)), sequences(), labels())


@problem()
def gru_on_unsorted_packed_sequences() -> Problem:
    def forward(self, x):
        packed = pack_padded_sequence(x, torch.tensor([2, 5, 1, 4]), batch_first=True, enforce_sorted=False)
        return self.last(self.body(packed)[1][0])

    return Problem(Model(forward, body=nn.GRU(D, 4, batch_first=True), last=nn.Linear(4, C)), sequences(), labels())


@problem()
def cell_in_a_loop_with_a_learned_start() -> Problem:
    def forward(self, x):
        h = self.start.expand(len(x), -1)
        for step in x.unbind(1):
            h = self.cell(step, h)
        return self.last(h)

    return Problem(
        Model(forward, start=torch.randn(4), cell=nn.GRUCell(D, 4), last=nn.Linear(4, C)), sequences(), labels()
    )


# Samples that mix, or move


@problem(float32=True)
def batch_statistics() -> Problem:
    def forward(self, x):
        h = self.first(x)
        return self.last(torch.tanh(h - h.mean(0)))

    return Problem(Model(forward, first=nn.Linear(D, 5), last=nn.Linear(5, C)), features(), labels())


@problem()
def graph_convolution() -> Problem:
    """The samples are the nodes of a graph, and each layer averages over neighbors."""

    def forward(self, x, adjacency):
        return adjacency @ self.last(torch.relu(adjacency @ self.first(x)))

    adjacency = torch.eye(N) / 2 + torch.eye(N).roll(1, 0) / 2
    return Problem(Model(forward, first=nn.Linear(D, 5), last=nn.Linear(5, C)), (*features(), adjacency), labels())


@problem()
def contrastive_similarities() -> Problem:
    def forward(self, x, z):
        own, other = (F.normalize(self.body(value), dim=1) for value in (x, z))
        return own @ other.T * self.temperature.exp()

    model = Model(forward, body=nn.Linear(D, 4), temperature=torch.tensor(1.0))
    return Problem(model, features() + features(), torch.arange(N))


@problem()
def permuted_samples() -> Problem:
    def forward(self, x):
        return self.last(torch.tanh(self.first(x))[torch.tensor([2, 0, 3, 1])])

    return Problem(Model(forward, first=nn.Linear(D, 5), last=nn.Linear(5, C)), features(), labels())


@problem()
def samples_as_the_last_axis() -> Problem:
    def forward(self, x):
        return (self.last @ torch.tanh(self.first @ x.T + self.shift)).T

    parts = {"first": torch.randn(5, D), "shift": torch.randn(5, 1), "last": torch.randn(C, 5)}
    return Problem(Model(forward, **parts), features(), labels())


@problem()
def samples_folded_into_another_axis() -> Problem:
    """Positions before samples in one axis, and samples before positions in the next layer."""

    def forward(self, x):
        h = torch.tanh(self.first(x.transpose(0, 1).reshape(T * N, D)))  # [T · N, 4]
        h = h.view(T, N, 4).transpose(0, 1).reshape(N * T, 4)
        return self.last(torch.sigmoid(self.second(h)).view(N, T * 4))

    model = Model(forward, first=nn.Linear(D, 4), second=nn.Linear(4, 4), last=nn.Linear(T * 4, C))
    return Problem(model, sequences(), labels())


@problem()
def a_batch_of_one_sample() -> Problem:
    model = nn.Sequential(nn.Linear(D, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, C))
    return Problem(lively(model), (torch.randn(1, D),), torch.tensor([1]), samples=1)


@problem()
def as_many_features_as_samples() -> Problem:
    model = nn.Sequential(nn.Linear(N, N), nn.Tanh(), nn.Linear(N, N), nn.Tanh(), nn.Linear(N, N))
    return Problem(model, (torch.randn(N, N),), torch.arange(N))


@problem()
def half_of_the_samples_at_a_time() -> Problem:
    def forward(self, x):
        return torch.cat([self.last(torch.tanh(self.first(part))) for part in x.chunk(2)])

    return Problem(Model(forward, first=nn.Linear(D, 5), last=nn.Linear(5, C)), features(), labels())


@problem()
def samples_that_take_different_paths() -> Problem:
    def forward(self, x):
        odd = torch.tensor([False, True, True, False])
        h = torch.zeros(len(x), 5, dtype=x.dtype)
        h[odd] = torch.tanh(self.first(x[odd]))
        h[~odd] = torch.sigmoid(self.second(x[~odd]))
        return self.last(torch.cat([h[:1] * self.scale, h[1:]]))

    parts = {"first": nn.Linear(D, 5), "second": nn.Linear(D, 5), "scale": torch.randn(5)}
    return Problem(Model(forward, **parts, last=nn.Linear(5, C)), features(), labels())


def _ragged(sizes: list[int]) -> Problem:
    """Sets of different sizes in one tensor, summed by the index of their sample."""

    def forward(self, x, owner):
        h = torch.relu(self.first(x))
        return self.last(torch.zeros(N, 5, dtype=x.dtype).index_add(0, owner, h))

    owner = torch.arange(N).repeat_interleave(torch.tensor(sizes))
    model = Model(forward, first=nn.Linear(D, 5), last=nn.Linear(5, C))
    return Problem(model, (torch.randn(len(owner), D), owner), labels())


@problem()
def ragged_sets() -> Problem:
    return _ragged([3, 1, 2, 1])


@problem()
def ragged_sets_of_twice_as_many_rows_as_samples() -> Problem:
    return _ragged([3, 1, 2, 2])


@problem()
def repeated_samples() -> Problem:
    """Copies of the whole batch behind one another, then copies of each sample behind one another."""

    def forward(self, x):
        h = torch.tanh(self.first(x.repeat(3, 1) + self.shift.repeat_interleave(len(x), 0))).view(3, -1, 4).mean(0)
        return self.second(torch.sin(h.repeat_interleave(2, 0))).view(len(x), 2, C).sum(1)

    parts = {"first": nn.Linear(D, 4), "shift": torch.randn(3, D), "second": nn.Linear(4, C)}
    return Problem(Model(forward, **parts), features(), labels())


@problem()
def ensemble_by_batched_products() -> Problem:
    def forward(self, x):
        h = torch.tanh(torch.baddbmm(self.shift, x.expand(3, -1, -1), self.first))
        return (h @ self.last).mean(0)

    parts = {"first": torch.randn(3, D, 4), "shift": torch.randn(3, 1, 4), "last": torch.randn(3, 4, C)}
    return Problem(Model(forward, **parts), features(), labels())


@problem()
def ensemble_by_vmap() -> Problem:
    def forward(self, x):
        def member(first, last):
            return torch.tanh(x @ first) @ last

        return vmap(member)(self.first, self.last).mean(0)

    return Problem(Model(forward, first=torch.randn(3, D, 4), last=torch.randn(3, 4, C)), features(), labels())


@problem()
def pairwise_differences() -> Problem:
    def forward(self, x):
        h = self.first(x)
        return self.last(torch.tanh(h[:, None] - h[None]).mean(1))

    return Problem(Model(forward, first=nn.Linear(D, 4), last=nn.Linear(4, C)), features(), labels())


@problem()
def parameter_with_a_row_for_each_sample() -> Problem:
    def forward(self, x):
        return self.last(torch.tanh(self.first(x) + self.latent)) + self.end.tanh()

    parts = {"latent": torch.randn(N, 5), "end": torch.randn(N, C)}
    return Problem(Model(forward, first=nn.Linear(D, 5), last=nn.Linear(5, C), **parts), features(), labels())


@problem()
def output_that_depends_on_no_input() -> Problem:
    model = Model(lambda self, x: self.shift.expand(len(x), -1), shift=torch.randn(C))
    return Problem(model, features(), labels())


@problem()
def input_that_requires_a_gradient() -> Problem:
    def forward(self, x):
        return self.last(torch.tanh(self.first(x + self.noise.detach().requires_grad_())))

    parts = {"first": nn.Linear(D, 5), "last": nn.Linear(5, C)}
    model = Model(forward, **parts)
    model.register_buffer("noise", torch.randn(N, D))
    return Problem(model, features(), labels())


@problem()
def language_model_with_positions_first() -> Problem:
    """The rows of the output are positions times samples: the first axis of the output holds the positions."""

    def forward(self, x):
        return self.last(self.body(self.embedding(x.T))[0])

    def compute(model, x):
        return model(x).reshape(-1, V)

    model = Model(forward, embedding=nn.Embedding(V, 3), body=nn.GRU(3, 3), last=nn.Linear(3, V))
    return Problem(model, tokens(), torch.randint(0, V, (T * N,)), samples=T, compute=compute)


# Parameters that are computed


@problem()
def weight_norm() -> Problem:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(D, 5)), nn.Tanh(), nn.Linear(5, C))
    return Problem(model, features(), labels())


@problem(float32=True)
def lora() -> Problem:
    """Two updates of low rank that share a matrix."""

    def forward(self, x):
        h = torch.tanh(F.linear(x, self.first + self.up @ self.down))
        return F.linear(h, self.last + 2 * self.back @ self.up.T)

    parts = {"first": torch.randn(5, D), "up": torch.randn(5, 2), "down": torch.randn(2, D)}
    parts |= {"last": torch.randn(C, 5), "back": 0.2 * torch.randn(C, 2)}
    return Problem(Model(forward, **parts), features(), labels())


@problem()
def computed_weight_used_twice() -> Problem:
    def forward(self, x):
        weight = torch.tanh(self.weight)
        return self.last(torch.tanh(torch.tanh(x @ weight) @ weight))

    return Problem(Model(forward, weight=torch.randn(D, D), last=nn.Linear(D, C)), features(), labels())


@problem()
def lora_on_a_frozen_weight() -> Problem:
    def forward(self, x):
        return self.last(torch.tanh(self.base(x) + 0.5 * F.linear(F.linear(x, self.down), self.up)))

    model = Model(forward, base=nn.Linear(D, 5), down=torch.randn(2, D), up=torch.randn(5, 2), last=nn.Linear(5, C))
    model.base.requires_grad_(False)
    return Problem(model, features(), labels())


class Symmetric(nn.Module):
    """The symmetric part of a matrix."""

    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).T


@problem()
def symmetric_parametrization() -> Problem:
    model = nn.Sequential(nn.Linear(D, D), nn.Tanh(), nn.Linear(D, C))
    parametrize.register_parametrization(model[0], "weight", Symmetric())
    return Problem(model, features(), labels())


@problem()
def orthogonal_parametrization() -> Problem:
    layer = parametrizations.orthogonal(nn.Linear(4, 4), orthogonal_map="cayley")
    return Problem(nn.Sequential(nn.Linear(D, 4), layer, nn.Tanh(), nn.Linear(4, C)), features(), labels())


@problem()
def spectral_norm() -> Problem:
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(D, 5)), nn.Tanh(), nn.Linear(5, C))
    return Problem(model, features(), labels())


@problem()
def standardized_convolution_weight() -> Problem:
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-3)
        return self.last(torch.relu(F.conv2d(x, weight)).mean((2, 3)))

    return Problem(Model(forward, weight=torch.randn(3, 2, 3, 3), last=nn.Linear(3, C)), pictures(), labels())


@problem()
def hypernetwork() -> Problem:
    """A network that computes the weight of another, once for the batch and once for each sample."""

    def forward(self, x):
        shared = self.maker(self.code).view(4, D)
        own = self.own(x).view(-1, C, 4)
        return (own @ torch.tanh(F.linear(x, shared))[:, :, None])[:, :, 0]

    model = Model(forward, code=torch.randn(2), maker=nn.Linear(2, 4 * D), own=nn.Linear(D, 4 * C))
    return Problem(model, features(), labels())


@problem()
def functional_call_with_other_parameters() -> Problem:
    def forward(self, x):
        scaled = {name: 2 * value for name, value in self.body.named_parameters()}
        return functional_call(self.body, scaled, (x,))

    body = nn.Sequential(nn.Linear(D, 4), nn.Tanh(), nn.Linear(4, C))
    return Problem(Model(forward, body=body), features(), labels())


@problem()
def unused_and_frozen_parameters() -> Problem:
    def forward(self, x):
        return self.last(torch.tanh(self.frozen(torch.tanh(self.first(x)))))

    parts = {"first": nn.Linear(D, 5), "frozen": nn.Linear(5, 5), "last": nn.Linear(5, C), "unused": nn.Linear(2, 2)}
    model = Model(forward, **parts)
    model.frozen.requires_grad_(False)
    return Problem(model, features(), labels())


# Machinery of autograd


class Product(torch.autograd.Function):
    """A matrix product with its own backward pass, which `torch.vmap` can call."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, weight):
        return x @ weight

    @staticmethod
    def setup_context(context, inputs, output):
        context.save_for_backward(*inputs)

    @staticmethod
    def backward(context, cotangent):
        x, weight = context.saved_tensors
        return cotangent @ weight.T, x.T @ cotangent


class ByNumpy(torch.autograd.Function):
    """The hyperbolic tangent with a scale, by NumPy in both directions: no `torch.vmap` can call it."""

    @staticmethod
    def forward(context, x, scale):
        result = torch.from_numpy(torch.tanh(x).numpy().copy())
        context.save_for_backward(result, scale)
        return result * scale

    @staticmethod
    def backward(context, cotangent):
        result, scale = context.saved_tensors
        slope = torch.from_numpy(1 - result.numpy() ** 2)
        own = torch.from_numpy((cotangent.numpy() * result.numpy()).sum(0))
        return cotangent * slope * scale, own


@problem()
def custom_function() -> Problem:
    def forward(self, x):
        return Product.apply(torch.tanh(Product.apply(x, self.first)), self.last)

    return Problem(Model(forward, first=torch.randn(D, 5), last=torch.randn(5, C)), features(), labels())


@problem()
def custom_function_by_numpy() -> Problem:
    def forward(self, x):
        return self.last(ByNumpy.apply(self.first(x), self.scale))

    model = Model(forward, first=nn.Linear(D, 5), scale=torch.randn(5), last=nn.Linear(5, C))
    return Problem(model, features(), labels())


@problem()
def gradient_checkpointing() -> Problem:
    def forward(self, x):
        for block in self.blocks:
            x = x + checkpoint(block, x, use_reentrant=False)
        return self.last(x)

    blocks = nn.ModuleList(nn.Sequential(nn.Linear(D, 5), nn.Tanh(), nn.Linear(5, D)) for _ in range(2))
    return Problem(Model(forward, blocks=blocks, last=nn.Linear(D, C)), features(), labels())


@problem()
def straight_through_estimator() -> Problem:
    def forward(self, x):
        h = torch.tanh(self.first(x))
        return self.last(h + (h.sign() - h).detach())

    return Problem(Model(forward, first=nn.Linear(D, 5), last=nn.Linear(5, C)), features(), labels())


@problem()
def fixed_point_by_iteration() -> Problem:
    def forward(self, x):
        h = torch.zeros(len(x), 4, dtype=x.dtype)
        for _ in range(6):
            h = torch.tanh(self.inner(h) + self.outer(x))
        return self.last(h)

    model = Model(forward, inner=nn.Linear(4, 4), outer=nn.Linear(D, 4), last=nn.Linear(4, C))
    return Problem(model, features(), labels())


@problem()
def sample_by_sample_by_vmap() -> Problem:
    def forward(self, x):
        parameters = dict(self.body.named_parameters())
        return vmap(lambda row: functional_call(self.body, parameters, (row,)))(x)

    body = nn.Sequential(nn.Linear(D, 4), nn.Tanh(), nn.Linear(4, C))
    return Problem(Model(forward, body=body), features(), labels())


@problem()
def head_on_a_frozen_body() -> Problem:
    """The body sorts, mixes samples and calls NumPy; none of its parameters is trainable."""

    def forward(self, x):
        h = ByNumpy.apply(self.norm(self.body(x)), self.scale)
        return self.last(torch.tanh(self.middle(h.sort(0).values)))

    parts = {"body": nn.Linear(D, 5), "norm": lively(nn.BatchNorm1d(5)), "scale": torch.randn(5)}
    model = Model(forward, **parts, middle=nn.Linear(5, 4), last=nn.Linear(4, C))
    for part in (model.body, model.norm, model.scale):
        part.requires_grad_(False)
    return Problem(model, features(), labels())


@problem()
def head_alone_on_a_trainable_body() -> Problem:
    """The engine is asked for the head only; another optimizer trains the body."""

    def forward(self, x):
        h = ByNumpy.apply(self.norm(self.body(x)), self.scale)
        return self.last(torch.tanh(self.middle(h)))

    parts = {"body": nn.Linear(D, 5), "norm": lively(nn.BatchNorm1d(5)), "scale": torch.randn(5)}
    model = Model(forward, **parts, middle=nn.Linear(5, 4), last=nn.Linear(4, C))
    return Problem(model, features(), labels(), wanted=lambda name: name.startswith(("middle", "last")))


@problem()
def body_alone_below_a_trainable_head() -> Problem:
    def forward(self, x):
        return self.last(torch.tanh(self.first(x)))

    model = Model(forward, first=nn.Linear(D, 5), last=nn.Linear(5, C))
    return Problem(model, features(), labels(), wanted=lambda name: name.startswith("first"))


@problem()
def wrappers_around_a_model() -> Problem:
    model = nn.DataParallel(nn.Sequential(nn.Linear(D, 4), nn.Tanh(), nn.Linear(4, C)))
    return Problem(model, features(), labels())


# Derivatives of the model inside the loss: the output is the residual of a differential equation


def _by_autograd(model: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    second = [torch.autograd.grad(column.sum(), x, create_graph=True)[0][:, k] for k, column in enumerate(slope.T)]
    return sum(second)[:, None] + torch.sin(x).sum(1, keepdim=True)


def _by_hessian(model: nn.Module, x: Tensor) -> Tensor:
    parameters = dict(model.named_parameters())
    matrices = vmap(hessian(lambda row: functional_call(model, parameters, (row,)).squeeze()))(x)
    return matrices.diagonal(dim1=1, dim2=2).sum(1, keepdim=True) + torch.sin(x).sum(1, keepdim=True)


def _by_jvp(model: nn.Module, x: Tensor) -> Tensor:
    slope = grad(lambda points: model(points).sum())
    units = torch.eye(x.shape[1], dtype=x.dtype)
    second = [jvp(slope, (x,), (unit.expand_as(x).contiguous(),))[1][:, k] for k, unit in enumerate(units)]
    return sum(second)[:, None] + torch.sin(x).sum(1, keepdim=True)


def _equation(residual: Callable[..., Tensor]) -> Problem:
    model = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 1))
    return Problem(model, (torch.rand(N, 2),), torch.zeros(N, 1), F.mse_loss, compute=residual)


@problem(float32=True)
def laplacian_by_autograd() -> Problem:
    return _equation(_by_autograd)


@problem()
def laplacian_by_vmap_of_the_hessian() -> Problem:
    return _equation(_by_hessian)


@problem()
def laplacian_by_jvp_of_the_gradient() -> Problem:
    return _equation(_by_jvp)


@problem()
def gradient_penalty_as_the_output() -> Problem:
    """The norm of the model's gradient at each sample, as for a critic."""

    def compute(model, x):
        x = x.clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return slope.norm(dim=1)

    model = nn.Sequential(nn.Linear(D, 5), nn.Softplus(), nn.Linear(5, 1))
    return Problem(model, features(), torch.ones(N), F.mse_loss, compute=compute)
