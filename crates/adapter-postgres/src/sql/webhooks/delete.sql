DELETE FROM webhook WHERE id = $3 AND payer_id = $2 AND payer_is_org = $1;
