"""transformers: `quantization_config=machete.Config(...)` for from_pretrained, and what save_pretrained writes.

A checkpoint of float weights is quantised layer by layer while it is read; of one that another tool has quantised the
layers are repacked while they are read; one that was saved from a quantised model is loaded as it is. Importing machete
registers all three.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.quantizers.auto import AutoHfQuantizer, register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from machete._native import name_of, native
from machete.checkpoint import SUFFIXES, FoundLayer, find_layers, read_layer
from machete.fuse import fuse_empty, fuse_model
from machete.linear import Linear
from machete.model import default_skip, layers_to_quantize
from machete.tokens import activations_of, bits_of
from machete.weight import PackedWeight, prepack

METHOD = "machete"
_TARGET = ".packed_weight"


@register_quantization_config(METHOD)
class Config(QuantizationConfigMixin):
    """How a model is quantised: `config.json` has it under "quantization_config"."""

    def __init__(
        self,
        weight: str | None = None,
        group_size: int | None = None,
        skip: Sequence[str] | None = None,
        quant_method: str = METHOD,
        *,
        backend: str | None = None,
        round_scales: bool = False,
        fuse: bool = False,
        activations: str | None = None,
    ) -> None:
        """`weight` ("u4b8"), `group_size` (128), `skip` and `activations` are those of `machete.quantize_model`.

        `backend="machete"` is for checkpoints that another tool has quantised: their layers keep the numbers they have
        and run on Machete's kernels, so `weight`, `group_size` and `skip` have no place beside it; `activations` has,
        whatever the checkpoint says of them. `round_scales`: there, scales that the model's dtype cannot hold are
        rounded to it, not refused. `fuse`: projections are fused after loading, as by `machete.fuse_model`; models that
        were saved fused come back so.
        """
        if quant_method != METHOD:
            raise ValueError(f"quant_method={quant_method} must be {METHOD}; leave it out")
        if backend not in (None, METHOD):
            raise ValueError(f"backend={backend!r} must be {METHOD!r}, or left out")
        if backend and (weight, group_size, skip) != (None, None, None):
            raise ValueError(
                "weight, group_size and skip are those of the checkpoint that backend='machete' loads; leave them out"
            )
        if round_scales and not backend:
            raise ValueError("round_scales is for checkpoints that are quantised; add backend='machete'")
        self.quant_method = METHOD  # type: ignore[assignment]  # transformers knows its own alone
        self.weight = "u4b8" if weight is None else weight
        self.group_size = 128 if group_size is None else group_size
        self.skip = None if skip is None else list(skip)
        self.activations = activations
        if not backend:  # else the weights are those of the checkpoint
            bits = bits_of(activations)
            native.packed_bytes(1, 1, self.weight, "bf16", self.group_size, False, bits)  # refuses what is not known
            activations_of(self.weight, bits, activations)
        # How to load, which is no business of what is saved.
        self._backend = backend
        self._round_scales = round_scales
        self._fuse = fuse
        self._source: dict[str, Any] | None = None  # the configuration of another tool's checkpoint

    def to_dict(self) -> dict[str, Any]:
        said = {name: value for name, value in super().to_dict().items() if not name.startswith("_")}
        if self.activations is None:  # as it was before there were any
            said.pop("activations", None)
        return said

    def __iter__(self) -> Any:
        yield from self.to_dict().items()


def _merge(quantization_config: Any, quantization_config_from_args: Any = None) -> Any:
    """The configuration of a checkpoint that has one, where a Config was passed too.

    transformers has no hook here: it takes the class that is registered for the checkpoint's method and accepts no
    other beside it, so that a method's quantiser cannot be chosen by an argument. Configs of ours are ours to answer;
    all else is as it was.
    """
    source, given = quantization_config, quantization_config_from_args
    method = source.get("quant_method") if isinstance(source, dict) else getattr(source, "quant_method", None)
    if method == METHOD:
        return _merge_ours(source, given)
    if not isinstance(given, Config):
        return _merge_of_transformers(source, given)
    if given._backend is None:
        raise ValueError(
            f"the checkpoint is quantised already ({getattr(method, 'value', method)}); pass "
            "quantization_config=machete.Config(backend='machete') to run its layers as they are, or start from a "
            "float checkpoint"
        )
    given._source = source if isinstance(source, dict) else source.to_dict()
    return given


def _merge_ours(source: Any, given: Any) -> Any:
    merged = _merge_of_transformers(source, given)
    if isinstance(given, Config):
        merged._fuse = given._fuse  # how to load, which is for the argument to say
    return merged


_merge_of_transformers = AutoHfQuantizer.merge_quantization_configs
AutoHfQuantizer.merge_quantization_configs = staticmethod(_merge)  # type: ignore[method-assign]


@register_quantizer(METHOD)
class Quantizer(HfQuantizer):
    """What transformers calls while it loads and saves a model."""

    quantization_config: Config

    def __init__(self, quantization_config: Config, **options: Any) -> None:
        super().__init__(quantization_config, **options)
        self._layers: set[str] = set()  # that are quantised here
        self._formats: dict[str, str] = {}  # of the layers that another tool has quantised
        self._round_scales, self._fuse = quantization_config._round_scales, quantization_config._fuse
        self._failure: str | None = None  # of a layer: transformers would log what is raised while it reads

    def validate_environment(self, *_: Any, **__: Any) -> None:
        if self.quantization_config._backend is not None and not self.pre_quantized:
            raise ValueError(
                "backend='machete' is for checkpoints that are quantised, and this one's config.json says of none; "
                "leave it out to quantise the model"
            )

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        name_of("dtype", dtype)
        return dtype

    def _process_model_before_weight_loading(
        self, model: nn.Module, checkpoint_files: Sequence[str] | None = None, **_: Any
    ) -> None:
        """Here the model lies on the meta device."""
        if self.quantization_config._source is not None:
            self._prepare_for_another_tools(model, checkpoint_files)
            return
        config = self.quantization_config
        if config.skip is None:
            config.skip = default_skip(model)
        self._layers = set(layers_to_quantize(model, config.skip))
        if self.pre_quantized:
            names = {name for file in checkpoint_files or () for name in _tensor_names(file)}
            for name in self._layers:
                layer: Any = model.get_submodule(name)
                bias = layer.bias is not None or f"{name}.bias" in names
                model.set_submodule(name, self._empty(layer, config.weight, config.group_size, bias))
            fuse_empty(model, names)

    def _empty(self, layer: nn.Linear, weight: str, group_size: int, bias: bool) -> Linear:
        return Linear(
            layer.in_features,
            layer.out_features,
            bias,
            weight=weight,
            group_size=group_size,
            dtype=layer.weight.dtype,
            device="meta",
            activations=self.quantization_config.activations,
        )

    def _prepare_for_another_tools(self, model: nn.Module, files: Sequence[str] | None) -> None:
        """Which layers are quantised, and how, is what the files' headers say; everything is checked before reading."""
        if not files or not all(str(file).endswith(".safetensors") for file in files):
            raise ValueError(f"the checkpoint must be of safetensors files, not {files}; save it as such")
        found = find_layers(files)
        if not found:
            raise ValueError(
                f"{files[0]}: holds no layer of GPTQ, AWQ, compressed-tensors or fp8; load it without machete.Config"
            )
        names = {name for file in files for name in _tensor_names(file)}
        for entry in found:
            name = _find_in_model(model, entry)
            if name is None:
                continue
            layer: Any = model.get_submodule(name)
            bias = layer.bias is not None or f"{entry.name}.bias" in names
            try:
                empty = self._empty(layer, entry.weight_type, entry.group_size, bias)
            except NotImplementedError as error:  # activations that its type does not meet
                raise NotImplementedError(f"{entry.name} ({entry.format}): {error}") from None
            model.set_submodule(name, empty)
            self._formats[name] = entry.format
        kinds = Counter((entry.weight_type, entry.group_size) for entry in found)
        (weight, group_size), _ = kinds.most_common(1)[0]
        left = [name for name, module in model.named_modules() if type(module) is nn.Linear]
        # What is saved: the layers are ours from now on.
        self.quantization_config = Config(weight, group_size, left, activations=self.quantization_config.activations)

    def param_needs_quantization(self, model: nn.Module, param_name: str, **_: Any) -> bool:
        name, parameter = param_name.rpartition(".")[::2]
        return parameter == "weight" and name in self._layers

    def get_weight_conversions(self) -> list[Any]:
        """Of layers that another tool has quantised: their tensors become one packed weight."""
        from transformers.core_model_loading import ConversionOps, WeightConverter

        quantizer = self

        class Repack(ConversionOps):
            """Puts a layer's tensors, as they come from the files, into the order of the kernels."""

            def convert(  # type: ignore[override]  # by the names it is called with
                self, input_dict: dict[str, Any], *_: Any, full_layer_name: str, model: nn.Module, **__: Any
            ) -> dict[str, torch.Tensor]:
                tensors = {_suffix_of(pattern): values[0] for pattern, values in input_dict.items()}
                return {full_layer_name: quantizer._repack(full_layer_name, tensors, model)}

        suffixes = sorted({suffix for format in self._formats.values() for suffix in SUFFIXES[format]})
        if not suffixes:
            return []
        # On the CPU: there the files are mapped, so that nothing is in memory twice but the layer at hand.
        patterns = [rf"\.{suffix}$" for suffix in suffixes]
        return [WeightConverter(patterns, _TARGET, operations=[Repack()], force_cpu=True)]

    def _repack(self, parameter: str, tensors: dict[str, torch.Tensor], model: nn.Module) -> torch.Tensor:
        name = parameter.removesuffix(_TARGET)
        layer: Any = model.get_submodule(name)
        if self._failure is None:
            try:
                weight = read_layer(tensors, self._formats[name])
                bits = bits_of(layer.activations)
                how: Any = {"dtype": layer.dtype, "round_scales": self._round_scales, "activation_bits": bits}
                return prepack(weight, **how).data
            except (ValueError, NotImplementedError) as error:
                self._failure = f"{name}: {error}"
                if "round_scales" in self._failure:
                    self._failure += f" (dtype={weight.scales.dtype}, or machete.Config(..., round_scales=True))"
        return torch.zeros(layer.packed_weight.shape, dtype=torch.uint8)

    def get_quantize_ops(self) -> Any:
        from transformers.core_model_loading import ConversionOps

        config = self.quantization_config

        class Quantize(ConversionOps):
            """Turns a layer's float weight, as it comes from the file, into a quantised layer."""

            def convert(  # type: ignore[override]
                self,
                input_dict: dict[str, Any],
                source_patterns: list[str] | None = None,
                target_patterns: list[str] | None = None,
                *,
                full_layer_name: str,
                model: nn.Module,
                missing_keys: set[str],
                **_: Any,
            ) -> dict[str, torch.Tensor]:
                (value,) = input_dict.values()
                value = value[0] if isinstance(value, list) else value
                name = full_layer_name.removesuffix(".weight")
                layer: Any = model.get_submodule(name)
                layer.weight = nn.Parameter(value, requires_grad=False)
                quantized = Linear.from_float(
                    layer, weight=config.weight, group_size=config.group_size, activations=config.activations
                )
                quantized.bias = layer.bias  # read already, or about to be
                model.set_submodule(name, quantized)
                missing_keys.discard(full_layer_name)
                return {f"{name}.packed_weight": quantized.packed_weight}

        return Quantize()

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> nn.Module:
        if self._failure is not None:
            raise ValueError(self._failure)
        if self._formats:  # what was repacked is saved as it is, not as it was
            model._weight_conversions = [c for c in model._weight_conversions if c.target_patterns != [_TARGET]]
        for name, module in model.named_modules():
            if isinstance(module, Linear) and not module.packed_weight.is_meta:
                try:
                    found = PackedWeight.from_tensor(module.packed_weight)
                    module.adopt(found.to(dtype=module.dtype))  # from_pretrained may ask for another
                except ValueError as error:
                    raise ValueError(f"{name}.packed_weight: {error}") from None
        return fuse_model(model) if self._fuse else model

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True  # adapters beside the layers; gradients flow to activations

    @property
    def is_compileable(self) -> bool:
        return True


def _tensor_names(file: str) -> list[str]:
    from safetensors import safe_open

    with safe_open(file, "pt") as tensors:
        return list(tensors.keys())


def _suffix_of(pattern: str) -> str:
    return pattern.removeprefix(r"\.").removesuffix("$")


def _find_in_model(model: Any, entry: FoundLayer) -> str | None:
    """The name that a checkpoint's layer has in the model; None if the model leaves it out on purpose.

    NotImplementedError, ValueError: a layer that Machete has no kernel for, or that is no linear layer of the model.
    """
    import re

    if entry.obstacle or entry.format not in SUFFIXES:
        why = entry.obstacle or "a format that is not read from Python yet"
        raise NotImplementedError(
            f"{entry.name} ({entry.format}): {why}; load the checkpoint without machete.Config, or quantise the layer "
            "in another way"
        )
    prefix = getattr(model, "base_model_prefix", "") + "."
    modules = dict(model.named_modules())
    for name in (entry.name, prefix + entry.name, entry.name.removeprefix(prefix)):
        module = modules.get(name)
        if module is None:
            continue
        if type(module) is not nn.Linear or (module.out_features, module.in_features) != (entry.n, entry.k):
            raise ValueError(
                f"{entry.name} ({entry.format}) is a linear layer [{entry.n}, {entry.k}], in the model {module}; load "
                "the checkpoint with the model it was made of"
            )
        if "weight" in SUFFIXES[entry.format] and name != entry.name:
            break  # its `weight` is called as all others are, and would not find the way
        return name
    if any(re.search(pattern, entry.parts[0]) for pattern in model._keys_to_ignore_on_load_unexpected or ()):
        return None
    raise ValueError(
        f"{entry.name} ({entry.format}) is no linear layer of {type(model).__name__}; load the checkpoint with the "
        "model it was made of, or without machete.Config"
    )


def describe(
    model: nn.Module, *, weight: str, group_size: int, skip: Sequence[str] | None, activations: str | None
) -> None:
    """Lets a model of transformers know how it was quantised, as loading it with a Config does."""
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        return
    config = Config(weight, group_size, default_skip(model) if skip is None else skip, activations=activations)
    described: Any = model
    described.hf_quantizer = Quantizer(config, pre_quantized=False)
    described.config.quantization_config = config
    described.quantization_method = METHOD
    described.is_quantized = True
