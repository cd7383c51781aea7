SELECT * FROM pool WHERE payer_is_org = $1 AND payer_id = $2 AND provider = $3;
