INSERT INTO plain_outbox (shard, seq, epoch, event_id, kind, tenant, occurred_at, trace_parent, payload)
SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::integer[], $4::uuid[], $5::text[], $6::uuid[], $7::timestamptz[], $8::text[], $9::bytea[]);
