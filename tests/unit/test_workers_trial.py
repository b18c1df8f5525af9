"""What is tried before round 1: any error of the user's code ends the job with its own words."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lockstep_api.spec import Data, Model, Partition
from lockstep_workers.data import Dataset, Examples
from lockstep_workers.errors import InvalidJob
from lockstep_workers.learning.training import Sgd
from lockstep_workers.learning.trial import Trial, load_and_try, try_out
from lockstep_workers.stopping import Stopped
from tests.wire.jobs import settings

HEAD = """\
import sys
import numpy as np
import torch
from torch import nn
from lockstep_workers.data import Dataset, Examples

def load(count=70, mean=0.0, scale=1.0, inputs=None, labels=None, test=None):
    rng = np.random.default_rng(0)
    if inputs is None:
        inputs = rng.normal(size=(count, 20)).astype(np.float32)
    if labels is None:
        labels = np.arange(count) % 3
    train = Examples(inputs, labels, mean=mean, scale=scale)
    return Dataset(train, test or Examples(inputs[:30], labels[:30]))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(20, 3)

    def forward(self, x):
        return self.layer(x)

def build():
    return Net()

"""
LINE = HEAD.count("\n") + 1
"""The number of the first line after the head."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the user's modules."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.delitem(sys.modules, "helper", raising=False)
    return tmp_path


def tried(folder: Path, code: str, *, model: str = "build", data: str = "load") -> None:
    """Loads and tries a job whose module `mine` holds this code after the head."""
    (folder / "mine.py").write_text(HEAD + code)
    job = settings(cloud_port=1, planner_port=2, batch_size=16).model_copy(
        update={
            "model": Model(entrypoint=f"mine:{model}"),
            "data": Data(entrypoint=f"mine:{data}", partition=Partition()),
        }
    )
    load_and_try(job, folder)


def words(folder: Path, code: str, **entrypoints: str) -> str:
    """What the job ends with."""
    with pytest.raises(InvalidJob) as caught:
        tried(folder, code, **entrypoints)
    return str(caught.value)


def test_a_job_that_is_in_order_passes(folder: Path) -> None:
    tried(folder, "")


FORWARD = "class Own(Net):\n    def forward(self, x):\n"
"""A model whose forward pass is what follows, from the third line on."""
BUILD = "def own():\n"
"""A function whose body is what follows, from the second line on."""


@pytest.mark.parametrize(
    ("code", "line", "message"),
    [
        # The model's function.
        (BUILD + "    sys.exit('no licence')", 1, "mine:own raised SystemExit: no lic"),
        (BUILD + "    sys.exit()", 1, "raised SystemExit:"),
        (BUILD + "    raise KeyboardInterrupt", 1, "raised KeyboardInterrupt"),
        (BUILD + "    raise StopIteration", 1, "raised StopIteration"),
        (BUILD + "    raise NotImplementedError('later')", 1, "raised NotImplementedError: later"),
        (BUILD + "    return own()", 1, "raised RecursionError: maximum recursion"),
        (BUILD + "    return np.zeros((1 << 50,))", 1, "MemoryError: Unable to allocate 8.00 PiB"),
        (BUILD + "    return torch.zeros(1 << 60)", 1, "raised RuntimeError: "),
        (BUILD + "    import helper_that_is_not", 1, "raised ModuleNotFoundError: No module named"),
        (BUILD + "    raise OSError('\\udcff')", 1, r"raised OSError: \udcff"),
        (BUILD + "    raise ValueError('a\\n' + 'b' * 9999)", 1, "raised ValueError: a bbb"),
        ("async def own():\n    return Net()", None, "is an async function: make it plain"),
        # What it returns.
        (BUILD + "    return [Net()]", None, "returned list: return a torch.nn.Module"),
        (
            BUILD + "    return Net().requires_grad_(False)", 0,
            "returned a module whose 2 parameters are all frozen (requires_grad is False): "
            "there is nothing to train, so leave some of them as they are",
        ),
        (BUILD + "    return nn.LazyLinear(3)", 0, "with lazy layers (weight, bias): give their"),
        (BUILD + "    return Net().to('meta')", 0, "on device meta (layer.weight, layer.bias)"),
        (
            BUILD + "    return nn.Linear(20, 3, dtype=torch.complex64)", 0,
            "with parameters of torch.complex64 (weight, bias): use real numbers",
        ),
        (
            BUILD + "    n = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20), Net())\n"
            "    n[1].weight.data = n[0].weight.data\n    return n", 0,
            "whose parameters 0.weight and 1.weight share their memory: tie them by assigning one",
        ),
        # Its passes.
        (FORWARD + "        return self.layer(x.to(torch.bfloat16))\ndef own():\n"
         "    return Own().to(torch.bfloat16)", 2, "parameters are trained in float32, and were "
         "torch.bfloat16: let the model cast nothing, or to the dtype of its parameters"),
        (FORWARD + "        return self.layers(x)", 2, "'Own' object has no attribute 'layers'"),
        (FORWARD + "        sys.exit(3)", 2, "made it raise SystemExit: 3"),
        (FORWARD + "        return self.layer(x[:, :5])", 2, "in layer layer (Linear) at"),
        (FORWARD + "        return self.layer(x), x", None, "gave tuple, expected scores of shape"),
        (FORWARD + "        return self.layer(x).argmax(1)", None, "gave (4,), expected scores of"),
        (
            FORWARD + "        if self.training:\n            return self.layer(x), x\n"
            "        return self.layer(x)", None,
            "the model in training: inputs of shape (16, 20) gave tuple, expected scores",
        ),
        (
            FORWARD + "        if self.training:\n            raise RuntimeError('late')\n"
            "        return self.layer(x)", 3,
            "a training step on 16 examples, inputs of shape (16, 20), raised RuntimeError: late",
        ),
        (
            FORWARD + "        if len(x) == 30 and not self.training:\n            return 1 / 0\n"
            "        return self.layer(x)", 3,
            "evaluation on 30 held-out examples, inputs of shape (30, 20), raised ZeroDivi",
        ),
        (
            FORWARD + "        return self.layer(x).squeeze() if self.training else self.layer(x)"
            "\ndef data():\n    return load(count=49)", None,
            "inputs of shape (1, 20) gave (3,), expected scores of shape (1, 3)",
        ),
        (FORWARD + "        return self.layer(x).detach()", None, "gave scores without a gradient"),
        (
            FORWARD + "        with torch.no_grad():\n            return self.layer(x)", None,
            "look for no_grad, detach(), .data, argmax or a way over numpy",
        ),
        (
            FORWARD + "        return torch.zeros(len(x), 3, requires_grad=True)", None,
            "gave scores that no trainable parameter is part of",
        ),
        (FORWARD + "        return self.layer(x) / 0.0", None, "gave a loss of nan: initial"),
        (
            FORWARD + "        return torch.sqrt((self.layer(x) * 0).abs())", None,
            "gave a gradient that is not finite, for parameter layer.weight: look for a division",
        ),
        (
            FORWARD + "        return torch.tensor(self.layer(x).numpy())", 2,
            "Can't call numpy() on Tensor that requires grad",
        ),
        (
            "class Back(torch.autograd.Function):\n    @staticmethod\n    def forward(ctx, x):\n"
            "        return x.clone()\n    @staticmethod\n    def backward(ctx, g):\n"
            "        return g[:1]\n" + FORWARD + "        return Back.apply(self.layer(x))", None,
            "a training step on 16 examples, inputs of shape (16, 20), raised RuntimeError: "
            "Function BackBackward returned an invalid gradient",
        ),
        (
            "class Own(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            "        self.layer = nn.Linear(20, 3)", None,
            'made it raise NotImplementedError: Module [Own] is missing the required "forward"',
        ),
    ],
)  # fmt: skip
def test_an_error_in_a_model_ends_the_job_before_round_1(
    folder: Path, code: str, line: int | None, message: str
) -> None:
    """`line`: which line of the code is named; None: the message says it all."""
    if "def own" not in code:
        code += "\n\ndef own():\n    return Own()\n"
    said = words(folder, code, model="own", data="data" if "def data" in code else "load")
    assert message in said
    assert len(said) < 1000
    said.encode()
    if line is not None:
        assert f"{folder / 'mine.py'}:{LINE + line}" in said


DATA = "def own():\n"
"""A data function whose body is what follows, from the second line on."""


@pytest.mark.parametrize(
    ("code", "line", "message"),
    [
        (DATA + "    return load(mean=np.zeros(20))", 0, "train.mean is an array of shape (20,): "
         "make it one number, and normalise each feature in the function itself"),
        (DATA + "    return load(scale=np.ones((1, 20)))", 0, "train.scale is an array of shape"),
        (DATA + "    return load(mean=None)", 0, "train.mean is NoneType: make it one number"),
        (DATA + "    return load(scale='1')", 0, "train.scale is str: make it one number"),
        (DATA + "    return load(scale=0)", 0, "mean and scale must be finite, and scale not 0"),
        (DATA + "    return load(scale=1e-300)", None, "gave a loss of nan: initial weights or"),
        (DATA + "    return load(labels=[0, 1])", 0, "train has 70 inputs and 2 labels"),
        (DATA + "    return Dataset(Examples(np.float32(3), np.zeros(3, int)), load().test)", 0,
         "train.inputs are a single value: convert them to"),
        (DATA + "    return load(inputs=[[1.0], [1.0, 2.0]])", None, "looking at what it returned "
         "raised ValueError: setting an array element"),
        (DATA + "    return load(inputs=torch.ones(70, 20, requires_grad=True))", None,
         "looking at what it returned raised RuntimeError: Can't call numpy() on Tensor"),
        (DATA + "    return Dataset(load().train, load().test, classes='3')", 0,
         "classes is '3': make it a whole number, or leave it out"),
        (DATA + "    d = load()\n    return Dataset(Examples(d.train.inputs, d.train.labels,"
         " users=np.array(['a'] * 70)), d.test)", 0, "train.users are <U1: number the users"),
        (DATA + "    return load(labels=np.arange(70))", None, "expected scores of shape (4, 70)"),
        (DATA + "    return Dataset(load(), load())", 0, "train is Dataset: make it lockstep"),
        (DATA + "    sys.exit(1)", 1, "data.entrypoint mine:own raised SystemExit: 1"),
        (DATA + "    return open('/data/nothing.csv')", 1, "raised FileNotFoundError: [Errno 2]"),
        (DATA + "    return load(count=2)", None, "cannot be dealt out to 3 devices: lower"),
        ("own = 3", None, "module mine has no function own, only load, build"),
        ("own = type('Odd', (), {'__signature__': 3, '__call__': lambda self: 1 / 0})()", 0,
         "raised ZeroDivisionError: division by zero"),
        ("def __getattr__(name):\n    raise KeyError(name)", 1, "raised KeyError: 'own'"),
        ("sys.exit('use python3 mine.py')", 0, "importing mine raised SystemExit: use python3"),
        ("import a_library_that_is_missing", 0, "ModuleNotFoundError: No module named "
         "'a_library_that_is_missing' at"),
        ("from torch import nothing_of_the_kind", 0, "importing mine raised ImportError: cannot"),
        ("def own(:", 0, "importing mine raised SyntaxError: invalid syntax (mine.py, line"),
        ("class Bad(Exception):\n    def __str__(self):\n        return 1 / 0\nraise Bad", 3,
         "importing mine raised Bad: (its text cannot be had)"),
    ],
)  # fmt: skip
def test_an_error_in_the_data_ends_the_job_before_round_1(
    folder: Path, code: str, line: int | None, message: str
) -> None:
    said = words(folder, code, data="own")
    assert message in said
    if line is not None:
        assert f"{folder / 'mine.py'}:{LINE + line}" in said


def test_an_error_in_a_library_names_the_line_that_called_it(folder: Path) -> None:
    """Of the user's package, even where that is installed beside the libraries."""
    package = folder / "site-packages" / "mine"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(HEAD + "def own():\n    return np.loadtxt('nowhere')\n")
    sys.path.insert(0, str(package.parent))
    try:
        said = words(folder, "", data="own")
    finally:
        sys.path.remove(str(package.parent))
    assert f"at {package / '__init__.py'}:{LINE + 1}" in said


def test_the_end_of_the_process_is_no_error_of_the_users_code(folder: Path) -> None:
    """SIGTERM strikes in the middle of it."""
    code = "def own():\n    from lockstep_workers.stopping import _stop\n    _stop(15, None)\n"
    with pytest.raises(Stopped):
        tried(folder, code, data="own")


def test_a_trial_leaves_no_trace(folder: Path) -> None:
    module = nn.Sequential(nn.Linear(20, 20), nn.Dropout(), nn.Linear(20, 3))
    before = [p.detach().clone() for p in module.parameters()]
    rng = np.random.default_rng(0)
    examples = Examples(rng.normal(size=(40, 20)).astype(np.float32), np.arange(40) % 3)
    state = torch.get_rng_state()
    parts = (np.arange(25), np.arange(25, 40))
    try_out(module, Trial(Dataset(examples, examples, 3), parts, Sgd(0.1, 0.9, 8)))
    assert torch.equal(torch.get_rng_state(), state)
    for parameter, old in zip(module.parameters(), before, strict=True):
        assert torch.equal(parameter, old)
        assert parameter.grad is None
