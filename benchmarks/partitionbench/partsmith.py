"""Moves the rows of a DEFAULT partition by pg-partsmith, in its own environment: `DSN`.

Prints what it could not do; nothing when every row has moved.
"""
# mypy: ignore-errors

import sys

from pg_partsmith import PartitionGranularity, TablePartitionConfig
from pg_partsmith.sync import (
    PartitionLifecycleService,
    PostgresAdvisoryLockManager,
    PostgresMetadataProvider,
    PostgresPartitionRepository,
)
from sqlalchemy import URL, create_engine

parts = dict(part.split("=", 1) for part in sys.argv[1].split())
engine = create_engine(
    URL.create(
        "postgresql+psycopg",
        username=parts["user"],
        database=parts["dbname"],
        query={"host": parts["host"]},
    )
)
service = PartitionLifecycleService(
    repo=PostgresPartitionRepository(engine),
    metadata=PostgresMetadataProvider(engine),
    locks=PostgresAdvisoryLockManager(engine),
)
config = TablePartitionConfig(
    schema="public",
    table_name="transactions",
    partition_column="created_at",
    granularity=PartitionGranularity.MONTH,
)
result = service.partition_data(config)
if not result.complete:
    print("not complete:", "; ".join(str(issue) for issue in result.issues)[:300])
