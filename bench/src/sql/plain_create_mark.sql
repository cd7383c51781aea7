CREATE TABLE plain_mark AS SELECT 0::bigint AS last_id;
