"""Rules of the source; planted violations show that each rule can fail."""

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "recllm_tasks"

# From the top down: a room imports from its own floor and from those below.
FLOORS = (
    ("cli", "commands", "__main__"),
    ("report", "serve"),
    ("baselines",),
    ("preparation", "recommender"),
    ("t5x_bridge",),
    ("engine",),
    ("audit",),
    ("mixtures", "tasks"),
    ("pipeline",),
    ("runs",),
    ("metrics",),
    ("prompts",),
    ("models",),
    ("data",),
    ("gin_files",),
    ("array_file", "checksums", "compile_cache", "errors", "files", "progress"),
    ("__init__", "quiet"),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
JAX = ("jax", "jaxlib", "flax")
TENSORFLOW = ("tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio")
ENGINES = tuple(f"{PACKAGE}.{room}" for room in ("engine", "t5x_bridge", "recommender"))
# What a room may not import, besides `t5x`, which only t5x_bridge may.
FOREIGN = {
    "models": TENSORFLOW,
    "data": JAX,
    "prompts": JAX,
    "metrics": (*JAX, "tensorflow"),
    "runs": (*JAX, *TENSORFLOW, "gin"),
    "baselines": ENGINES,
    "report": ENGINES,
}
# Generators of NumPy whose state is local and whose seed is given.
LOCAL_GENERATORS = ("numpy.random.Generator", "numpy.random.Philox", "numpy.random.SeedSequence")
SERIALIZERS = ("pickle", "cPickle", "cloudpickle", "dill", "shelve")
UNSAFE_CALLS = ("eval", "exec", "builtins.eval", "builtins.exec", "yaml.load", "yaml.unsafe_load")


class Module:
    """A parsed module of the package, with what it imports and which dotted names it uses."""

    def __init__(self, path: Path, root: Path):
        self.parts = path.relative_to(root / PACKAGE).with_suffix("").parts
        self.room = self.parts[0]
        self.source = path.read_text()
        self.tree = ast.parse(self.source, str(path))
        self.where = path.relative_to(root)

    def at(self, node: ast.AST) -> str:
        return f"{self.where}:{node.lineno}"

    def imports(self) -> Iterator[tuple[ast.AST, str]]:
        """Yields absolute names: `from a.b import c` gives `a.b.c`, be c a module or not."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = (PACKAGE, *self.parts)[: -node.level] if node.level else ()
                origin = ".".join([*above, *([node.module] if node.module else [])])
                yield from ((node, f"{origin}.{alias.name}") for alias in node.names)
            elif isinstance(node, ast.Call) and node.args:
                name, first = dotted(node.func), node.args[0]
                named = isinstance(first, ast.Constant) and isinstance(first.value, str)
                if named and name and name.split(".")[-1] in ("import_module", "__import__"):
                    yield node, first.value

    def aliases(self) -> dict[str, str]:
        """Local names of imports: `import numpy as np` gives np: numpy."""
        names = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    name = alias.name if alias.asname else alias.name.split(".")[0]
                    names[alias.asname or name] = name
            elif isinstance(node, ast.ImportFrom) and not node.level:
                for alias in node.names:
                    names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
        return names

    def uses(self) -> Iterator[tuple[ast.AST, str]]:
        """Yields every imported name and every dotted name, the latter with its alias resolved."""
        yield from self.imports()
        aliases = self.aliases()
        for node in ast.walk(self.tree):
            name = dotted(node) if isinstance(node, ast.Attribute) else None
            if name:
                head, _, rest = name.partition(".")
                yield node, f"{aliases.get(head, head)}.{rest}"

    def calls(self) -> Iterator[tuple[ast.Call, str]]:
        aliases = self.aliases()
        for node in ast.walk(self.tree):
            name = dotted(node.func) if isinstance(node, ast.Call) else None
            if name:
                head, dot, rest = name.partition(".")
                yield node, f"{aliases.get(head, head)}{dot}{rest}"


def dotted(node: ast.AST) -> str | None:
    """`a.b.c` of an attribute chain that begins with a plain name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = dotted(node.value)
        return head and f"{head}.{node.attr}"
    return None


def modules(root: Path) -> list[Module]:
    found = [Module(path, root) for path in sorted((root / PACKAGE).rglob("*.py"))]
    if not found:
        raise FileNotFoundError(f"no module under {root / PACKAGE}")
    return found


def is_in(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def upward_imports(root: Path) -> list[str]:
    problems = []
    for module in modules(root):
        if module.room not in FLOOR_OF:
            problems.append(f"{module.where}: a room without a floor; give it one in FLOORS")
            continue
        lazy = lazy_nodes(module.tree) if module.parts == ("__init__",) else set()
        for node, name in module.imports():
            if not is_in(name, PACKAGE) or node in lazy:
                continue
            room = name.split(".")[1] if name.count(".") else "__init__"
            if room not in FLOOR_OF and not room.startswith("__"):
                problems.append(f"{module.at(node)}: {name} is public; import it from its module")
            elif FLOOR_OF.get(room, len(FLOORS)) < FLOOR_OF[module.room]:
                problems.append(f"{module.at(node)}: {module.room} imports {name} from above")
    return problems


def lazy_nodes(tree: ast.Module) -> set[ast.AST]:
    """Code of the package's `__init__` that does not run on import: there it may import anything.

    That is the function `__getattr__` and the blocks `if TYPE_CHECKING`.
    """
    found: set[ast.AST] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__getattr__":
            found |= set(ast.walk(node))
        elif isinstance(node, ast.If) and dotted(node.test) == "TYPE_CHECKING":
            found |= {inner for statement in node.body for inner in ast.walk(statement)}
    return found


def foreign_imports(root: Path) -> list[str]:
    problems = []
    for module in modules(root):
        banned = FOREIGN.get(module.room, ()) + (() if module.room == "t5x_bridge" else ("t5x",))
        problems += [
            f"{module.at(node)}: {module.room} may not import {name}"
            for node, name in module.imports()
            if any(is_in(name, package) for package in banned)
        ]
    return problems


def stateful_randomness(root: Path) -> list[str]:
    return [
        f"{module.at(node)}: {name}; draw with tf.random.stateless_*, jax.random, or "
        "np.random.Generator(np.random.Philox(key))"
        for module in modules(root)
        for node, name in [*module.uses(), *unseeded(module)]
        if is_in(name, "random") or is_stateful_numpy(name) or is_stateful_tensorflow(name)
    ]


def unseeded(module: Module) -> Iterator[tuple[ast.AST, str]]:
    """Generators without a seed, which draw one from the system."""
    for node, name in module.calls():
        if name in LOCAL_GENERATORS and not node.args and not node.keywords:
            yield node, "numpy.random.unseeded"


def is_stateful_numpy(name: str) -> bool:
    # `np.random` itself is on the way to a name.
    return name.startswith("numpy.random.") and not any(is_in(name, g) for g in LOCAL_GENERATORS)


def is_stateful_tensorflow(name: str) -> bool:
    for prefix in (
        "tensorflow.random.",
        "tensorflow.compat.v1.random.",
        "tensorflow.compat.v2.random.",
    ):
        if name.startswith(prefix):
            drawn = name.removeprefix(prefix).removeprefix("experimental.")
            # `tf.random.experimental` itself is on the way to a name.
            return drawn != "experimental" and not drawn.startswith("stateless_")
    return False


def unsafe_code(root: Path) -> list[str]:
    problems = []
    for module in modules(root):
        for node, name in module.imports():
            if name.split(".")[0] in SERIALIZERS:
                problems.append(f"{module.at(node)}: {name}")
        for node, name in module.calls():
            pickles = any(
                keyword.arg == "allow_pickle" and getattr(keyword.value, "value", True)
                for keyword in node.keywords
            )
            if name in UNSAFE_CALLS or pickles:
                problems.append(f"{module.at(node)}: {name}(…)")
    return problems


WATCHED_IMPORT = """
import sys
sys.path.insert(0, sys.argv[1])
def watch(event, arguments):
    if event == "open" and not str(arguments[0]).endswith((".py", ".pyc")):
        print("opened", arguments[0])
    elif event.startswith("socket."):
        print(event)
import importlib
sys.addaudithook(watch)
import recllm_tasks
for name in ("jax", "numpy", "seqio", "tensorflow"):
    if name in sys.modules:
        print("loaded", name)
"""


def work_at_import(root: Path) -> list[str]:
    """What a fresh interpreter opens or loads on importing the package alone."""
    command = [sys.executable, "-I", "-B", "-c", WATCHED_IMPORT, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.splitlines()


def gin_packages(root: Path) -> list[str]:
    return [
        f"{path.relative_to(root)}: would shadow gin-config"
        for path in sorted((root / "gin").rglob("__init__.py*"))
    ]


RULES = (
    upward_imports,
    foreign_imports,
    stateful_randomness,
    unsafe_code,
    work_at_import,
    gin_packages,
)


@pytest.mark.parametrize("rule", RULES)
def test_the_source_keeps_the_rule(rule: Callable[[Path], list[str]]):
    assert rule(ROOT) == []


PLANTED = (
    (upward_imports, "data/specs.py", "from recllm_tasks.prompts import windows"),
    (upward_imports, "data/specs.py", "from recllm_tasks import cli"),
    (upward_imports, "data/specs.py", "from ..models.trie import Trie"),
    (upward_imports, "data/specs.py", "from .. import metrics"),
    (upward_imports, "data/__init__.py", "import recllm_tasks.tasks"),
    (upward_imports, "engine/train.py", "def f():\n    from recllm_tasks import baselines"),
    (upward_imports, "engine/train.py", "import_module('recllm_tasks.report.page')"),
    (upward_imports, "__init__.py", "from recllm_tasks import errors"),
    (upward_imports, "__init__.py", "from recllm_tasks.recommender import Recommender"),
    (upward_imports, "__init__.py", "if True:\n    from recllm_tasks import tasks"),
    (
        upward_imports,
        "__init__.py",
        "if TYPE_CHECKING:\n    pass\nelse:\n    from recllm_tasks import tasks",
    ),
    (upward_imports, "data/specs.py", "if TYPE_CHECKING:\n    from recllm_tasks import tasks"),
    (upward_imports, "data/specs.py", "from recllm_tasks import Recommender"),
    (upward_imports, "attic.py", ""),
    (foreign_imports, "models/trie.py", "import tensorflow as tf"),
    (foreign_imports, "models/trie.py", "from seqio import vocabularies"),
    (foreign_imports, "data/catalog.py", "from jax import numpy as jnp"),
    (foreign_imports, "prompts/windows.py", "import flax.linen as nn"),
    (foreign_imports, "metrics.py", "import jax"),
    (foreign_imports, "engine/train.py", "from t5x import models"),
    (foreign_imports, "runs/results.py", "import gin"),
    (foreign_imports, "runs/results.py", "import seqio"),
    (foreign_imports, "runs/results.py", "from jax import numpy"),
    (foreign_imports, "report/page.py", "from recllm_tasks.engine import evaluation"),
    (foreign_imports, "baselines/ease.py", "from recllm_tasks import engine"),
    (upward_imports, "data/specs.py", "from recllm_tasks import runs"),
    (upward_imports, "runs/results.py", "from recllm_tasks import tasks"),
    (upward_imports, "files.py", "from recllm_tasks.runs import results"),
    (stateful_randomness, "metrics.py", "import random"),
    (stateful_randomness, "metrics.py", "from random import choice"),
    (stateful_randomness, "metrics.py", "import numpy as np\nx = np.random.default_rng(0)"),
    (stateful_randomness, "metrics.py", "import numpy as np\nnp.random.seed(0)"),
    (stateful_randomness, "metrics.py", "from numpy import random as r\nx = r.rand()"),
    (stateful_randomness, "metrics.py", "import numpy.random\nx = numpy.random.choice(3)"),
    (stateful_randomness, "metrics.py", "from numpy.random import shuffle"),
    (stateful_randomness, "metrics.py", "import numpy as np\nx = np.random.Philox()"),
    (stateful_randomness, "tasks.py", "import tensorflow as tf\nx = tf.random.uniform([])"),
    (stateful_randomness, "tasks.py", "import tensorflow as t\nt.random.set_seed(0)"),
    (stateful_randomness, "tasks.py", "from tensorflow import random\nx = random.normal([])"),
    (stateful_randomness, "tasks.py", "import tensorflow as tf\ntf.compat.v1.random.normal([])"),
    (stateful_randomness, "tasks.py", "from tensorflow.random import uniform"),
    (unsafe_code, "tasks.py", "eval('1')"),
    (unsafe_code, "tasks.py", "exec('1')"),
    (unsafe_code, "tasks.py", "import pickle"),
    (unsafe_code, "tasks.py", "from pickle import loads"),
    (unsafe_code, "tasks.py", "import yaml\nyaml.load('')"),
    (unsafe_code, "tasks.py", "from yaml import load\nload('')"),
    (unsafe_code, "tasks.py", "import numpy as np\nnp.load('a', allow_pickle=True)"),
    (work_at_import, "__init__.py", "open(__file__[:-3] + '.csv', 'w')"),
    (work_at_import, "__init__.py", "import numpy"),
    (work_at_import, "__init__.py", "import socket\nsocket.socket()"),
    (gin_packages, "../gin/__init__.py", ""),
    (gin_packages, "../gin/runs/__init__.py", ""),
)


@pytest.mark.parametrize(("rule", "path", "code"), PLANTED)
def test_a_planted_violation_is_found(rule, path, code, tmp_path):
    plant(tmp_path, path, code)
    problems = rule(tmp_path)
    assert len(problems) >= 1


ALLOWED = (
    (upward_imports, "cli.py", "from recllm_tasks import engine, report, __version__"),
    (upward_imports, "prompts/source.py", "from recllm_tasks.data.catalog import Catalog"),
    (upward_imports, "tasks.py", "from recllm_tasks.mixtures import names"),
    (
        upward_imports,
        "__init__.py",
        "if TYPE_CHECKING:\n    from recllm_tasks.tasks import x\n"
        "def __getattr__(name):\n    import recllm_tasks.engine",
    ),
    (foreign_imports, "t5x_bridge.py", "import t5x.models"),
    (foreign_imports, "data/builder.py", "import tensorflow_datasets as tfds"),
    (foreign_imports, "engine/train.py", "from t5x_like import models"),
    (stateful_randomness, "engine/train.py", "from jax import random\nkey = random.key(0)"),
    (
        stateful_randomness,
        "metrics.py",
        "import numpy as np\nx = np.random.Generator(np.random.Philox(3))",
    ),
    (stateful_randomness, "tasks.py", "import tensorflow as tf\ntf.random.stateless_normal([], s)"),
    (
        stateful_randomness,
        "tasks.py",
        "import tensorflow as tf\ntf.random.experimental.stateless_split(seed, 2)",
    ),
    (unsafe_code, "tasks.py", "import yaml\nyaml.safe_load('')\nmodel.eval()"),
    (unsafe_code, "tasks.py", "import numpy as np\nnp.load('a', allow_pickle=False)"),
    (work_at_import, "__init__.py", "import dataclasses"),
    (gin_packages, "../gin/models/tiny.gin", ""),
)


@pytest.mark.parametrize(("rule", "path", "code"), ALLOWED)
def test_what_is_allowed_passes(rule, path, code, tmp_path):
    plant(tmp_path, path, code)
    assert rule(tmp_path) == []


def plant(root: Path, path: str, code: str) -> None:
    (root / PACKAGE).mkdir()
    (root / PACKAGE / "__init__.py").touch()
    planted = root / PACKAGE / path
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.write_text(code + "\n")
