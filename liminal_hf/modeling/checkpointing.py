"""Saving and loading: full checkpoints with their code, head-only checkpoints, fresh heads on pretrained encoders.

Requires torch, transformers and safetensors.
"""

import copy
import inspect
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel
from transformers.dynamic_module_utils import get_relative_import_files

from .configuration_liminal import LiminalConfig, refuse_unknown
from .encoders import encoder_revision, hub_commit, load_encoder, resolve_encoder
from .errors import LiminalError
from .provenance import known_facts, read_facts, remember_facts, write_facts
from .targets import clamped_targets

logger = logging.getLogger(__name__)

_LOW_RANK = "low_rank."
_WEIGHTS = "model.safetensors"
# What the caller says of the network and the cache holds for the encoder, too; `revision` and `subfolder` do not.
_HUB_KWARGS = ("token", "cache_dir", "local_files_only", "force_download", "proxies")
_ALIGNMENT = 64  # bytes, of torch's own allocations on the CPU


class CheckpointedModel(PreTrainedModel):
    """A model that saves and loads as ours do; it says nothing of what the model computes."""

    # Called as `finish_upload(model, folder, repo_id, token)` before a folder goes to the Hub, to add what transformers
    # leaves out. The installed package sets it; code that came with a checkpoint goes without.
    finish_upload: Any = None

    @contextmanager
    def _config_for_saving(self, **fields: Any) -> Iterator[LiminalConfig]:
        """The model's config as a folder needs it; the config in memory comes back whatever happens.

        The whole table of classes is written, where transformers alone would write only the saved one. In memory,
        `custom_pipelines` would ask for `trust_remote_code` in `pipeline`.
        """
        model: Any = self
        before = model.config
        config: Any = copy.deepcopy(before)
        prefix = "modeling_liminal."
        config.auto_map = {
            "AutoConfig": "configuration_liminal.LiminalConfig",
            "AutoModel": prefix + "LiminalModel",
            "AutoModelForSequenceClassification": prefix + "LiminalForPADRegression",
        }
        tasks = {"pad-regression": "PADRegressionPipeline", "text-classification": "TargetClassificationPipeline"}
        config.custom_pipelines = {
            task: {"impl": f"pipeline_liminal.{name}", "pt": ["AutoModelForSequenceClassification"], "type": "text"}
            for task, name in tasks.items()
        }
        if config.text_config is not None:
            # A folder of this machine means nothing elsewhere; encoder_name_or_path holds the public name.
            config.text_config._name_or_path = ""
        for name, value in fields.items():
            setattr(config, name, value)
        self.config = config
        try:
            yield config
        finally:
            self.config = before

    @property
    def peft_config(self) -> dict[str, Any]:
        """The adapters in this model, by name; PEFT sets it when it has put them in."""
        if "_adapters" not in self.__dict__:
            raise AttributeError("peft_config: there are no adapters in this model.")
        adapters: dict[str, Any] = self.__dict__["_adapters"]
        return adapters

    @peft_config.setter
    def peft_config(self, adapters: dict[str, Any]) -> None:
        self.__dict__["_adapters"] = adapters
        # An adapter that was trained on labels of its own brings their scale along: PEFT saves no config of the model.
        measured = {
            name: value
            for adapter in adapters.values()
            for name, value in ((getattr(adapter, "auto_mapping", None) or {}).get("liminal") or {}).items()
        }
        for module in self.modules():  # PEFT trains a copy of the head, which has a copy of the config
            if isinstance(getattr(module, "config", None), LiminalConfig):
                for name, value in measured.items():
                    setattr(module.config, name, value)

    @peft_config.deleter
    def peft_config(self) -> None:
        self.__dict__.pop("_adapters", None)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:  # type: ignore[override]
        """Writes the full weights (safetensors), the config with the whole `auto_map`, and the code.

        Also a model that came from a head-only checkpoint is written in full. Arguments as in transformers.

        Raises:
            LiminalError: the path is a file.
        """
        folder = Path(save_directory)
        if folder.is_file():
            raise LiminalError(f"save_pretrained needs a folder, and {folder} is a file. Give another path.")
        with self._config_for_saving():
            if kwargs.get("is_main_process", True):
                copy_code(folder)
                write_facts(folder, known_facts(self))
            super().save_pretrained(save_directory, **kwargs)

    def _upload_modified_files(self, working_dir: str | os.PathLike, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        # `push_to_hub` and `save_pretrained(push_to_hub=True)` come here when the folder is written.
        finish = type(self).finish_upload
        if finish is not None:
            finish(self, Path(working_dir), repo_id, kwargs.get("token"))
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    def save_head_only(
        self,
        save_directory: str | os.PathLike,
        low_rank: dict[str, tuple[Tensor, Tensor]] | None = None,
        check: bool = True,
    ) -> None:
        """Writes everything but the encoder: a few MB that load by fetching the encoder from where it came.

        Vectors of the encoder that have changed beside `low_rank` (biases, norms) are kept whole.

        Args:
            save_directory: folder.
            low_rank: changes of encoder weights, by parameter name without `liminal.encoder.`: A `(r, in)` and B
                `(out, r)` with `weight = original + B @ A` (Hu et al. 2021; fold the adapter's scale into B).
            check: whether to load the original encoder for comparison; False where an earlier save of the same, frozen
                encoder has done so.

        Raises:
            LiminalError: the model has no encoder, its origin is not known, or its encoder has been trained otherwise.
        """
        low_rank = low_rank or {}
        changed: dict[str, Tensor] = {}
        if check:
            changed = self._changed_vectors(low_rank)
            if Path(self.config.encoder_name_or_path).exists():
                logger.warning(
                    "The encoder is the folder %s; elsewhere it won't be found.", self.config.encoder_name_or_path
                )
        weights = {
            name: value.contiguous()
            for name, value in self.state_dict().items()
            if not name.startswith(("encoder.", "liminal.encoder."))
        }
        if self is self.base:
            weights = {f"liminal.{name}": value for name, value in weights.items()}
        weights |= {f"liminal.encoder.{name}": value.contiguous() for name, value in changed.items()}
        for name, (a, b) in low_rank.items():
            weights[f"{_LOW_RANK}{name}.A"], weights[f"{_LOW_RANK}{name}.B"] = a.contiguous(), b.contiguous()
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        fields = {"weights_format": "head_only", "architectures": ["LiminalForPADRegression"]}
        # Nothing in the folder changes before all of it is written: a full disk leaves the old checkpoint.
        with self._config_for_saving(**fields) as config, tempfile.TemporaryDirectory(dir=folder, prefix=".") as parts:
            copy_code(Path(parts))
            config.save_pretrained(parts)
            save_file(weights, Path(parts) / _WEIGHTS, metadata={"format": "pt"})
            for file in sorted(Path(parts).iterdir(), key=lambda file: file.name == _WEIGHTS):
                file.replace(folder / file.name)
        write_facts(folder, known_facts(self))

    def _changed_vectors(self, low_rank: dict[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """The encoder's vectors that differ from the published ones.

        Raises:
            LiminalError: something else has changed that `low_rank` does not say.
        """
        name, encoder = self.config.encoder_name_or_path, self.base.encoder
        if encoder is None:
            raise LiminalError("This model has no encoder to leave out: use save_pretrained.")
        if not name:
            raise LiminalError(
                "A head-only checkpoint must name its encoder: set model.config.encoder_name_or_path to its Hub id "
                "(and encoder_revision to a commit), or use save_pretrained."
            )
        original = load_encoder(name, self.config.encoder_revision, self.config.encoder_layers).state_dict()
        changed = {}
        for weight, value in encoder.state_dict().items():
            expected = original[weight]
            if (
                low_rank
                and value.dim() < 2
                and weight not in low_rank
                and not torch.equal(value.to(expected), expected)
            ):
                changed[weight] = value
                continue
            if weight in low_rank:
                expected = _add_low_rank(expected, *low_rank[weight])
            if not torch.equal(value.to(expected), expected) and (
                weight not in low_rank or not torch.allclose(value.to(expected), expected, atol=1e-5)
            ):
                raise LiminalError(
                    f"The encoder weight {weight!r} is not that of {name}: a head-only checkpoint would lose its "
                    "training. Use save_pretrained, or give the change as low_rank."
                )
        return changed

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *model_args: Any, **kwargs: Any
    ) -> "CheckpointedModel":
        """Loads a model from a folder or the Hub: full, head-only, or a PEFT adapter. Arguments as in transformers.

        A full checkpoint never touches the encoder's own repository. A head-only one fetches the encoder named in its
        config, at the revision named there, with the caller's token, cache and network settings. An adapter is put on
        the checkpoint that it names.

        Raises:
            OSError: the checkpoint, or the encoder of a head-only one, was not found, or the weights are damaged; the
                message says which.
            LiminalError: the folder holds another kind of model, names an encoder outside of the Hub, or holds an
                adapter that names no checkpoint.
        """
        try:
            loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)
        except SafetensorError as error:
            raise OSError(
                f"The weights of {pretrained_model_name_or_path} are cut short or damaged ({error}). Download or copy "
                "them again; `liminal verify CHECKPOINT` compares them with the card."
            ) from error
        except OSError:
            _check_adapter_names_its_base(pretrained_model_name_or_path)
            raise
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # a tuple with output_loading_info=True
        if model.config.weights_format != "full":
            raise RuntimeError("This version of transformers did not load the encoder: pip install 'transformers<6'")
        return loaded

    @staticmethod
    def _load_pretrained_model(
        model: "CheckpointedModel",
        state_dict: dict[str, Tensor] | None,
        checkpoint_files: list[str] | None,
        load_config: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Where transformers reads the weights of a checkpoint or an adapter: a head-only checkpoint gets its encoder.

        Everything before and after (adapters, dtype, devices, quantization, the report) is transformers' own.
        """
        source = str(load_config.pretrained_model_name_or_path)
        hub_kwargs = {name: value for name, value in (load_config.download_kwargs or {}).items() if value is not None}
        if model.config.weights_format == "head_only" and checkpoint_files is not None:
            own = {name: value for file in checkpoint_files for name, value in load_file(file).items()}
            encoder_kwargs = {name: hub_kwargs[name] for name in _HUB_KWARGS if name in hub_kwargs}
            state_dict, checkpoint_files = _with_encoder(own, source, model.config, encoder_kwargs), None
        model.config.weights_format = "full"
        result = PreTrainedModel._load_pretrained_model(
            model, state_dict, checkpoint_files, load_config, *args, **kwargs
        )
        _align(model)
        is_adapter = getattr(model, "_hf_peft_config_loaded", False)
        if load_config.pretrained_model_name_or_path is not None and not is_adapter:
            remember_facts(model, read_facts(source, **hub_kwargs))
        return result

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
        if problem := clamped_targets(config):
            raise LiminalError(problem)
        # Nesting has reset it (it is not part of a config's JSON).
        config.text_config._attn_implementation = attention
        config.encoder_name_or_path = name
        source, asked = resolve_encoder(name, revision)
        commit = hub_commit(source, asked, **(encoder_kwargs or {})) if source == name else None
        config.encoder_revision = encoder_revision(name, revision, commit)
        return cls(config, encoder=encoder)


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


def _with_encoder(
    own: dict[str, Tensor], source: str, config: LiminalConfig, hub_kwargs: dict[str, Any]
) -> dict[str, Tensor]:
    """All weights of a head-only checkpoint: its own and those of the encoder that it names.

    Args:
        own: the tensors of the checkpoint's file.
        source: folder or Hub id of the checkpoint.
        config: the checkpoint's config.
        hub_kwargs: the caller's token, cache and network settings.
    """
    name = config.encoder_name_or_path or ""
    if not Path(source).is_dir() and (Path(name).is_absolute() or ".." in Path(name).parts or "\\" in name):
        raise LiminalError(
            f"{source} comes from the Hub and names the encoder {name!r}, which is a path of this machine."
        )
    try:
        encoder = load_encoder(name, config.encoder_revision, config.encoder_layers, **hub_kwargs)
    except OSError as error:
        raise OSError(
            f"{source} is a head-only checkpoint: it holds the head ({len(own)} tensors) and not the encoder. {error}"
        ) from error
    weights = {f"liminal.encoder.{name}": value for name, value in encoder.state_dict().items()}
    for name, value in own.items():
        if not name.startswith(_LOW_RANK):
            weights[name] = value
        elif name.endswith(".A"):
            target = "liminal.encoder." + name[len(_LOW_RANK) : -2]
            if target not in weights:
                raise LiminalError(
                    f"{source} changes the encoder weight {target!r}, which {config.encoder_name_or_path} does not "
                    "have: the checkpoint and the encoder do not fit together."
                )
            weights[target] = _add_low_rank(weights[target], value, own[name[:-1] + "B"])
    return weights


def _check_adapter_names_its_base(source: str | os.PathLike | None) -> None:
    """Raises for the folder of an adapter that does not say which checkpoint it belongs on."""
    file = Path(source or "") / "adapter_config.json"
    if file.is_file() and not json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path"):
        raise LiminalError(
            f"The adapter {source} does not name the checkpoint that it belongs on: its model was never saved. Build "
            "that model again (the same encoder, head and settings) and put the adapter on it: "
            f"PeftModel.from_pretrained(model, {str(source)!r})"
        )


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
