"""What methods other than a soft prompt leave for other programs: PEFT's folders, and for full fine-tuning a model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from softprompt_core.adapters import ADAPTER_WEIGHTS, FACTS
from softprompt_core.errors import UserError
from softprompt_core.files import write_aside, write_json, write_tensors
from softprompt_core.methods import FullTuning, Lora, Method, PrefixTuning
from softprompt_core.records import Tensors

README = """# {title}

{about}. `softprompt.json` holds the template its texts were put in and the labels it was trained to answer with.

```python
{code}
```
"""
PEFT_CODE = """from peft import PeftConfig, PeftModel
from transformers import {loader}, AutoTokenizer

folder = "."
name = PeftConfig.from_pretrained(folder).base_model_name_or_path
model = PeftModel.from_pretrained({loader}.from_pretrained(name), folder)
tokenizer = AutoTokenizer.from_pretrained(name)"""
MODEL_CODE = """from transformers import {loader}, AutoTokenizer

model = {loader}.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")"""


def export_method(method: Method, folder: Path, *, base_model: str, facts: dict[str, Any]) -> Path:
    """The folder, which `peft.PeftModel.from_pretrained` loads, or for full fine-tuning transformers.

    base_model: a hub id or a folder, written as given. facts (JSON values) go to softprompt.json. What makes the
    folder complete is written last. Raises UserError when it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FACTS, {**facts, "base_model": base_model})
        loader = "AutoModelForSeq2SeqLM" if method.base.is_encoder_decoder else "AutoModelForCausalLM"
        is_model = isinstance(method, FullTuning)
        code = (MODEL_CODE if is_model else PEFT_CODE).format(loader=loader)
        title = "A fine-tuned model" if is_model else "An adapter for a frozen model"
        with write_aside(folder / "README.md") as file:
            file.write(README.format(title=title, about=method.about[0].upper() + method.about[1:], code=code))
        if isinstance(method, FullTuning):
            method.base.tokenizer.save_pretrained(folder)
            method.base.module.save_pretrained(folder)
            return folder
        assert isinstance(method, PrefixTuning | Lora)
        write_tensors(folder / ADAPTER_WEIGHTS, _peft_tensors(method))
        config = copy.copy(method.config)
        config.base_model_name_or_path, config.inference_mode = base_model, True
        config.save_pretrained(str(folder))
    except OSError as error:
        raise UserError(
            f"The folder {str(folder)!r} cannot be written ({error.strerror or error}). Choose another one."
        ) from None
    return folder


def _peft_tensors(method: PrefixTuning | Lora) -> Tensors:
    """The tensors by PEFT's names."""
    if isinstance(method, PrefixTuning):
        return method.tensors()
    return {f"base_model.model.{key.replace('.default.', '.')}": value for key, value in method.tensors().items()}
