"""Frozen base models: load once, share everywhere, say plainly why one cannot be used.

Heavy libraries are imported inside the functions, so that the page is up before they are.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softprompt_core.config import BUNDLED_MODEL
from softprompt_core.errors import UserError

if TYPE_CHECKING:
    import torch

BUNDLED_FOLDER = Path(__file__).resolve().parent.parent / "assets" / "model"
_LOCK = threading.RLock()
_BUILDING = threading.Lock()
"""Held while transformers builds a model: meanwhile it puts other functions in place of its own for the whole process,
and two at once leave them there, after which no model with tied weights loads any more."""
_LOCKS: dict[tuple[str, ...], threading.RLock] = {}
_MODELS: dict[tuple[str, str, str], BaseModel] = {}
_TOKENIZERS: dict[str, Any] = {}
KEPT_MODELS = 2
"""Loaded models kept in memory at most; the one used longest ago goes first."""


@dataclass(frozen=True)
class BaseModel:
    """A frozen language model, causal or encoder–decoder, with its tokenizer.

    Compared by identity, shared between threads. context: the most tokens it reads, prompt included (an
    encoder–decoder's encoder), None where there is no limit.
    """

    name: str
    module: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    hidden_size: int
    vocab_size: int
    context: int | None
    revision: str

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    @cached_property
    def forward_arguments(self) -> frozenset[str]:
        """Names that the model's forward pass accepts."""
        return frozenset(inspect.signature(self.module.forward).parameters)

    @cached_property
    def window(self) -> int | None:
        """The narrowest sliding attention window in tokens, None when every layer sees everything."""
        config = self.module.config.get_text_config()
        kinds = getattr(config, "layer_types", None)
        if kinds and set(kinds) <= {"full_attention", "linear_attention"}:
            return None
        slides = getattr(config, "use_sliding_window", True)
        window = getattr(config, "sliding_window", None) if slides else None
        sizes = [window, getattr(config, "attention_chunk_size", None)]
        return min((int(size) for size in sizes if size), default=None)

    @cached_property
    def is_local_by_place(self) -> bool:
        """Whether some layers see a number of places in the line, whatever mask they are given (GPT-Neo)."""
        return "local" in getattr(self.module.config, "attention_layers", ())

    @cached_property
    def is_encoder_decoder(self) -> bool:
        """Whether a text is read by an encoder and its label written by a decoder."""
        return bool(getattr(self.module.config, "is_encoder_decoder", False))

    @cached_property
    def input_scale(self) -> float:
        """What the model multiplies the vectors of ids with, and vectors given as `inputs_embeds` not.

        BART and Gemma scale in the embedding module, so it is 1; Pegasus, Marian and MVP scale in the encoder, and
        for ids alone. (PEFT overlooks this: their text stands unscaled behind a prompt there.)
        """
        encoder = self.module.get_encoder() if self.is_encoder_decoder else None
        scale = float(getattr(encoder, "embed_scale", None) or 1.0)
        return scale if encoder is not None and scale != 1.0 and _scales_only_ids(encoder, scale) else 1.0

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """The vectors of token ids, [..., H] for ids [...], as the model takes them for `inputs_embeds`."""
        words = self.module.get_input_embeddings()(ids)
        return words if self.input_scale == 1.0 else words * self.input_scale

    @cached_property
    def table(self) -> torch.Tensor:
        """What `embed` gives for every id: [V, H] float32 on the CPU."""
        import torch

        parts = []
        with torch.no_grad():
            for ids in torch.arange(self.vocab_size, device=self.device).split(16_384):
                parts.append(self.embed(ids[None])[0].float().cpu())
        return torch.cat(parts)


def _scales_only_ids(encoder: Any, scale: float) -> bool:
    """Whether ids and their scaled vectors give the same; where vectors are scaled too (FSMT), they do not."""
    import torch

    embeddings = encoder.get_input_embeddings()
    ids = torch.arange(2, 5, device=embeddings.weight.device)[None]
    with torch.no_grad():
        expected = encoder(input_ids=ids).last_hidden_state
        scaled, plain = (
            encoder(inputs_embeds=embeddings(ids) * factor).last_hidden_state for factor in (scale, 1.0)
        )
    return bool((scaled - expected).norm() < (plain - expected).norm())


def embedding_table(base: BaseModel) -> torch.Tensor:
    """What stands for every id before the first layer, [V, H] float32 on the CPU; computed once a model."""
    with _LOCK:
        return base.table


def locate(name: str) -> str:
    """The folder or hub id that a model name means, without loading anything.

    Raises UserError for a path that holds no model.
    """
    if name == BUNDLED_MODEL:
        return str(BUNDLED_FOLDER)
    path = Path(name).expanduser()
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or os.sep + os.sep in name
    if not os.path.isdir(path):     # unlike Path.is_dir, no error for a path too long or not ours to read
        if looks_like_path or os.path.exists(path) or len(name) > 200:
            raise UserError(
                f"There is no model folder at {name[:200]!r}. Give a folder with config.json and safetensors "
                f"weights, a hub id such as 'bigscience/bloomz-560m', or '{BUNDLED_MODEL}'."
            )
        return name
    if not (path / "config.json").is_file():
        raise UserError(
            f"The folder {name!r} has no config.json, so it is no Hugging Face model. "
            "Give the folder that save_pretrained wrote."
        )
    if not any(path.glob("*.safetensors")):
        raise UserError(
            f"The folder {name!r} has no .safetensors weights; pickled weights are never loaded. "
            "Convert them with model.save_pretrained(folder, safe_serialization=True)."
        )
    return str(path)


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model, cached. Raises UserError when there is none."""
    with _lock_of(("tokenizer", name)):
        if name not in _TOKENIZERS:
            from transformers import AutoTokenizer

            try:
                _TOKENIZERS[name] = AutoTokenizer.from_pretrained(locate(name))
            except UserError:
                raise
            except Exception as error:
                raise UserError(_not_loadable(name, "tokenizer", error)) from None
        return _TOKENIZERS[name]


def load_model(name: str, *, device: str = "auto", dtype: str = "auto") -> BaseModel:
    """The named model, frozen and in evaluation mode; loaded once and shared.

    Raises UserError when it cannot be found, is neither a causal language model nor an encoder–decoder of text,
    or has no word embeddings.
    """
    chosen = choose_device(device)
    precision = choose_dtype(dtype, chosen)
    key = (name, str(chosen), str(precision))
    with _lock_of(key):         # a long download holds up only those who want the same model
        with _LOCK:
            if base := _MODELS.pop(key, None):
                _MODELS[key] = base
                return base
            while len(_MODELS) >= KEPT_MODELS:      # before loading: there may be no room for one more
                _MODELS.pop(next(iter(_MODELS)))
        base = _load(name, chosen, precision)
        with _LOCK:
            _MODELS[key] = base
        return base


def loaded_model(name: str, *, device: str = "auto", dtype: str = "auto") -> BaseModel | None:
    """The named model where it is in memory already. Raises UserError for a device that is not there."""
    chosen = choose_device(device)
    with _LOCK:
        return _MODELS.get((name, str(chosen), str(choose_dtype(dtype, chosen))))


def _lock_of(key: tuple[str, ...]) -> threading.RLock:
    with _LOCK:
        return _LOCKS.setdefault(key, threading.RLock())


def choose_device(wanted: str) -> torch.device:
    """The torch device for 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'. Raises UserError if it is not there."""
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if there[kind]))
    kind, _, index = wanted.partition(":")
    if kind not in there:
        raise UserError(f"device: {wanted!r} was given; allowed are auto, cpu, cuda, cuda:N and mps.")
    if not there[kind] or (kind == "cuda" and index and int(index) >= torch.cuda.device_count()):
        have = ", ".join(kind for kind, present in there.items() if present)
        raise UserError(f"device: {wanted!r} is not on this machine, which has {have}. Choose one or 'auto'.")
    return torch.device(wanted)


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """The dtype of the frozen weights; auto is float32 on a CPU and bfloat16 on a GPU that has it."""
    import torch

    if wanted == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if has_bfloat16(device) else torch.float16
        return torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 itself; elsewhere torch emulates it, many times slower.

    A GPU does from compute capability 8.0 on (`torch.cuda.is_bf16_supported` counts emulation, too), a CPU with
    AVX512-BF16 or AMX, or where oneDNN says so on Arm.
    """
    import platform

    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu" and platform.machine().lower() in ("x86_64", "amd64"):
        asked = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
        return any(ask is not None and ask() for ask in asked)
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _load(name: str, device: torch.device, dtype: torch.dtype) -> BaseModel:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    place = locate(name)
    tokenizer = load_tokenizer(name)
    try:
        config = AutoConfig.from_pretrained(place)
    except Exception as error:
        raise UserError(_not_loadable(name, "configuration", error)) from None
    kind: Any = AutoModelForSeq2SeqLM if getattr(config, "is_encoder_decoder", False) else AutoModelForCausalLM
    try:
        with _BUILDING:
            module, found = kind.from_pretrained(place, dtype=dtype, use_safetensors=True, output_loading_info=True)
    except Exception as error:
        raise UserError(_not_loadable(name, "model", error)) from None
    _check_complete(module, set(found["missing_keys"]), name)
    embeddings = input_embeddings(module, name)
    module.eval().requires_grad_(False).to(device)
    return BaseModel(
        name=name,
        module=module,
        tokenizer=tokenizer,
        device=device,
        dtype=dtype,
        hidden_size=int(embeddings.weight.shape[1]),
        vocab_size=int(embeddings.weight.shape[0]),
        context=_context(config.to_dict()),
        revision=getattr(config, "_commit_hash", None) or _fingerprint(Path(place)),
    )


def _check_complete(module: Any, missing: set[str], name: str) -> None:
    """Nothing, when the weights fill the model; transformers only warns, and draws what is missing at random."""
    empty = sorted(key for key, _ in module.named_parameters() if key in missing)
    if empty:
        raise UserError(
            f"The weights of {name!r} do not fill the {type(module).__name__} that its config.json describes: "
            f"{len(empty)} parts such as {empty[0]} are missing. Save the whole model again, or give another one."
        )


def input_embeddings(module: Any, name: str) -> Any:
    """The module that turns token ids into vectors. Raises UserError when the model has none."""
    try:
        embeddings = module.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        embeddings = None
    weight = getattr(embeddings, "weight", None)
    if weight is None or weight.ndim != 2:
        raise UserError(
            f"Model {name!r} has no table of word embeddings, so no soft prompt can be placed before its "
            "text. Choose a causal language model or an encoder–decoder that reads tokens."
        )
    return embeddings


def read_context(name: str) -> int | None:
    """Tokens that a model reads at most, from its config.json alone; None where that is not on this machine."""
    return _context(_read_config(name))


def read_is_encoder_decoder(name: str) -> bool:
    """Whether a model is an encoder–decoder, from its config.json alone; False where that is not on this machine."""
    return bool(_read_config(name).get("is_encoder_decoder"))


def _read_config(name: str) -> dict[str, Any]:
    """The config.json of a folder, or of a hub id that was downloaded before; empty where there is none here."""
    from huggingface_hub import try_to_load_from_cache

    path = Path(place := locate(name)) / "config.json"
    if not path.is_file() and not os.path.isdir(place):
        try:
            found = try_to_load_from_cache(place, "config.json")
        except ValueError:      # HFValidationError: no id that the hub could know
            found = None
        path = Path(found) if isinstance(found, str) else path
    try:
        config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise UserError(f"config.json of model {name!r} is no readable JSON object. Save the model again.")
    return config


def _context(config: dict[str, Any]) -> int | None:
    if "relative_attention_num_buckets" in config:
        return None     # T5 knows distances, not places; the n_positions of its files is only a training length
    config = config.get("text_config") or config.get("encoder") or config      # the part that reads
    limit = (
        config.get("max_position_embeddings") or config.get("max_encoder_position_embeddings")
        or config.get("n_positions")
    )
    return int(limit) if limit else None


def _not_loadable(name: str, what: str, error: Exception) -> str:
    reason = " ".join(str(error).split()).split(". ")[0][:200]
    if "Unrecognized configuration class" in str(error):
        reason = "its architecture is no causal language model that reads tokens, and no encoder–decoder of text"
    return (
        f"The {what} of {name!r} could not be loaded ({reason.rstrip('.')}). Give '{BUNDLED_MODEL}', a folder "
        "with config.json, tokenizer and safetensors weights, or the hub id of a causal or encoder–decoder model."
    )


def _fingerprint(folder: Path) -> str:
    """A short hash of a local model folder: its config, and name, size and first megabyte of its weights."""
    digest = hashlib.sha256()
    for path in [*sorted(folder.glob("*.safetensors")), folder / "config.json"]:
        digest.update(json.dumps([path.name, path.stat().st_size]).encode())
        with open(path, "rb") as file:
            digest.update(file.read(1 << 20))
    return digest.hexdigest()[:16]
