"""What can be wrong with a command, and what must be said of it."""

from __future__ import annotations

SPEC = 'target = "channel"\nmetric = "l2"\n[objective]\nmacs = 0.5\n'


BAD_SPECS = {
    "key": SPEC.replace("metric", "metrics"),
    "kind": SPEC.replace("channel", "chanel"),
    "name": SPEC.replace("l2", "l7"),
    "type": SPEC.replace("0.5", '"half"'),
    "allocation": f'allocation = "globl"\n{SPEC}',
    "deep": SPEC.replace("0.5", "0.0001"),
    "pattern": SPEC.replace('"channel"', '{ include = "9" }'),
}
BAD_CALLBACKS = {
    "none": "def train(): pass",
    "raises": "import math\nmath.sqrt(-1)",
    "syntax": "def loss(:",
    "number": "loss = 3",
    "one": "import torch\ncalibrate = torch.zeros(2)",
    "function": "def calibrate(): return []",
    "nan": "def evaluate(module): return float('nan')",
}


def spec(name: str) -> tuple[str, ...]:
    return ("prune", "net.pt2", "--spec", f"{name}.toml", "-o", "out.pt2")


def passes(text: str) -> tuple[str, ...]:
    return ("run", "net.pt2", "--passes", text, "-o", "out.pt2")


def model(*words: str) -> tuple[str, ...]:
    return ("prune", *words, "--spec", "spec.toml", "-o", "out.pt2")


def callbacks(*words: str) -> tuple[str, ...]:
    return ("prune", "net.pt2", "--spec", "spec.toml", "-o", "out.pt2", "--quiet", *words)


def output(name: str) -> tuple[str, ...]:
    return ("prune", "net.pt2", "--spec", "spec.toml", "-o", name)


PICKLE = ("net.pt", "--trust")
ERRORS: dict[str, tuple[tuple[str, ...], str]] = {
    "an unknown key": (spec("key"), 'key.toml: unknown key "metrics"; did you mean "metric"?'),
    "an unknown kind": (spec("kind"), 'unknown kind "chanel"; did you mean "channel"?'),
    "an unknown metric": (spec("name"), 'unknown metric "l7"; known: '),
    "a wrong type": (spec("type"), "objective.macs: 'half': input should be a valid number"),
    "an unknown allocation": (spec("allocation"), 'did you mean "global"?'),
    "an objective out of reach": (spec("deep"), "objective.macs: the selected targets can go down"),
    "a pattern of nothing": (spec("pattern"), 'target.include: unknown module "9"'),
    "no TOML": (spec("text"), "text.toml: not TOML"),
    "no spec": (spec("missing"), "missing.toml: the spec cannot be read: No such file"),
    "no model": (model("missing.pt2"), "missing.pt2: there is no such file"),
    "a folder": (model("."), "not a model"),
    "another suffix": (model("net.txt"), "net.txt: not a model: a .pt2 program or a .pt/.pth"),
    "half an archive": (model("half.pt2"), "half.pt2: is truncated or damaged"),
    "a text as .pt2": (model("text.pt2"), "text.pt2: is not a .pt2 archive"),
    "a text as .pt": (model("text.pt", "--trust", "--input-shape", "2"), "text.pt: cannot be"),
    "a pickle without trust": (model("net.pt"), "a pickled model runs code when it is loaded"),
    "a pickle without inputs": (model(*PICKLE), "needs --input-shape or --example"),
    "weights alone": (model("weights.pt", "--trust"), "is a state dict"),
    "a wrong shape": (model(*PICKLE, "--input-shape", "2,4,8,8"), "refuses (2, 4, 8, 8) float32"),
    "a wrong type of input": (
        model(*PICKLE, "--input-shape", "2,3,8,8:int64"),
        "refuses (2, 3, 8, 8) int64",
    ),
    "a wrong shape of a .pt2": (model("net.pt2", "--input-shape", "2,4,8,8"), "refuses (2, 4"),
    "no shape": (model(*PICKLE, "--input-shape", "a,b"), '"a,b" is not a shape; write 2,3,224,224'),
    "a shape of no memory": (
        model(*PICKLE, "--input-shape", "99999999999,99999999,3"),
        '--input-shape: "99999999999,99999999,3" cannot be made',
    ),
    "no dtype": (
        model(*PICKLE, "--input-shape", "2:float"),
        'unknown dtype "float"; known:',
    ),
    "two sorts of input": (
        model(*PICKLE, "--input-shape", "2", "--example", "example.pt"),
        "--input-shape, --example: give one of the two",
    ),
    "no example": (
        model(*PICKLE, "--example", "no.pt"),
        "no.pt: the example inputs cannot",
    ),
    "a pickled example": (model(*PICKLE, "--example", "net.pt"), "net.pt: holds more than tensors"),
    "an unknown pass": (passes("couple,scor"), 'unknown pass "scor"; did you mean "score"?'),
    "an unknown option": (passes("score{metrc=l1}"), 'unknown option "metrc"; did you mean'),
    "a wrong value": (passes("allocate{ratio=x}"), "passes.allocate.ratio: 'x' is refused"),
    "a wrong order": (passes("score"), "score: needs a program that is coupled; put couple"),
    "no passes": (passes("{"), "is not a list of passes"),
    "a bad suffix": (output("out.bin"), "out.bin: the name must end in .onnx or .pt2"),
    "no folder": (output("no/where.pt2"), "cannot be written: there is no folder"),
    "a folder to write": (output("folder.pt2"), "folder.pt2: is a directory"),
    "an unknown preset": (
        ("prune", "net.pt2", "--spec", "agpp", "-o", "out.pt2"),
        'unknown preset "agpp"; did you mean "agp"?',
    ),
    "no data": (
        ("prune", "net.pt2", "--spec", "apoz", "-o", "out.pt2"),
        "metric: apoz needs batches, and calibrate is missing",
    ),
    "no callbacks": (callbacks("--callbacks", "no.py"), "no.py: there is no such file"),
    "no Python": (callbacks("--callbacks", "spec.toml"), "spec.toml: a Python file is needed"),
    "callbacks of other names": (
        callbacks("--callbacks", "none.py"),
        "none.py: defines none of calibrate, loss, evaluate, fine_tune",
    ),
    "callbacks that raise": (
        callbacks("--callbacks", "raises.py"),
        "raises.py: it raised ValueError: math domain error",
    ),
    "callbacks that are no Python": (
        callbacks("--callbacks", "syntax.py"),
        "syntax.py: it raised SyntaxError",
    ),
    "a number for a function": (
        callbacks("--callbacks", "number.py"),
        "number.py: loss: a function is needed, not int",
    ),
    "one batch for many": (
        callbacks("--callbacks", "one.py"),
        "one.py: calibrate: an iterable of batches is needed, not Tensor",
    ),
    "a function for batches": (
        callbacks("--callbacks", "function.py"),
        "function.py: calibrate: an iterable of batches is needed, not function",
    ),
    "an evaluator of nothing": (
        callbacks("--callbacks", "nan.py"),
        "evaluate: it returned nan; a finite number is needed",
    ),
    "no batches": (callbacks("--calibrate", "no.npz"), "no.npz: the example inputs cannot be read"),
    "batches of a pickle": (
        callbacks("--calibrate", "example.pt"),
        "example.pt: batches are read from .safetensors or .npz",
    ),
    "uneven batches": (
        callbacks("--calibrate", "uneven.npz"),
        "uneven.npz: input holds 10 examples and label 9; make them as many",
    ),
    "batches of none": (callbacks("--calibrate", "batches.npz", "--batch", "0"), "--batch: 0: 1"),
    "batches twice": (
        callbacks("--calibrate", "batches.npz", "--callbacks", "training.py"),
        "--calibrate: training.py defines calibrate too; leave one of the two out",
    ),
    "a spec to check": (("spec", "check", "key.toml"), 'key.toml: unknown key "metrics"'),
    "a name to check": (("spec", "check", "lq"), 'unknown preset "lq"'),
    "no preset to show": (("spec", "show", "agpp"), 'unknown preset "agpp"; did you mean "agp"?'),
    "an export as .pt2": (("export", "net.pt2", "-o", "out.pt2"), "the name must end in .onnx"),
    "an ONNX file": (model("net.onnx"), "net.onnx: an ONNX file is what comes out"),
    "quiet and verbose": (
        ("prune", "net.pt2", "--macs", "0.5", "-q", "-v", "-o", "out.pt2"),
        "--quiet, --verbose: give one of the two",
    ),
    "threads of no time": (
        ("prune", "net.pt2", "--macs", "0.5", "--threads", "2", "-o", "out.pt2"),
        "--threads: goes with --latency, not with --macs",
    ),
    "two things to explain": (
        ("explain", "net.pt2", "0", "--pair", "0", "3"),
        "0, --pair: give one of the two",
    ),
    "no plan": (("diff", "a.json", "b.json"), "a.json: there is no such file"),
    "a plan of another kind": (
        ("diff", "spec.toml", "spec.toml"),
        "spec.toml: a plan (.json), or a pruned model (.pt2), is needed",
    ),
    "a figure of a page": (
        ("report", "net.pt2", "-o", "out.html", "--figure", "time"),
        "--figure time: a page has all of them",
    ),
    "no checkpoint": (
        ("prune-checkpoint", "nowhere", "--params", "0.5", "-o", "out"),
        "nowhere: there is no such folder",
    ),
    "where no file can be made": (output("/proc/out.pt2"), "/proc/out.pt2: cannot be written"),
    "no such command": (("prunee", "net.pt2"), "No such command 'prunee'. Did you mean 'prune'"),
    "no such option": (("inspect", "net.pt2", "--jsn"), "No such option: --jsn"),
    "no number": (
        ("prune", "net.pt2", "--macs", "half", "-o", "out.pt2"),
        "Invalid value for '--macs'",
    ),
    "no output": (("prune", "net.pt2", "--macs", "0.5"), "Missing option '-o'"),
    "nothing asked": (("prune", "net.pt2", "-o", "out.pt2"), "give --spec, or a goal such as"),
}
