SELECT (SELECT min(o.day) FROM outbox AS o JOIN moving AS m ON m.shard = o.shard),
       (SELECT min(i.day) FROM idempotency AS i JOIN moving AS m ON m.shard = i.shard);
