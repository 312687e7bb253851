"""Operations of which random models are composed: each is a function of a state `[N, a, b]` and of a `Program`.

An operation returns another state `[N, a', b']`. It takes parameters from `program.parameter(*shape)`, makes choices by
`program.choose(...)`, and finds earlier states in `program.states`. Sizes stay at most `WIDEST`, and values moderate.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.engine.zoo import Product

WIDEST = 6


class Program(nn.Module):
    """A model that applies operations one after the other, and ends in a linear head.

    The first pass creates the parameters; each later pass finds the same ones, because all choices are seeded.

    Args:
        steps: Name and seed of each operation.
        width: Features of the input for each of two positions.
        outputs: Number of outputs per sample.
        seed: Seed of the parameters.
        sharing: Probability that an operation takes an existing parameter of the right shape instead of a new one.
    """

    def __init__(
        self, steps: Sequence[tuple[str, int]], width: int, outputs: int, seed: int, sharing: float = 0.2
    ) -> None:
        super().__init__()
        self.steps, self.width, self.outputs, self.sharing = list(steps), width, outputs, sharing
        self.generator = torch.Generator().manual_seed(seed)
        self.values = nn.ParameterList()
        self.states: list[Tensor] = []
        self.order = torch.arange(4)
        self(torch.zeros(4, 2, width, dtype=torch.float64), torch.arange(4))

    def forward(self, x: Tensor, order: Tensor) -> Tensor:
        """Return the outputs `[N, outputs]`; `order` holds N sample indices that some operations use."""
        self.used, self.order, self.states = 0, order, []
        self.chooser = random.Random(0)
        x = F.linear(x, self.parameter(self.width, self.width), self.parameter(self.width))
        for name, seed in self.steps:
            self.chooser = random.Random(seed)
            self.states.append(x)
            x = OPERATIONS[name](x, self)
            assert x.dim() == 3, name
            assert x.shape[0] == len(order), name
            assert max(x.shape[1:]) <= WIDEST, name
        self.states = []
        x = torch.tanh(x.flatten(1))
        return F.linear(x, self.parameter(self.outputs, x.shape[1]), self.parameter(self.outputs))

    def parameter(self, *shape: int) -> Tensor:
        """Return a parameter of a shape: a new one, or one that is used already."""
        same = [value for value in self.values[: self.used] if value.shape == shape]
        if same and self.chooser.random() < self.sharing:
            return self.chooser.choice(same)
        if self.used == len(self.values):
            value = 0.6 * torch.randn(shape, generator=self.generator, dtype=torch.float64)
            self.values.append(nn.Parameter(value))
        self.used += 1
        return self.values[self.used - 1]

    def choose(self, *values: Any) -> Any:
        """Return one of the values."""
        return self.chooser.choice(values)

    def size(self) -> int:
        """Return a number of features."""
        return self.chooser.randint(1, WIDEST)

    def earlier(self, *shape: int) -> Tensor:
        """Return an earlier state, with its features averaged or repeated until it has the shape `[N, *shape]`."""
        state = self.chooser.choice(self.states)
        if state.shape[1:] == shape:
            return state
        return state.mean((1, 2), keepdim=True).expand(-1, *shape)


Operation = Callable[[Tensor, Program], Tensor]
OPERATIONS: dict[str, Operation] = {}
"""Operations by name."""


def operation(function: Operation) -> Operation:
    """Add an operation to the vocabulary under its own name."""
    OPERATIONS[function.__name__] = function
    return function


OPERATIONS |= {
    # one after the other, for each element
    "tanh": lambda x, program: torch.tanh(x),
    "relu": lambda x, program: torch.relu(x),
    "gelu": lambda x, program: F.gelu(x),
    "silu": lambda x, program: F.silu(x),
    "sigmoid": lambda x, program: torch.sigmoid(x),
    "softplus": lambda x, program: F.softplus(x),
    "leaky_relu": lambda x, program: F.leaky_relu(x, 0.2),
    "elu": lambda x, program: F.elu(x),
    "sine": lambda x, program: torch.sin(x),
    "exponential": lambda x, program: torch.exp(torch.tanh(x)),
    "logarithm": lambda x, program: torch.log1p(x.square()),
    "square_root": lambda x, program: torch.sqrt(1 + x.square()),
    "reciprocal": lambda x, program: 1 / (1 + x.square()),
    "power": lambda x, program: torch.tanh(x) ** 3,
    "absolute_value": lambda x, program: x.abs(),
    "maximum": lambda x, program: torch.maximum(x, -0.5 * x),
    "clamp": lambda x, program: x.clamp(-0.7, 1.1),
    "minus_a_number": lambda x, program: 1.5 - 2 * x,
    "rectified_with_a_slope": lambda x, program: F.prelu(x, program.parameter(x.shape[1])),
    # scales and shifts
    "bias": lambda x, program: x + program.parameter(x.shape[2]),
    "bias_for_each_position": lambda x, program: x - program.parameter(x.shape[1], 1),
    "bias_for_each_entry": lambda x, program: x + program.parameter(*x.shape[1:]),
    "bias_of_a_number": lambda x, program: torch.add(x, program.parameter(), alpha=0.5),
    "bias_that_is_expanded": lambda x, program: x + program.parameter(1, *x.shape[1:]).expand(len(x), -1, -1),
    "scale": lambda x, program: x * program.parameter(x.shape[2]),
    "scale_for_each_position": lambda x, program: program.parameter(x.shape[1], 1) * x,
    "scale_of_a_number": lambda x, program: x * program.parameter(),
    "scale_by_an_exponential": lambda x, program: x * program.parameter(1).exp(),
    "division": lambda x, program: x / (1 + program.parameter(x.shape[2]).square()),
    # products
    "matmul": lambda x, program: x @ program.parameter(x.shape[2], program.size()),
    "matmul_from_the_left": lambda x, program: program.parameter(program.size(), x.shape[1]) @ x,
    "linear": lambda x, program: F.linear(
        x, program.parameter(size := program.size(), x.shape[2]), program.parameter(size)
    ),
    "gram_matrix": lambda x, program: torch.tanh(x @ x.transpose(1, 2)),
    # axes
    "transpose": lambda x, program: x.transpose(1, 2),
    "permute_twice": lambda x, program: torch.tanh(x.permute(2, 0, 1)).permute(1, 2, 0),
    "reshape": lambda x, program: x.reshape(len(x), x.shape[2], x.shape[1]),
    "flip": lambda x, program: x.flip(program.choose(1, 2)),
    "roll": lambda x, program: x.roll(1, program.choose(1, 2)),
    "narrow": lambda x, program: x[:, : max(1, x.shape[1] - 1), :: program.choose(1, 2)],
    "triangle": lambda x, program: x.tril(),
    "sum_of_features": lambda x, program: x.sum(program.choose(1, 2), keepdim=True),
    "mean_of_features": lambda x, program: x.mean(program.choose(1, 2), keepdim=True),
    "largest_feature": lambda x, program: x.amax(program.choose(1, 2), keepdim=True),
    "logsumexp": lambda x, program: x.logsumexp(program.choose(1, 2), keepdim=True),
    "norm_of_features": lambda x, program: (x.square().sum(2, keepdim=True) + 0.1).sqrt(),
    "cumulative_sum": lambda x, program: x.cumsum(program.choose(1, 2)),
    "sort": lambda x, program: x.sort(program.choose(1, 2)).values,
    "softmax": lambda x, program: torch.softmax(x, program.choose(1, 2)),
    "log_softmax": lambda x, program: F.log_softmax(x, program.choose(1, 2)),
    "detached_factor": lambda x, program: x * torch.tanh(x).detach(),
}


@operation
def addmm_of_flat_rows(x, program):
    size = program.size()
    flat = x.reshape(-1, x.shape[2])
    return torch.addmm(program.parameter(size), flat, program.parameter(x.shape[2], size), alpha=0.7).view(
        *x.shape[:2], size
    )


@operation
def baddbmm(x, program):
    weight = program.parameter(x.shape[2], x.shape[2]).expand(len(x), -1, -1)
    return torch.baddbmm(x, x, weight, beta=0.5)


@operation
def addcmul(x, program):
    return torch.addcmul(program.parameter(x.shape[2]), x, program.parameter(x.shape[1], 1), value=0.5)


@operation
def weight_and_its_transpose(x, program):
    weight = program.parameter(x.shape[2], program.size())
    return torch.tanh(x @ weight) @ weight.T


@operation
def low_rank_weight(x, program):
    size = program.size()
    weight = program.parameter(size, x.shape[2]) + program.parameter(size, 1) @ program.parameter(1, x.shape[2])
    return F.linear(x, weight)


@operation
def normalized_weight(x, program):
    weight = program.parameter(program.size(), x.shape[2])
    return F.linear(x, weight / (weight.square().sum(1, keepdim=True) + 0.1).sqrt())


@operation
def weight_of_each_position(x, program):
    return torch.einsum("nab,abc->nac", x, program.parameter(*x.shape[1:], program.size()))


@operation
def weight_of_all_features(x, program):
    return torch.einsum("nab,abc->nc", x, program.parameter(*x.shape[1:], program.size()))[:, None]


@operation
def einsum_of_two_weights(x, program):
    a, b = x.shape[1:]
    return torch.einsum("nab,ac,bd->ncd", x, program.parameter(a, 2), program.parameter(b, 3))


@operation
def weight_made_for_each_sample(x, program):
    own = F.linear(x.mean(1), program.parameter(2 * x.shape[2], x.shape[2])).view(len(x), x.shape[2], 2)
    return x @ own


@operation
def custom_product(x, program):
    flat = x.reshape(-1, x.shape[2])
    return Product.apply(flat, program.parameter(x.shape[2], 3)).view(*x.shape[:2], 3)


@operation
def embedding_of_fixed_tokens(x, program):
    tokens = (torch.arange(len(x))[:, None] + torch.arange(x.shape[1])) % 3
    return x + F.embedding(tokens, program.parameter(3, x.shape[2]))


# norms


@operation
def layer_norm(x, program):
    size = x.shape[2]
    return F.layer_norm(x, (size,), 1 + program.parameter(size), program.parameter(size), eps=0.1)


@operation
def layer_norm_of_both_axes(x, program):
    return F.layer_norm(x, x.shape[1:], program.parameter(*x.shape[1:]), eps=0.1)


@operation
def root_mean_square_norm(x, program):
    return F.rms_norm(x, (x.shape[2],), program.parameter(x.shape[2]), eps=0.1)


@operation
def group_norm(x, program):
    groups = 2 if x.shape[1] % 2 == 0 else 1
    return F.group_norm(x, groups, program.parameter(x.shape[1]), program.parameter(x.shape[1]), eps=0.1)


@operation
def batch_norm_in_evaluation(x, program):
    size = x.shape[1]
    mean, variance = torch.linspace(-1, 1, size).double(), torch.linspace(0.5, 2, size).double()
    return F.batch_norm(x, mean, variance, program.parameter(size), program.parameter(size))


@operation
def batch_norm_in_training(x, program):
    size = x.shape[1]
    return F.batch_norm(x, None, None, program.parameter(size), program.parameter(size), training=True, eps=0.1)


# samples along another axis, and samples that mix or move


@operation
def samples_last(x, program):
    return (program.parameter(x.shape[2], 1) * torch.sin(x.permute(1, 2, 0))).permute(2, 0, 1)


@operation
def samples_second(x, program):
    return F.linear(x.transpose(0, 1), program.parameter(program.size(), x.shape[2])).transpose(0, 1)


@operation
def positions_before_samples_in_one_axis(x, program):
    n, a, b = x.shape
    size = program.size()
    flat = x.transpose(0, 1).reshape(a * n, b)
    return F.linear(flat, program.parameter(size, b), program.parameter(size)).view(a, n, size).transpose(0, 1)


@operation
def samples_before_positions_in_one_axis(x, program):
    n, a, b = x.shape
    flat = F.layer_norm(x.flatten(0, 1), (b,), program.parameter(b), eps=0.1)
    return torch.tanh(flat).unflatten(0, (n, a))


@operation
def samples_before_features_in_the_last_axis(x, program):
    n, a, b = x.shape
    flat = x.permute(1, 0, 2).reshape(a, n * b)
    return (program.parameter(a, a) @ flat).view(a, n, b).transpose(0, 1)


@operation
def samples_one_by_one(x, program):
    weight = program.parameter(x.shape[2], x.shape[2])
    return torch.stack([torch.tanh(sample @ weight) for sample in x.unbind()])


@operation
def minus_the_mean_of_the_batch(x, program):
    return x - x.mean(0)


@operation
def divided_by_the_deviation_of_the_batch(x, program):
    return x / (x.var(0, unbiased=False, keepdim=True) + 0.5).sqrt()


@operation
def permuted_samples(x, program):
    return x[program.order]


@operation
def selected_samples(x, program):
    return 0.5 * x + x.index_select(0, program.order.flip(0)) * program.parameter(x.shape[2])


@operation
def rolled_samples(x, program):
    return x.roll(1, 0)


@operation
def softmax_over_the_batch(x, program):
    return torch.softmax(x, 0)


@operation
def cumulative_sum_over_the_batch(x, program):
    return x.cumsum(0)


@operation
def mixed_by_a_fixed_matrix(x, program):
    matrix = torch.eye(len(x)).double()[program.order] + torch.eye(len(x)).double() / 2
    return torch.einsum("mn,nab->mab", matrix, x)


@operation
def attention_over_the_batch(x, program):
    flat = x.flatten(1)
    return (torch.softmax(torch.tanh(flat @ flat.T), dim=1) @ flat).view_as(x)


# skips, concatenations, splits


@operation
def skip(x, program):
    return x + program.earlier(*x.shape[1:])


@operation
def skip_with_a_weight(x, program):
    return x + torch.tanh(program.earlier(*x.shape[1:])) * program.parameter(x.shape[2])


@operation
def gate_from_an_earlier_state(x, program):
    return x * torch.sigmoid(program.earlier(*x.shape[1:]))


@operation
def concatenation(x, program):
    axis = program.choose(1, 2)
    return torch.cat([program.earlier(*x.shape[1:]), x], axis).narrow(axis, 0, min(WIDEST, 2 * x.shape[axis]))


@operation
def split_and_swap(x, program):
    half = (x.shape[2] + 1) // 2
    first, second = x[..., :half], x[..., half:]
    return torch.cat([second, 2 * first], dim=2)


@operation
def gated_linear_unit(x, program):
    return F.glu(F.linear(x, program.parameter(4, x.shape[2])), dim=2)


@operation
def stack_of_unbound_positions(x, program):
    parts = [torch.tanh(part) if k else part for k, part in enumerate(x.unbind(1))]
    return torch.stack(parts[::-1], dim=1)


@operation
def padding(x, program):
    return F.pad(x, (0, min(1, WIDEST - x.shape[2]), 0, min(1, WIDEST - x.shape[1])), value=0.3)


@operation
def chosen_features(x, program):
    chosen = torch.tensor([program.choose(*range(x.shape[2])) for _ in range(3)])
    return x[..., chosen]


@operation
def scattered_features(x, program):
    place = torch.tensor([program.choose(*range(4)) for _ in range(x.shape[2])])
    return torch.zeros(*x.shape[:2], 4, dtype=x.dtype).index_add(2, place, x)


@operation
def choice_by_sign(x, program):
    return torch.where(x > 0, x * program.parameter(x.shape[2]), torch.tanh(x))


@operation
def in_place(x, program):
    h = x * 1.5
    h[:, :1] *= program.parameter(x.shape[2])
    h[..., -1] = program.parameter()
    return h.add_(program.parameter(x.shape[1], 1)).relu_()


# convolutions, pooling, attention, recurrence


@operation
def convolution_of_one_dimension(x, program):
    size = program.size()
    return F.conv1d(x, program.parameter(size, x.shape[1], 3), program.parameter(size), padding=1)


@operation
def convolution_with_groups(x, program):
    channels = x.shape[1]
    h = F.conv1d(x, program.parameter(2 * channels, 1, 2), stride=2, padding=2, dilation=2, groups=channels)
    return torch.tanh(h).view(len(x), channels, 2, -1).sum(2)


@operation
def convolution_of_two_dimensions(x, program):
    h = F.conv2d(x[:, None], program.parameter(2, 1, 3, 3), program.parameter(2), padding=1)
    return torch.tanh(h).mean(1)


@operation
def transposed_convolution(x, program):
    h = F.conv_transpose1d(x, program.parameter(x.shape[1], 2, 2), program.parameter(2), stride=1)
    return h[..., :WIDEST]


@operation
def average_pooling(x, program):
    return F.avg_pool1d(x, 2, stride=1, padding=1)[..., :WIDEST]


@operation
def maximum_pooling(x, program):
    return F.max_pool1d(x, 2, stride=1, padding=1)[..., :WIDEST]


@operation
def attention(x, program):
    size = x.shape[2]
    q, k, v = F.linear(x, program.parameter(3 * size, size)).chunk(3, dim=2)
    return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], is_causal=program.choose(False, True))[
        :, 0
    ]


@operation
def attention_written_out(x, program):
    scores = torch.einsum("nab,ncb->nac", x @ program.parameter(x.shape[2], x.shape[2]), torch.tanh(x))
    return torch.softmax(scores, dim=2) @ x


@operation
def recurrence(x, program):
    size = x.shape[2]
    weight, own = program.parameter(3 * 2, size), program.parameter(3 * 2, 2)
    h, states = torch.zeros(len(x), 2, dtype=x.dtype), []
    for step in x.unbind(1):
        h = torch._VF.gru_cell(step, h, weight, own)
        states.append(h)
    return torch.stack(states, dim=1)


@operation
def checkpointed(x, program):
    weight = program.parameter(x.shape[2], x.shape[2])
    return checkpoint(lambda value: torch.tanh(value @ weight) + value, x, use_reentrant=False)
