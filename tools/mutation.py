"""Change one thing after another in a module, and list the changes that no test of it notices.

    python tools/mutation.py planning store

A mutant is a module with one change: a comparison, number, boolean or condition is another one, or a statement
is gone. Its tests are its notebook, with the cells that are exported replaced by the mutated module, and some
pytest files. They run in a fork of this process, which has the slow imports behind it, and in a copy of the
project: the working tree is never changed. Mutants with which the module cannot be imported do not count.
`tests/mutants.txt` lists those that behave as the module does, each with the reason.
"""

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import parso
from cosmic_ray.ast import Visitor
from cosmic_ray.operators import (
    binary_operator_replacement as binary,
    boolean_replacer as boolean,
    break_continue,
    comparison_operator_replacement as comparison,
    unary_operator_replacement as unary,
)
from cosmic_ray.operators.number_replacer import NumberReplacer
from cosmic_ray.operators.operator import Operator
from cosmic_ray.operators.remove_decorator import RemoveDecorator
from cosmic_ray.operators.zero_iteration_for_loop import ZeroIterationForLoop

ROOT = Path(__file__).resolve().parent.parent
#: The tests of each module in order: its own pytest file, its notebook, and what else is given to pytest.
TESTS = {
    "formatter": ("test_formatter.py", "prompts/02_formatter", "tests/test_forged_turns.py"),
    **{
        module: (
            "test_templates.py",
            f"prompts/{number}_{module}",
            "tests/test_safety.py -k 'template or devices or link'",
        )
        for number, module in (("03", "front_matter"), ("04", "template_files"), ("05", "templates"))
    },
    "planning": ("test_planning.py", "encoding/06_planning", ""),
    "recipe": ("test_recipe_mutants.py", "generation/02_recipe", ""),
    "hashes": ("test_recipe_mutants.py", "generation/00_hashes", ""),
    "environment": ("test_recipe_mutants.py", "generation/01_environment", ""),
    "result": ("test_recipe_mutants.py", "generation/03_result", ""),
    "disk_store": ("test_store.py", "core/09_disk_store", ""),
    "store": (
        "test_store.py",
        "studies/00_store",
        "tests/test_safety.py tests/test_sweeps.py -k 'store or safetensors_says'",
    ),
}
QUIET = ["-x", "-q", "-p", "no:cacheprovider"]
SLOW_IMPORTS = (
    "torch pandas pydantic yaml PIL.Image matplotlib.pyplot ipywidgets hypothesis pytest nbdev.test "
    "diffusers transformers.models.qwen3.modeling_qwen3"
).split()


class Replacement(Operator):
    """Replaces a node that `applies` with other code."""

    def mutation_positions(self, node):
        if self.applies(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node, index):
        new = parso.python.tree.Keyword(self.code, node.start_pos, node.get_first_leaf().prefix)
        new.parent = node.parent
        return new

    @classmethod
    def examples(cls):
        return ()


class RemoveStatement(Replacement):
    """Removes a `raise`, a call whose value is not used, and an assignment that is not to a plain name."""

    code = "pass"

    def applies(self, node):
        if node.parent is None or node.parent.type != "simple_stmt":
            return False
        assigns = node.type == "expr_stmt" and node.children[0].type == "atom_expr"
        adds = node.type == "expr_stmt" and node.children[1].type == "operator" and node.children[1].value != "="
        return assigns or adds or node.type in ("raise_stmt", "atom_expr", "del_stmt")


class ReturnNone(Replacement):
    """Returns None instead of a value."""

    code = "return None"

    def applies(self, node):
        return node.type == "return_stmt" and node.get_code().strip() != "return None"


class OtherException(Replacement):
    """Lets an exception through that is handled."""

    code = "KeyboardInterrupt"

    def applies(self, node):
        handled = node.parent
        if handled is not None and handled.type == "testlist_comp" and node.type != "operator":
            node, handled = handled.parent, handled.parent.parent
        elif node.type == "atom":
            return False
        return handled is not None and handled.type == "except_clause" and node is handled.children[1]


class DropFilter(Replacement):
    """Removes the condition of a comprehension."""

    code = "if True"

    def applies(self, node):
        return node.type in ("comp_if", "sync_comp_if")


class SwapIn(Replacement):
    """Replaces `in` with `not in`."""

    code = "not in"

    def applies(self, node):
        return node.type == "keyword" and node.value == "in" and node.parent.type == "comparison"


class SwapNotIn(SwapIn):
    """Replaces `not in` with `in`."""

    code = "in"

    def applies(self, node):
        return node.type == "comp_op" and node.get_code(include_prefix=False).startswith("not")


OPERATORS = [
    *(getattr(comparison, f"ReplaceComparisonOperator_{pair}") for pair in
      "Eq_NotEq NotEq_Eq Lt_LtE LtE_Lt Gt_GtE GtE_Gt Is_IsNot IsNot_Is".split()),
    *(getattr(binary, f"ReplaceBinaryOperator_{pair}") for pair in
      "Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Mul Mod_Mul Pow_Mul BitOr_BitAnd BitAnd_BitOr".split()),
    unary.ReplaceUnaryOperator_Delete_Not, unary.ReplaceUnaryOperator_Delete_USub,
    boolean.AddNot, boolean.ReplaceTrueWithFalse, boolean.ReplaceFalseWithTrue,
    boolean.ReplaceAndWithOr, boolean.ReplaceOrWithAnd,
    break_continue.ReplaceBreakWithContinue, break_continue.ReplaceContinueWithBreak,
    NumberReplacer, RemoveDecorator, ZeroIterationForLoop,
    OtherException, RemoveStatement, ReturnNone, DropFilter, SwapIn, SwapNotIn,
]  # fmt: skip


class One(Visitor):
    """Applies an operator at one of the places where it can be."""

    def __init__(self, operator, number):
        self.operator, self.number, self.function = operator, number, None

    def visit(self, node):
        for index, (start, _) in enumerate(self.operator.mutation_positions(node)):
            if self.number == 0:
                self.line, self.function = start[0], enclosing(node)
                node = self.operator.mutate(node, index)
            self.number -= 1
        return node


def enclosing(node) -> str:
    """Name of the function or class that a node is in."""
    scope = node if node.type == "decorated" else parso.python.tree.search_ancestor(node, "funcdef", "classdef")
    names = []
    while scope is not None:
        names.insert(0, getattr(getattr(scope, "name", None), "value", ""))
        scope = parso.python.tree.search_ancestor(scope, "funcdef", "classdef")
    return ".".join(names) or "module"


@dataclass(frozen=True)
class Mutant:
    """A module with one change."""

    module: str
    line: int
    name: str  # function, and the code before and after; the same while that line stays the same
    source: str


def mutants(module: str, source: str) -> list[Mutant]:
    """Return every mutant of a module."""
    found = {}
    for operator in OPERATORS:
        for number in count():
            one = One(operator(), number)
            tree = one.walk(parso.parse(source))
            if one.function is None:
                break
            new = tree.get_code()
            found.setdefault(new, Mutant(module, one.line, f"{one.function}: {change(source, new)}", new))
    found.pop(source, None)
    return sorted(found.values(), key=lambda mutant: mutant.line)


def _shared(a: str, b: str) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def change(old: str, new: str, around: int = 24) -> str:
    """Return the code before and after, with some letters around it."""
    start = _shared(old, new)
    end = _shared(old[start:][::-1], new[start:][::-1])
    first = max(start - around, old.rfind("\n", 0, start) + 1)
    pieces = []
    for text in (old, new):
        last = text.find("\n", len(text) - end)
        pieces.append(" ".join(text[first : min(len(text) - end + around, last if last >= 0 else len(text))].split()))
    return " → ".join(pieces)


def dotted(module: str) -> str:
    """Return where a module is: `encoding.planning`."""
    return f"{TESTS[module][1].partition('/')[0]}.{module}"


def source_file(module: str, root: Path = ROOT) -> Path:
    """Return the file of a module."""
    return root / "llm_dit" / (dotted(module).replace(".", "/") + ".py")


def without_exports(notebook: Path, module: str) -> None:
    """Let a notebook use the module in place of its own exported cells."""
    content = json.loads(notebook.read_text())
    public = "{k: v for k, v in vars(_m).items() if k[:2] != '__'}"
    names = f"import llm_dit.{dotted(module)} as _m; globals().update({public})"
    for cell in content["cells"]:
        if cell["cell_type"] == "code" and re.match(r"#\|\s*exporti?\b", "".join(cell["source"])):
            cell["source"], names = names, "pass"
    notebook.write_text(json.dumps(content))


def prepare(module: str, folder: Path) -> None:
    """Copy what the tests of a module need."""
    for name in ("llm_dit", "nbs", "tests", "templates", "tools"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    without_exports(folder / "nbs" / f"{TESTS[module][1]}.ipynb", module)


def run_tests(module: str, folder: Path) -> int:
    """Run the tests of a module in this process, and return 0 if all pass, 3 if the module cannot be imported."""
    import pytest
    from nbdev.test import test_nb as run_notebook

    own, notebook, others = TESTS[module]
    sys.path[:0] = [str(folder), str(folder / "tests")]
    os.environ |= {"PYTHONPATH": str(folder), "TMPDIR": str(folder / "tmp")}
    tempfile.tempdir = None
    time.perf_counter = time.process_time  # a limit that a notebook sets is not passed because other programs run
    try:
        importlib.import_module(f"llm_dit.{dotted(module)}")
    except Exception:
        return 3
    os.chdir(folder)
    if (folder / "tests" / own).exists() and pytest.main([f"tests/{own}", *QUIET]):
        return 1
    path = folder / "nbs" / f"{notebook}.ipynb"
    os.chdir(path.parent)
    if not run_notebook(path, skip_flags=("slow", "gpu"))[0]:
        return 1
    os.chdir(folder)
    return int(bool(others and pytest.main([*shlex.split(others), *QUIET])))


def trial(mutant: Mutant, seconds: float) -> tuple[str, float]:
    """Return whether the tests notice a mutant ("killed", "survived", "timeout", "unusable"), and the time taken."""
    folder = Path(tempfile.gettempdir()) / f"mutation_{os.getpid()}_{mutant.module}"
    if not folder.exists():
        prepare(mutant.module, folder)
    source_file(mutant.module, folder).write_text(mutant.source)
    shutil.rmtree(folder / "tmp", ignore_errors=True)
    (folder / "tmp").mkdir()
    start, child = time.monotonic(), os.fork()
    if child == 0:
        status = 1
        try:
            os.setsid()
            log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.dont_write_bytecode = True
            status = run_tests(mutant.module, folder)
        finally:
            os._exit(status)
    while not (ended := os.waitpid(child, os.WNOHANG))[0] and time.monotonic() - start < seconds:
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if not ended[0]:
        os.waitpid(child, 0)
        return "timeout", seconds
    outcome = {0: "survived", 3: "unusable"}.get(os.waitstatus_to_exitcode(ended[1]), "killed")
    return outcome, time.monotonic() - start


def equivalent() -> dict[str, str]:
    """Return the mutants that behave as their module does, with the reasons."""
    path = ROOT / "tests" / "mutants.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return dict(line.rsplit("  # ", 1) for line in lines if "  # " in line)


def report(module: str, pool) -> None:
    """Try all mutants of a module, and print those that survive and the score."""
    file = source_file(module)
    source = file.read_text()
    outcome, seconds = pool.submit(trial, Mutant(module, 0, "unchanged", source), 600).result()
    assert outcome == "survived", f"the tests of {module} fail without a change: {outcome}"
    known, every = equivalent(), mutants(module, source)
    results = [(mutant, pool.submit(trial, mutant, 30 + 5 * seconds)) for mutant in every]
    outcomes = []
    for mutant, future in results:
        outcome = future.result()[0]
        same = f"{module}.{mutant.name}" in known
        outcomes.append("equivalent" if same and outcome == "survived" else outcome)
        if outcome == "survived" and not same:
            print(f"{file.relative_to(ROOT)}:{mutant.line}: survived: {module}.{mutant.name}", flush=True)
    noticed = outcomes.count("killed") + outcomes.count("timeout")
    alike, number = outcomes.count("equivalent"), len(outcomes) - outcomes.count("unusable")
    print(
        f"{module}: {number} mutants, {noticed} noticed ({outcomes.count('timeout')} by time), {alike} equivalent: "
        f"{noticed / number:.1%} of all, {noticed / (number - alike):.1%} of those that differ; "
        f"{seconds:.0f} s for one run",
        flush=True,
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("modules", nargs="*", default=[*TESTS], help="names such as planning; by default all five")
    parser.add_argument("--processes", type=int, default=2, help="mutants tried at the same time")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory(prefix="mutation_") as tempfile.tempdir:
        for name in SLOW_IMPORTS:
            importlib.import_module(name)
        with ProcessPoolExecutor(options.processes, multiprocessing.get_context("fork")) as pool:
            for module in options.modules:
                report(module, pool)


if __name__ == "__main__":
    main()
