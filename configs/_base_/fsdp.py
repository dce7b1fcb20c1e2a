# Fully sharded training: parameters, gradients and the optimizer's state are cut among the GPUs,
# block by block. Add it to a leaf's _base_; see docs/distributed.md.
runner_type = "FlexibleRunner"
strategy = dict(
    type="FSDPStrategy",
    model_wrapper=dict(
        type="MMFullyShardedDataParallel",
        use_orig_params=True,
        sync_module_states=True,
        auto_wrap_policy=dict(type="pvt_mm.training.sharding.policy.wrap_blocks"),
    ),
    activation_checkpointing=dict(check_fn="pvt_mm.training.sharding.policy.is_block"),
    state_dict_cfg="full",
)
