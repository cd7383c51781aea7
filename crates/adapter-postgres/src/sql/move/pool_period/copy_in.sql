COPY arriving_pool_period FROM STDIN (FORMAT binary)
