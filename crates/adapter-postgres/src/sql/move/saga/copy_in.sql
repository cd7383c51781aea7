COPY arriving_saga FROM STDIN (FORMAT binary)
