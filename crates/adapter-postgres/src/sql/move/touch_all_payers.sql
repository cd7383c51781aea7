INSERT INTO touched_payer SELECT DISTINCT b.payer_is_org, b.payer_id FROM budget AS b JOIN moving AS m ON m.shard = b.shard;
