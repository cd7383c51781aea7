UPDATE generation SET live = 0 WHERE live = 1 AND id < ?1
