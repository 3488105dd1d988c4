"""transformers: `quantization_config=machete.Config(...)` for from_pretrained, and what save_pretrained writes.

A checkpoint of float weights is quantised layer by layer while it is read; one that was saved from a quantised model is
loaded as it is. Importing machete registers both.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from machete._native import name_of, native
from machete.linear import Linear
from machete.model import default_skip, layers_to_quantize
from machete.weight import PackedWeight

METHOD = "machete"


@register_quantization_config(METHOD)
class Config(QuantizationConfigMixin):
    """How a model is quantised: `config.json` has it under "quantization_config"."""

    def __init__(
        self,
        weight: str = "u4b8",
        group_size: int = 128,
        skip: Sequence[str] | None = None,
        quant_method: str = METHOD,
    ) -> None:
        """`weight`, `group_size` and `skip` are those of `machete.quantize_model`."""
        if quant_method != METHOD:
            raise ValueError(f"quant_method={quant_method} must be {METHOD}; leave it out")
        native.packed_bytes(1, 1, weight, "bf16", group_size)  # refuses unknown types and group sizes
        self.quant_method = METHOD
        self.weight = weight
        self.group_size = group_size
        self.skip = None if skip is None else list(skip)


@register_quantizer(METHOD)
class Quantizer(HfQuantizer):
    """What transformers calls while it loads and saves a model."""

    quantization_config: Config

    def update_dtype(self, dtype: torch.dtype) -> torch.dtype:
        name_of("dtype", dtype)
        return dtype

    def _process_model_before_weight_loading(self, model: nn.Module, **_: Any) -> None:
        """Here the model lies on the meta device."""
        config = self.quantization_config
        if config.skip is None:
            config.skip = default_skip(model)
        self._layers = set(layers_to_quantize(model, config.skip))
        if self.pre_quantized:
            for name in self._layers:
                layer = model.get_submodule(name)
                model.set_submodule(name, self._empty(layer))

    def _empty(self, layer: nn.Linear) -> Linear:
        return Linear(
            layer.in_features,
            layer.out_features,
            layer.bias is not None,
            weight=self.quantization_config.weight,
            group_size=self.quantization_config.group_size,
            dtype=layer.weight.dtype,
            device="meta",
        )

    def param_needs_quantization(self, model: nn.Module, param_name: str, **_: Any) -> bool:
        name, _, parameter = param_name.rpartition(".")
        return parameter == "weight" and name in self._layers

    def get_quantize_ops(self) -> Any:
        from transformers.core_model_loading import ConversionOps

        config = self.quantization_config

        class Quantize(ConversionOps):
            """Turns a layer's float weight, as it comes from the file, into a quantised layer."""

            def convert(
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
                layer = model.get_submodule(name)
                layer.weight = nn.Parameter(value, requires_grad=False)
                quantized = Linear.from_float(layer, weight=config.weight, group_size=config.group_size)
                quantized.bias = layer.bias  # read already, or about to be
                model.set_submodule(name, quantized)
                missing_keys.discard(full_layer_name)
                return {f"{name}.packed_weight": quantized.packed_weight}

        return Quantize()

    def _process_model_after_weight_loading(self, model: nn.Module, **_: Any) -> nn.Module:
        for name, module in model.named_modules():
            if isinstance(module, Linear) and not module.packed_weight.is_meta:
                try:
                    found = PackedWeight.from_tensor(module.packed_weight)
                    module.packed_weight = found.to(dtype=module.dtype).data  # from_pretrained may ask for another
                    module.check()
                except ValueError as error:
                    raise ValueError(f"{name}.packed_weight: {error}") from None
        return model

    def is_serializable(self) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return True  # adapters beside the layers; gradients flow to activations

    @property
    def is_compileable(self) -> bool:
        return True


def describe(model: nn.Module, *, weight: str, group_size: int, skip: Sequence[str] | None) -> None:
    """Lets a model of transformers know how it was quantised, as loading it with a Config does."""
    from transformers import PreTrainedModel

    if not isinstance(model, PreTrainedModel):
        return
    config = Config(weight, group_size, default_skip(model) if skip is None else skip)
    model.hf_quantizer = Quantizer(config, pre_quantized=False)
    model.config.quantization_config = config
    model.quantization_method = METHOD
    model.is_quantized = True
