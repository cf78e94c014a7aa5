"""Saving and loading: full checkpoints with their code, head-only checkpoints, fresh heads on pretrained encoders.

Requires torch, transformers and safetensors.
"""

import copy
import inspect
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import get_relative_import_files

from .configuration_liminal import LiminalConfig, refuse_unknown
from .encoders import hub_revision, load_encoder
from .provenance import read_facts, remember_facts, write_facts

logger = logging.getLogger(__name__)

_LOW_RANK = "low_rank."
_WEIGHTS = "model.safetensors"
_ALIGNMENT = 64  # bytes, of torch's own allocations on the CPU


class CheckpointedModel(PreTrainedModel):
    """A model that saves and loads as ours do; it says nothing of what the model computes."""

    # Called as `finish_upload(model, folder, repo_id, token)` before a folder goes to the Hub, to add what transformers
    # leaves out. The installed package sets it; code that came with a checkpoint goes without.
    finish_upload: Any = None

    def _prepare_config_for_saving(self) -> None:
        """Writes the whole table of classes into the config: transformers alone would write only the saved one."""
        prefix = "modeling_liminal."
        self.config.auto_map = {
            "AutoConfig": "configuration_liminal.LiminalConfig",
            "AutoModel": prefix + "LiminalModel",
            "AutoModelForSequenceClassification": prefix + "LiminalForPADRegression",
        }
        self.config.custom_pipelines = {
            "pad-regression": {
                "impl": "pipeline_liminal.PADRegressionPipeline",
                "pt": ["AutoModelForSequenceClassification"],
                "type": "text",
            }
        }
        if self.config.text_config is not None:
            # A folder of this machine means nothing elsewhere; encoder_name_or_path holds the public name.
            self.config.text_config._name_or_path = ""

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:  # type: ignore[override]
        """Writes the full weights (safetensors), the config with the whole `auto_map`, and the code.

        Also a model that came from a head-only checkpoint is written in full. Arguments as in transformers.

        Raises:
            ValueError: the path is a file.
        """
        folder = Path(save_directory)
        if folder.is_file():
            raise ValueError(f"save_pretrained needs a folder, and {folder} is a file. Give another path.")
        self._prepare_config_for_saving()
        try:
            if kwargs.get("is_main_process", True):
                copy_code(folder)
                write_facts(self, folder)
            super().save_pretrained(save_directory, **kwargs)
        finally:
            # Only a folder needs it; in memory it would ask for trust_remote_code in `pipeline`.
            del self.config.custom_pipelines

    def _upload_modified_files(self, working_dir: str | os.PathLike, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        # `push_to_hub` and `save_pretrained(push_to_hub=True)` come here when the folder is written.
        finish = type(self).finish_upload
        if finish is not None:
            finish(self, Path(working_dir), repo_id, kwargs.get("token"))
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    def save_head_only(
        self, save_directory: str | os.PathLike, low_rank: dict[str, tuple[Tensor, Tensor]] | None = None
    ) -> None:
        """Writes everything but the encoder: a few MB that load by fetching the encoder from where it came.

        Args:
            save_directory: folder.
            low_rank: changes of encoder weights, by parameter name without `liminal.encoder.`: A `(r, in)` and B
                `(out, r)` with `weight = original + B @ A` (Hu et al. 2021; fold the adapter's scale into B).

        Raises:
            ValueError: the model has no encoder, its origin is not known, or its encoder has been trained otherwise.
        """
        config, encoder = self.config, self.base.encoder
        if encoder is None:
            raise ValueError("This model has no encoder to leave out: use save_pretrained.")
        if not config.encoder_name_or_path:
            raise ValueError(
                "A head-only checkpoint must name its encoder: set model.config.encoder_name_or_path to its Hub id "
                "(and encoder_revision to a commit), or use save_pretrained."
            )
        if Path(config.encoder_name_or_path).exists():
            logger.warning("The encoder is the folder %s; elsewhere it won't be found.", config.encoder_name_or_path)
        low_rank = low_rank or {}
        original = load_encoder(
            config.encoder_name_or_path, config.encoder_revision, config.encoder_layers
        ).state_dict()
        for name, value in encoder.state_dict().items():
            expected = original[name]
            if name in low_rank:
                expected = _add_low_rank(expected, *low_rank[name])
            if not torch.equal(value.to(expected), expected) and (
                name not in low_rank or not torch.allclose(value.to(expected), expected, atol=1e-5)
            ):
                raise ValueError(
                    f"The encoder weight {name!r} is not that of {config.encoder_name_or_path}: a head-only "
                    "checkpoint would lose its training. Use save_pretrained, or give the change as low_rank."
                )
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            name: value.contiguous()
            for name, value in self.state_dict().items()
            if not name.startswith(("encoder.", "liminal.encoder."))
        }
        if self is self.base:
            state = {f"liminal.{name}": value for name, value in state.items()}
        for name, (a, b) in low_rank.items():
            state[f"{_LOW_RANK}{name}.A"], state[f"{_LOW_RANK}{name}.B"] = a.contiguous(), b.contiguous()
        copy_code(folder)
        write_facts(self, folder)
        self._prepare_config_for_saving()
        config.weights_format = "head_only"
        config.architectures = ["LiminalForPADRegression"]
        temporary = folder / f".{_WEIGHTS}.part"
        save_file(state, temporary, metadata={"format": "pt"})
        try:
            config.save_pretrained(folder)
        finally:
            config.weights_format = "full"
            del config.custom_pipelines
        temporary.replace(folder / _WEIGHTS)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *model_args: Any, **kwargs: Any
    ) -> "CheckpointedModel":
        """Loads a model, full or head-only, from a folder or the Hub. Arguments as in transformers.

        A full checkpoint never touches the encoder's own repository. A head-only one fetches the encoder named in its
        config, at the revision named there.

        Raises:
            OSError: the checkpoint, or the encoder of a head-only one, was not found, or the weights are damaged; the
                message says which.
            ValueError: the folder holds another kind of model, or names an encoder outside of the Hub.
        """
        try:
            loaded = cls._load(pretrained_model_name_or_path, *model_args, **kwargs)
        except SafetensorError as error:
            raise OSError(
                f"The weights of {pretrained_model_name_or_path} are cut short or damaged ({error}). Download or copy "
                "them again; `liminal verify CHECKPOINT` compares them with the card."
            ) from error
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # a tuple with output_loading_info=True
        _align(model)
        if pretrained_model_name_or_path is not None:
            remember_facts(model, read_facts(pretrained_model_name_or_path, **_hub_kwargs(kwargs)))
        return loaded

    @classmethod
    def _load(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *model_args: Any, **kwargs: Any
    ) -> "CheckpointedModel":
        config = kwargs.get("config")
        hub_kwargs = _hub_kwargs(kwargs)
        if config is None and pretrained_model_name_or_path is not None:
            content, _ = cls.config_class.get_config_dict(pretrained_model_name_or_path, **hub_kwargs)
            if content.get("model_type") != cls.config_class.model_type:
                name = str(pretrained_model_name_or_path)
                raise ValueError(
                    f"{name} is no LIMINAL checkpoint but a {content.get('model_type')!r} model. To put a fresh head "
                    f"on it: {cls.__name__}.from_encoder_pretrained({name!r})"
                )
            config, unused = cls.config_class.from_pretrained(
                pretrained_model_name_or_path, return_unused_kwargs=True, **{**kwargs, **hub_kwargs}
            )
            if config.weights_format == "head_only":
                kwargs = {**{k: v for k, v in unused.items() if k not in hub_kwargs}, "config": config}
        if getattr(config, "weights_format", "full") != "head_only" or pretrained_model_name_or_path is None:
            return super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        state = _head_only_state(str(pretrained_model_name_or_path), config, hub_kwargs)
        for name in hub_kwargs:
            kwargs.pop(name, None)
        config = copy.deepcopy(config)
        config.weights_format = "full"
        loaded = super().from_pretrained(None, *model_args, **{**kwargs, "config": config, "state_dict": state})
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.config._name_or_path = model.name_or_path = str(pretrained_model_name_or_path)
        return loaded

    @classmethod
    def from_encoder_pretrained(
        cls,
        encoder_name_or_path: str | os.PathLike,
        revision: str | None = None,
        head: str = "v7",
        encoder_kwargs: dict[str, Any] | None = None,
        **config_kwargs: Any,
    ) -> "CheckpointedModel":
        """Attaches a fresh head to a pretrained encoder.

        Args:
            encoder_name_or_path: Hub id or folder of any `AutoModel` encoder.
            revision: branch, tag or commit of the encoder; a commit makes it reproducible.
            head: name in `HEADS`.
            encoder_kwargs: for the encoder's own `from_pretrained` (dtype, device_map, quantization_config, ...).
            config_kwargs: fields of `LiminalConfig`.

        Raises:
            OSError: the encoder was not found.
            KeyError: the head, pooler or loss is unknown.
            LiminalError: a name in `config_kwargs` is no field of a config, or its value is not allowed.

        Example:
            >>> from liminal_hf import LiminalForPADRegression
            >>> model = LiminalForPADRegression.from_encoder_pretrained(
            ...     "sentence-transformers/all-MiniLM-L6-v2", pooled_layers="all"
            ... )
            >>> model.config.encoder_name_or_path, model.liminal.pooler.output_size
            ('sentence-transformers/all-MiniLM-L6-v2', 2688)
        """
        refuse_unknown(config_kwargs)
        name = str(encoder_name_or_path)
        encoder = load_encoder(name, revision, config_kwargs.get("encoder_layers"), **(encoder_kwargs or {}))
        attention = encoder.config._attn_implementation
        config = LiminalConfig(text_config=encoder.config, head=head, **config_kwargs)
        # Nesting has reset it (it is not part of a config's JSON).
        config.text_config._attn_implementation = attention
        config.encoder_name_or_path = name
        commit = getattr(encoder.config, "_commit_hash", None)
        config.encoder_revision = hub_revision(name, revision, commit)
        return cls(config, encoder=encoder)


def _hub_kwargs(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Those arguments of `from_pretrained` that say where and how to find a file."""
    names = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
    return {name: kwargs[name] for name in names if kwargs.get(name) is not None}


def copy_code(folder: Path) -> None:
    """Copies the flat modeling code into a checkpoint folder, so that it loads where the package is not installed."""
    # transformers copies what this file imports by `from .sibling import`; naming the pipeline makes it travel.
    from .modeling_liminal import LiminalPreTrainedModel
    from .pipeline_liminal import PADRegressionPipeline

    folder.mkdir(parents=True, exist_ok=True)
    entry = [Path(inspect.getfile(LiminalPreTrainedModel)), Path(inspect.getfile(PADRegressionPipeline))]
    files = {Path(f) for source in entry for f in get_relative_import_files(source)} | set(entry)
    for file in sorted(files):
        target = folder / file.name
        if target.resolve() != file.resolve():
            shutil.copyfile(file, target)


def _head_only_state(source: str, config: LiminalConfig, hub_kwargs: dict[str, Any]) -> dict[str, Tensor]:
    """The full state dict of a head-only checkpoint: its own weights and those of the encoder that it names."""
    from transformers.utils import cached_file

    name = config.encoder_name_or_path or ""
    if not Path(source).is_dir() and (Path(name).is_absolute() or ".." in Path(name).parts or "\\" in name):
        raise ValueError(
            f"{source} comes from the Hub and names the encoder {name!r}, which is a path of this machine."
        )
    path = cached_file(source, _WEIGHTS, **hub_kwargs)
    own = load_file(path)
    try:
        encoder = load_encoder(config.encoder_name_or_path, config.encoder_revision, config.encoder_layers)
    except OSError as error:
        raise OSError(
            f"{source} is a head-only checkpoint: it holds the head ({len(own)} tensors) and not the encoder. {error}"
        ) from error
    state = {f"liminal.encoder.{name}": value for name, value in encoder.state_dict().items()}
    for name, value in own.items():
        if not name.startswith(_LOW_RANK):
            state[name] = value
        elif name.endswith(".A"):
            target = "liminal.encoder." + name[len(_LOW_RANK) : -2]
            if target not in state:
                raise ValueError(
                    f"{source} changes the encoder weight {target!r}, which {config.encoder_name_or_path} does not "
                    "have: the checkpoint and the encoder do not fit together."
                )
            state[target] = _add_low_rank(state[target], value, own[name[:-1] + "B"])
    return state


def _add_low_rank(weight: Tensor, a: Tensor, b: Tensor) -> Tensor:
    change = b.float() @ a.float()
    # GPT-2's Conv1D keeps its weight transposed.
    return weight + (change if change.shape == weight.shape else change.T).to(weight)


def _align(model: PreTrainedModel) -> None:
    """Moves weights to where torch would have allocated them.

    Read from a file they begin at any multiple of 4 bytes, and there some processors sum in another order: the same
    weights would answer one unit in the last place beside the model that was saved.
    """
    for value in (*model.parameters(), *model.buffers()):
        if value.device.type == "cpu" and value.data_ptr() % _ALIGNMENT:
            value.data = value.data.clone()
