"""What stands under the help of every command: examples, and what the exit status says."""

from __future__ import annotations

STATUS = {
    0: "done",
    2: "an error, one line each on standard error; nothing is written",
    3: "done, and a latency or a budget that was asked for is missed",
    130: "interrupted",
}
EXAMPLES: dict[str, tuple[str, ...]] = {
    "inspect": ("fxprune inspect net.pt2", "fxprune inspect net.pt2 --json"),
    "explain": (
        "fxprune explain net.pt2 0",
        "fxprune explain net.pt2 --pair 0 3 -o coupling.dot",
    ),
    "prune": (
        "fxprune prune net.pt2 --macs 0.5 -o slim.onnx",
        "fxprune prune net.pt2 --macs 0.5 --metric taylor-fo --callbacks training.py -o slim.pt2",
        "fxprune prune net.pt2 --spec spec.toml -o slim.pt2",
        "fxprune prune net.pt2 --spec spec.toml --sweep 0.8,0.6 -o slim.pt2",
    ),
    "prune-checkpoint": (
        "fxprune prune-checkpoint whole --spec spec.toml --model net.py:build --input-shape 2,8"
        " -o half",
        "fxprune prune-checkpoint whole --params 0.7 --metric lamp --model net.py:build"
        " --input-shape 2,8 -o smaller",
    ),
    "check": ("fxprune check net.pt2 spec.toml --against budget.toml",),
    "forecast": ("fxprune forecast net.pt2 l1 l2 --sweep 0.8,0.5 --callbacks training.py",),
    "diff": ("fxprune diff slim.pt2 slim-0.8.pt2",),
    "report": (
        "fxprune report slim.pt2 -o report.html",
        "fxprune report slim.pt2 -o widths.svg --figure widths",
    ),
    "speedup": ("fxprune speedup net.pt2 -o fast.onnx",),
    "export": ("fxprune export net.pt2 -o net.onnx",),
    "run": (
        'fxprune run net.pt2 --passes "couple,score{metric=l2},allocate{ratio=0.5},shrink,restore"'
        " -o half.pt2",
    ),
    "passes": ("fxprune passes", "fxprune passes --json"),
    "bench": ("fxprune bench net.onnx slim.onnx --threads 1 --repeats 3",),
    "compact": ("fxprune compact net.onnx -o small.onnx",),
    "spec check": ("fxprune spec check spec.toml", "fxprune spec check agp --json"),
    "spec show": ("fxprune spec show agp",),
    "spec list": ("fxprune spec list",),
    "spec schema": ("fxprune spec schema",),
}


def under(command: str) -> str:
    """Return the end of the help of a command: its examples, then the exit status.

    Paragraphs are what keeps lines apart there.
    """
    lines = ["Examples:", *EXAMPLES[command], statuses()]
    return "\n\n".join(lines)


def statuses() -> str:
    """Return what the exit status says, in a line."""
    return "Exit status: " + "; ".join(f"{number} {said}" for number, said in STATUS.items()) + "."


def misused(error: Exception) -> list[str]:
    """Return a line on a command that was used wrongly; raises what is no such error again.

    A command without a word has shown its help, and needs none. Click says where with a context, of
    which the help is the next step.
    """
    message = getattr(error, "format_message", None)
    if message is None:
        raise error
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "fxprune"
    said = str(message()).rstrip(".")
    return [f"{said}; see {path} --help"] if said else []
