"""Records written by Apache Beam, on this machine or on a cluster.

Needs `pip install apache-beam` in an environment of its own: Beam 2.77 wants protobuf < 7 and
pyarrow < 26, older ones than launch/locks/ has.
"""

from collections.abc import Sequence

from recllm_tasks.data.records import Shard, write_shard


def write_on_beam(shards: Sequence[Shard], options: Sequence[str] = ()) -> None:
    """Writes each shard in a worker of a Beam pipeline: `prepare(..., write=write_on_beam)`.

    The workers read and write the paths in the shards, so the data folder must lie where they all
    see it. The files are the same as without Beam.

    Args:
      shards: what to write.
      options: Beam's command line, such as `["--runner=FlinkRunner", "--parallelism=64"]`; without
        any, Beam's runner on this machine.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions

    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        # Without the reshuffle, Beam fuses both steps, and one worker writes all.
        _ = pipeline | beam.Create(shards) | beam.Reshuffle() | beam.Map(write_shard)
