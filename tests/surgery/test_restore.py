from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from fxprune.capture import capture
from fxprune.surgery import SlimModule, restore


class Spatial(nn.Module):
    """Norms, transposed convolutions, pools, pads and activations, nested and numbered."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding="same"),
            nn.InstanceNorm2d(8),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(8, 8, 2, stride=2, groups=2, bias=False),
            nn.GroupNorm(2, 8),
            nn.PReLU(8),
        )
        self.norms = nn.ModuleList(
            [nn.BatchNorm2d(8, momentum=None), nn.InstanceNorm2d(8, affine=True)]
        )
        self.tracked = nn.InstanceNorm2d(8, track_running_stats=True)
        self.batch = nn.BatchNorm2d(8, affine=False, track_running_stats=False)
        self.end = nn.Sequential(
            nn.ZeroPad2d(1),
            nn.Dropout2d(0.2),
            nn.AvgPool2d(2),
            nn.Hardswish(),
            nn.Upsample(scale_factor=2, mode="bilinear"),
            nn.AdaptiveMaxPool2d(4),
            nn.PixelShuffle(2),
            nn.Flatten(),
            nn.LeakyReLU(0.1),
            nn.Softmax(-1),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm in self.norms:
            x = norm(x)
        return self.end(self.batch(self.tracked(x)))  # type: ignore[no-any-return]


class Sequence(nn.Module):
    """Embedding and recurrent modules, with and without an initial state."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(11, 6, padding_idx=0)
        self.lstm = nn.LSTM(6, 5, 2, batch_first=True, bidirectional=True, dropout=0.3)
        self.gru = nn.GRU(10, 4, batch_first=True)
        self.rnn = nn.RNN(4, 4, nonlinearity="relu", batch_first=True, bias=False)
        self.norm = nn.RMSNorm(4)
        self.pair = nn.Bilinear(4, 4, 3)

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        x, (_, cell) = self.lstm(self.words(ids))
        x, state = self.gru(x)
        x, _ = self.rnn(x, state * 0.5)
        return self.pair(self.norm(x), x), cell


class Functions(nn.Module):
    """Functions whose flag is `self.training`, one that is always on, a norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.mean = nn.Buffer(torch.zeros(6))
        self.var = nn.Buffer(torch.ones(6))
        self.scale = nn.Parameter(torch.ones(6))
        self.frozen = Frozen()

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(self.inner(x), 0.5, self.training)
        x = F.batch_norm(x, self.mean, self.var, self.scale, training=self.training)
        return F.dropout(self.frozen(x), 0.1)


class Frozen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mean, self.var = nn.Buffer(torch.full((6,), 0.5)), nn.Buffer(torch.full((6,), 1.5))
        self.scale, self.shift = nn.Buffer(torch.full((6,), 2.5)), nn.Buffer(torch.full((6,), 3.5))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.var, self.scale, self.shift)


class Shared(nn.Module):
    """One module under two names, called thrice; one weight in three places."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 6)
        self.left = nn.Linear(6, 6)
        self.right = self.left
        self.spare = nn.ModuleDict({"again": self.left})
        self.act = nn.ReLU()
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.words.weight
        self.register_buffer("scale", torch.full((6,), 0.5), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.act(self.left(self.words(ids)))
        x = self.act(self.left(x)) + self.right(x) * self.scale
        return self.head(x) + F.linear(x, self.words.weight)  # type: ignore[no-any-return]


def vit() -> nn.Module:
    vit = torchvision.models.VisionTransformer
    return vit(32, 8, 2, 2, 16, 32, dropout=0.1, num_classes=5)  # type: ignore[no-any-return]


def images(size: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(2, 3, size, size)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "resnet18": (torchvision.models.resnet18, images(64)),
    "mobilenet": (
        torchvision.models.mobilenet_v3_small,
        images(64),
    ),
    "vit": (vit, images(32)),
    "spatial": (Spatial, images(8)),
    "sequence": (Sequence, lambda: torch.randint(0, 11, (2, 7))),
    "functions": (Functions, lambda: torch.randn(4, 6)),
    "shared": (Shared, lambda: torch.randint(0, 9, (2, 4))),
}


def restored(model: nn.Module, x: Any) -> SlimModule:
    return restore(capture(copy.deepcopy(model), x).module, training=False)


def run(model: nn.Module, x: Tensor) -> list[Tensor]:
    torch.manual_seed(3)
    out = model(x)
    return list(out) if isinstance(out, tuple) else [out]


def equal(left: list[Tensor], right: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def kinds(model: nn.Module) -> dict[str, type]:
    return {name: type(m) for name, m in model.named_modules(remove_duplicate=False) if name}


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, example = MODELS[request.param]
    return make().eval(), example()


def test_same_numbers_and_names(case: tuple[nn.Module, Tensor]) -> None:
    model, x = case
    slim = restored(model, x)
    assert equal(run(model, x), run(slim, x))
    assert equal(run(model, x[:1]), run(slim, x[:1]))
    assert set(slim.state_dict()) == set(model.state_dict())
    named = [name for name, _ in slim.named_parameters()]
    assert named == [name for name, _ in model.named_parameters()]
    missing, unexpected = slim.load_state_dict({**model.state_dict()})
    assert not missing
    assert not unexpected


def test_training_step(case: tuple[nn.Module, Tensor]) -> None:
    model, x = case
    slim = restored(model, x)
    for module in (model.train(), slim.train()):
        sum(out.square().sum() for out in run(module, x)).backward()  # type: ignore[union-attr]
    assert equal(list(model.state_dict().values()), list(slim.state_dict().values()))
    there = dict(slim.named_parameters())
    for name, parameter in model.named_parameters():
        got = there[name].grad
        assert (got is None) == (parameter.grad is None), name
        if got is not None and parameter.grad is not None:
            torch.testing.assert_close(got, parameter.grad, msg=name)


def test_capturing_again_finds_the_same_leaves(case: tuple[nn.Module, Tensor]) -> None:
    model, x = case
    slim = restored(model, x)
    again = restored(slim, x)
    assert kinds(again) == kinds(slim)
    assert equal(run(slim, x), run(again, x))
    assert equal(run(slim.train(), x), run(again.train(), x))


def test_copies_and_pickles(case: tuple[nn.Module, Tensor]) -> None:
    model, x = case
    slim = restored(model, x)
    slim.report = {"macs": 3}
    twin = copy.deepcopy(slim)
    assert equal(run(slim, x), run(twin, x))
    assert kinds(twin) == kinds(slim)
    assert twin.report == slim.report
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in slim.parameters()}
    back = pickle.loads(pickle.dumps(slim.train()))
    assert back.training
    assert equal(run(slim.eval(), x), run(back.eval(), x))
    stack = [node.meta.get("nn_module_stack") for node in slim.graph.nodes]
    assert [node.meta.get("nn_module_stack") for node in back.graph.nodes] == stack


def test_leaves_of_the_zoo() -> None:
    slim = restored(Spatial().eval(), torch.randn(2, 3, 8, 8))
    assert isinstance(slim.stem, nn.ModuleList)
    assert [type(m) for m in slim.stem] == [type(m) for m in Spatial().stem]
    assert [type(m) for m in slim.end] == [type(m) for m in Spatial().end]  # type: ignore[union-attr]
    norms = slim.get_submodule("norms")
    assert norms.get_submodule("0").momentum is None
    calls = [str(node.target) for node in slim.graph.nodes if node.op == "call_function"]
    assert calls == []
    assert not any(node.op == "get_attr" for node in slim.graph.nodes)


def test_sequence_keeps_no_states() -> None:
    slim = restored(Sequence().eval(), torch.randint(0, 11, (2, 7)))
    targets = {str(node.target) for node in slim.graph.nodes}
    assert {"words", "lstm", "gru", "rnn", "norm", "pair"} <= targets
    assert not any("zeros" in target for target in targets)


def test_sharing() -> None:
    slim = restored(Shared().eval(), torch.randint(0, 9, (2, 4)))
    assert slim.left is slim.right is slim.get_submodule("spare.again")
    assert slim.get_parameter("head.weight") is slim.get_parameter("words.weight")
    called = [str(node.target) for node in slim.graph.nodes if node.op == "call_module"]
    assert sorted(called) == ["act", "act", "head", "left", "left", "right", "words"]


def test_functional_flags_follow_the_mode() -> None:
    slim = restored(Functions().eval(), torch.randn(4, 6))
    assert isinstance(slim.get_submodule("dropout"), nn.Dropout)
    assert kinds(slim)["frozen"] is nn.Module
    before = slim.get_buffer("frozen.mean").clone()
    slim.train()(torch.randn(4, 6))
    assert torch.equal(slim.get_buffer("frozen.mean"), before)
    assert slim.get_buffer("mean").abs().sum() > 0


def test_sizes_are_those_of_the_weights() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))
    program = capture(model.eval(), torch.randn(2, 3, 8, 8))
    module = program.module
    for path, dim in (("0.weight", 0), ("0.bias", 0), ("3.weight", 1)):
        owner = module.get_submodule(path.partition(".")[0])
        half = nn.Parameter(getattr(owner, path[2:]).detach().narrow(dim, 0, 4).clone())
        setattr(owner, path[2:], half)
    slim = restore(module, training=False)
    assert slim.get_submodule("1").num_features == 4
    assert slim.get_submodule("3").in_channels == 4
    assert slim(torch.randn(1, 3, 8, 8)).shape == (1, 2, 6, 6)
    assert model[0].out_channels == 8


def test_linear_time() -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(200)))
    slim = restored(model.eval(), torch.randn(2, 4))
    assert len(list(slim.graph.nodes)) == 402
