SELECT o.shard, o.seq, o.count, o.events FROM outbox AS o JOIN moving AS m ON m.shard = o.shard AND o.seq > m.after;
