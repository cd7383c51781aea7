COPY (SELECT o.* FROM outbox AS o JOIN moving AS m ON m.shard = o.shard AND o.seq > m.after) TO STDOUT (FORMAT binary)
