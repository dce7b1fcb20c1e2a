# DeepSpeed ZeRO, stage 2: gradients and the optimizer's state are cut among the GPUs. A leaf that
# adds it says optim_wrapper=dict(type="DeepSpeedOptimWrapper") too; see docs/distributed.md.
runner_type = "FlexibleRunner"
strategy = dict(
    type="DeepSpeedStrategy",
    zero_optimization=dict(
        stage=2,
        allgather_partitions=True,
        reduce_scatter=True,
        overlap_comm=True,
        contiguous_gradients=True,
    ),
)
