"""Networks as modules of torch. These tests run where torch is installed; test_doors.py tests the passes that modules
are made of without it."""

import copy
import pickle

import numpy as np
import pytest

import fastgd
from fastgd import Adam, BatchNorm, Dense, Dropout, Network


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


def made(*layers, dtype="float64", inputs=4, **options):
    network = Network(inputs, [*layers, Dense(3)], loss="mse", dtype=dtype, **options)
    return network, fastgd.torch.as_module(network)


def gradients(module, x, dy):
    """(dx, gradient of the parameters) of one backward pass through a call."""
    module.zero_grad()
    x = x.detach().clone().requires_grad_()
    module(x).backward(dy)
    return x.grad, module.parameters_.grad.clone()


@pytest.mark.parametrize("layer", [Dense(5, "silu"), fastgd.LayerNorm(), BatchNorm(), Dropout(0.3)])
def test_gradients_are_those_of_differences(layer, torch):
    _, module = made(layer)
    module.eval()
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, [x])
    assert torch.autograd.gradcheck(lambda x: module(x) * module(2 * x), [x])
    with pytest.raises(RuntimeError, match="once_differentiable"):
        torch.autograd.grad(module(x).pow(2).sum(), x, create_graph=True)[0].sum().backward()


def test_several_calls_in_a_graph_add_up(torch):
    """With Dropout and BatchNorm: as if torch had added the gradients of separate calls."""
    network, module = made(Dense(6, "tanh"), Dropout(0.4), BatchNorm())
    twins = [copy.deepcopy(network) for _ in range(2)]
    x = [torch.randn(n, 4, dtype=torch.float64, requires_grad=True) for n in (5, 5)]
    y = [module(a) for a in x]
    module.eval()
    module(x[0])
    with torch.no_grad():
        module(x[0])
    network.loss_and_gradient(np.ones((2, 4)), np.ones((2, 3)), training=True)
    state, total = network.state.copy(), 0
    sum((one * one).sum() for one in y).backward()
    for i, twin in enumerate(twins):
        out = twin.forward(x[i].detach().numpy(), training=True, minibatch=i)
        np.testing.assert_array_equal(out, y[i].detach())
        np.testing.assert_array_equal(twin.backward(2 * out), x[i].grad)
        total = total + twin.gradient
    np.testing.assert_allclose(module.parameters_.grad, total, rtol=1e-13, atol=1e-15)
    np.testing.assert_array_equal(network.state, state)


def test_each_call_in_training_mode_draws_new_masks(torch):
    """Whoever updates the parameters; as train_step does if there is one call in each step."""
    network, module = made(Dense(30), Dropout(0.5))
    twin, optimizers, x = copy.deepcopy(network), (Adam(), Adam()), torch.randn(6, 4, dtype=torch.float64)
    torch_optimizer, outputs = torch.optim.SGD(module.parameters(), 1e-9), []
    for _ in range(4):
        outputs.append(module(x).detach().numpy().round(3))
        torch_optimizer.step()
    assert len(np.unique(outputs, axis=0)) == 4
    network, module = made(Dense(30), Dropout(0.5))
    for _ in range(4):
        y = torch.randn(6, 3, dtype=torch.float64)
        torch.nn.functional.mse_loss(module(x), y).backward()
        optimizers[0].step(network)
        twin.train_step(x.numpy(), y.numpy(), optimizers[1])
    np.testing.assert_allclose(network.parameters, twin.parameters, rtol=1e-12, atol=1e-14)


def test_training_with_torch_is_that_of_a_twin_in_torch(torch):
    network, module = made(Dense(7, "tanh"))
    linear = [torch.nn.Linear(4, 7).double(), torch.nn.Linear(7, 3).double()]
    twin = torch.nn.Sequential(linear[0], torch.nn.Tanh(), linear[1])
    views = network.views()
    with torch.no_grad():
        for i, layer in enumerate(linear, 1):
            layer.weight.copy_(torch.from_numpy(views[f"w{i}"].T.copy()))
            layer.bias.copy_(torch.from_numpy(views[f"b{i}"]))
    ends = []
    for model in (module, twin):
        head = torch.nn.Linear(3, 2).double()
        with torch.no_grad():
            for p in head.parameters():
                p.copy_(torch.arange(p.numel()).reshape(p.shape) / 10)
        optimizer, generator = torch.optim.Adam([*model.parameters(), *head.parameters()]), torch.Generator()
        generator.manual_seed(0)
        for _ in range(20):
            x = torch.randn(9, 4, dtype=torch.float64, generator=generator)
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(head(model(x)), x[:, :2]).backward()
            optimizer.step()
        ends.append(head(model(x)).detach().numpy())
    np.testing.assert_allclose(*ends, rtol=1e-10, atol=1e-12)


def test_inputs_of_any_kind(torch):
    network, module = made(Dense(7, "tanh"), dtype="float32")
    module.eval()
    x, dy = torch.round(4 * torch.randn(6, 4)), torch.randn(6, 3)
    dx, gradient = gradients(module, x, dy)
    expected = torch.from_numpy(network.predict(x.numpy()))
    wide = torch.zeros(6, 8)
    wide[:, ::2] = x
    for given in (x.double(), x.half(), x.bfloat16(), x.T.contiguous().T, wide[:, ::2], x.int(), x.flip(0).flip(0)):
        assert torch.equal(module(given), expected)
        if given.is_floating_point():
            found, again = gradients(module, given, dy)
            assert found.dtype == given.dtype
            assert torch.equal(found, dx.to(given.dtype))
            assert torch.equal(again, gradient)
    assert not module.requires_grad_(False)(x).requires_grad
    held = x.clone().requires_grad_()
    module(held).sum().backward()
    assert held.grad is not None
    assert module.requires_grad_(True)(x).requires_grad
    with torch.no_grad():
        assert not module(held).requires_grad
    with torch.inference_mode():
        assert torch.equal(module(x), expected)
    for bad, error, match in (
        (x.numpy(), TypeError, "'x'.*torch.Tensor"), (x[:, :3], ValueError, "'x'.*4 features"),
        (x / 0, ValueError, "'x'.*finite"), (x.to(torch.complex64), TypeError, "'x'.*real"),
    ):  # fmt: skip
        with pytest.raises(error, match=match):
            module(bad)
    with pytest.raises(ValueError, match="'dy'.*finite"):
        module(x).mul(torch.tensor(float("nan"))).sum().backward()


def test_changes_between_forward_and_backward(torch):
    network, module = made(Dense(7, "tanh"))
    other, x = made(Dense(7, "tanh"), seed=1)[0], torch.randn(6, 4, dtype=torch.float64)
    optimizer, scale = Adam(), torch.tensor(1.0)
    changes = [
        lambda: network.train_step(x.numpy(), np.zeros((6, 3)), optimizer),
        lambda: network.copy_from(other, 0.5),
        lambda: optimizer.step(network),
        lambda: module.load_state_dict(module.state_dict()),
        lambda: torch.optim.SGD([module.parameters_], 0.1).step(),
    ]
    for change in changes:
        losses = [(module(scale * x) ** 2).sum() for _ in range(2)]
        module.parameters_.grad = torch.zeros_like(module.parameters_)
        change()
        for loss in losses:
            with pytest.raises(RuntimeError, match=r"update of the network since|modified by an inplace operation"):
                loss.backward()
    loss = (module(x) ** 2).sum()
    x += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_two_modules_of_a_network_and_calls_of_it(torch):
    network, module = made(Dense(7, "tanh"))
    other, x = fastgd.torch.as_module(network), torch.randn(6, 4, dtype=torch.float64)
    dy = torch.randn(6, 3, dtype=torch.float64)
    expected = gradients(module, x, dy)
    for between in (
        lambda: other(2 * x), lambda: network.forward(np.ones((6, 4)), record=True),
        lambda: network.forward(np.ones((6, 4)), training=True), lambda: network.predict(np.ones((300, 4))),
        lambda: network.loss_and_gradient(np.ones((6, 4)), np.ones((6, 3))),
    ):  # fmt: skip
        module.zero_grad()
        held = x.clone().requires_grad_()
        y = module(held)
        between()
        y.backward(dy, retain_graph=True)
        assert torch.equal(held.grad, expected[0])
        assert torch.equal(module.parameters_.grad, expected[1])
        y.backward(dy)
        assert torch.equal(held.grad, 2 * expected[0])


def test_copies_and_states(torch, tmp_path):
    """A copy has its own network; a state has the statistics, too."""
    network, module = made(Dense(7, "tanh"), BatchNorm(), Dropout(0.5))
    x = torch.randn(6, 4, dtype=torch.float64)
    module(x).sum().backward()
    whole = torch.nn.Sequential(module, torch.nn.Linear(3, 2).double()).eval()
    for twin in (copy.deepcopy(whole), pickle.loads(pickle.dumps(whole))):
        assert twin[0].network is not network
        assert not twin[0].training
        assert torch.equal(twin(x), whole(x))
        twin(x).sum().backward()
        before = network.state.copy()
        torch.optim.SGD(twin.parameters(), 0.1).step()
        twin.train()(x)
        np.testing.assert_array_equal(network.state, before)
        assert not torch.equal(twin.eval()(x), whole(x))
        twin.load_state_dict(whole.state_dict())
        assert torch.equal(twin(x), whole(x))
        np.testing.assert_array_equal(twin[0].network.predict(x.numpy()), network.predict(x.numpy()))
    torch.save(module.state_dict(), tmp_path / "state.pt")
    again = fastgd.torch.as_module(network.like(seed=5))
    again.load_state_dict(torch.load(tmp_path / "state.pt"))
    np.testing.assert_array_equal(again.network.state, network.state)
    assert list(module.state_dict()) == ["parameters_", "statistics_"]
    assert list(made(Dense(2))[1].state_dict()) == ["parameters_"]
    with pytest.raises(RuntimeError, match="as_module: expected parameters in the network's memory"):
        again.float()(x)


def test_networks_that_are_refused(torch):
    for bad, error, match in (
        (3, TypeError, "'network'.*3"),
        (Network(2, [Dense(1)], loss="mse", l2=0.1), ValueError, "'network'.*without l1 and l2"),
    ):
        with pytest.raises(error, match=match):
            fastgd.torch.as_module(bad)
