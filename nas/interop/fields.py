"""A configuration that somebody else wrote, read field by field, so that what was not read can be refused by name."""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from nas.interop.errors import InteropError

MAX_CONFIG_BYTES = 1_000_000
REQUIRED = object()

# Fields that change no logit: ids, storage, initialisation, what is returned, which implementation runs, and how losses
# beside that of the tokens are weighted.
INERT = frozenset(
    {
        *("architectures", "auto_map", "model_type", "name_or_path", "_name_or_path", "transformers_version"),
        *("dtype", "torch_dtype", "use_cache", "initializer_range", "initializer_factor", "max_position_embeddings"),
        *("output_router_logits", "router_aux_loss_coef", "output_attentions", "output_hidden_states", "return_dict"),
        *("_attn_implementation", "_attn_implementation_autoset", "use_kernels", "chunk_size_feed_forward"),
        *("is_encoder_decoder", "id2label", "label2id", "problem_type", "task_specific_params", "num_logits_to_keep"),
        "tokenizer_class",
    }
)
ID_OF_TOKEN = "_token_id"


class Fields:
    """The fields of a config.json, and the names of the tensors beside it.

    Attributes:
        tensors: names of all tensors in the files.
        shape: the shape of a tensor, by its name.
        layer_prefix: what the names of a layer's tensors begin with, `{}` for its number; set by the family.
    """

    def __init__(
        self, config: Mapping[str, Any], tensors: Collection[str], shape: Callable[[str], tuple[int, ...]]
    ) -> None:
        self._config = config
        self._read: set[str] = set()
        self.tensors = frozenset(tensors)
        self.shape = shape
        self.layer_prefix = ""

    def __call__(self, name: str, default: Any = REQUIRED) -> Any:
        """The value of a field, None for null; where it is missing the default, without one an InteropError."""
        self._read.add(name)
        if name in self._config:
            return _number(self._config[name])
        if default is REQUIRED:
            raise InteropError(f"config.json has no field {name}, which a {self.model_type} model needs.")
        return default

    def __contains__(self, name: str) -> bool:
        return name in self._config

    @property
    def model_type(self) -> str:
        return str(self._config.get("model_type"))

    @property
    def unset(self) -> frozenset[str]:
        """Fields that are null."""
        return frozenset(name for name, value in self._config.items() if value is None)

    def expect(self, name: str, *allowed: Any) -> None:
        """Read a field that has no counterpart here; it must be missing or one of the values that change nothing."""
        value = self(name, allowed[0])
        if value not in allowed:
            raise InteropError(
                f"config.json sets {name} to {value!r}, which changes the computation and has no counterpart here "
                f"(understood: {', '.join(map(repr, allowed))})."
            )

    def has(self, layer: int, name: str) -> bool:
        """Whether a layer has a tensor of this name."""
        return self.layer_prefix.format(layer) + name in self.tensors

    def refuse_unread(self, inert: Collection[str]) -> None:
        """Raise InteropError for the first field that nothing has read and that is not known to be inert."""
        unread = sorted(self._config.keys() - self._read - INERT - set(inert))
        unread = [name for name in unread if not name.endswith(ID_OF_TOKEN)]
        if unread:
            raise InteropError(
                f"config.json sets {unread[0]} to {self._config[unread[0]]!r}, which is not understood for a "
                f"{self.model_type} model and might change the computation"
                + (f"; so might {', '.join(unread[1:])}." if unread[1:] else ".")
            )


Reader = Callable[[Fields, int], Any]
"""An option from the fields, for the layer of that number."""


def field(name: str, default: Any = REQUIRED, convert: Callable[[Any], Any] = lambda value: value) -> Reader:
    """The reader of one field."""
    return lambda fields, layer: convert(fields(name, default))


def always(value: Any) -> Reader:
    """The reader of an option that a family fixes."""
    return lambda fields, layer: value


def read_config(directory: Path) -> dict[str, Any]:
    """config.json of a directory. Raises InteropError where it is missing or no configuration."""
    path = directory / "config.json"
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise InteropError(f"{path} is larger than {MAX_CONFIG_BYTES:,} bytes, which no configuration is.")
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InteropError(f"{path} cannot be read ({error.strerror}); name a directory that holds one.") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, InteropError):
            raise
        raise InteropError(f"{path} is not a readable configuration ({type(error).__name__}).") from None
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise InteropError(f"{path} must be a JSON object with a model_type, but it is not.")
    return config


def _number(value: Any) -> Any:
    """transformers writes what JSON has no number for as {"__float__": "Infinity"}; lists are read likewise."""
    if isinstance(value, list):
        return [_number(item) for item in value]
    if isinstance(value, dict) and set(value) == {"__float__"}:
        return float(value["__float__"])
    return value
