"""Any model and any loss: the engine's GGN and gradient, computed from the graph, against the dense twin."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ddn_core.errors import CurvatureError
from tests.engine.any_model import Problem, aligned_twin, check, engine, engine_or_refusal, error, twin
from tests.engine.zoo import IN_FLOAT32, ZOO, C, D, Model, N, T, V

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch.func itself calls it


def built(name, seed=0):
    torch.manual_seed(seed)
    return ZOO[name]().to(torch.float64)


@pytest.mark.parametrize("name", ZOO)
def test_models(name):
    """The second model has other data and parameters, and in most cases a graph of the same nodes and shapes."""
    for seed in (0, 1):
        check(built(name, seed))


@pytest.mark.parametrize("name", ZOO)
def test_aligned_curvature(name):
    """The first pass carries the column of each sample; the third takes it from the backward pass itself."""
    problem = built(name)
    expected = aligned_twin(replace(problem, model=copy.deepcopy(problem.model)))
    for passes in (1, 3):
        own = replace(problem, model=copy.deepcopy(problem.model))
        actual = engine(own, kind="ggn-aligned", passes=passes)
        assert error(actual.blocks, expected.blocks) < 1e-9
        assert error(actual.gradient, expected.gradient) < 1e-9


@pytest.mark.parametrize("name", sorted(IN_FLOAT32))
def test_models_in_float32(name):
    problem = built(name)
    check(problem.to(torch.float32), twin(problem), tolerance=2e-5)


def test_the_comparison_can_fail():
    """A sample whose columns are those of another one, a wrong scale and a missing parameter are all noticed."""
    expected = twin(built("functional relu"))
    assert error(expected.blocks.flip(0).sum(0), expected.ggn) < 1e-14
    assert error(expected.blocks.flip(0), expected.blocks) > 0.1
    assert error(1.001 * expected.ggn, expected.ggn) > 1e-4
    assert error(expected.gradient * (torch.arange(len(expected.gradient)) > 0), expected.gradient) > 1e-4
    assert error(expected.gradient * float("nan"), expected.gradient) == float("inf")


# Losses


def mlp(outputs=C):
    return nn.Sequential(nn.Linear(D, 5), nn.Tanh(), nn.Linear(5, outputs))


def rows():
    return torch.arange(N) % C


def probabilities(*shape):
    return torch.rand(shape).softmax(1)


def weights():
    return torch.tensor([0.5, 2.0, 1.5])


def positions():
    targets = torch.randint(0, C, (N, T))
    targets[0] = targets[1, :2] = -100
    return targets


def sequence_outputs(model, x):
    """[N, C, T]: the class axis is the second, as torch's losses want it."""
    return model(x).transpose(1, 2)


def vector(loss):
    return lambda: Problem(mlp(), (torch.randn(N, D),), rows(), loss)


def probable(loss):
    return lambda: Problem(mlp(), (torch.randn(N, D),), probabilities(N, C), loss)


def sequence(loss, targets=positions):
    return lambda: Problem(mlp(), (torch.randn(N, T, D),), targets(), loss, compute=sequence_outputs)


def regression(loss, *axes):
    return lambda: Problem(mlp(2), (torch.randn(N, *axes, D),), torch.randn(N, *axes, 2), loss)


def binary(loss, *axes):
    return lambda: Problem(mlp(2), (torch.randn(N, *axes, D),), torch.rand(N, *axes, 2), loss)


def weighted(kind, **settings):
    """Return a loss of the functional form whose tensors have the precision of the output."""

    def loss(outputs, targets):
        cast = {
            name: value.to(outputs) if isinstance(value, torch.Tensor) else value for name, value in settings.items()
        }
        return kind(outputs, targets, **cast)

    return loss


def log_softmax_and_nll(outputs, targets, **settings):
    return F.nll_loss(F.log_softmax(outputs, dim=1), targets, **settings)


ce, nll, mse, bce = F.cross_entropy, log_softmax_and_nll, F.mse_loss, F.binary_cross_entropy_with_logits

LOSSES = {
    "CrossEntropyLoss": vector(nn.CrossEntropyLoss()),
    "CrossEntropyLoss sum": vector(nn.CrossEntropyLoss(reduction="sum")),
    "CrossEntropyLoss smoothed": vector(nn.CrossEntropyLoss(label_smoothing=0.1)),
    "cross_entropy sum": vector(weighted(ce, reduction="sum")),
    "cross_entropy class weights": vector(weighted(ce, weight=weights())),
    "cross_entropy class weights sum": vector(weighted(ce, weight=weights(), reduction="sum")),
    "cross_entropy ignored class": vector(weighted(ce, ignore_index=1)),
    "cross_entropy ignored class and weights": vector(weighted(ce, ignore_index=0, weight=weights())),
    "cross_entropy smoothed": vector(weighted(ce, label_smoothing=0.3)),
    "cross_entropy smoothed sum": vector(weighted(ce, label_smoothing=0.3, reduction="sum")),
    "cross_entropy smoothed and weights": vector(weighted(ce, label_smoothing=0.2, weight=weights())),
    "cross_entropy smoothed and ignored": vector(weighted(ce, label_smoothing=0.2, ignore_index=2)),
    "cross_entropy probabilities": probable(ce),
    "cross_entropy probabilities sum": probable(weighted(ce, reduction="sum")),
    "cross_entropy probabilities and weights": probable(weighted(ce, weight=weights())),
    "cross_entropy probabilities smoothed": probable(weighted(ce, label_smoothing=0.1)),
    "cross_entropy positions": sequence(ce),
    "cross_entropy positions sum": sequence(weighted(ce, reduction="sum")),
    "cross_entropy positions and weights": sequence(weighted(ce, weight=weights())),
    "cross_entropy positions smoothed": sequence(weighted(ce, label_smoothing=0.1)),
    "cross_entropy positions probabilities": sequence(ce, lambda: probabilities(N, C, T)),
    "cross_entropy times a constant": vector(lambda outputs, targets: 3 * ce(outputs, targets) / 7),
    "cross_entropy plus a constant": vector(lambda outputs, targets: ce(outputs, targets, reduction="sum") / 8 + 1.5),
    "nll_loss of log_softmax": vector(nll),
    "nll_loss of log_softmax sum": vector(weighted(nll, reduction="sum")),
    "nll_loss of log_softmax weights": vector(weighted(nll, weight=weights(), ignore_index=2)),
    "nll_loss of log_softmax positions": sequence(nll),
    "NLLLoss of log_softmax": vector(lambda outputs, targets: nn.NLLLoss()(outputs.log_softmax(-1), targets)),
    "MSELoss": regression(nn.MSELoss()),
    "MSELoss sum": regression(nn.MSELoss(reduction="sum")),
    "mse_loss": regression(mse),
    "mse_loss sum, positions": regression(weighted(mse, reduction="sum"), T),
    "mse_loss halved": regression(lambda outputs, targets: 0.5 * mse(outputs, targets), T),
    "BCEWithLogitsLoss": binary(nn.BCEWithLogitsLoss()),
    "bce sum, positions": binary(weighted(bce, reduction="sum"), T),
    "bce weight": binary(weighted(bce, weight=torch.tensor([[0.5], [2.0], [1.0], [0.0]]))),
    "bce pos_weight": binary(weighted(bce, pos_weight=torch.tensor([3.0, 0.25]))),
    "bce weight and pos_weight": binary(weighted(bce, weight=torch.tensor([0.5, 2.0]), pos_weight=torch.tensor(4.0))),
}


@pytest.mark.parametrize("name", LOSSES)
def test_aligned_curvature_of_losses(name):
    problem = LOSSES[name]().to(torch.float64)
    expected = aligned_twin(problem)
    for passes in (1, 3):
        actual = engine(problem, kind="ggn-aligned", passes=passes)
        assert error(actual.blocks, expected.blocks) < 1e-9
        assert error(actual.gradient, expected.gradient) < 1e-9


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name):
    torch.manual_seed(0)
    check(LOSSES[name]().to(torch.float64))


def test_a_loss_of_one_output_without_an_axis_for_it():
    torch.manual_seed(0)
    problem = Problem(mlp(1), (torch.randn(N, D),), torch.randn(N), mse, compute=lambda model, x: model(x)[:, 0])
    check(problem.to(torch.float64))


def one_hot(outputs, targets):
    return F.one_hot(targets, C).to(outputs)


EXACT_OR_REFUSED = {
    "arguments of mse_loss swapped": lambda outputs, targets: mse(one_hot(outputs, targets), outputs),
    "mean of the squares": lambda outputs, targets: (outputs - one_hot(outputs, targets)).square().mean(),
    "mean of the unreduced loss": lambda outputs, targets: ce(outputs, targets, reduction="none").mean(),
    "weights of the samples": lambda outputs, targets: (
        torch.tensor([0.5, 1.0, 2.0, 0.0]).to(outputs) * ce(outputs, targets, reduction="none")
    ).sum(),
    "weights of the entries": lambda outputs, targets: (
        torch.tensor([0.5, 1.0, 2.0]).to(outputs) * mse(outputs, one_hot(outputs, targets), reduction="none")
    ).mean(),
    "sum of two losses": lambda outputs, targets: ce(outputs, targets) + 0.3 * mse(outputs, one_hot(outputs, targets)),
    "the same loss on two targets": lambda outputs, targets: ce(outputs, targets) + ce(outputs, targets.flip(0)),
    "losses of two halves": lambda outputs, targets: ce(outputs[:2], targets[:2]) + 2 * ce(outputs[2:], targets[2:]),
    "losses of two groups of outputs": lambda outputs, targets: (
        bce(outputs[:, :1], one_hot(outputs, targets)[:, :1]) + ce(outputs[:, 1:], targets.clamp(max=1))
    ),
    "loss of some samples": lambda outputs, targets: ce(outputs[1:], targets[1:]),
    "loss of some outputs": lambda outputs, targets: mse(outputs[:, ::2], one_hot(outputs, targets)[:, ::2]),
    "temperature": lambda outputs, targets: ce(outputs / 0.7, targets),
    "factor that depends on the model, detached": lambda outputs, targets: (
        outputs.square().mean().detach() * ce(outputs, targets)
    ),
}


@pytest.mark.parametrize("name", EXACT_OR_REFUSED)
def test_losses_that_are_exact_or_refused(name):
    """The sum over samples is compared, because some of these losses leave out samples or repeat them."""
    torch.manual_seed(0)
    problem = replace(vector(EXACT_OR_REFUSED[name])(), samples=1).to(torch.float64)
    actual = engine_or_refusal(problem)
    if isinstance(actual, str):
        assert "loss" in actual.lower()
    else:
        expected = twin(problem)
        assert error(actual.ggn, expected.ggn) < 1e-10
        assert error(actual.gradient, expected.gradient) < 1e-10


def test_a_confident_mistake_keeps_its_gradient_in_float32():
    """At a gap of 150 between the logits, the probability of the true class is zero in float32."""
    model = Model(lambda self, x: x @ self.weight, weight=torch.zeros(2, C))
    with torch.no_grad():
        model.weight[0, 0] = 150.0
    inputs = torch.tensor([[1.0, 0.5], [0.0, 1.0], [0.0, -1.0], [0.01, 1.0]])
    problem = Problem(model, (inputs,), torch.tensor([1, 0, 2, 1]))
    expected = twin(problem.to(torch.float64))
    actual = engine(problem)
    assert error(actual.gradient, expected.gradient) < 1e-5
    assert bool(torch.isfinite(actual.ggn).all())


@pytest.mark.parametrize(
    "name", ["cross_entropy class weights", "nll_loss of log_softmax positions", "mse_loss", "bce pos_weight"]
)
def test_monte_carlo_columns_have_the_ggn_as_their_mean(name):
    torch.manual_seed(0)
    problem = LOSSES[name]().to(torch.float64)
    expected = twin(problem)
    actual = engine(problem, mc_samples=500)
    assert 1e-3 < error(actual.ggn, expected.ggn) < 0.2
    assert 1e-3 < error(actual.blocks, expected.blocks) < 0.2


def test_monte_carlo_columns_where_samples_mix():
    problem = built("batch statistics")
    expected = twin(problem)
    assert 1e-3 < error(engine(problem, mc_samples=500).ggn, expected.ggn) < 0.2


# Ways to run a model


def test_autocast_in_bfloat16():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(D, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, C))
    problem = Problem(model, (torch.randn(N, D),), rows()).to(torch.float64)

    def casting(model):
        def forward(x):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return model(x)

        return forward

    expected = twin(problem)
    own = replace(problem.to(torch.float32), wrap=casting, loss=lambda z, y: F.cross_entropy(z.float(), y))
    check(own, expected, tolerance=0.02)
    assert error(engine(own).ggn, expected.ggn) > 1e-4  # the model did run in bfloat16


def test_a_norm_in_float32_inside_a_model_of_float64():
    """The norms of many published models cast to float32, so cotangents that pass them are rounded to float32."""
    torch.manual_seed(0)

    def forward(self, x):
        h = self.first(x).float()
        h = (h * (h.square().mean(-1, keepdim=True) + 1e-6).rsqrt()).to(x.dtype)
        return self.last(self.scale * torch.tanh(h))

    parts = {"first": nn.Linear(D, 5), "scale": torch.randn(5), "last": nn.Linear(5, C)}
    problem = Problem(Model(forward, **parts), (torch.randn(N, D),), rows()).to(torch.float64)
    for _ in range(2):
        problem.model.zero_grad()
        check(problem, tolerance=1e-5)


@pytest.mark.filterwarnings("ignore")  # torch's own, of its compiler
@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_compiled_models(backend, monkeypatch):
    monkeypatch.setattr("torch._functorch.config.donated_buffer", False)
    problem = built("residual layer norm gelu")
    torch._dynamo.reset()
    check(replace(problem, wrap=lambda model: torch.compile(model, backend=backend)), twin(problem))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["own transformer", "cnn with batch norm in evaluation"])
def test_larger_compiled_models(name, monkeypatch):
    monkeypatch.setattr("torch._functorch.config.donated_buffer", False)
    problem = built(name)
    torch._dynamo.reset()
    check(replace(problem, wrap=lambda model: torch.compile(model, backend="aot_eager")), twin(problem))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_model_with_donated_buffers_is_told():
    """They are donated from its first plain backward pass on."""
    torch._dynamo.reset()
    problem = built("residual layer norm gelu")
    with pytest.raises(CurvatureError, match="donated_buffer = False"):
        check(replace(problem, wrap=lambda model: torch.compile(model, backend="aot_eager")), twin(problem))


# The engine keeps plans: a later pass over the same kinds of nodes may need another one. The sizes are those of no other
# test, because a plan that another test has left would hide a mistake.


def test_other_data_and_parameters_after_the_first_pass():
    problem = built("own transformer")
    check(problem)
    for seed in (1, 2):
        torch.manual_seed(seed)
        for parameter in problem.model.parameters():
            nn.init.normal_(parameter, std=0.5)
            parameter.grad = None
        check(replace(problem, inputs=(torch.randint(0, V, (N, T)),), targets=torch.randint(0, C, (N,))))


def test_samples_that_are_permuted_in_a_later_pass():
    torch.manual_seed(0)

    def forward(self, x, order):
        return self.last(torch.tanh(self.first(x))[order])

    problem = Problem(Model(forward, first=nn.Linear(D, 7), last=nn.Linear(7, C)), (), rows())
    x = torch.randn(N, D)
    for order in ([0, 1, 2, 3], [2, 0, 3, 1], [0, 1, 2, 3], [0, 0, 1, 1]):
        check(replace(problem, inputs=(x, torch.tensor(order))).to(torch.float64))


def test_batch_norm_that_changes_its_mode():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(D, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, C))
    problem = Problem(model, (torch.randn(N, D),), rows()).to(torch.float64)
    for training in (False, True, False):
        problem.model.train(training).zero_grad()
        check(problem)


def test_a_mixing_matrix_that_was_the_identity():
    torch.manual_seed(0)

    def forward(self, x, matrix):
        return self.last(matrix @ torch.tanh(self.first(x)))

    problem = Problem(Model(forward, first=nn.Linear(D, 8), last=nn.Linear(8, C)), (), rows())
    x = torch.randn(N, D)
    for matrix in (torch.eye(N), torch.eye(N) + 0.1, torch.eye(N).roll(1, 0)):
        check(replace(problem, inputs=(x, matrix)).to(torch.float64))


@pytest.mark.parametrize("mixes", [False, True])
def test_a_gate_that_begins_at_zero(mixes):
    """In the first pass nothing but zeros reaches the branch behind the gate, so the pass tells nothing about it."""
    torch.manual_seed(0)

    def forward(self, x):
        h = torch.tanh(self.branch(x))
        h = h - h.mean(0) if mixes else h.view(N, D, 1).transpose(1, 2).flatten(1)
        return self.last(x + self.gate * self.inner(h))

    parts = {"branch": nn.Linear(D, D), "inner": nn.Linear(D, D), "gate": torch.zeros(D)}
    problem = Problem(Model(forward, **parts, last=nn.Linear(D, C)), (torch.randn(N, D),), rows()).to(torch.float64)
    for value in (0.0, 0.7, 0.0, -1.0):
        nn.init.constant_(problem.model.gate, value)
        problem.model.zero_grad()
        check(problem)


def test_cotangents_that_are_rounding_noise():
    """A norm over one feature has no derivative: what reaches the layers below it is zero, up to rounding."""
    torch.manual_seed(0)

    def forward(self, x):
        h = F.layer_norm(self.first(x), (1,), self.scale, eps=0.1)
        return self.last(torch.cat([torch.tanh(h).squeeze(2), self.aside(x[:, 0])], dim=1))

    parts = {"first": nn.Linear(D, 1), "scale": torch.randn(1), "aside": nn.Linear(D, 2), "last": nn.Linear(T + 2, C)}
    problem = Problem(Model(forward, **parts), (torch.randn(N, T, D),), rows()).to(torch.float64)
    for _ in range(2):
        problem.model.zero_grad()
        check(problem)


@pytest.mark.parametrize("size", [4, 3, 1])
def test_a_last_batch_that_is_smaller(size):
    torch.manual_seed(0)
    model = mlp().double()
    problem = Problem(model, (torch.randn(size, D).double(),), torch.arange(size) % C, samples=size)
    check(Problem(model, (torch.randn(N, D).double(),), rows()))
    model.zero_grad()
    check(problem)


# What is refused, because the GGN would not be that of the loss


def refused(loss_of):
    """Run the engine on a loss that is a function of a model and its data."""
    torch.manual_seed(0)
    model = mlp().double()
    x, targets = torch.randn(N, D).double(), rows()
    problem = Problem(model, (x,), targets)
    return engine(replace(problem, loss=lambda outputs, targets: loss_of(model, x, outputs, targets)))


FUNCTIONS_OF_THE_LOSS = {
    "sqrt": torch.sqrt,
    "exp": torch.exp,
    "log": torch.log,
    "square": lambda loss: loss**2,
    "reciprocal": lambda loss: 1 / loss,
    "negative": lambda loss: -loss,
    "product with itself": lambda loss: loss * loss.detach().exp() + loss * loss,
}


@pytest.mark.parametrize("name", FUNCTIONS_OF_THE_LOSS)
def test_a_function_of_the_loss_is_refused(name):
    with pytest.raises(CurvatureError, match=r"(?i)loss"):
        refused(lambda model, x, outputs, targets: FUNCTIONS_OF_THE_LOSS[name](F.cross_entropy(outputs, targets)))


PENALTIES = {
    "hidden activation": lambda model, x, outputs: 0.1 * torch.tanh(model[0](x)).square().mean(),
    "output": lambda model, x, outputs: 0.1 * outputs.square().mean(),
    "parameter": lambda model, x, outputs: 0.01 * model[0].weight.square().sum(),
    "norm of a parameter": lambda model, x, outputs: 0.01 * model[2].weight.norm(),
}


@pytest.mark.parametrize("name", PENALTIES)
def test_a_penalty_beside_the_loss_is_refused(name):
    with pytest.raises(CurvatureError, match=r"(?i)loss|penalty"):
        refused(
            lambda model, x, outputs, targets: F.cross_entropy(outputs, targets) + PENALTIES[name](model, x, outputs)
        )


UNKNOWN_LOSSES = {
    "absolute error": lambda outputs, targets: (outputs - 1).abs().mean(),
    "l1_loss": lambda outputs, targets: F.l1_loss(outputs, torch.ones_like(outputs)),
    "huber_loss": lambda outputs, targets: F.huber_loss(outputs, torch.ones_like(outputs)),
    "mean of the outputs": lambda outputs, targets: outputs.mean(),
    "nll_loss of probabilities": lambda outputs, targets: F.nll_loss(outputs.softmax(1), targets),
    "nll_loss of logits": lambda outputs, targets: F.nll_loss(outputs, targets),
    "softmax over the samples": lambda outputs, targets: F.nll_loss(outputs.log_softmax(0), targets),
    "focal loss": lambda outputs, targets: (
        (1 - torch.exp(-F.cross_entropy(outputs, targets, reduction="none"))) ** 2
        * F.cross_entropy(outputs, targets, reduction="none")
    ).mean(),
    "targets that depend on the model": lambda outputs, targets: F.mse_loss(outputs, outputs.square()),
}


@pytest.mark.parametrize("name", UNKNOWN_LOSSES)
def test_an_unknown_loss_is_refused(name):
    with pytest.raises(CurvatureError, match=r"(?i)loss"):
        refused(lambda model, x, outputs, targets: UNKNOWN_LOSSES[name](outputs, targets))


HOOKS = {
    "parameter": lambda model: model[0].weight.register_hook(lambda gradient: 0.5 * gradient),
    "hidden activation": lambda model: model[1].register_forward_hook(
        lambda module, inputs, output: output.register_hook(lambda gradient: 0.5 * gradient) and None
    ),
    "module": lambda model: model[1].register_full_backward_hook(
        lambda module, gradient_input, gradient_output: (0.5 * gradient_input[0],)
    ),
}


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_that_changes_a_gradient_is_refused_or_is_in_the_curvature(name):
    """A hook on a hidden activation may count as a part of the model: then gradient and curvature both have it."""
    torch.manual_seed(0)
    problem = Problem(mlp(), (torch.randn(N, D),), rows()).to(torch.float64)
    HOOKS[name](problem.model)
    actual = engine_or_refusal(problem)
    if isinstance(actual, str):
        assert "grad" in actual.lower() or "hook" in actual.lower()
    else:
        assert name != "parameter"
        expected = twin(problem)
        assert error(actual.ggn, expected.ggn) < 1e-10
        assert error(actual.gradient, expected.gradient) < 1e-10


def test_a_parameter_hook_that_only_looks_is_fine():
    torch.manual_seed(0)
    problem = Problem(mlp(), (torch.randn(N, D),), rows()).to(torch.float64)
    expected, seen = twin(problem), []
    problem.model[0].weight.register_hook(lambda gradient: seen.append(gradient.shape))
    problem.model[1].register_forward_hook(
        lambda module, inputs, output: output.register_hook(lambda gradient: seen.append(gradient.shape)) and None
    )
    assert error(engine(problem).ggn, expected.ggn) < 1e-10
    assert torch.Size([5, D]) in seen


def test_a_notice_tells_what_mixed_samples_cost(caplog):
    engine(built("cnn with batch norm in training"))
    assert "at NativeBatchNorm, samples share a tensor" in caplog.text
    caplog.clear()
    for name in ("weight norm", "tied language model"):  # positions are looked up in an embedding
        engine(built(name))
        assert not caplog.text


def test_a_tensor_that_retains_its_gradient_is_told():
    """The passes that carry columns would add to the gradient that it retains."""
    torch.manual_seed(0)
    problem, hidden = Problem(mlp(), (torch.randn(N, D),), rows()).to(torch.float64), []

    def retain(module, inputs, output):
        output.retain_grad()
        hidden.append(output)

    problem.model[1].register_forward_hook(retain)
    with pytest.raises(CurvatureError, match="retain_grad"):
        engine(problem)


def test_a_graph_is_left_as_it_was_when_the_loss_is_refused():
    torch.manual_seed(0)
    model = mlp().double()
    problem = Problem(model, (torch.randn(N, D).double(),), rows(), lambda z, y: F.cross_entropy(z, y).sqrt())
    with pytest.raises(CurvatureError):
        engine(problem)
    model.zero_grad()
    plain = copy.deepcopy(model)
    check(replace(problem, model=plain, loss=F.cross_entropy))
