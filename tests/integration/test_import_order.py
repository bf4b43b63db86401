"""Pruned folders load and our models are known, whatever part of transformers was imported before ``import secateurs``.

This file is a script too: it tries every order in a fork of a process that has imported neither of the two libraries.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import traceback
from typing import Any

FIRST = "import secateurs"
AFTER_TRANSFORMERS = (
    "from transformers import AutoConfig; import secateurs",
    "from transformers import AutoModelForSequenceClassification; import secateurs",  # the Auto class, but no model
    "from transformers import BertModel; import secateurs",
    "import transformers.models.auto.modeling_auto; import secateurs",
)

SLOW_IMPORTS = ("torch._dynamo", "torch.distributed.tensor", "scipy.optimize")
"""What transformers imports of other libraries; imported once, before the forks."""


def test_the_order_of_imports_does_not_matter() -> None:
    done = subprocess.run([sys.executable, __file__], capture_output=True, text=True)
    assert done.stdout.splitlines() == [FIRST, *AFTER_TRANSFORMERS], done.stderr[-4000:]


def check(order: str) -> None:
    """Execute the imports, and check that transformers knows our hook and our model class.

    Args:
        order: import statements.
    """
    exec(order)
    import transformers.modeling_utils
    from transformers import AutoConfig, AutoModelForCausalLM

    post_init: Any = transformers.modeling_utils.PreTrainedModel.post_init
    assert post_init.__wrapped__
    assert post_init.__module__ == "transformers.modeling_utils"  # functools.wraps
    assert "apply_block" in post_init.__code__.co_names
    model_classes: Any = AutoModelForCausalLM._model_mapping
    config = AutoConfig.for_model("secateurs-adaptive-lm")
    assert model_classes[type(config)].__name__ == "AdaptiveLMForCausalLM"


def check_in_fork(order: str) -> None:
    """Run ``check`` in a fork of this process; print the order if it passes, or else the traceback."""
    child = os.fork()
    if child == 0:
        try:
            check(order)
            print(order, flush=True)
        except BaseException:
            print(f"{order}\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


if __name__ == "__main__":
    for name in SLOW_IMPORTS:
        importlib.import_module(name)
    assert not {"secateurs", "transformers"} & set(sys.modules)
    check_in_fork(FIRST)
    importlib.import_module("transformers")  # all other orders begin with it; its parts are imported at first use
    for order in AFTER_TRANSFORMERS:
        check_in_fork(order)
