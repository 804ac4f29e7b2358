"""A server imports transformers without what no reader uses, and reads as if it had imported all of it."""

import hashlib
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from families import FAMILIES, save_family
from scopewatch.reader.loading import load_reader
from scopewatch.reader.text.tokeniser import Tokeniser
from scopewatch.types import Pair

NEEDLESS = ["torch._dynamo", "torch.distributed.tensor", "sympy", "scipy", "sklearn", "accelerate", "triton", "redis"]


def read(directory: Path) -> list[Any]:
    """The tokens of a pair, and a digest of what the reader makes of them."""
    (pair,) = Tokeniser(directory, max_tokens=256).tokenise([Pair("What is it?", "It may be a cold 🤒, or a flu.")])
    reader = load_reader(directory, name="r", revision="", deepest_layer=3, device="cpu", dtype="float32")
    with torch.inference_mode():
        states = reader.model(input_ids=torch.from_numpy(pair.ids.astype("int64"))[None], use_cache=False)[0]
    return [pair.ids.tolist(), hashlib.sha256(states.numpy().tobytes()).hexdigest()]


SCRIPT = f"""
import hashlib, json, sys
from pathlib import Path
from typing import Any
from scopewatch.app import server
from scopewatch.reader.lean import lean_imports
with lean_imports():
    from scopewatch.engine import build
import torch
from scopewatch.reader.loading import load_reader
from scopewatch.reader.text.tokeniser import Tokeniser
from scopewatch.types import Pair
{inspect.getsource(read)}
made = {{family: read(Path(folder)) for family, folder in json.loads(sys.argv[1]).items()}}
print(json.dumps([[name for name in {NEEDLESS!r} if name in sys.modules], made]))
"""


def test_every_family_is_read_as_with_all_of_transformers(tmp_path: Path) -> None:
    """Tokens and activations are the same, to the last bit, and neither loading nor reading imports what was left out."""
    folders = {family: str(save_family(family, tmp_path / family)) for family in FAMILIES}

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(folders)], capture_output=True, text=True, check=True
    )
    imported, made = json.loads(done.stdout)

    assert imported == []
    assert made == {family: read(Path(folder)) for family, folder in folders.items()}


def test_what_is_imported_later_is_the_real_thing() -> None:
    """The compiler is torch's own afterwards, functions that were marked for it run, and optional packages are there."""
    script = (
        "import sys, torch\n"
        "from scopewatch.reader.lean import lean_imports\n"
        "with lean_imports():\n"
        "    import transformers\n"
        "    from transformers import PreTrainedModel\n"
        "import scipy.optimize, sklearn\n"
        "from transformers.masking_utils import TransformGetItemToIndex\n"
        "with TransformGetItemToIndex(): pass\n"
        "import torch._dynamo\n"
        "double = torch.compile(lambda x: x + x, backend='eager', fullgraph=True)\n"
        "print(torch._dynamo.__file__ is not None, double(torch.ones(2)).tolist())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout == "True [2.0, 2.0]\n"


def test_a_program_that_embeds_scopewatch_has_transformers_whole() -> None:
    """What the program does with transformers besides works as without scopewatch."""
    script = (
        "import scopewatch\n"
        "scopewatch.score([{'prompt': 'What is it?', 'response': 'It may be a cold.'}])\n"
        "import torch\n"
        "from transformers import AutoModelForCausalLM\n"
        "print(torch.distributed.is_available())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert done.stdout == "True\n"
