SELECT charge.*
FROM json_each(?1) AS wanted
CROSS JOIN charge
    ON charge.shard = wanted.value ->> 'shard' AND charge.id = unhex(wanted.value ->> 'id', '-')
