SELECT saga.state, saga.claim
FROM json_each(?1) AS wanted
CROSS JOIN saga ON saga.id = unhex(wanted.value, '-')
