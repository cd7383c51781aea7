SELECT charge.*
FROM json_each(?1) AS wanted
CROSS JOIN charge ON charge.id = unhex(wanted.value, '-')
