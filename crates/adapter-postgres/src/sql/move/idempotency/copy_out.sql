COPY (SELECT i.* FROM idempotency AS i JOIN touched_answer AS t ON t.name = i.name JOIN moving AS m ON m.shard = i.shard) TO STDOUT (FORMAT binary)
