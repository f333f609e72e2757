"""The structure of the code, read from its imports: python tests/structure.py prints what is counted."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROOMS = ("features", "extract", "heads", "cli")


@cache
def modules() -> dict[str, Path]:
    """Name of each module of the package -> its file; a stub stands for the face it belongs to."""
    files = [
        *(path for room in ROOMS[:3] for path in (ROOT / room).rglob("*.py")),
        ROOT / "cli.py",
        ROOT / "__init__.py",
    ]
    found = {}
    for path in files:
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(("onepass", *(part for part in parts if part != "__init__")))
        stub = path.with_suffix(".pyi")
        found[name] = stub if stub.is_file() else path
    return found


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


@cache
def imports(name: str) -> list[tuple[str, str]]:
    """(module, name in it, or "") of everything a module imports, inside functions too."""
    path, found = modules()[name], []
    package = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [(module, alias.name) for alias in node.names]
    return found


@cache
def home(module: str, name: str) -> str:
    """The module that a name comes from, through the faces of the rooms."""
    known = modules()
    if f"{module}.{name}" in known and not _defined_by_face(module, name):
        return f"{module}.{name}"
    return _defined_by_face(module, name) or module


def _defined_by_face(module: str, name: str) -> str:
    known = modules()
    if module in known and known[module].stem == "__init__":
        for source, imported in imports(module):
            if imported == name and source != module:
                return home(source, name)
    return ""


@cache
def graph() -> dict[str, set[str]]:
    """Module -> the modules of ours that it takes something from; faces themselves are left out."""
    known = modules()
    edges: dict[str, set[str]] = {}
    for name, path in known.items():
        if path.stem != "__init__":
            taken = {home(module, imported) if imported else module for module, imported in imports(name)}
            edges[name] = {other for other in taken if other in known and other != name}
    return edges


def cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Modules that need each other in a circle."""
    state: dict[str, int] = {}
    found: list[list[str]] = []

    def visit(name: str, way: list[str]) -> None:
        if state.get(name) == 1:
            found.append([*way[way.index(name) :], name])
        if name in state:
            return
        state[name] = 1
        for other in sorted(edges.get(name, ())):
            visit(other, [*way, name])
        state[name] = 2

    for name in sorted(edges):
        visit(name, [])
    return found


def count_any(room: str) -> int:
    """How often a room says Any."""
    files = list((ROOT / room).rglob("*.py"))
    return sum(isinstance(node, ast.Name) and node.id == "Any" for path in files for node in ast.walk(_tree(path)))


def largest_folder(room: str) -> tuple[str, int]:
    """The folder of a room with most files of code."""
    folders = {path.parent for path in (ROOT / room).rglob("*.py")}
    sizes = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in folders}
    largest = max(sizes, key=lambda folder: sizes[folder])
    return largest, sizes[largest]


def glue() -> list[str]:
    """Where the command line, a benchmark or an example builds what fine_tune and export build for themselves."""
    rooms = [ROOT / "heads" / "finetune", ROOT / "heads" / "export", ROOT / "extract" / "backbones" / "trainable.py"]
    files = [path for room in rooms for path in (room.rglob("*.py") if room.is_dir() else [room])]
    parts = {node.name for path in files for node in ast.walk(_tree(path)) if isinstance(node, ast.ClassDef)}
    texts = [(path, path.read_text()) for path in (ROOT / "cli.py", *(ROOT / "benchmarks").glob("*.py"))]
    examples = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
    pages = (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
    texts += [(page, "\n".join(examples.findall(page.read_text()))) for page in pages]
    found = []
    for path, text in texts:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Call):
                names = {n.id for n in ast.walk(node.func) if isinstance(n, ast.Name)}
                found += [f"{path.name}: {name}" for name in sorted(names & parts)]
    return found


def longest_signatures(most: int) -> list[str]:
    """Functions with more parameters than that, those of the user's options included."""
    found = []
    for name, path in modules().items():
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.FunctionDef):
                own = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                if len([one for one in own if one not in ("self", "cls")]) > most:
                    found.append(f"{name}.{node.name}")
    return found


if __name__ == "__main__":
    print("largest folder in heads/:", *largest_folder("heads"))
    print("import cycles:", len(cycles(graph())), *cycles(graph()), sep="\n  ")
    print("lines of cli.py:", len((ROOT / "cli.py").read_text().splitlines()))
    print("Any in heads/:", count_any("heads"))
    print("glue outside the library:", len(glue()), *glue(), sep="\n  ")
    print("functions of more than six parameters:", *longest_signatures(6), sep="\n  ")
