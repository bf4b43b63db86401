"""Whatever of transformers was imported before ``import secateurs``, pruned folders load and our models are known."""

from __future__ import annotations

import subprocess
import sys

import pytest

ORDERS = (
    "import secateurs",
    "from transformers import AutoConfig; import secateurs",
    "from transformers import AutoModelForSequenceClassification; import secateurs",  # the factory, but not the models
    "from transformers import BertModel; import secateurs",
    "import transformers.models.auto.modeling_auto; import secateurs",
)


@pytest.mark.parametrize("order", ORDERS)
def test_it_does_not_matter(order: str) -> None:
    code = f"""
{order}
import transformers.modeling_utils
from transformers import AutoConfig, AutoModelForCausalLM
assert transformers.modeling_utils.PreTrainedModel.post_init.wrapped_by_secateurs
config = AutoConfig.for_model("secateurs-adaptive-lm")
assert AutoModelForCausalLM._model_mapping[type(config)].__name__ == "AdaptiveLMForCausalLM"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
