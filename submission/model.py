"""The Llama of Megatron-core: a GPTModel over our own layer specification."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state, tensor_parallel
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.models.gpt import GPTModel
from megatron.core.transformer.attention import SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLPSubmodules
from megatron.core.transformer.module import Float16Module
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayerSubmodules

from harness.contract.config import Config
from submission import device
from submission.fused_modules import attention_class, layer_class, mlp_class, model_class
from submission.modules import attention_of, norm_of
from submission.precision import Linears
from submission.recompute import recomputed

_DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


def transformer_config(config: Config, **options: Any) -> TransformerConfig:
    """Megatron's configuration of the model and of the parallelism; `options`: what the linears need in addition."""
    model, dtype = config.model, _DTYPES[config.model.dtype]
    on_gpu = not device.on_cpu()
    return TransformerConfig(
        num_layers=model.layers,
        hidden_size=model.hidden_size,
        ffn_hidden_size=model.ffn_hidden_size,
        num_attention_heads=model.attention_heads,
        num_query_groups=model.query_groups,
        normalization="RMSNorm",
        layernorm_epsilon=model.norm_epsilon,
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        init_method_std=model.init_std,
        params_dtype=dtype,
        bf16=dtype is torch.bfloat16,
        pipeline_dtype=dtype,
        tensor_model_parallel_size=config.parallelism.tensor,
        pipeline_model_parallel_size=config.parallelism.pipeline,
        virtual_pipeline_model_parallel_size=_interleaved(config) or None,
        sequence_parallel=config.parallelism.sequence_parallel,
        **_recompute(config),
        use_cpu_initialization=device.on_cpu(),
        bias_activation_fusion=True,
        bias_dropout_fusion=True,
        masked_softmax_fusion=False,
        persist_layer_norm=False,
        apply_rope_fusion=False,
        gradient_accumulation_fusion=False,  # Megatron's needs apex or TE; kernels.linear does its own
        # gloo has no streams: a send would still read a buffer after it is freed, and batched sends between two
        # ranks would be mismatched. Either gives wrong losses without an error.
        deallocate_pipeline_outputs=on_gpu,
        batch_p2p_comm=on_gpu and not _interleaved(config),
        overlap_p2p_comm=on_gpu and bool(_interleaved(config)),
        **options,
    )


def _recompute(config: Config) -> dict[str, Any]:
    if config.parallelism.recompute != "full":  # submission/recompute.py implements "fc1"
        return {}
    return {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1}


def layer_spec(config: Config, linears: Linears) -> ModuleSpec:
    """One Llama layer: our linears, attention and norms in Megatron's TransformerLayer."""
    norm, fusions = norm_of(config.model.norm), config.model.fusions
    attention = ModuleSpec(
        module=attention_class(fusions),
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=linears.column,
            core_attention=attention_of(config.model.attention),
            linear_proj=linears.row,
            q_layernorm=IdentityOp,
            k_layernorm=IdentityOp,
        ),
    )
    outputs, mlp_of = linears.recomputed, mlp_class(fusions)
    mlp = ModuleSpec(
        module=recomputed(mlp_of) if outputs else mlp_of,
        params={"outputs": outputs} if outputs else {},
        submodules=MLPSubmodules(linear_fc1=linears.column, linear_fc2=linears.row),
    )
    return ModuleSpec(
        module=layer_class(fusions),
        submodules=TransformerLayerSubmodules(
            input_layernorm=norm,
            self_attention=attention,
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=norm,
            mlp=mlp,
            mlp_bda=get_bias_dropout_add,
        ),
    )


def llama(config: Config, linears: Linears) -> list[GPTModel]:
    """Pipeline stages of this rank in order, on the CPU or the current GPU, not yet wrapped."""
    settings = transformer_config(config, **linears.megatron_options())
    stages: list[int | None] = list(range(_interleaved(config))) or [None]
    return [_stage(config, settings, linears, stage) for stage in stages]


def _interleaved(config: Config) -> int:
    """Number of pipeline stages on each rank where they are interleaved, else 0."""
    return config.parallelism.virtual_pipeline if config.parallelism.virtual_pipeline > 1 else 0


def _stage(config: Config, settings: TransformerConfig, linears: Linears, stage: int | None) -> GPTModel:
    ends = {"ignore_virtual": stage is None, "vp_stage": stage}
    # With only a layer specification, Megatron would choose the final norm by which packages are installed.
    layers = [layer_spec(config, linears)] * get_num_layers_to_build(settings, vp_stage=stage)
    model = model_class(config.model.fusions)(
        config=settings,
        transformer_layer_spec=TransformerBlockSubmodules(
            layer_specs=layers, layer_norm=norm_of(config.model.norm)
        ),
        vocab_size=config.model.vocab_size,
        max_sequence_length=config.model.sequence_length,
        pre_process=parallel_state.is_pipeline_first_stage(**ends),
        post_process=parallel_state.is_pipeline_last_stage(**ends),
        vp_stage=stage,
        parallel_output=True,
        share_embeddings_and_output_weights=False,
        position_embedding_type="rope",
        rotary_percent=1.0,
        rotary_base=config.model.rope_base,
        rope_scaling=True,
        rope_scaling_factor=config.model.rope_scaling_factor,
    )
    for parameter in model.parameters():
        tensor_parallel.set_defaults_if_not_set_tensor_model_parallel_attributes(parameter)
    linears.name(model)
    return model


def wrap(config: Config, model: GPTModel, home: torch.device) -> DistributedDataParallel:
    """Move the model to its device and give it Megatron's gradient buffers and data parallelism."""
    settings = model.config
    inner = Float16Module(settings, model.to(home)) if settings.bf16 else model.to(home)
    distributed = config.parallelism.distributed_optimizer
    ddp = DistributedDataParallelConfig(
        grad_reduce_in_fp32=config.parallelism.gradient_reduce == "fp32",
        overlap_grad_reduce=config.parallelism.overlap,
        overlap_param_gather=config.parallelism.overlap and distributed,
        use_distributed_optimizer=distributed,
        average_in_collective=config.parallelism.average_in_collective,
    )
    return DistributedDataParallel(settings, ddp, inner)


def unwrap(model: torch.nn.Module) -> GPTModel:
    while isinstance(model, (DistributedDataParallel, Float16Module)):
        model = model.module
    return model
