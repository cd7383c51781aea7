INSERT INTO touched_pool SELECT p.payer_is_org, p.payer_id, p.provider FROM pool AS p JOIN moving AS m ON m.shard = p.shard;
