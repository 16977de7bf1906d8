"""Mutants of one function: its source with one small change each, numbered in the order of the text.

A mutant changes one thing: an operator, a comparison, a condition, a constant, a statement, a call. Error messages and
docstrings are left alone, and so are changes that only fail at once (a name that is never assigned).
"""

import ast
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

_BINARY = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "*"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
}
_COMPARISON = {
    ast.Lt: ("<", ">="),
    ast.LtE: ("<=", ">"),
    ast.Gt: (">", "<="),
    ast.GtE: (">=", "<"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
# Parts of a node and what they become.
_REPLACEMENTS = {
    ast.If: lambda node: [(node.test, "True"), (node.test, "False")],
    ast.IfExp: lambda node: [(node.test, "True"), (node.test, "False")],
    ast.While: lambda node: [(node.test, "False")],
    ast.For: lambda node: [(node.iter, "()")],
    ast.comprehension: lambda node: [(test, "True") for test in node.ifs],
    ast.ExceptHandler: lambda node: [(node.type, "()")] if node.type else [],
    ast.Expr: lambda node: [] if isinstance(node.value, ast.Yield | ast.YieldFrom) else [(node, "pass")],
    ast.Raise: lambda node: [(node, "pass")],
    ast.Continue: lambda node: [(node, "pass")],
    ast.Break: lambda node: [(node, "pass")],
}
# Calls that may be dropped without a change of the values.
_NEUTRAL = {"contiguous", "detach", "clone", "copy", "tolist", "item", "cpu", "to"}
_MESSAGES = {"warn", "info", "debug", "warning", "error", "exception", "print", "InputError"}
_TINY = 1e-5  # floats below guard against rounding


@dataclass(frozen=True)
class Mutant:
    """One change of a module's text: what stands at ``start:end`` becomes ``new``."""

    number: int
    text: str
    start: int
    end: int
    new: str

    @cached_property
    def mutated(self) -> str:
        """The whole module with the change."""
        return self.text[: self.start] + self.new + self.text[self.end :]

    @cached_property
    def description(self) -> str:
        """The lines before and after: ``n + 1 -> n - 1``."""
        lines = list(difflib.ndiff(self.text.splitlines(), self.mutated.splitlines()))
        return " -> ".join(" ".join(line[2:].strip() for line in lines if line[0] == sign) for sign in "-+")


def find(text: str, name: str) -> ast.AST | None:
    """The function, method, nested function or constant (of a module or class) that a name such as ``Class.method`` means."""
    node: ast.AST = ast.parse(text)
    for part in name.split("."):
        node = next((one for one in _definitions(node) if part in _names(one)), None)
        if node is None:
            return None
    return node


def mutants(text: str, name: str) -> Iterator[Mutant]:
    """The mutants of the function ``name`` in a module's text.

    Raises:
        KeyError: The module has no such function.
    """
    node = find(text, name)
    if node is None:
        raise KeyError(name)
    source = _Source(text)
    edits = sorted({edit for edit in source.edits(node)})
    valid = (edit for edit in edits if source.differs(edit))
    return (Mutant(number, text, *edit) for number, edit in enumerate(valid))


def _definitions(node: ast.AST) -> Iterator[ast.AST]:
    """Functions and classes directly in a node, also those under ``if`` and ``try``, and the assignments of a module or class."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    if isinstance(node, ast.Module | ast.ClassDef):
        kinds |= ast.Assign | ast.AnnAssign
    for child in ast.iter_child_nodes(node):
        if isinstance(child, kinds):
            yield child
        elif isinstance(child, ast.stmt | ast.ExceptHandler):
            yield from _definitions(child)


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


class _Source:
    """A module's text, with the changes that may be made to a part of its syntax tree."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.starts = [0]
        for line in text.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.lines = text.splitlines()
        tree = ast.parse(text)
        imports = (node for node in ast.walk(tree) if isinstance(node, ast.Import))
        self.modules = {(alias.asname or alias.name).split(".")[0] for node in imports for alias in node.names}
        self.parts = [(*self.span(node), ast.dump(node)) for node in tree.body]

    def differs(self, edit: tuple[int, int, str]) -> bool:
        """Whether the changed text is Python, and another program. Parses only the top-level statement around the change."""
        start, end, new = edit
        first, last, before = next(part for part in self.parts if part[0] <= start < part[1])
        try:
            after = ast.parse(self.text[first:start] + new + self.text[end:last])
        except SyntaxError:
            return False
        return len(after.body) != 1 or ast.dump(after.body[0]) != before

    def span(self, node: ast.AST) -> tuple[int, int]:
        first = self._offset(node.lineno, node.col_offset)
        return first, self._offset(node.end_lineno, node.end_col_offset)

    def _offset(self, line: int, column: int) -> int:
        """The place in the text; ``ast`` counts columns in bytes."""
        return self.starts[line - 1] + len(self.lines[line - 1].encode()[:column].decode())

    def of(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.text[start:end]

    def edits(self, node: ast.AST) -> Iterator[tuple[int, int, str]]:
        """(start, end, new text) of every change, from a node downwards."""
        if isinstance(node, ast.Call) and _called(node) in _MESSAGES:
            return
        for part, new in _REPLACEMENTS.get(type(node), lambda _: [])(node):
            yield (*self.span(part), new)
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.Assert | ast.Import | ast.ImportFrom):
            return
        change = getattr(self, f"_{type(node).__name__.lower()}", None)
        if change is not None:
            yield from change(node)
        for child in _children(node):
            yield from self.edits(child)

    def _between(self, left: ast.AST, right: ast.AST, old: str, new: str) -> Iterator[tuple[int, int, str]]:
        """Replace an operator, which stands between two operands."""
        start, end = self.span(left)[1], self.span(right)[0]
        at = self.text.find(old, start, end)
        if at >= 0:
            yield at, at + len(old), new

    def _binop(self, node: ast.BinOp) -> Iterator[tuple[int, int, str]]:
        if isinstance(node.op, ast.MatMult):
            yield (*self.span(node), f"({self.of(node.right)}) @ ({self.of(node.left)})")
        elif type(node.op) in _BINARY:
            yield from self._between(node.left, node.right, *_BINARY[type(node.op)])

    def _augassign(self, node: ast.AugAssign) -> Iterator[tuple[int, int, str]]:
        yield (*self.span(node), "pass")
        if type(node.op) in _BINARY:
            old, new = _BINARY[type(node.op)]
            yield from self._between(node.target, node.value, f"{old}=", f"{new}=")

    def _compare(self, node: ast.Compare) -> Iterator[tuple[int, int, str]]:
        operands = [node.left, *node.comparators]
        for left, op, right in zip(operands, node.ops, operands[1:], strict=False):
            yield from self._between(left, right, *_COMPARISON[type(op)])

    def _boolop(self, node: ast.BoolOp) -> Iterator[tuple[int, int, str]]:
        words = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        for left, right in zip(node.values, node.values[1:], strict=False):
            yield from self._between(left, right, *words)
        neutral = str(isinstance(node.op, ast.And))
        for value in node.values:
            yield (*self.span(value), neutral)

    def _unaryop(self, node: ast.UnaryOp) -> Iterator[tuple[int, int, str]]:
        yield (*self.span(node), f"({self.of(node.operand)})")

    def _constant(self, node: ast.Constant) -> Iterator[tuple[int, int, str]]:
        value = node.value
        if isinstance(value, bool):
            yield (*self.span(node), str(not value))
        elif isinstance(value, int):
            yield (*self.span(node), str(value + 1))
        elif isinstance(value, float) and (value == 0 or value > _TINY):
            yield (*self.span(node), repr(2 * value or 1.0))
        elif isinstance(value, complex):
            yield (*self.span(node), repr(-value).strip("()").replace("-0", "0"))
        elif isinstance(value, str) and value.strip():
            yield (*self.span(node), repr(value + "_"))

    def _with(self, node: ast.With) -> Iterator[tuple[int, int, str]]:
        if not any(item.optional_vars for item in node.items):
            yield self.span(node)[0], self.span(node.items[-1].context_expr)[1], "if True"

    def _assign(self, node: ast.Assign) -> Iterator[tuple[int, int, str]]:
        """Drop what changes a thing that is there already: ``x = x * 2``, ``x[0] = 1``; not the first ``x = 1``."""
        read = {one.id for one in ast.walk(node.value) if isinstance(one, ast.Name)}
        written = [one for target in node.targets for one in ast.walk(target)]
        if any(isinstance(one, ast.Subscript) or (isinstance(one, ast.Name) and one.id in read) for one in written):
            yield (*self.span(node), "pass")

    def _call(self, node: ast.Call) -> Iterator[tuple[int, int, str]]:
        plain = [arg for arg in node.args if not isinstance(arg, ast.Starred)]
        if len(plain) > 1 and plain == node.args:
            first, second = plain[:2]
            middle = self.text[self.span(first)[1] : self.span(second)[0]]
            yield self.span(first)[0], self.span(second)[1], f"{self.of(second)}{middle}{self.of(first)}"
        for keyword in node.keywords:
            if keyword.arg != "device":  # tests run on the CPU
                yield self._without(node, keyword)
        if not isinstance(node.func, ast.Attribute) or node.func.attr in _NEUTRAL:
            return
        root: ast.AST = node.func
        while isinstance(root, ast.Attribute):
            root = root.value
        if not (isinstance(root, ast.Name) and root.id in self.modules | {"self", "cls"}):
            yield (*self.span(node), f"({self.of(node.func.value)})")
        elif plain and plain[0] is node.args[0]:
            yield (*self.span(node), f"({self.of(plain[0])})")

    def _without(self, node: ast.Call, keyword: ast.keyword) -> tuple[int, int, str]:
        """A call without one of its keyword arguments."""
        parts = sorted([*node.args, *node.keywords], key=lambda one: self.span(one))
        kept = ", ".join(self.of(part) for part in parts if part is not keyword)
        return self.span(node.func)[1], self.span(node)[1], f"({kept})"


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a node that may be changed: not docstrings, annotations, decorators."""
    left_out = {"annotation", "returns", "decorator_list", "type_params", "bases", "ctx"}
    for field, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            docstring = field == "body" and isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            if field not in left_out and isinstance(child, ast.AST) and not docstring:
                yield child


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
